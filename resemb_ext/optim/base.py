"""What the row-sparse optimizers share: groups, state, checks, and torch.optim for dense gradients."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from resemb_ext._huge_pages import empty_table
from resemb_ext._ownership import owner_of, watch_table

from . import capture, global_decay, in_backward
from .row_sparse import RowGradient, RowStep, gradient_rows, update_rows

_DECAYS = ("touched", "global")


def _state_dtype(table: Tensor) -> torch.dtype:
    """The dtype of a table's state: float64 for float64 tables, float32 for all others."""
    return torch.float64 if table.dtype == torch.float64 else torch.float32


class RowSparseOptimizer(Optimizer):
    """Base of the optimizers; see ``Adam`` for what the options mean.

    A parameter whose gradient is a COO tensor over rows is updated by one fused kernel on the rows that
    the gradient holds. One with a dense gradient is updated by the torch.optim optimizer of the same
    name with the group's options, over the same state.
    """

    # Options of a group that must be finite and not negative.
    _amounts: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    def __init__(
        self,
        params: Any,
        dense: type[Optimizer],
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
        self._dense = dense([torch.zeros(1, requires_grad=True)], **dense_options)
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
        for parameter in self.param_groups[-1]["params"]:
            owner = owner_of(parameter)
            if owner is not None and owner is not self:
                self.param_groups.pop()
                raise ValueError("params: a table that another optimizer steps in backward")

    def _check(self, group: dict[str, Any]) -> None:
        for name in self._amounts:
            value = group[name]
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: found {value}; expected a finite number >= 0")
        if group["decay"] not in _DECAYS:
            raise ValueError(f"decay: found {group['decay']!r}; expected 'touched' or 'global'")
        capture.check_options(group)

    # What an algorithm defines.

    @abstractmethod
    def _state_shapes(self, group: dict[str, Any], table: Tensor) -> dict[str, torch.Size]:
        """Names and shapes of a table's state, in ``_state_dtype``; it starts at ``_initial``."""

    @abstractmethod
    def _row_step(self, group: dict[str, Any], table: Tensor, options: dict[str, Any]) -> RowStep:
        """The next step; ``options`` are those of ``RowStep`` that all rules share."""

    def _initial(self, group: dict[str, Any]) -> float:
        return 0.0

    # Decay of whole tables.

    def attach(self, module: nn.Module) -> None:
        """Lets embeddings ask for the decay pending on rows before they read them; for decay="global".

        From then on lookups, bags, ``materialize``, ``weight`` and ``state_dict`` of every ResEmbedding, and
        forward and ``state_dict`` of every nn.Embedding inside the module see decayed rows. Whoever reads
        a table by other ways calls ``catch_up`` first.

        Args:
            module: an embedding, or a model that contains some.
        """

        def before_read(table: Tensor, rows: Callable[[], Tensor] | None) -> None:
            if "decayed" in self.state.get(table, {}):
                self.catch_up(table, None if rows is None else rows())

        def loaded(table: Tensor) -> None:
            global_decay.settle(self.state.get(table, {}))

        self._watched.update(global_decay.watch(module, before_read, loaded))

    def catch_up(self, table: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Applies the decay that is pending.

        Args:
            table: a parameter of this optimizer; None for all of them.
            rows: int64, ascending, distinct; None for all rows.
        """
        for index, (group, parameter) in enumerate(self._places()):
            if table is None or parameter is table:
                global_decay.catch_up(
                    self.state.get(parameter, {}),
                    parameter,
                    rows,
                    group["stochastic_rounding"],
                    self._table_seed(index),
                )

    def _places(self) -> list[tuple[dict[str, Any], Tensor]]:
        return [(group, p) for group in self.param_groups for p in group["params"]]

    def _table_seed(self, index: int) -> int:
        return self._seed + (index << 32)

    # Steps in backward.

    def step_in_backward(self, module: nn.Module) -> None:
        """From now on backward itself steps the embedding tables inside a module.

        One step a pass on the gradient summed over it, bit for bit that of ``step`` after it; the tables'
        ``.grad`` stays None, and ``step`` is left with the other parameters. Where the pass holds one lookup
        of a ResEmbedding, its gradient never lies in memory as a whole, unless its link is "attention".

        What needs whole gradients before the step does not go with it: accumulation over passes (each
        pass steps), loss scaling (the step would see scaled gradients), clipping by norm.

        Args:
            module: its nn.Embedding and ResEmbedding modules must have sparse=True, and their tables be
                among this optimizer's parameters and in no other's.

        Raises:
            ValueError: a table that is not this optimizer's, or a module with dense gradients.
            RuntimeError: here and in backward, before anything is written: more than one rank of
                torch.distributed, create_graph=True, a second backward of one graph.
        """
        in_backward.install(self, module)
        for _, parameter in self._places():
            if owner_of(parameter) is self:
                watch_table(parameter)

    @torch.no_grad()
    def _step_table(self, table: Tensor) -> None:
        """The step of one table on its sparse gradient."""
        for index, (group, parameter) in enumerate(self._places()):
            if parameter is table:
                gradient = self._take(parameter, index, group)
                update_rows(parameter, gradient, self._next_step(group, parameter, index))

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
        steps = [self._next_step(*place, live=place[0]["capturable"]) for place in found]
        updates = [argument for step in steps for argument in (*step.arguments(), step.live)]
        samples_grad = torch.ops.resemb_ext.res_embedding_backward_step_(
            grad, plan, central, residual, *graph, mean, need_samples, *updates
        )
        for table in (central, residual):
            torch.autograd.graph.increment_version(table)
        return samples_grad if need_samples else None

    # The step.

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step over all parameters that have a gradient.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.

        Raises:
            ValueError, IndexError: a gradient that is no row-sparse one; nothing has been written then.
            RuntimeError: inside the capture of a CUDA graph, what cannot be captured: a group without
                capturable=True, a sparse gradient.
        """
        capture.refuse_capture(self.param_groups)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [
            (group, parameter, index, self._take(parameter, index, group))
            for index, (group, parameter) in enumerate(self._places())
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        self._step_dense()
        for group, parameter, index, gradient in work:
            update_rows(parameter, gradient, self._next_step(group, parameter, index))
        return loss

    def _take(self, parameter: Tensor, index: int, group: dict[str, Any]) -> RowGradient:
        """A parameter's gradient as rows, after every check that can fail."""
        self._check_table(parameter, index, group)
        return gradient_rows(parameter.grad, f"parameter {index}")  # type: ignore[arg-type]

    def _check_table(self, parameter: Tensor, index: int, group: dict[str, Any]) -> None:
        name = f"parameter {index}"
        capture.check_table(group, parameter, name)
        if not parameter.is_contiguous():
            raise ValueError(f"{name}: a table that is not contiguous; expected a contiguous one")
        if _pending(group):
            global_decay.check_decay(float(group["lr"]), group["weight_decay"])
            if parameter not in self._watched:
                raise ValueError(
                    f"{name}: decay='global' needs optimizer.attach(module), so that the embedding's "
                    "rows are decayed before they are read"
                )
        for key in self._state_shapes(group, parameter):
            value = self.state[parameter].get(key)
            if isinstance(value, Tensor) and value.dtype != _state_dtype(parameter):
                raise ValueError(
                    f"{name}: its state {key} is {value.dtype}, made for dense gradients; sparse ones "
                    f"need {_state_dtype(parameter)}: do not mix both on a low-precision table"
                )

    def _next_step(self, group: dict[str, Any], parameter: Tensor, index: int, live: bool = False) -> RowStep:
        """Counts a table's next step and gives what its kernel needs; the caller must make it.

        Args:
            live: lr, shrink and count stay on the device, in ``RowStep.live``.
        """
        state = self._state(group, parameter)
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
        state["step"] += 1
        lr, step = float(group["lr"]), int(state["step"])
        pending: dict[str, Any] = {}
        if _pending(group):
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

    def _state(self, group: dict[str, Any], table: Tensor) -> dict[str, Any]:
        """A table's state, made where it is not there yet."""
        state = self.state[table]
        place = table.device if group["capturable"] else torch.device("cpu")
        if "step" not in state:
            state["step"] = torch.tensor(0.0, device=place)
        self._place_step(table, place)
        for key, shape in self._state_shapes(group, table).items():
            if state.get(key) is None:
                value = empty_table(shape, dtype=_state_dtype(table), device=table.device)
                state[key] = value.fill_(self._initial(group))
        return state

    def _step_dense(self) -> None:
        """torch.optim on the parameters with dense gradients."""
        groups = []
        for group in self.param_groups:
            dense = [p for p in group["params"] if p.grad is not None and not p.grad.is_sparse]
            if dense:
                groups.append({**group, "params": dense})
        if not groups:
            return
        capture.check_dense(self._dense, groups)
        own_decay = "decoupled_weight_decay" in self._dense.defaults
        for group in groups:
            for parameter in group["params"]:
                self._prepare_dense(group, parameter)
                self._place_step(parameter, _step_of_torch(group, parameter))
                self.catch_up(parameter)
            if group["decoupled_weight_decay"] and not own_decay and group["weight_decay"] != 0:
                lr = group["lr"]
                if not isinstance(lr, Tensor) or lr.device.type == "cpu":
                    lr = float(lr)  # one on a device is not waited for
                for parameter in group["params"]:
                    parameter.mul_(1 - lr * group["weight_decay"])
                group["weight_decay"] = 0.0
        self._dense.param_groups = groups
        self._dense.state = self.state
        self._dense.step()

    def _place_step(self, parameter: Tensor, place: torch.device) -> None:
        """Puts a step count that is there where those who step the parameter read it."""
        step = self.state.get(parameter, {}).get("step")
        if isinstance(step, Tensor) and step.device != place:
            self.state[parameter]["step"] = step.to(place)

    def _prepare_dense(self, group: dict[str, Any], parameter: Tensor) -> None:
        """State that torch's optimizer expects to find."""

    # Saving.

    def state_dict(self) -> dict[str, Any]:
        """As torch's; first applies the decay that is pending, so that tables and state fit."""
        self.catch_up()
        return super().state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("capturable", False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` gave. State keeps its own dtype, whatever the tables'."""
        super().load_state_dict(state_dict)
        # torch casts floating state to the parameter's dtype and else shares it with the given one;
        # low-precision tables keep float32, and nobody else's step may change it.
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        for number, (group, parameter) in zip(saved, self._places(), strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    place = parameter.device
                    if key == "decay_log":
                        place = torch.device("cpu")
                    elif key == "step":
                        place = _step_of_torch(group, parameter)
                    own = empty_table(value.shape, dtype=value.dtype, device=place)
                    self.state[parameter][key] = own.copy_(value)


def _step_of_torch(group: dict[str, Any], parameter: Tensor) -> torch.device:
    """Where torch's own optimizers want a parameter's step count."""
    there = group["capturable"] or group.get("fused")
    return parameter.device if there else torch.device("cpu")


def _pending(group: dict[str, Any]) -> bool:
    """Whether steps leave decay pending on rows outside the batch."""
    return group["decay"] == "global" and group["weight_decay"] != 0
