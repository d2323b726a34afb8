"""Whether this process is one of several that torchrun started to train together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from resemb_ext.distributed.wire import Wire

from .config import RunConfig
from .folder import CONFIG, resumed_config
from .ranks import ALONE, Ranks

# What a run does with whole tables, on one process.
_REFUSED = {
    "cross_fit": "looks up one table over several graphs",
    "smooth": "smooths a whole table",
    "fresh_embeddings": "draws whole tables anew",
}


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def shows(distributed: bool | None) -> bool:
    """Whether this process tells of a run's result: alone, or as rank 0."""
    together = under_torchrun() if distributed is None else distributed
    return not together or int(os.environ.get("RANK", 0)) == 0


@contextmanager
def launched(distributed: bool | None) -> Iterator[Ranks]:
    """The processes that this one trains with.

    Args:
        distributed: True joins those of torch.distributed's default group, which is begun where it is not yet. False
            trains alone. None joins where torchrun started this process.

    Raises:
        ValueError: True without torchrun and without a group.
    """
    if distributed is None:
        distributed = under_torchrun()
    if not distributed:
        yield ALONE
        return
    if not dist.is_available():
        raise ValueError("distributed: this torch is built without torch.distributed")
    own = not dist.is_initialized()
    if own and not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        raise ValueError(
            "distributed: found no RANK and WORLD_SIZE in the environment; start with torchrun, or call "
            "torch.distributed.init_process_group before"
        )
    try:
        try:
            if own:
                _begin()
            wire = Wire(None, torch.device("cpu"), None)
        except RuntimeError as error:
            raise OSError(f"distributed: the ranks do not reach each other: {str(error).splitlines()[0]}") from error
        try:
            with wire.faults.telling("training"):
                yield Ranks(wire)
        except Exception:
            if own and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                wire.faults.linger()  # this process may hold what the others read the cause from
            raise
    finally:
        if own and dist.is_initialized():
            dist.destroy_process_group()


def _begin() -> None:
    """Begins the default group, in a part of torchrun's store that only this start of the ranks uses.

    The store outlives a restart (torch 2.13), and ranks would look for each other where those of the start before were.
    """
    store, rank, ranks = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"resemb_ext/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)


def _refuse_sharded(config: RunConfig) -> None:
    """Refuses options that need whole tables, or whole batches, on one process.

    Raises:
        ValueError: an option is given that does not go with several ranks; it is named.
    """
    for name, what in _REFUSED.items():
        if getattr(config, name) not in (0, "off"):
            raise ValueError(
                f"{name}: {what}, which ranks that hold parts of it cannot; leave it out, or train in one process"
            )
    if config.activation == "dice":
        raise ValueError(
            "activation: dice takes means over the whole batch, of which a rank has a share; expected relu or prelu, or "
            "train in one process"
        )
    if config.model == "dien" and config.own_model_options.get("auxiliary_weight", 1.0) != 0:
        raise ValueError(
            "model: dien's auxiliary loss is a mean over the pairs of a whole batch, of which a rank has a share; expected "
            "--model-options auxiliary_weight=0, or train in one process"
        )


def joined(ranks: Ranks, config: RunConfig, resume: bool) -> bool:
    """Whether to continue the run in ``config.out``: it was asked for, or torchrun has started anew after a rank failed.

    Raises:
        ValueError: an option needs whole tables, or whole batches, on one process; it is named.
        ValueError: torchrun may restart, and no folder is named to find the run again.
    """
    if ranks.alone:
        return resume
    _refuse_sharded(config)
    if resume or not under_torchrun():
        return resume
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and config.out is None:
        raise ValueError("out: found none; torchrun --max-restarts continues the run in the folder that --out names")
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0 or not (Path(str(config.out)) / CONFIG).exists():
        return False
    try:
        resumed_config(config)
    except ValueError:
        if config.overwrite:  # of an earlier run, which was to go
            return False
        raise
    return True
