"""What the row-sparse optimizers share: groups, state, checks, and which gradient is stepped how."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn

from resemb_ext._ownership import group_of, owner_of, stepped_by_other, untraced

from . import capture, global_decay, in_backward
from .dense import step_dense
from .loading import Saved
from .row_sparse import RowGradient, RowStep, gradient_rows, is_table, require_table, update_rows, whole_table
from .state import complete_state, count_of_torch, place_count, state_dtype
from .tie import tie_of

_DECAYS = ("touched", "global")


class RowSparseOptimizer(Saved):
    """Base of the optimizers; see ``Adam`` for what the options mean.

    A parameter whose gradient is a COO tensor over rows is updated by one fused kernel on the rows that
    the gradient holds. One with a dense gradient is updated by the torch.optim optimizer of the same
    name with the group's options, or, where its state has one number a row or it is rounded at random, by
    the kernel on all rows. Compact state has a form of its own, see ``Adam``.
    The state depends on the parameter and the group's options alone, not on the kind of gradient.
    """

    # Options of a group that its torch.optim optimizer does not have, as they are unless told otherwise.
    _own: ClassVar[dict[str, Any]] = {
        "decay": "touched",
        "decoupled_weight_decay": False,
        "stochastic_rounding": False,
        "capturable": False,
    }
    # Options of a group that must be finite and not negative.
    _amounts: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    def __init__(
        self,
        params: Any,
        dense_options: dict[str, Any],
        *,
        decay: str,
        decoupled_weight_decay: bool,
        stochastic_rounding: bool,
        seed: int,
        capturable: bool,
        **own: Any,
    ) -> None:
        self._seed = seed
        self._watched: set[Tensor] = set()
        shared = {
            "decay": decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "stochastic_rounding": stochastic_rounding,
            "capturable": capturable,
        }
        self._check({**dense_options, **shared, **own})
        # Over a throw-away parameter: what it updates, and its state, are set at every step.
        self._dense = self._torch([torch.zeros(1, requires_grad=True)], **dense_options)
        super().__init__(params, {**self._dense.defaults, **shared, **own})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; options that it lacks take the optimizer's.

        Raises:
            ValueError: an option out of range.
        """
        if {**self.defaults, **param_group}["decay"] == "global":
            param_group["decoupled_weight_decay"] = True
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            for index, (group, parameter) in enumerate(self._places()):
                if group is self.param_groups[-1]:
                    self._check_added(group, parameter, f"parameter {index}")
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_added(self, group: dict[str, Any], parameter: Tensor, name: str) -> None:
        if parameter.is_sparse:
            raise ValueError("params: a sparse tensor; expected dense tables, whose gradients may be sparse")
        if stepped_by_other(parameter, self):
            raise ValueError(
                "params: a table that another optimizer steps in backward; take it out of that one's param_groups"
            )
        self._check_parameter(group, parameter, name)

    def _check(self, group: dict[str, Any]) -> None:
        for name in self._amounts:
            value = group[name]
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"{name}: found a tensor of shape {list(value.shape)}; expected one number")
            try:
                fits = math.isfinite(value) and value >= 0
            except TypeError:
                fits = False
            if not fits:
                raise ValueError(f"{name}: found {value!r}; expected a finite number >= 0")
        if group["decay"] not in _DECAYS:
            raise ValueError(f"decay: found {group['decay']!r}; expected 'touched' or 'global'")
        if group.get("differentiable"):
            raise ValueError("differentiable: found True; expected False, as steps here have no gradient")
        capture.check_options(group)

    # What an algorithm defines, beside ``_form``.

    def _beyond_torch(self, group: dict[str, Any], parameter: Tensor) -> bool:
        """Whether the state has a form that torch.optim cannot step, as one number a row."""
        return False

    def _check_parameter(self, group: dict[str, Any], parameter: Tensor, name: str) -> None:
        """Refuses a parameter that has no state of the group's form."""

    @abstractmethod
    def _row_step(self, group: dict[str, Any], table: Tensor, options: dict[str, Any]) -> RowStep:
        """The next step; ``options`` are those of ``RowStep`` that all rules share."""

    def _initial(self, group: dict[str, Any]) -> float:
        return 0.0

    # Decay of whole tables.

    def attach(self, module: nn.Module) -> None:
        """Lets embeddings ask for the decay pending on rows before they read them; for decay="global".

        From then on lookups, bags, ``materialize`` and ``weight`` of every ResEmbedding and ResEmbeddingBag, forward
        of every nn.Embedding and nn.EmbeddingBag, and ``state_dict``, copies, pickles and exports of both see decayed rows. Whoever reads or
        writes a table by other ways calls ``catch_up`` first, for example before
        ``torch.optim.swa_utils.AveragedModel.update_parameters``; the next step warns where that was forgotten.

        Args:
            module: an embedding, or a model that contains some.
        """
        self._watched.update(global_decay.watch(self, module))

    @untraced
    def catch_up(self, table: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Applies the decay that is pending.

        Args:
            table: a parameter of this optimizer; None for all of them.
            rows: int64, ascending, distinct; None for all rows.
        """
        for index, (group, parameter) in enumerate(self._places()):
            if (table is None or parameter is table) and self._settle(group, parameter, index, rows):
                torch.autograd.graph.increment_version(parameter)
        global_decay.note_read(self, rows)

    def _catch_up_read(self, table: Tensor, rows: Callable[[], Tensor] | None) -> None:
        """Applies the decay that is pending on rows that are about to be read; None for all rows."""
        if "decayed" not in self.state.get(table, {}):
            return
        for index, (group, parameter) in enumerate(self._places()):
            if parameter is table:
                self._settle(group, parameter, index, None if rows is None else rows())
        global_decay.note_read(self, rows)

    def _settle(self, group: dict[str, Any], table: Tensor, index: int, rows: Tensor | None = None) -> bool:
        """Applies the decay that is pending; whether the table may have changed."""
        state = self.state.get(table, {})
        return global_decay.catch_up(state, table, rows, group["stochastic_rounding"], self._table_seed(index))

    def _places(self) -> list[tuple[dict[str, Any], Tensor]]:
        return [(group, p) for group in self.param_groups for p in group["params"]]

    def _holds(self, table: Tensor) -> bool:
        return any(parameter is table for _, parameter in self._places())

    def _table_seed(self, index: int) -> int:
        return self._seed + (index << 32)

    def _rows_have_moved(self, tables: list[Tensor]) -> None:
        """After tables were given more rows, and the state with them: earlier lookups cannot be stepped any more."""
        tie = tie_of(self)
        for lookup in list(tie.lookups) if tie is not None else ():
            if any(id(table) in lookup.tables for table in tables) and lookup.in_pass is None:
                lookup.in_pass = -1

    # Steps in backward.

    def step_in_backward(self, module: nn.Module) -> None:
        """From now on backward itself steps the embedding tables inside a module.

        One step a pass on the gradient summed over it, bit for bit that of ``step`` after it; the tables'
        ``.grad`` stays None, and ``step`` is left with the other parameters. Where the pass holds one lookup
        of a ResEmbedding, its gradient never lies in memory as a whole, unless its link is "attention".

        What needs whole gradients before the step does not go with it: accumulation over passes (each
        pass steps), loss scaling (the step would see scaled gradients), clipping by norm.

        Args:
            module: its embeddings and bags, of torch.nn and ours, must have sparse=True, and their tables be
                among this optimizer's parameters and in no other's.

        Raises:
            ValueError: a table that is not this optimizer's, or a module with dense gradients.
            RuntimeError: here and in backward, before anything is written: more than one rank of
                torch.distributed, unless its tables are dealt over them (``rx.distributed.shard``);
                create_graph=True, a second backward of one graph.
        """
        in_backward.install(self, module)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Where this is true, GradScaler tells ``step`` of itself, which refuses it."""
        return any(owner_of(p) is self or group_of(p) is not None for _, p in self._places())

    @untraced
    @torch.no_grad()
    def _step_table(self, table: Tensor) -> None:
        """The step of one table on its sparse gradient."""
        for index, (group, parameter) in enumerate(self._places()):
            if parameter is table:
                gradient = self._take(parameter, index, group)
                update_rows(parameter, gradient, self._next_step(group, parameter, index))

    @untraced
    @torch.no_grad()
    def _step_lookup(
        self,
        grad: Tensor,
        plan: Tensor,
        central: Tensor,
        residual: Tensor,
        graph: tuple,
        mean: bool,
        need_samples: bool,
    ) -> Tensor | None:
        """The step of both tables in the backward of their lookup; the sample weights' gradient."""
        places = {id(p): (group, p, i) for i, (group, p) in enumerate(self._places())}
        found = [places[id(table)] for table in (central, residual)]
        for group, parameter, index in found:
            self._check_table(parameter, index, group)
            if not parameter.is_contiguous():
                raise ValueError(f"parameter {index}: steps in backward need a contiguous table")
        steps = [self._next_step(*place, live=place[0]["capturable"]) for place in found]
        updates = [argument for step in steps for argument in (*step.arguments(), step.live)]
        samples_grad = torch.ops.resemb_ext.res_embedding_backward_step_(
            grad, plan, central, residual, *graph, mean, need_samples, *updates
        )
        for table in (central, residual):
            torch.autograd.graph.increment_version(table)
        return samples_grad if need_samples else None

    # The step.

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @untraced
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over all parameters that have a gradient.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.

        Raises:
            ValueError, IndexError: a gradient that is no row-sparse one; nothing has been written then.
            RuntimeError: inside the capture of a CUDA graph, what cannot be captured: a group without
                capturable=True, a sparse gradient. Called by GradScaler with ``step_in_backward``.
        """
        in_backward.refuse_scaler(self)
        capture.refuse_capture(self.param_groups)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rows, dense = [], []
        for index, (group, parameter) in enumerate(self._places()):
            gradient = parameter.grad
            if gradient is None:
                continue
            self._check_parameter(group, parameter, f"parameter {index}")
            if gradient.is_sparse:
                rows.append((group, parameter, index, self._take(parameter, index, group)))
            elif self._beyond_torch(group, parameter) or _rounds_at_random(group, parameter):
                capture.refuse_rows(index)
                capture.check_table(group, parameter, f"parameter {index}")
                rows.append((group, parameter, index, whole_table(gradient)))
            else:
                dense.append((group, parameter, index))
        self._step_dense(dense)
        for group, parameter, index, taken in rows:
            whole = not parameter.grad.is_sparse  # type: ignore[union-attr]
            update_rows(parameter, taken, self._next_step(group, parameter, index, whole=whole))
        return loss

    def _take(self, parameter: Tensor, index: int, group: dict[str, Any]) -> RowGradient:
        """A parameter's gradient as rows, after every check that can fail."""
        require_table(parameter, f"parameter {index}")
        self._check_table(parameter, index, group)
        return gradient_rows(parameter.grad, f"parameter {index}")  # type: ignore[arg-type]

    def _check_table(self, parameter: Tensor, index: int, group: dict[str, Any]) -> None:
        name = f"parameter {index}"
        self._check_parameter(group, parameter, name)
        capture.check_table(group, parameter, name)
        if not _pending(group):
            return
        global_decay.check_decay(float(group["lr"]), group["weight_decay"])
        if not (parameter.is_contiguous() and parameter.dim() == 2):
            raise ValueError(f"{name}: decay='global' needs a contiguous table [H, D]")
        if parameter not in self._watched:
            raise ValueError(
                f"{name}: decay='global' needs optimizer.attach(module), so that the embedding's "
                "rows are decayed before they are read; it takes embeddings and bags of torch.nn and of resemb_ext"
            )

    def _next_step(
        self, group: dict[str, Any], parameter: Tensor, index: int, live: bool = False, whole: bool = False
    ) -> RowStep:
        """Counts a table's next step and gives what its kernel needs; the caller must make it.

        Args:
            live: lr, shrink and count stay on the device, in ``RowStep.live``.
            whole: the gradient has all rows, so that no decay stays pending.
        """
        state = self._state(group, parameter, parameter.device if group["capturable"] else torch.device("cpu"))
        decay, decoupled = group["weight_decay"], group["decoupled_weight_decay"]
        if live:
            options = {
                "live": capture.advance(group, state["step"], decay if decoupled else 0.0),
                "weight_decay": 0.0 if decoupled else decay,
                "maximize": group["maximize"],
                "random_rounding": group["stochastic_rounding"],
                "seed": self._table_seed(index),
            }
            return self._row_step(group, parameter, options)
        if whole:
            self._settle(group, parameter, index)
        state["step"] += 1
        lr, step = float(group["lr"]), int(state["step"])
        pending: dict[str, Any] = {}
        if _pending(group) and not whole:
            global_decay.warn_of_averages(self)
            global_decay.raise_decay(state, parameter, lr, decay)
            decay = 0.0
        if "decayed" in state:
            pending = {"decayed": state["decayed"], "decay_now": float(state["decay_log"])}
        options = {
            "lr": lr / (1 + (step - 1) * group.get("lr_decay", 0.0)),
            "shrink": 1 - lr * decay if decoupled else 1.0,
            "weight_decay": 0.0 if decoupled else decay,
            "maximize": group["maximize"],
            "random_rounding": group["stochastic_rounding"],
            "seed": self._table_seed(index),
            "step": step,
            **pending,
        }
        return self._row_step(group, parameter, options)

    def _state(self, group: dict[str, Any], parameter: Tensor, count_at: torch.device) -> dict[str, Any]:
        """A parameter's whole state, made where it is not there yet."""
        state, form = self.state[parameter], self._form(group, parameter)
        place_count(state, count_at)
        converted = self._converted(state, form, parameter, "state")
        if converted is not state:
            state.clear()
            state.update(converted)
        complete_state(state, form, parameter, self._initial(group))
        return state

    def _step_dense(self, places: list[tuple[dict[str, Any], Tensor, int]]) -> None:
        """torch.optim on parameters with dense gradients."""
        if not places:
            return
        for group, parameter, index in places:
            self._state(group, parameter, count_of_torch(group, parameter))
            self._settle(group, parameter, index)
        step_dense(self._dense, [(group, parameter) for group, parameter, _ in places], self.state)


def _pending(group: dict[str, Any]) -> bool:
    """Whether steps leave decay pending on rows outside the batch."""
    return group["decay"] == "global" and group["weight_decay"] != 0


def _rounds_at_random(group: dict[str, Any], parameter: Tensor) -> bool:
    """Whether steps are rounded as torch.optim cannot."""
    return group["stochastic_rounding"] and state_dtype(parameter) != parameter.dtype and is_table(parameter)
