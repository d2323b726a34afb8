"""Steps made inside backward: a table's gradient never lies in memory as a whole.

A backward pass steps each table once, on the gradient summed over the pass. Where the pass holds one lookup
of a ResEmbedding's tables, the lookup's backward makes the step itself; otherwise the lookups hand out
their gradients, autograd sums them, and a hook behind the sum makes the step. A table that is frozen at that
moment is not stepped.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext._ownership import EMBEDDINGS, ShardedTables, group_of, owner_of, set_owner, untraced
from resemb_ext._registration import look_up, sparse_rows
from resemb_ext._registration import ops as _ops
from resemb_ext._registration_attention import attend
from resemb_ext._transforms import transformed

from .tie import Lookup, Tie, TiedOptimizer, tie_of, tie_to


def install(optimizer: TiedOptimizer, module: nn.Module) -> None:
    """See ``RowSparseOptimizer.step_in_backward``."""
    embeddings = [part for part in module.modules() if isinstance(part, EMBEDDINGS)]
    _refuse_ranks(*(table for part in embeddings for table in part.parameters(recurse=False)))
    for part in embeddings:
        tables = [p for p in part.parameters(recurse=False) if p.requires_grad]
        for table in tables:
            if not optimizer._holds(table):
                raise ValueError("module: holds an embedding table that is not among this optimizer's parameters")
            if (owner := owner_of(table)) is not None and owner._holds(table):
                raise ValueError("module: one of its tables is stepped in backward already")
        if tables and not part.sparse:
            raise ValueError(f"module: {part} gives dense gradients; steps in backward need sparse=True")
    tie = tie_to(optimizer)
    for part in embeddings:
        stepper: _Stepper
        if isinstance(part, ShardedTables):
            part.after_lookup = stepper = _DealtLookups(tie)
        elif not hasattr(part, "lookup_operator"):
            stepper = _PlainLookups(tie)
            part.register_forward_hook(stepper)
        else:
            stepper = _AttentionLookups(tie) if getattr(part, "attention", None) is not None else _Lookups(tie)
            part.lookup_operator = stepper  # type: ignore[assignment]
        for table in part.parameters(recurse=False):
            stepper.steps(table)


def uninstall(module: nn.Module) -> None:
    """Takes the hooks off a plain embedding whose table nobody is to step in backward any more."""
    for key, hook in list(module._forward_hooks.items()):
        if isinstance(hook, _PlainLookups):
            del module._forward_hooks[key]


def refuse_scaler(optimizer: Any) -> None:
    """
    Raises:
        RuntimeError: GradScaler calls the step of an optimizer that has made others in backward.
    """
    if vars(optimizer).pop("found_inf", None) is None:  # GradScaler sets both before it calls ``step``
        return
    vars(optimizer).pop("grad_scale", None)
    if any(group_of(table) is not None for group in optimizer.param_groups for table in group["params"]):
        raise RuntimeError(
            "GradScaler: skips a step where this rank's gradients overflow, while other ranks, which hold other rows, "
            "would make it; train in bfloat16 without a scaler"
        )
    raise RuntimeError(
        "step_in_backward: GradScaler scales the loss, and backward has stepped the tables on scaled "
        "gradients; call optimizer.step() after backward instead, or train in bfloat16 without a scaler"
    )


def _adopt(optimizer: TiedOptimizer, table: Tensor) -> bool:
    """Whether the optimizer steps a table in backward; it begins to where the table is its own and not frozen."""
    owner = owner_of(table)
    if (owner is None or not owner._holds(table)) and table.requires_grad and optimizer._holds(table):
        set_owner(table, optimizer)
        # Without the optimizer, which holds the table: Python frees no cycle through the hook of a tensor.
        table.register_post_accumulate_grad_hook(_step_summed)
    return owner_of(table) is optimizer


def _refuse_ranks(*tables: Tensor) -> None:
    """Refuses tables of which each rank has a copy; a dealt row is stepped by its owner alone."""
    distributed = torch.distributed
    if all(group_of(table) is not None for table in tables):
        return
    if distributed.is_available() and distributed.is_initialized():
        ranks = distributed.get_world_size()
        if ranks > 1:
            raise RuntimeError(
                f"steps in backward: {ranks} ranks would each step by their own gradients and drift "
                "apart; call optimizer.step() after backward instead"
            )


def _refuse_backward(lookup: Lookup | None, *tables: Tensor) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "steps in backward: create_graph=True asks for gradients of a step; call optimizer.step() "
            "after backward instead"
        )
    if lookup is not None and lookup.in_pass is not None:
        raise RuntimeError(
            "steps in backward: a second backward of one graph would step again on stale tables; look up anew"
        )
    if lookup is not None and lookup.made_in != -1:
        raise RuntimeError(
            "steps in backward: a lookup made inside backward, as torch.utils.checkpoint does with "
            "use_reentrant=True, would be stepped apart from the other lookups of the pass; take use_reentrant=False"
        )
    _refuse_ranks(*tables)


@untraced
def _step_summed(table: Tensor) -> None:
    gradient = table.grad
    if gradient is None:  # the lookup's backward has made the step
        return
    optimizer = owner_of(table)
    if optimizer is None:
        raise RuntimeError("steps in backward: the table's embedding and optimizer are gone; keep one of them")
    if not optimizer._holds(table):  # it was taken out of the optimizer's groups
        return
    _refuse_backward(None, table)
    if not gradient.is_sparse:
        raise RuntimeError(
            "steps in backward: the table's gradient is dense; something beside lookups used it (a "
            "penalty on the table belongs into weight_decay)"
        )
    tie, this_pass = tie_of(optimizer), _this_pass()
    if any(x.stepped and x.in_pass == this_pass and id(table) in x.tables for x in list(tie.lookups if tie else ())):
        raise RuntimeError(
            "steps in backward: the table was used beside its embedding's lookup, whose step this pass has made "
            "already; look it up through the embedding alone, or call optimizer.step() after backward instead"
        )
    optimizer._step_table(table)
    table.grad = None


def _this_pass() -> int:
    """The number of the backward pass that runs here, or -1."""
    return torch._C._current_graph_task_id()


def _guard_output(output: Tensor, tie: Tie, *tables: Tensor) -> None:
    """Refuses the second backward through a lookup whose gradients autograd makes."""
    if not output.requires_grad:
        return
    lookup = Lookup(_this_pass(), *tables)
    tie.lookups.add(lookup)
    output.register_hook(functools.partial(_enter, lookup, tables))


@untraced
def _enter(lookup: Lookup, tables: tuple[Tensor, ...], _: Tensor) -> None:
    _refuse_backward(lookup, *tables)
    lookup.in_pass = _this_pass()


class _Stepper:
    """What a module whose tables are stepped in backward keeps; in a copy of the module it does nothing.

    What it does is never traced: the compiler would trace autograd functions frame by frame and lose count of
    the lookups.
    """

    # Does it; takes self and the arguments of the call.
    work: Any

    def __init__(self, tie: Tie) -> None:
        self.tie = tie
        self._known: tuple[Tensor, ...] = ()
        self.work_untraced = torch.compiler.disable(
            type(self).work,
            reason="its tables are stepped in backward; for fullgraph=True call optimizer.step() after it instead",
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.tie,)

    def steps(self, table: Tensor) -> bool:
        """Whether the tied optimizer steps this table in backward."""
        for known in self._known:
            if known is table:
                return True
        optimizer = self.tie.optimizer
        if optimizer is None or not _adopt(optimizer, table):
            return False
        self._known = (*self._known[-1:], table)
        return True

    def idle(self) -> bool:
        """Whether the module looks up as it did before: a copy, or one that is exported."""
        return self.tie.optimizer is None or torch.compiler.is_exporting()


class _PlainLookups(_Stepper):
    """Forward hook of an nn.Embedding or nn.EmbeddingBag."""

    def __call__(self, module: nn.Embedding | nn.EmbeddingBag, args: tuple, output: Tensor) -> None:
        if not self.idle():
            self.work_untraced(self, module.weight, output)

    def work(self, table: Tensor, output: Tensor) -> None:
        if self.steps(table):
            _guard_output(output, self.tie, table)


class _DealtLookups(_Stepper):
    """Called after each lookup of tables that lie dealt over ranks."""

    def __call__(self, fetched: Tensor, *tables: Tensor) -> None:
        if not self.idle():
            self.work_untraced(self, fetched, *tables)

    def work(self, fetched: Tensor, *tables: Tensor) -> None:
        if any([self.steps(table) for table in tables]):
            _guard_output(fetched, self.tie, *tables)


class _LookupOperator(_Stepper):
    """Takes the place of a ResEmbedding's lookup operator."""

    # With the derivatives of torch.func.
    operator: Any

    def __call__(self, *inputs: Any) -> tuple[Tensor, Any]:
        """The lookup operator's arguments and first result."""
        if self.idle():
            return self.operator(*inputs)
        if transformed(*inputs):
            raise RuntimeError(
                "steps in backward: not under torch.func or forward-mode AD; look up in a copy.deepcopy of the module"
            )
        return self.work_untraced(self, *inputs)


