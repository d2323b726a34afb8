"""SGD, Adagrad, row-wise Adagrad, Adam and AdamW on the rows of a batch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from . import moments
from .base import RowSparseOptimizer
from .row_sparse import Moment, RowStep, Rule, is_table
from .state import Form, state_dtype


class SGD(RowSparseOptimizer):
    """Stochastic gradient descent on touched rows, with momentum kept per row.

    m <- momentum m + g;  p <- p - lr (g + momentum m where nesterov, else m); without momentum
    p <- p - lr g, bit for bit torch.optim.SGD on sparse gradients where fused multiply-add is at hand.

    Lazy: the momentum of rows outside the batch neither decays nor moves them.

    Args:
        params: parameters or groups, as for torch.optim.
        lr: learning rate.
        momentum: 0 keeps no momentum_buffer.
        dampening, differentiable: of torch.optim.SGD; 0 and False.
        weight_decay, decoupled_weight_decay, decay: see ``Adam``.
        nesterov: needs momentum.
        maximize, stochastic_rounding, seed, capturable: see ``Adam``.
        foreach, fused: of torch.optim.SGD, for dense gradients.

    Raises:
        ValueError: an option out of range.
    """

    _torch = torch.optim.SGD
    _amounts = ("lr", "weight_decay", "momentum")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        decay: str = "touched",
        maximize: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        capturable: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "differentiable": differentiable,
        }
        super().__init__(
            params,
            options,
            decay=decay,
            seed=seed,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
            stochastic_rounding=stochastic_rounding,
        )

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if group["nesterov"] and group["momentum"] == 0:
            raise ValueError("nesterov: needs a momentum above 0")
        if group.get("dampening", 0) != 0:
            raise ValueError(f"dampening: found {group['dampening']}; expected 0 (pass weight_decay by its name)")

    def _form(self, group: dict[str, Any], parameter: Tensor) -> Form:
        return {"momentum_buffer": (parameter.shape, state_dtype(parameter))} if group["momentum"] != 0 else {}

    def _step_dense(self, places: list[tuple[dict[str, Any], Tensor, int]]) -> None:
        super()._step_dense(places)
        for _, parameter, _ in places:
            self.state[parameter]["step"] += 1  # torch.optim.SGD does not count

    def _row_step(self, group: dict[str, Any], table: Tensor, options: dict[str, Any]) -> RowStep:
        momentum = group["momentum"]
        return RowStep(
            Rule.MOMENTUM if momentum != 0 else Rule.SGD,
            first=self.state[table]["momentum_buffer"] if momentum != 0 else None,
            beta1=momentum,
            nesterov=group["nesterov"],
            **options,
        )


class Adagrad(RowSparseOptimizer):
    """Adagrad (Duchi et al. 2011) on touched rows; sparse and dense Adagrad are the same algorithm.

    v <- v + g^2;  p <- p - lr_t g / (sqrt(v) + eps), lr_t = lr / (1 + (t - 1) lr_decay).

    Args:
        params, lr: as for torch.optim.Adagrad.
        lr_decay, initial_accumulator_value, eps: as for torch.optim.Adagrad.
        weight_decay, decoupled_weight_decay, decay: see ``Adam``.
        maximize, stochastic_rounding, seed, capturable: see ``Adam``.
        foreach, fused: of torch.optim.Adagrad, for dense gradients.
        differentiable: of torch.optim.Adagrad; False.

    Raises:
        ValueError: an option out of range.
    """

    _torch = torch.optim.Adagrad
    _amounts = ("lr", "weight_decay", "lr_decay", "initial_accumulator_value", "eps")
    _rule = Rule.ADAGRAD

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        decoupled_weight_decay: bool = False,
        decay: str = "touched",
        maximize: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        capturable: bool = False,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "differentiable": differentiable,
        }
        super().__init__(
            params,
            options,
            decay=decay,
            seed=seed,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
            stochastic_rounding=stochastic_rounding,
        )

    def _form(self, group: dict[str, Any], parameter: Tensor) -> Form:
        shape = parameter.shape[:1] if self._beyond_torch(group, parameter) else parameter.shape
        return {"sum": (shape, state_dtype(parameter))}

    def _initial(self, group: dict[str, Any]) -> float:
        return group["initial_accumulator_value"]

    def _row_step(self, group: dict[str, Any], table: Tensor, options: dict[str, Any]) -> RowStep:
        return RowStep(self._rule, second=self.state[table]["sum"], eps=group["eps"], **options)


class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator a row: v <- v + mean over columns of g^2. State of H floats, not H D.

    The form of FBGEMM's EXACT_ROWWISE_ADAGRAD. Options as for ``Adagrad``.

    Every parameter on the CPU or CUDA has this form, the matrices of dense layers among them, since a
    table's gradient may be dense. Layers that should keep one accumulator an element go to ``Adagrad``.
    Parameters on other devices and sharded ones (DTensor) get the element-wise torch.optim.Adagrad.
    """

    _rule = Rule.ROWWISE_ADAGRAD

    def _beyond_torch(self, group: dict[str, Any], parameter: Tensor) -> bool:
        return is_table(parameter)


