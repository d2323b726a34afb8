"""Decay of whole tables, applied to a row before it is read or stepped.

decay="global" means that every step multiplies the whole table by (1 - lr_t weight_decay) before it
updates the rows of the batch. Rows outside the batch are left alone until somebody reads them: L_t, the sum
of log(1 - lr_s weight_decay) over steps s <= t, is kept beside L at each row's last visit, and the row then
takes exp of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext import _registration as _registration  # registers the operators

_ops = torch.ops.resemb_ext

Hook = Callable[[Tensor, "Callable[[], Tensor] | None"], None]


def raise_decay(state: dict[str, Any], table: Tensor, lr: float, weight_decay: float) -> None:
    """Adds one step's decay to what is pending for every row of a table.

    Raises:
        ValueError: lr * weight_decay of 1 or more would empty the table.
    """
    check_decay(lr, weight_decay)
    if "decayed" not in state:
        state["decayed"] = torch.zeros(table.shape[0], dtype=torch.float64, device=table.device)
        state["decay_log"] = torch.zeros((), dtype=torch.float64)
    state["decay_log"] += math.log1p(-lr * weight_decay)


def check_decay(lr: float, weight_decay: float) -> None:
    if lr * weight_decay >= 1:
        raise ValueError(f"weight_decay: found {weight_decay} at lr {lr}; expected lr * weight_decay below 1")


@torch.no_grad()
def catch_up(state: dict[str, Any], table: Tensor, rows: Tensor | None, random_rounding: bool, seed: int) -> None:
    """Applies what is pending for ascending rows, or for all."""
    if "decayed" not in state:
        return
    # The step's own rounding takes bits of the same step, so these come of another seed.
    _ops.decay_rows_(
        table, state["decayed"], rows, float(state["decay_log"]), random_rounding, ~seed, int(state["step"])
    )
    torch.autograd.graph.increment_version(table)


def settle(state: dict[str, Any]) -> None:
    """Nothing is pending: the table was replaced by one without."""
    if "decayed" in state:
        state["decayed"].fill_(float(state["decay_log"]))


def watch(module: nn.Module, before_read: Hook, loaded: Callable[[Tensor], None]) -> list[Tensor]:
    """Calls ``before_read(table, rows)`` before tables of embeddings inside a module are read.

    Args:
        module: its ResEmbedding and nn.Embedding modules are watched.
        before_read: takes a table and a function that gives the ascending rows about to be read, or
            None for all.
        loaded: takes a table that load_state_dict has filled.

    Returns:
        The tables watched.
    """
    tables: list[Tensor] = []
    for part in module.modules():
        if not isinstance(part, nn.Embedding):
            continue
        register = getattr(part, "register_read_hook", None)
        if register is not None:
            register(before_read)
            own = [part.central, part.residual]
        else:
            own = [part.weight]
            _watch_plain(part, before_read)
        tables.extend(own)  # type: ignore[arg-type]

        def after_load(*_: Any, own: list[Any] = own) -> None:
            for table in own:
                loaded(table)

        part.register_load_state_dict_post_hook(after_load)
    return tables


def _watch_plain(module: nn.Embedding, before_read: Hook) -> None:
    def before_forward(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input"]
        before_read(module.weight, lambda: _ops.distinct_items(ids, module.num_embeddings))

    module.register_forward_pre_hook(before_forward, with_kwargs=True)
    module.register_state_dict_pre_hook(lambda *_: before_read(module.weight, None))
