"""What continuing a training bit for bit needs, taken from and put into a model and its optimizer."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext.distributed import ShardedResEmbedding
from resemb_ext.distributed.deal import Deal
from resemb_ext.distributed.rows import Dealt
from resemb_ext.distributed.whole import deals, inner, load_whole, whole_optimizer_state, whole_parameters, whole_state
from resemb_ext.nn import ResEmbeddingBase
from resemb_ext.runtime.digests import SUMS

from .checkpoint import (
    BEST,
    LAST,
    LAST_SHARDS,
    Stored,
    StoredShards,
    open_checkpoint,
    open_shards,
    save_checkpoint,
    save_shards,
)
from .config import FitConfig
from .evaluate import device_of
from .optimizer import moment_bytes
from .options import free_options
from .ranks import Ranks

_SPARE = 16 * 2**20  # for scores, histories and what else a run writes


class Saver:
    """The ``best`` and ``last`` checkpoints of one training; of ranks, all of which call it.

    Args:
        folder: where they go; made where it is missing.
        model, optimizer: what is saved.
        config, seed, made_for: kept with it; continuing with others is refused.

    Raises:
        ValueError: too little disk is free.
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: FitConfig,
        seed: int,
        made_for: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.config, self.seed = folder, config, seed
        self.made_for = dict(made_for or {})
        self._ranks = Ranks.of(model)
        self._model, self._optimizer = inner(model), optimizer
        sizes = checkpoint_sizes(self._model, config)
        self._ranks.first_does(lambda: folder.mkdir(parents=True, exist_ok=True))
        self._ranks.first_does(lambda: check_space(folder, space_needed(sizes)))
        self._saved_at = time.monotonic()

    @property
    def can_resume(self) -> bool:
        """Whether there is a ``last`` checkpoint."""
        return (self.folder / LAST).exists() or bool(self._numbers())

    def _numbers(self) -> list[int]:
        """Those of the complete checkpoints of several ranks, ascending; more than one where a process was killed."""
        found = (self.folder / LAST_SHARDS).glob(f"*/{SUMS}")
        return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())

    def due(self) -> bool:
        """Whether the last checkpoint is older than ``save_every``."""
        return time.monotonic() - self._saved_at >= self.config.save_every

    def save_last(self, progress: Mapping[str, Any]) -> None:
        """Saves weights, optimizer, random state and ``progress``.

        The tables are saved as they lie in memory, decay that is pending on rows included: applying
        it here would round otherwise than a training that is not saved at this step. Several ranks write their
        rows side by side, by torch.distributed.checkpoint, until training is finished.

        Raises:
            OSError: it cannot be written; the message says which checkpoint is left.
        """
        device = device_of(self._model)
        state = {
            "tensors": whole_parameters(self._model),
            "extra": _extra(self._model),
            "optimizer": whole_optimizer_state(self._model, self._optimizer),
            "rng": self._ranks.gather(torch.get_rng_state()),
            "cuda_rng": self._ranks.gather(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
            "config": self.config.to_dict(),
            "seed": self.seed,
            "made_for": self.made_for,
            "progress": dict(progress),
        }
        if self._ranks.alone or progress["finished"]:
            self._write(LAST, state)
            self._ranks.first_does(lambda: shutil.rmtree(self.folder / LAST_SHARDS, ignore_errors=True))
        else:
            self._write_shards(state)
        self._saved_at = time.monotonic()

    def save_best(self, about: Mapping[str, Any]) -> None:
        """Saves the model's state dict and ``about``, to serve from.

        Raises:
            OSError: as ``save_last``.
        """
        state = {
            "model": whole_state(self._model),
            "config": self.config.to_dict(),
            "seed": self.seed,
            "made_for": self.made_for,
        }
        self._write(BEST, {**state, **about})

    def _write_shards(self, state: dict[str, Any]) -> None:
        """In a folder of its own beside the one before, which goes when this is complete."""
        place = self.folder / LAST_SHARDS
        number = self._ranks.first_does(lambda: self._make_room(place))
        with self._named(place / str(number), self._ranks.first_does(lambda: self.can_resume)):
            save_shards(place / str(number), state, self._ranks.wire)

        def clean() -> None:
            self._make_room(place)
            (self.folder / LAST).unlink(missing_ok=True)

        self._ranks.first_does(clean)

    def _make_room(self, place: Path) -> int:
        """Removes what is not the newest complete checkpoint, and gives the number of the next."""
        newest = (self._numbers() or [0])[-1]
        for path in place.glob("*"):
            if path.name != str(newest):
                shutil.rmtree(path, ignore_errors=True)
        return newest + 1

    def _write(self, name: str, state: dict[str, Any]) -> None:
        path = self.folder / name
        with self._named(path, path.exists()):
            save_checkpoint(path, state, self._ranks.wire)

    @contextmanager
    def _named(self, path: Path, before: bool) -> Iterator[None]:
        """Says of an OSError what was to be written, and what is left."""
        try:
            yield
        except OSError as error:
            left = "the one before it is whole" if before else "there is none before it"
            what = f"cannot write {path}: {error.strerror}" if error.strerror else str(error)
            raise OSError(
                f"out: {what}; {left}. Make room or mend the folder, then continue with resemb train --resume"
            ) from error

    def load_last(self) -> dict[str, Any]:
        """Puts the saved state back and returns the ``progress`` that was saved with it.

        Raises:
            ValueError: the checkpoint is damaged, or of other options, another seed or model.
        """
        number = self._ranks.first_does(self._newest)
        if number is None:
            path = self.folder / LAST
            state = self._open(path)
            return self._ranks.all_do(lambda: self._put_last(path, state))
        path = self.folder / LAST_SHARDS / str(number)
        return self._put_last(path, open_shards(path, self._ranks.wire))  # they read together

    def _newest(self) -> int | None:
        """The number of the newest checkpoint of several ranks; None where that of one file is as new."""
        file, numbers = self.folder / LAST, self._numbers()
        if not numbers:
            return None
        if not file.exists():
            return numbers[-1]
        of_ranks = open_shards(self.folder / LAST_SHARDS / str(numbers[-1]), None)["progress"]
        progress = open_checkpoint(file, check=True)["progress"]
        places = [(p["epochs"], p["batch"], p["finished"]) for p in (progress, of_ranks)]
        return None if places[0] >= places[1] else numbers[-1]

    def _open(self, path: Path) -> dict[str, Any]:
        """A checkpoint, compared with its digest by rank 0 for all."""
        return self._ranks.all_do(lambda: open_checkpoint(path, check=self._ranks.first))

    def _put_last(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        try:
            saved = {**state["config"], "seed": state["seed"]}
            _refuse_changes({**self.config.to_dict(), "seed": self.seed}, saved)
            check_made_for(path, state, self.made_for)
            _put(self._model, state["tensors"], state["extra"])
            self._optimizer.load_state_dict(self._optimizer_state(state["optimizer"]))
            step = state["progress"]["step"]
            self._draw_on(state["rng"].whole(), step, torch.set_rng_state)
            device = device_of(self._model)
            if device.type == "cuda" and state["cuda_rng"] is not None:
                self._draw_on(
                    state["cuda_rng"].whole(), step, lambda rng: torch.cuda.set_rng_state(rng, device), cuda=True
                )
            return dict(state["progress"])
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} does not fit this model and optimizer: {error}") from error

    def _draw_on(self, saved: Tensor, step: int, put: Callable[[Tensor], object], cuda: bool = False) -> None:
        """Random numbers go on where they were; those of other ranks than now start anew, as the step says."""
        of_ranks = saved if saved.dim() > 1 else saved.unsqueeze(0)
        if len(of_ranks) == self._ranks.count:
            put(of_ranks[self._ranks.rank].clone())  # torch reads past a view's end
        elif not cuda:
            torch.manual_seed(self._ranks.seed(self.seed + step))

    def _optimizer_state(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """What this rank keeps of a saved optimizer."""
        of_table = deals(self._model)
        numbers = [n for group in saved["param_groups"] for n in group["params"]]
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        by_number = {n: of_table.get(id(p)) for n, p in zip(numbers, parameters, strict=False)}
        return {
            "state": {
                number: {name: _read(value, by_number.get(number)) for name, value in state.items()}
                for number, state in saved["state"].items()
            },
            "param_groups": saved["param_groups"],
        }

    def load_best(self, epoch: int) -> None:
        """Gives the model the weights of ``best``.

        Raises:
            ValueError: the checkpoint is damaged or not that of ``epoch``.
        """
        path = self.folder / BEST
        state = self._open(path)

        def put() -> None:
            if state.get("epoch") != epoch:
                raise ValueError(f"{path} is of epoch {state.get('epoch')}, expected epoch {epoch}")
            check_made_for(path, state, self.made_for)
            load_whole(self._model, {name: _read(value, of.get(name)) for name, value in state["model"].items()})

        of = {name: value.deal for name, value in whole_parameters(self._model).items() if isinstance(value, Dealt)}
        self._ranks.all_do(put)


def check_made_for(path: Path, state: Mapping[str, Any], made_for: Mapping[str, str]) -> None:
    """Refuses a checkpoint of other inputs; one of an older version names none.

    Args:
        path: of the checkpoint.
        state: its content.
        made_for: what the inputs are, by name.

    Raises:
        ValueError: an input differs; it is named.
    """
    saved = state.get("made_for", {})
    differ = [name for name, value in made_for.items() if saved.get(name, value) != value]
    if differ:
        raise ValueError(f"{path} was trained with other {', '.join(differ)} than those here; put back its own files")


def check_space(folder: Path, needed: int) -> None:
    """Refuses a disk that checkpoints will not fit on.

    Args:
        folder: where they go; it need not exist. Those that are there already count as room.
        needed: bytes at their peak.

    Raises:
        ValueError: fewer bytes are free.
    """
    place = folder.absolute()
    free = shutil.disk_usage(next(parent for parent in (place, *place.parents) if parent.exists())).free
    needed -= _size_of_checkpoints(folder)
    if free < needed + _SPARE:
        raise ValueError(
            f"out: {folder} has {free / 2**20:,.0f} MB of disk free, training needs about "
            f"{(needed + _SPARE) / 2**20:,.0f} MB for checkpoints and results"
        )


def _size_of_checkpoints(folder: Path) -> int:
    """Bytes of those at any depth. Another process may remove some meanwhile; they count as gone."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".safetensors", ".distcp")):
                with suppress(FileNotFoundError):
                    size += os.stat(os.path.join(place, name)).st_size
    return size


@dataclass(frozen=True)
class Sizes:
    """Bytes of the checkpoints of one training: ``best`` has the weights, ``last`` Adam's moments too."""

    best: int
    last: int


def checkpoint_sizes(model: nn.Module, config: FitConfig) -> Sizes:
    """Sizes of a model's checkpoints, but for small parts."""
    weights = sum(value.shape.numel() * value.dtype.itemsize for value in whole_parameters(model).values())
    return Sizes(weights, weights + moment_bytes(model, config) * Ranks.of(model).count)


def space_needed(*trainings: Sizes) -> int:
    """Bytes that checkpoints need at their peak, for trainings in turn: a new one lies beside the old for a moment."""
    return sum(sizes.best + sizes.last for sizes in trainings) + max(sizes.last for sizes in trainings)


def changed_options(given: Mapping[str, Any], saved: Mapping[str, Any], kind: type) -> list[str]:
    """Options of ``kind`` that differ and may not, each as "NAME FOUND (saved: VALUE)"."""
    free = free_options(kind)
    return [
        f"{name} {given.get(name)!r} (saved: {saved.get(name)!r})"
        for name in sorted({*given, *saved} - free)
        if given.get(name) != saved.get(name)
    ]


def _refuse_changes(given: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    changed = changed_options(given, saved, FitConfig)
    if changed:
        raise ValueError(f"resume: options differ from the saved ones: {', '.join(changed)}")


def _read(value: Any, deal: Deal | None) -> Any:
    """What this rank needs of a stored value: its rows of a table and of what is kept by row, all of others."""
    if not isinstance(value, (Stored, StoredShards)):
        return value
    return value.whole() if deal is None or not value.shape else value.own(deal)


def _extra(model: nn.Module) -> dict[str, Any]:
    """What embeddings know themselves by besides tensors: the graph's hash and link."""
    return {
        name: {
            "graph_hash": module.graph.hash if isinstance(module, ResEmbeddingBase) else module.graph_hash,
            "link": module.link,
        }
        for name, module in model.named_modules()
        if isinstance(module, (ResEmbeddingBase, ShardedResEmbedding))
    }


@torch.no_grad()
def _put(model: nn.Module, saved: Mapping[str, Stored | StoredShards], extra: Mapping[str, Any]) -> None:
    own = whole_parameters(model)
    differ = sorted({*own, *saved} - ({*own} & {*saved})) or [
        name for name, value in own.items() if (value.shape, value.dtype) != (saved[name].shape, saved[name].dtype)
    ]
    if differ:
        raise ValueError(f"resume: the saved model has other parameters: {', '.join(differ)}")
    if extra != _extra(model):
        raise ValueError("resume: the saved model has another graph or link")
    copy: Callable[..., Any] = Tensor.copy_
    for name, value in own.items():
        if isinstance(value, Dealt):
            copy(value.part, saved[name].own(value.deal))
        else:
            copy(value, saved[name].whole())
