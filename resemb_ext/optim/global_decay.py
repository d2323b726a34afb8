"""Decay of whole tables, applied to a row before it is read or stepped.

decay="global" means that every step multiplies the whole table by (1 - lr_t weight_decay) before it
updates the rows of the batch. Rows outside the batch are left alone until somebody reads them: L_t, the sum
of log(1 - lr_s weight_decay) over steps s <= t, is kept beside L at each row's last visit, and the row then
takes exp of the difference.
"""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from resemb_ext._ownership import EMBEDDINGS, ShardedTables, distinct_items, untraced
from resemb_ext._registration import ops as _ops
from resemb_ext._transforms import transformed

from .tie import Tie, TiedOptimizer, tie_of, tie_to


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
def catch_up(state: dict[str, Any], table: Tensor, rows: Tensor | None, random_rounding: bool, seed: int) -> bool:
    """Applies what is pending for ascending rows, or for all; whether there may have been something.

    Autograd is not told that the table has changed: rows that a lookup has read have nothing pending, so that
    its backward finds them as they were.
    """
    if "decayed" not in state:
        return False
    # The step's own rounding takes bits of the same step, so these come of another seed.
    _ops.decay_rows_(
        table, state["decayed"], rows, float(state["decay_log"]), random_rounding, ~seed, int(state["step"])
    )
    return True


class BeforeRead:
    """Applies the decay pending on tables before they are read or written; in a copy of their module, nothing.

    Args:
        tie: to the optimizer that leaves decay pending.
        tables: those that the module reads, whatever stands in for them in the call
            (torch.func.functional_call).
    """

    def __init__(self, tie: Tie, *tables: Tensor) -> None:
        self.tie, self.tables = tie, tables
        self._versions = [table._version for table in tables]
        self._trained = False

    def __reduce__(self) -> tuple:
        return type(self), (self.tie, *self.tables)

    def __deepcopy__(self, memo: dict[int, Any]) -> BeforeRead:
        memo[id(self)] = copied = type(self)(copy.deepcopy(self.tie, memo), *copy.deepcopy(self.tables, memo))
        self.tie.copies.add(copied)
        return copied

    def averages(self) -> bool:
        """Whether, in a copy that is not trained, the tables have been written since this was asked last."""
        before, self._versions = self._versions, [table._version for table in self.tables]
        return self.tie.optimizer is None and not self._trained and self._versions != before

    def asks(self) -> bool:
        """Whether there is an optimizer that may have left decay pending."""
        if self.tie.optimizer is None and not torch.compiler.is_compiling():
            self._trained |= torch.is_grad_enabled() and any(table.requires_grad for table in self.tables)
        return self.tie.optimizer is not None

    def __call__(self, *rows: Callable[[], Tensor]) -> None:
        """Takes for each table a function that gives the ascending rows about to be read; nothing for all rows."""
        if not self.asks():
            return
        if not torch.compiler.is_exporting():
            self._catch_up(*(() if transformed() else rows))  # vmap would list rows for each entry of a batch
        elif torch.compiler.is_dynamo_compiling():
            raise RuntimeError("decay='global': export with strict=False, or export a copy.deepcopy of the model")
        else:  # the program keeps the memory of the tables, which the modes of export do not let through
            with _disable_current_modes():
                self._catch_up()

    @untraced
    def _catch_up(self, *rows: Callable[[], Tensor]) -> None:
        for table, of_table in zip(self.tables, rows or (None,) * len(self.tables), strict=True):
            self.tie.optimizer._catch_up_read(table, of_table)  # type: ignore[union-attr]


def note_read(optimizer: TiedOptimizer, rows: Any) -> None:
    """After decay was applied to rows, or where they are None to whole tables."""
    tie = tie_of(optimizer)
    if tie is not None and rows is None:
        tie.settled = True


def warn_of_averages(optimizer: TiedOptimizer) -> None:
    """Before a step leaves decay pending: warns of copies that were written while there was some."""
    tie = tie_of(optimizer)
    if tie is None or not tie.copies:
        return
    settled, tie.settled = tie.settled, False
    if any([copied.averages() for copied in tie.copies]) and not settled:
        tie.copies.clear()
        warnings.warn(
            "decay='global': a copy of the model was written after the last step, as AveragedModel.update_parameters "
            "does. If it was written from the model's parameters, it lacks their pending decay: call "
            "optimizer.catch_up() before",
            stacklevel=2,
        )


def watch(optimizer: TiedOptimizer, module: nn.Module) -> list[Tensor]:
    """Lets the embeddings inside a module ask an optimizer for the decay pending on what they read.

    Returns:
        The tables watched.
    """
    tie = tie_to(optimizer)
    tables: list[Tensor] = []
    for part in module.modules():
        if not isinstance(part, EMBEDDINGS):
            continue
        register = getattr(part, "register_read_hook", None)
        if isinstance(part, ShardedTables):
            own = [*part._tables()]
        else:
            own = [part.weight] if register is None else [part.central, part.residual]  # type: ignore[list-item]
        if register is None:
            _watch_plain(part, tie)  # type: ignore[arg-type]
        else:
            register(BeforeRead(tie, *own))
        tables.extend(own)  # type: ignore[arg-type]
    return tables


def _watch_plain(module: nn.Embedding | nn.EmbeddingBag, tie: Tie) -> None:
    hook = _BeforePlainRead(tie, module.weight)
    module.register_forward_pre_hook(hook.before_forward, with_kwargs=True)
    module.register_state_dict_pre_hook(hook.before_all)
    module.register_load_state_dict_pre_hook(hook.before_all)
    # Where copy and pickle look for it before they ask the class, which is torch's.
    module.__dict__["__getstate__"] = _State(hook, module)


def unwatch(module: nn.Module) -> None:
    """Takes the hooks off a plain embedding whose table nobody is to decay any more."""
    for hooks in (module._forward_pre_hooks, module._state_dict_pre_hooks, module._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            method = getattr(hook, "hook", hook)  # torch wraps those of load_state_dict
            if isinstance(getattr(method, "__self__", None), _BeforePlainRead):
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
    if isinstance(module.__dict__.get("__getstate__"), _State):
        del module.__dict__["__getstate__"]


class _BeforePlainRead(BeforeRead):
    """For the hooks of an nn.Embedding or nn.EmbeddingBag."""

    def before_forward(self, module: nn.Embedding | nn.EmbeddingBag, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input"]
        self(lambda: distinct_items(ids, module.num_embeddings))

    def before_all(self, *_: Any) -> None:
        self()


class _State:
    """``__getstate__`` of a plain embedding, before which pending decay is applied."""

    def __init__(self, hook: BeforeRead, module: nn.Module) -> None:
        self.hook, self.module = hook, weakref.ref(module)  # the module keeps this

    def __reduce__(self) -> tuple:
        return type(self), (self.hook, self.module())

    def __call__(self) -> Any:
        self.hook()
        module = self.module()
        of_class = getattr(type(module), "__getstate__", None)  # none of object's before Python 3.11
        return dict(vars(module)) if of_class is None else of_class(module)