class _AttentionLookups(_LookupOperator):
    """Under the attention link; its backward makes all gradients before a hook steps a table.

    a_src, a_dst and b keep ordinary gradients, for ``step``.
    """

    operator = staticmethod(attend)

    def work(self, *inputs: Any) -> tuple[Tensor, None]:
        central, residual = inputs[1:3]
        out, _ = _ops.attention_embedding(*inputs)
        if any([self.steps(central), self.steps(residual)]):
            _guard_output(out, self.tie, central, residual)
        return out, None


class _Lookups(_LookupOperator):
    """With given link weights; its backward steps in the kernel where a pass holds one lookup."""

    operator = staticmethod(look_up)

    def work(
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
        steps = (self.steps(central), self.steps(residual))
        graph = (indptr, neighbors, weights, offsets)
        if torch.is_grad_enabled() and any(steps) and not weights.requires_grad:
            lookup = Lookup(_this_pass(), central, residual)
            both = all(steps) and central is not residual  # one table in both places is stepped on the sum
            return _LookUp.apply(central, residual, samples, self.tie, lookup, both, ids, graph, options), None
        out, _ = _ops.res_embedding(ids, central, residual, *graph, samples, *options)
        if any(steps):
            _guard_output(out, self.tie, central, residual)
        return out, None


def _alone(lookup: Lookup, tie: Tie) -> bool:
    """Whether no other lookup of the same tables can send gradients in the same pass."""
    return not any(
        other is not lookup and other.in_pass in (None, lookup.in_pass) and other.tables & lookup.tables
        for other in list(tie.lookups)
    )


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        central: Tensor,
        residual: Tensor,
        samples: Tensor | None,
        tie: Tie,
        lookup: Lookup,
        steps_both: bool,
        ids: Tensor,
        graph: tuple,
        options: tuple,
    ) -> Tensor:
        out, plan = _ops.res_embedding(ids, central, residual, *graph, samples, *options)
        # The tables are stepped where they lie; saving them would make that an error.
        ctx.tables = (central, residual)
        ctx.save_for_backward(plan, *graph, samples)
        ctx.mean = options[1]
        ctx.tie, ctx.lookup, ctx.steps_both = tie, lookup, steps_both
        tie.lookups.add(lookup)
        return out

    @staticmethod
    @untraced
    def backward(ctx: Any, grad: Tensor) -> tuple:
        lookup, tie = ctx.lookup, ctx.tie
        _refuse_backward(lookup, *ctx.tables)
        lookup.in_pass = _this_pass()
        plan, indptr, neighbors, weights, offsets, samples = ctx.saved_tensors
        central, residual = ctx.tables
        graph = (indptr, neighbors, weights, offsets, samples)
        nothing = (None,) * 6
        # Frozen before the forward pass or since.
        needs = [need and t.requires_grad for need, t in zip(ctx.needs_input_grad, ctx.tables, strict=False)]
        need_samples = ctx.needs_input_grad[2]
        # A gradient that was there before, as none was cleared, belongs to the sum.
        whole = all(needs) and all(t.grad is None and tie.optimizer._holds(t) for t in ctx.tables)
        if ctx.steps_both and whole and _alone(lookup, tie):
            samples_grad = tie.optimizer._step_lookup(grad, plan, central, residual, graph, ctx.mean, need_samples)
            lookup.stepped = True
            return None, None, samples_grad, *nothing
        rows, row_values, columns, column_values, _, _, samples_grad = _ops.res_embedding_backward_rows(
            grad, plan, central, residual, *graph, ctx.mean, central.dtype, *needs, False, need_samples
        )
        gradients = (
            sparse_rows(columns, column_values, central.shape) if needs[0] else None,
            sparse_rows(rows, row_values, residual.shape) if needs[1] else None,
        )
        return *gradients, samples_grad if need_samples else None, *nothing
