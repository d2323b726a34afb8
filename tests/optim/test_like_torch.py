"""What users of torch.optim rely on: options, hooks, schedulers, saving, and steps in the right direction."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from resemb_ext import optim

# Each of the optimizers with options that change its rule, and torch's of the same rule on dense gradients.
ALL: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "adam": (optim.Adam, torch.optim.Adam, {}),
    "adam l2": (optim.Adam, torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}),
    "adam maximize": (optim.Adam, torch.optim.Adam, {"maximize": True}),
    "adam foreach": (optim.Adam, torch.optim.Adam, {"foreach": True}),
    "adam fused": (optim.Adam, torch.optim.Adam, {"fused": True}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    "adagrad": (optim.Adagrad, torch.optim.Adagrad, {"initial_accumulator_value": 0.1, "eps": 1e-6}),
    "adagrad lr_decay": (optim.Adagrad, torch.optim.Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1}),
    "adagrad maximize": (optim.Adagrad, torch.optim.Adagrad, {"maximize": True, "foreach": True}),
    "sgd": (optim.SGD, torch.optim.SGD, {}),
    "sgd momentum": (optim.SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "sgd nesterov": (optim.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
    "sgd maximize": (optim.SGD, torch.optim.SGD, {"maximize": True, "foreach": True}),
}
OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    **{kind: (own, options) for kind, (own, _, options) in ALL.items()},
    "rowwise": (optim.RowwiseAdagrad, {}),
    "adam by row": (optim.Adam, {"bias_correction": "row"}),
}
FORMS = ("dense", "rows", "rows twice")
SHAPES: dict[str, Callable[[], nn.Parameter]] = {
    "matrix": lambda: nn.Parameter(torch.tensor([[1.5, -1.0], [0.5, 2.0], [-2.0, 1.0]])),
    "vector": lambda: nn.Parameter(torch.tensor([1.5, -1.0, 0.5])),
    "transposed": lambda: nn.Parameter(torch.tensor([[1.5, 0.5, -2.0], [-1.0, 2.0, 1.0]]).t()),
    "strided": lambda: nn.Parameter(torch.arange(12.0).reshape(3, 4)[:, ::2] / 5 - 1),
}


def gradient_as(form: str, gradient: Tensor) -> Tensor:
    """The same numbers as a dense tensor, as rows, or as rows that come in two parts."""
    if form == "dense":
        return gradient
    number = torch.arange(len(gradient)).flip(0)
    values = gradient.flip(0)
    if form == "rows twice":
        number, values = torch.cat([number, number]), torch.cat([values * 0.25, values * 0.75])
    return torch.sparse_coo_tensor(number[None], values, gradient.shape, check_invariants=True)


def loss_of(parameter: Tensor, maximize: bool = False) -> Tensor:
    """A valley with its floor at 0.7 + 0.1 j, or the hill that it is from below."""
    x = parameter.reshape(len(parameter), -1)
    target = 0.7 + 0.1 * torch.arange(x.shape[1], dtype=x.dtype)
    loss = ((x - target) ** 2 * torch.arange(1.0, len(x) + 1)[:, None]).sum()
    return -loss if maximize else loss


def backward(form: str, parameter: nn.Parameter, maximize: bool = False) -> Tensor:
    loss = loss_of(parameter, maximize)
    (gradient,) = torch.autograd.grad(loss, parameter)
    parameter.grad = gradient_as(form, gradient)
    return loss.detach()


@pytest.mark.one_in(11)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", OWN)
def test_goes_down(kind: str, form: str, shape: str) -> None:
    """With and without closures, under schedulers; up where it maximizes."""
    build, options = OWN[kind]
    for closure in (False, True):
        parameter = SHAPES[shape]()
        maximize = options.get("maximize", False)
        optimizer = build([parameter], lr=torch.tensor(0.05) if not options.get("foreach") else 0.05, **options)
        schedulers = [
            lr_scheduler.ExponentialLR(optimizer, gamma=0.99),
            lr_scheduler.ReduceLROnPlateau(optimizer, patience=5),
        ]
        first = loss_of(parameter).item()
        for _ in range(40):
            if closure:
                loss = optimizer.step(lambda p=parameter, m=maximize: backward(form, p, m))
            else:
                loss = backward(form, parameter, maximize)
                assert optimizer.step() is None
            schedulers[0].step()
            schedulers[1].step(loss)
        assert loss_of(parameter).item() < 0.9 * first


@pytest.mark.one_in(13)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ALL)
def test_is_torchs_where_every_row_has_a_gradient(kind: str, form: str, shape: str) -> None:
    own, theirs, options = ALL[kind]
    # torch's fused kernels on the CPU go wrong where parameter and gradient have other strides.
    parameter, twin = SHAPES[shape](), nn.Parameter(SHAPES[shape]().detach().contiguous())
    optimizer, other = own([parameter], lr=0.05, **options), theirs([twin], lr=0.05, **options)
    for _ in range(5):
        backward(form, parameter)
        backward("dense", twin)
        optimizer.step()
        other.step()
    torch.testing.assert_close(parameter, twin, rtol=1e-5, atol=1e-6)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.95),
    "step": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "multi-step": lambda o: lr_scheduler.MultiStepLR(o, [2, 4], gamma=0.5),
    "constant": lambda o: lr_scheduler.ConstantLR(o, factor=0.3, total_iters=3),
    "linear": lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, total_iters=5, power=2),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "cosine restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=_has_momentum(o)),
    "chained": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.StepLR(o, 2)]),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[2]
    ),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=3),
}


def _has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    group = optimizer.param_groups[0]
    return "betas" in group or group.get("momentum", 0) > 0


@pytest.mark.one_in(9)
@pytest.mark.parametrize("kind", ["adam", "adamw", "adagrad", "sgd", "sgd momentum"])
@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_are_followed_as_by_torch(scheduler: str, form: str, kind: str) -> None:
    """Momentum that a scheduler cycles too; a saved scheduler goes on."""
    own, theirs, options = ALL[kind]
    parameter, twin = SHAPES["matrix"](), SHAPES["matrix"]()
    optimizers = own([parameter], lr=0.05, **options), theirs([twin], lr=0.05, **options)
    schedules = [SCHEDULERS[scheduler](o) for o in optimizers]
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(schedules[0].state_dict()), copy.deepcopy(optimizers[0].state_dict())
            fresh = own([parameter], lr=0.05, **options)
            schedules[0] = SCHEDULERS[scheduler](fresh)
            schedules[0].load_state_dict(saved[0])
            fresh.load_state_dict(saved[1])
            optimizers = fresh, optimizers[1]
        for p, o, schedule, kept in zip((parameter, twin), optimizers, schedules, (form, "dense"), strict=True):
            backward(kept, p)
            o.step()
            schedule.step(*([1.0] if scheduler == "plateau" else []))
        assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
    torch.testing.assert_close(parameter, twin, rtol=1e-5, atol=1e-6)


def test_every_scheduler_of_torch_is_here() -> None:
    module = torch.optim.lr_scheduler
    known = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    parameter = SHAPES["matrix"]()
    made = {type(make(optim.Adam([parameter], lr=0.05))).__name__ for make in SCHEDULERS.values()}
    assert made >= known - {"LRScheduler"}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", OWN)
class TestSteps:
    def test_lr_as_a_tensor(self, kind: str, form: str) -> None:
        build, options = OWN[kind]
        options = {key: value for key, value in options.items() if key != "foreach"}
        results = []
        for lr in (0.125, torch.tensor(0.125), torch.tensor([0.125])):
            parameter = SHAPES["matrix"]()
            optimizer = build([parameter], lr=lr, **options)
            for _ in range(3):
                backward(form, parameter)
                optimizer.step()
            results.append(parameter.detach())
        torch.testing.assert_close(results[1], results[0])
        torch.testing.assert_close(results[2], results[0])

    def test_options_of_groups(self, kind: str, form: str) -> None:
        """lr and weight_decay of a group are its own; the names of parameters stay."""
        build, options = OWN[kind]
        still, moves = SHAPES["matrix"](), SHAPES["matrix"]()
        groups = [{"params": [("still", still)], "lr": 0.0}, {"params": [("moves", moves)], "weight_decay": 0.01}]
        optimizer = build(groups, lr=0.1, **options)
        for p in (still, moves):
            backward(form, p)
        optimizer.step()
        assert torch.equal(still, SHAPES["matrix"]())
        assert not torch.equal(moves, SHAPES["matrix"]())
        assert [group["param_names"] for group in optimizer.state_dict()["param_groups"]] == [["still"], ["moves"]]
        assert "lr: 0.1" in repr(optimizer)

    def test_nothing_moves_without_gradients(self, kind: str, form: str) -> None:
        build, options = OWN[kind]
        parameter = SHAPES["matrix"]()
        optimizer = build([parameter], lr=0.1, **{**options, "weight_decay": 0.0})
        optimizer.step()
        assert not optimizer.state_dict()["state"]
        parameter.grad = gradient_as(form, torch.zeros(3, 2))
        optimizer.step()
        assert torch.equal(parameter, SHAPES["matrix"]())
        optimizer.zero_grad()
        assert parameter.grad is None

    def test_hooks_are_called_once_a_step(self, kind: str, form: str) -> None:
        build, options = OWN[kind]
        calls: list[str] = []
        embedding, linear = SHAPES["matrix"](), SHAPES["vector"]()
        optimizer = build([embedding, linear], lr=0.1, **options)
        handles = [
            register_optimizer_step_pre_hook(lambda o, args, kwargs: calls.append(type(o).__module__)),
            register_optimizer_step_post_hook(lambda o, args, kwargs: calls.append(type(o).__module__)),
            optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append("before")),
            optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append("after")),
        ]
        try:
            optimizer.step()
            backward(form, embedding)
            backward("dense", linear)
            optimizer.step()
        finally:
            for handle in handles:
                handle.remove()
        module = "resemb_ext.optim.algorithms"
        assert calls == [module, "before", "after", module] * 2

    def test_state_dicts(self, kind: str, form: str) -> None:
        """Saving is deterministic, passes weights_only, calls its hooks, and takes counts as numbers."""
        build, options = OWN[kind]
        parameter = SHAPES["matrix"]()
        optimizer = build([parameter], lr=0.1, **options)
        for _ in range(2):
            backward(form, parameter)
            optimizer.step()
        calls: list[str] = []
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("before"))
        optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "note": calls})
        first, second = optimizer.state_dict(), optimizer.state_dict()
        assert calls == ["before"] * 2
        assert first.pop("note") is second.pop("note")
        torch.testing.assert_close(first["state"], second["state"], rtol=0, atol=0)
        file = io.BytesIO()
        torch.save(first, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        saved["state"][0]["step"] = float(saved["state"][0]["step"])

        twin = nn.Parameter(parameter.detach().clone())
        other = build([twin], lr=7.0, **options)
        other.load_state_dict(saved)
        for p, o in ((parameter, optimizer), (twin, other)):
            backward(form, p)
            o.step()
        assert torch.equal(parameter, twin)


@pytest.mark.parametrize("kind", ["adam", "adagrad", "sgd momentum"])
def test_dense_complex_parameters(kind: str) -> None:
    own, theirs, options = ALL[kind]
    start = torch.tensor([1 + 2j, -1j, 3 + 0j])
    results = []
    for build in (own, theirs):
        parameter = nn.Parameter(start.clone())
        optimizer = build([parameter], lr=0.1, **options)
        for _ in range(3):
            parameter.grad = (parameter.detach() - 1) * (1 + 1j)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("foreach", [None, True, False])
def test_parameters_of_several_dtypes(foreach: bool | None) -> None:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float32, torch.float16]
    parameters = [nn.Parameter(SHAPES["matrix"]().detach().to(dtype)) for dtype in dtypes]
    twins = [nn.Parameter(p.detach().double()) for p in parameters]
    optimizer, other = optim.Adam(parameters, lr=0.25, foreach=foreach), torch.optim.Adam(twins, lr=0.25)
    for p in (*parameters, *twins):
        p.grad = torch.ones_like(p)
    optimizer.step()
    other.step()
    for p, twin in zip(parameters, twins, strict=True):
        eps = torch.finfo(p.dtype).eps
        torch.testing.assert_close(p.double(), twin, rtol=2 * eps, atol=2 * eps)


def test_counts_under_a_default_dtype() -> None:
    parameter = SHAPES["matrix"]()
    torch.set_default_dtype(torch.float64)
    try:
        optimizer = optim.Adam([parameter], lr=0.1)
        for form in FORMS:
            parameter.grad = gradient_as(form, torch.ones(3, 2, dtype=torch.float32))
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert optimizer.state[parameter]["step"] == 3


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adagrad", "SGD"])
def test_constructors_take_torchs_arguments(name: str) -> None:
    """By position and by name, at the values that torch has unless told otherwise."""
    theirs = inspect.signature(getattr(torch.optim, name)).parameters.values()
    positions = [p.name for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    own = list(inspect.signature(getattr(optim, name)).parameters)
    assert own[: len(positions)] == positions
    options = {p.name: p.default for p in theirs if p.default is not p.empty}
    optimizer = getattr(optim, name)([SHAPES["matrix"]()], **options)
    assert options.items() <= optimizer.defaults.items()


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        ([], {}, "empty parameter list"),
        ([nn.Parameter(torch.ones(2, 2).to_sparse(1), requires_grad=False)], {}, "params: a sparse tensor"),
        ([nn.Parameter(torch.ones(2))], {"lr": torch.tensor([0.1, 0.2])}, r"lr: found a tensor of shape \[2\]"),
        ([nn.Parameter(torch.ones(2))], {"lr": -1.0}, "lr: found -1.0"),
        ([nn.Parameter(torch.ones(2))], {"lr": "0.1"}, "lr: found '0.1'; expected a finite number"),
        ([nn.Parameter(torch.ones(2))], {"betas": (0.9, 1.0)}, "betas: found"),
        ([nn.Parameter(torch.ones(2))], {"betas": (0.9,)}, "betas: found"),
        ([nn.Parameter(torch.ones(2))], {"betas": 0.9}, "betas: found 0.9; expected two numbers"),
        ([nn.Parameter(torch.ones(2))], {"amsgrad": True}, "amsgrad: found True; expected False"),
        ([nn.Parameter(torch.ones(2)), ("b", nn.Parameter(torch.ones(2)))], {}, "names are missing"),
    ],
)
def test_what_a_constructor_refuses(params: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optim.Adam(params, **options)


def test_rows_of_complex_tables_are_refused_before_anything_is_written() -> None:
    table, vector = nn.Parameter(torch.ones(3, 2, dtype=torch.complex64)), SHAPES["vector"]()
    table.grad = gradient_as("rows", torch.ones(3, 2, dtype=torch.complex64))
    vector.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"parameter 1: a sparse gradient for torch\.complex64 on cpu"):
        optim.Adam([vector, table]).step()
    assert torch.equal(vector, SHAPES["vector"]())


def test_weight_decay_of_sgd_by_its_old_position_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dampening: found 0\.01; expected 0 \(pass weight_decay by its name\)"):
        optim.SGD([SHAPES["matrix"]()], 0.1, 0.9, 0.01)