class Adam(RowSparseOptimizer):
    """Lazy Adam (Kingma and Ba 2015): moments and rows move only where the batch has a gradient.

    m <- m + (1 - beta1)(g - m);  v <- beta2 v + (1 - beta2) g^2;
    p <- p - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)

    Not the same algorithm as dense Adam, whose moments decay at every step and move rows outside the
    batch. torch.optim.SparseAdam is this with eps outside the bias correction.

    Args:
        params: parameters or groups, as for torch.optim.
        lr, betas, eps: as for torch.optim.Adam.
        weight_decay: of touched rows. Coupled: g <- g + weight_decay p, L2 in the loss.
        decoupled_weight_decay: p <- p (1 - lr weight_decay) before the step instead, as AdamW.
        decay: "touched": rows of the batch alone decay. "global": each step multiplies the whole table
            by (1 - lr_t weight_decay), always decoupled, applied to a row before it is read or stepped;
            needs ``attach(module)``, and 8 bytes a row.
        bias_correction: t is the table's steps ("global") or the row's own ("row"; 4 bytes a row).
        state: the form of the moments, see below; dense gradients too are then stepped by the row kernel.
        maximize: climb instead of descend.
        stochastic_rounding: of float16 and bfloat16 parameters, with sparse or dense gradients, so that steps
            below their precision are not lost: bits are a function of (seed, step, row, column) alone.
        seed: of stochastic rounding, of parameters and of moments.
        capturable: a CUDA graph may capture steps made in backward and steps on dense gradients, as with
            torch.optim.Adam: the count lies on the table's device, and lr may be a tensor there, which
            replays follow. Needs tables on CUDA; not with decay="global". Sparse gradients as tensors
            are stepped outside captures alone, and then read the count on the host.
        foreach, fused: of torch.optim.Adam, for dense gradients.
        amsgrad, differentiable: of torch.optim.Adam; False.

    Kept as: step, exp_avg and exp_avg_sq, as torch.optim.Adam names them; row_steps int32 [H] with
    bias_correction="row"; decayed float64 [H] and decay_log with decay="global". By ``state``, with the bytes an
    element beside the parameter:

    - "float32": both [H, D], float32 (float64 for float64 tables); 8.
    - "bfloat16": both bfloat16 [H, D]; 4.
    - "rowwise": exp_avg float32 [H, D], exp_avg_sq float32 [H]; 4 + 4/D.
    - "bfloat16_rowwise": exp_avg bfloat16 [H, D], exp_avg_sq float32 [H]; 2 + 4/D.
    - "int8_rowwise": exp_avg int8 [H, D] times exp_avg_scale float32 [H], exp_avg_sq float32 [H]; 1 + 8/D.
    - "compact": the one of these that is recommended, "int8_rowwise".

    Rowwise: v <- beta2 v + (1 - beta2) mean over columns of g^2, one number a row (FBGEMM's partial row-wise Adam).
    int8: exp_avg_scale is the largest ``|m|`` of the row over 127, as in 8-bit optimizers (Dettmers et al. 2022) with
    the row as block and linear codes. bfloat16 and int8 moments are rounded at random to one of their two
    neighbours, with a chance by nearness, so that their mean is exact (Gupta et al. 2015); the step itself uses
    them before rounding. A gradient that is not finite makes its row's int8 moments NaN, and its row's v where that
    is one number.

    Raises:
        ValueError: an option out of range; with another ``state`` than "float32", a parameter that is not float32,
            bfloat16 or float16 on the CPU or CUDA: float64, complex, sharded (DTensor) or a single number.
    """

    _torch = torch.optim.Adam
    _own: ClassVar[dict[str, Any]] = {**RowSparseOptimizer._own, "bias_correction": "global", "state": "float32"}
    _amounts = ("lr", "weight_decay", "eps")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        decay: str = "touched",
        bias_correction: str = "global",
        state: str = "float32",
        maximize: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        capturable: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(
            params,
            options,
            decay=decay,
            seed=seed,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
            stochastic_rounding=stochastic_rounding,
            bias_correction=bias_correction,
            state=state,
        )

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        try:
            beta1, beta2 = group["betas"]
            fits = 0 <= beta1 < 1 and 0 <= beta2 < 1
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"betas: found {group['betas']}; expected two numbers in [0, 1)")
        if group["bias_correction"] not in ("global", "row"):
            raise ValueError(f"bias_correction: found {group['bias_correction']!r}; expected 'global' or 'row'")
        moments.check_state(group["state"])
        if group.get("amsgrad"):
            raise ValueError(
                "amsgrad: found True; expected False, as no max_exp_avg_sq is kept here: train with "
                "torch.optim.Adam(amsgrad=True), or set it to False in the saved groups"
            )

    def _check_parameter(self, group: dict[str, Any], parameter: Tensor, name: str) -> None:
        moments.check_parameter(group["state"], parameter, name)

    def _counts_rows(self, group: dict[str, Any], parameter: Tensor) -> bool:
        return group["bias_correction"] == "row" and is_table(parameter)

    def _beyond_torch(self, group: dict[str, Any], parameter: Tensor) -> bool:
        return self._counts_rows(group, parameter) or moments.is_compact(group["state"])

    def _form(self, group: dict[str, Any], parameter: Tensor) -> Form:
        form = moments.moment_form(group["state"], parameter)
        if self._counts_rows(group, parameter):
            form["row_steps"] = (parameter.shape[:1], torch.int32)
        return form

    def _converted(self, saved: dict[str, Any], form: Form, parameter: Tensor, name: str) -> dict[str, Any]:
        return moments.converted(saved, form, parameter, name)

    def _completed(self, saved: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
        # What is loaded takes the form that was chosen here, as it takes the parameter's device.
        return {**super()._completed(saved, current), "state": current["state"]}

    def _row_step(self, group: dict[str, Any], table: Tensor, options: dict[str, Any]) -> RowStep:
        state = self.state[table]
        beta1, beta2 = group["betas"]
        forms = moments.STATES[group["state"]]
        return RowStep(
            Rule.ADAM,
            first=state[moments.FIRST],
            first_scale=state[moments.SCALE] if forms.first is Moment.I8 else None,
            second=state[moments.SECOND],
            first_form=forms.first,
            second_form=forms.second,
            row_steps=state["row_steps"] if self._counts_rows(group, table) else None,
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            **options,
        )


class AdamW(Adam):
    """``Adam`` with decoupled weight decay (Loshchilov and Hutter 2019), of 0.01 unless told otherwise."""

    _own: ClassVar[dict[str, Any]] = {**Adam._own, "decoupled_weight_decay": True}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True, **options)

    def _completed(self, saved: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
        of_torch = "decay" not in saved
        group = super()._completed(saved, current)
        # As torch.optim.AdamW does with the groups of torch.optim.Adam.
        return {**group, "decoupled_weight_decay": True} if of_torch else group
