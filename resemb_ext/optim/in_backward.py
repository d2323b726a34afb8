"""Steps made inside backward: a table's gradient never lies in memory as a whole.

A backward pass steps each table once, on the gradient summed over the pass. Where the pass holds one lookup
of a ResEmbedding's tables, the lookup's backward makes the step itself; otherwise the lookups hand out
their gradients, autograd sums them, and a hook behind the sum makes the step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from resemb_ext._ownership import TableOwner, owner_of, set_owner
from resemb_ext._registration import ops as _ops
from resemb_ext._registration import sparse_rows


class InBackward(TableOwner, Protocol):
    """What steps in backward need of the optimizer."""

    def _places(self) -> list[tuple[dict[str, Any], Tensor]]:
        """Every parameter with its group, in order."""


def install(optimizer: InBackward, module: nn.Module) -> None:
    """See ``RowSparseOptimizer.step_in_backward``."""
    _refuse_ranks()
    embeddings = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    tables = [p for part in embeddings for p in part.parameters(recurse=False) if p.requires_grad]
    places = {id(p) for _, p in optimizer._places()}
    for table in tables:
        if id(table) not in places:
            raise ValueError("module: holds an embedding table that is not among this optimizer's parameters")
        if owner_of(table) is not None:
            raise ValueError("module: one of its tables is stepped in backward already")
    for part in embeddings:
        if not part.sparse:
            raise ValueError(f"module: {part} gives dense gradients; steps in backward need sparse=True")
    for table in tables:
        set_owner(table, optimizer)
        # Without the optimizer, which holds the table: Python frees no cycle through the hook of a tensor.
        table.register_post_accumulate_grad_hook(_step_summed)
    for part in embeddings:
        own = [p for p in part.parameters(recurse=False) if p.requires_grad]
        if getattr(part, "attention", None) is not None:
            part.lookup_operator = _keeping(optimizer, _attend)  # type: ignore[assignment]
        elif hasattr(part, "lookup_operator") and len(own) == 2:
            part.lookup_operator = _Lookups(optimizer).look_up  # type: ignore[assignment]
        elif own:
            part.register_forward_hook(_keeping(optimizer, _guard_output))


def _keeping(optimizer: InBackward, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; its module keeps the optimizer alive by it, as the hooks of the tables do not."""

    def kept(*args: Any) -> Any:
        return function(*args)

    kept.optimizer = optimizer  # type: ignore[attr-defined]
    return kept


def _refuse_ranks() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        ranks = distributed.get_world_size()
        if ranks > 1:
            raise RuntimeError(
                f"steps in backward: {ranks} ranks would each step by their own gradients and drift "
                "apart; call optimizer.step() after backward instead"
            )


def _refuse_backward(done: bool) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "steps in backward: create_graph=True asks for gradients of a step; call optimizer.step() "
            "after backward instead"
        )
    if done:
        raise RuntimeError(
            "steps in backward: a second backward of one graph would step again on stale tables; look up anew"
        )
    _refuse_ranks()


def _step_summed(table: Tensor) -> None:
    gradient = table.grad
    if gradient is None:  # the lookup's backward has made the step
        return
    _refuse_backward(done=False)
    optimizer = owner_of(table)
    if optimizer is None:
        raise RuntimeError("steps in backward: the table's embedding and optimizer are gone; keep one of them")
    if not gradient.is_sparse:
        raise RuntimeError(
            "steps in backward: the table's gradient is dense; something beside lookups used it (a "
            "penalty on the table belongs into weight_decay)"
        )
    optimizer._step_table(table)
    table.grad = None


def _guard_output(_: nn.Module | None, args: tuple, output: Tensor) -> None:
    """Refuses the second backward through a plain lookup."""
    if not output.requires_grad:
        return
    done: list[bool] = []

    def before_backward(_: Tensor) -> None:
        _refuse_backward(bool(done))
        done.append(True)

    output.register_hook(before_backward)


def _attend(*inputs: Any) -> tuple[Tensor, None]:
    """The attention link's lookup: its backward makes all gradients before a hook steps a table.

    a_src, a_dst and b keep ordinary gradients, for ``step``.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("steps in backward: not under torch.compile; call optimizer.step()")
    out, _ = _ops.attention_embedding(*inputs)
    _guard_output(None, (), out)
    return out, None


class _Open:
    """A lookup that backward has not reached, or has in the pass ``in_pass``."""

    in_pass: int | None = None


class _Lookups:
    """The lookups of one module; its backward steps in the kernel where a pass holds one of them."""

    def __init__(self, optimizer: InBackward) -> None:
        self.optimizer = optimizer
        self.open: weakref.WeakSet[_Open] = weakref.WeakSet()

    def look_up(
        self,
        ids: Tensor,
        central: Tensor,
        residual: Tensor,
        indptr: Tensor,
        neighbors: Tensor,
        weights: Tensor,
        offsets: Tensor | None,
        samples: Tensor | None,
        *options: Any,
    ) -> tuple[Tensor, None]:
        """The lookup operator's arguments and first result."""
        if torch.compiler.is_compiling():
            raise RuntimeError("steps in backward: not under torch.compile; call optimizer.step()")
        if weights.requires_grad:
            raise RuntimeError("steps in backward: link weights that are learned are not supported")
        if not torch.is_grad_enabled():
            out, _ = _ops.res_embedding(ids, central, residual, indptr, neighbors, weights, offsets, samples, *options)
            return out, None
        graph = (indptr, neighbors, weights, offsets)
        return _LookUp.apply(central, residual, samples, self, ids, graph, options), None

    def alone(self, own: _Open) -> bool:
        """Whether no other lookup can send gradients in the pass of ``own``."""
        return not any(other is not own and other.in_pass in (None, own.in_pass) for other in self.open)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        central: Tensor,
        residual: Tensor,
        samples: Tensor | None,
        lookups: _Lookups,
        ids: Tensor,
        graph: tuple,
        options: tuple,
    ) -> Tensor:
        out, plan = _ops.res_embedding(ids, central, residual, *graph, samples, *options)
        # The tables are stepped where they lie; saving them would make that an error.
        ctx.tables = (central, residual)
        ctx.save_for_backward(plan, *graph, samples)
        ctx.mean = options[1]
        ctx.lookups = lookups
        ctx.own = _Open()
        lookups.open.add(ctx.own)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        _refuse_backward(done=ctx.own.in_pass is not None)
        ctx.own.in_pass = torch._C._current_graph_task_id()
        plan, indptr, neighbors, weights, offsets, samples = ctx.saved_tensors
        central, residual = ctx.tables
        graph = (indptr, neighbors, weights, offsets, samples)
        nothing = (None, None, None, None)
        if ctx.lookups.alone(ctx.own):
            samples_grad = ctx.lookups.optimizer._step_lookup(
                grad, plan, central, residual, graph, ctx.mean, ctx.needs_input_grad[2]
            )
            return None, None, samples_grad, *nothing
        need_samples = ctx.needs_input_grad[2]
        rows, row_values, columns, column_values, _, _, samples_grad = _ops.res_embedding_backward_rows(
            grad, plan, central, residual, *graph, ctx.mean, central.dtype, True, True, False, need_samples
        )
        shape = central.shape
        gradients = sparse_rows(columns, column_values, shape), sparse_rows(rows, row_values, shape)
        return *gradients, samples_grad if need_samples else None, *nothing
