"""The row-sparse optimizers against torch.optim and against their formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resemb_ext import _loader, optim
from resemb_ext.testing.strategies import DIMS, examples

OPTIMIZERS = {
    "sgd": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "nesterov": (optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    "rowwise": (optim.RowwiseAdagrad, {"initial_accumulator_value": 0.1}),
    "adam": (optim.Adam, {"betas": (0.8, 0.95)}),
    "adam by row": (optim.Adam, {"bias_correction": "row"}),
}


def sparse_gradient(rows: np.ndarray, dim: int, num_rows: int, rng: np.random.Generator) -> Tensor:
    values = torch.from_numpy(rng.standard_normal((len(rows), dim)))
    return torch.sparse_coo_tensor(torch.from_numpy(rows)[None], values, (num_rows, dim), check_invariants=True)


class Reference:
    """The rules in float64, a row at a time, written from their formulas."""

    def __init__(self, kind: str, table: Tensor, options: dict[str, Any]) -> None:
        self.kind, self.o = kind, options
        self.p = table.double().clone()
        start = options.get("initial_accumulator_value", 0.0)
        self.m = torch.zeros_like(self.p)
        self.v = torch.full_like(self.p, start)
        self.row_v = torch.full((len(table),), start, dtype=torch.float64)
        self.t = 0
        self.row_t = [0] * len(table)

    def step(self, gradient: Tensor) -> None:
        self.t += 1
        dense = gradient.to_dense().double()
        for r in gradient._indices()[0].unique().tolist():
            self.row(r, dense[r])

    def row(self, r: int, g: Tensor) -> None:
        o, p = self.o, self.p[r]
        lr, decay = o["lr"], o.get("weight_decay", 0.0)
        g = -g if o.get("maximize") else g
        if o.get("decoupled_weight_decay"):
            p *= 1 - lr * decay
        else:
            g = g + decay * p
        if self.kind == "sgd":
            p -= lr * g
        elif self.kind in ("momentum", "nesterov"):
            self.m[r] = o["momentum"] * self.m[r] + g
            p -= lr * (g + o["momentum"] * self.m[r] if self.kind == "nesterov" else self.m[r])
        elif self.kind in ("adagrad", "rowwise"):
            lr = lr / (1 + (self.t - 1) * o.get("lr_decay", 0.0))
            if self.kind == "rowwise":
                self.row_v[r] += (g * g).mean()
                v: Tensor = self.row_v[r]
            else:
                self.v[r] += g * g
                v = self.v[r]
            p -= lr * g / (v.sqrt() + 1e-10)
        else:
            beta1, beta2 = o.get("betas", (0.9, 0.999))
            self.row_t[r] += 1
            t = self.row_t[r] if "row" in self.kind else self.t
            self.m[r] = beta1 * self.m[r] + (1 - beta1) * g
            self.v[r] = beta2 * self.v[r] + (1 - beta2) * g * g
            scale = (self.v[r] / (1 - beta2**t)).sqrt() + 1e-8
            p -= lr * self.m[r] / (1 - beta1**t) / scale


@pytest.mark.operators("rows_ascend", "coalesce_rows", "update_rows_")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@examples(40)
@given(data=st.data())
def test_formulas(isa: str, kind: str, data: st.DataObject) -> None:
    """Any width and dtype, rows in any order with repeats, decay of both kinds, several steps."""
    build, options = OPTIMIZERS[kind]
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]), label="dtype")
    dim = data.draw(st.sampled_from(DIMS), label="dim")
    num_rows = data.draw(st.integers(1, 60), label="rows")
    options = {
        "lr": 0.05,
        "weight_decay": data.draw(st.sampled_from([0.0, 0.1]), label="decay"),
        "decoupled_weight_decay": data.draw(st.booleans(), label="decoupled"),
        "maximize": data.draw(st.booleans(), label="maximize"),
        **options,
    }
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31), label="seed"))
    start = torch.from_numpy(rng.standard_normal((num_rows, dim))).to(dtype)
    table = torch.nn.Parameter(start.clone())
    optimizer = build([table], **options)
    twin = Reference(kind, start, options)
    for _ in range(data.draw(st.integers(1, 4), label="steps")):
        count = data.draw(st.integers(0, 2 * num_rows), label="touched")
        gradient = sparse_gradient(rng.integers(0, num_rows, count), dim, num_rows, rng).to(dtype)
        table.grad = gradient
        optimizer.step()
        twin.step(gradient)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(table.detach().double(), twin.p, rtol=tolerance, atol=tolerance)


def run(build: Any, table: Tensor, gradients: list[Tensor], **options: Any) -> Tensor:
    parameter = torch.nn.Parameter(table.clone())
    optimizer = build([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.fixture
def gradients() -> list[Tensor]:
    """Five coalesced gradients over 500 rows of 33 columns, as torch's optimizers want them."""
    rng = np.random.default_rng(0)
    return [sparse_gradient(rng.integers(0, 500, 300), 33, 500, rng).float().coalesce() for _ in range(5)]


@pytest.mark.skipif("avx2" not in _loader.available_isas(), reason="no fused multiply-add path")
def test_sgd_is_torchs_bit_for_bit(gradients: list[Tensor]) -> None:
    table = torch.randn(500, 33)
    expected = run(torch.optim.SGD, table, gradients, lr=0.1)
    assert torch.equal(run(optim.SGD, table, gradients, lr=0.1), expected)


def test_adagrad_is_torchs_within_two_ulp_a_step(gradients: list[Tensor]) -> None:
    """From the same state, as errors of earlier steps would add up; an ulp is that of the largest of the
    weight before, its step and the weight after, since weight and step may cancel."""
    parameter = torch.nn.Parameter(torch.randn(500, 33))
    theirs = torch.optim.Adagrad([parameter], lr=0.1, foreach=False)
    for gradient in gradients:
        before = parameter.detach().clone()
        own = torch.nn.Parameter(before.clone())
        optimizer = optim.Adagrad([own], lr=0.1)
        own.grad = gradient.clone()
        optimizer._state(optimizer.param_groups[0], own, own.device)["sum"].copy_(theirs.state[parameter]["sum"])
        optimizer.step()
        parameter.grad = gradient.clone()
        theirs.step()
        found, expected = own.detach().numpy(), parameter.detach().numpy()
        start = before.numpy()
        scale = np.max(np.abs([start, expected - start, expected]), axis=0)
        assert (np.abs(found - expected) <= 2 * np.spacing(scale)).all()


def test_lazy_adam_is_sparse_adam(gradients: list[Tensor]) -> None:
    table = torch.randn(500, 33)
    # The two differ in where eps stands: make it small, so that the rest is compared.
    options = {"lr": 0.01, "eps": 1e-14}
    expected = run(torch.optim.SparseAdam, table, gradients, **options)
    torch.testing.assert_close(run(optim.Adam, table, gradients, **options), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("own", "theirs", "options"),
    [
        (optim.Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
        (optim.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        (optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1}),
        (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ],
)
def test_with_all_rows_touched_it_is_the_dense_algorithm(own: Any, theirs: Any, options: dict[str, Any]) -> None:
    table = torch.randn(50, 18)
    dense = [torch.randn(50, 18) for _ in range(6)]
    sparse = [torch.sparse_coo_tensor(torch.arange(50)[None], g, (50, 18), check_invariants=True) for g in dense]
    expected = run(theirs, table, dense, **options)
    torch.testing.assert_close(run(own, table, sparse, **options), expected, rtol=1e-5, atol=1e-6)
    # Dense gradients go to torch's own optimizer.
    assert torch.equal(run(own, table, dense, **options), expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_tables_keep_float32_state(kind: str, dtype: torch.dtype) -> None:
    """A table in low precision ends where its float32 twin does, to its own rounding a step."""
    build, options = OPTIMIZERS[kind]
    rng = np.random.default_rng(0)
    table = torch.from_numpy(rng.standard_normal((40, 24))).to(dtype)
    parameter, twin = torch.nn.Parameter(table.clone()), torch.nn.Parameter(table.float())
    optimizers = [build([parameter], lr=0.02, **options), build([twin], lr=0.02, **options)]
    for _ in range(3):
        gradient = sparse_gradient(rng.integers(0, 40, 60), 24, 40, rng).to(dtype).coalesce()
        parameter.grad, twin.grad = gradient, gradient.float()
        for optimizer in optimizers:
            optimizer.step()
        if "sum" in optimizers[0].state[parameter]:
            assert optimizers[0].state[parameter]["sum"].dtype == torch.float32
    bound = 3 * 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(parameter.float(), twin, rtol=bound, atol=bound)


@pytest.mark.parametrize("kind", ["rows", "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_keeps_small_steps_on_average(isa: str, dtype: torch.dtype, kind: str) -> None:
    """Steps of 1/20 of the last place: nearest rounding loses them all, random rounding none."""
    last_place = torch.finfo(dtype).eps
    gradient = torch.sparse_coo_tensor(torch.arange(64)[None], torch.full((64, 64), last_place / 20), (64, 64)).to(
        dtype
    )
    gradient = gradient.to_dense() if kind == "dense" else gradient
    results = {}
    for name, options in {"nearest": {}, "random": {"stochastic_rounding": True}}.items():
        table = torch.nn.Parameter(torch.ones(64, 64, dtype=dtype))
        optimizer = optim.SGD([table], lr=1.0, maximize=True, **options)
        for _ in range(40):
            table.grad = gradient.clone()
            optimizer.step()
        results[name] = table.detach().float()
    assert torch.equal(results["nearest"], torch.ones(64, 64))
    moved = (results["random"] - 1).mean() / last_place  # 40 / 20 = 2, deviation about .02
    assert 1.9 < moved < 2.1


def test_stochastic_rounding_is_a_function_of_seed_step_and_place() -> None:
    def result(seed: int, threads: int) -> Tensor:
        torch.set_num_threads(threads)
        rng = np.random.default_rng(1)
        grads = [sparse_gradient(rng.integers(0, 900, 800), 20, 900, rng).to(torch.bfloat16) for _ in range(3)]
        table = torch.ones(900, 20, dtype=torch.bfloat16)
        return run(optim.Adam, table, grads, lr=0.01, stochastic_rounding=True, seed=seed)

    assert torch.equal(result(7, 1), result(7, 2))
    assert not torch.equal(result(7, 1), result(8, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_of_special_values(dtype: torch.dtype) -> None:
    """Infinities, NaN and subnormals come out as themselves; what fits exactly is kept."""
    tiny = torch.finfo(dtype).smallest_normal
    values = torch.tensor([[torch.inf, -torch.inf, torch.nan, 0.0, -1.5, tiny / 4, tiny, 65504.0]])
    table = torch.nn.Parameter(values.to(dtype))
    before = table.detach().clone()
    table.grad = torch.sparse_coo_tensor([[0]], torch.zeros(1, 8, dtype=dtype), (1, 8))
    optim.SGD([table], lr=1.0, stochastic_rounding=True).step()
    torch.testing.assert_close(table.detach(), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_bits_do_not_depend_on_threads(kind: str) -> None:
    build, options = OPTIMIZERS[kind]
    rng = np.random.default_rng(0)
    grads = [sparse_gradient(rng.integers(0, 3000, 9000), 20, 3000, rng).float() for _ in range(2)]
    table = torch.randn(3000, 20)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(build, table, grads, lr=0.01, **options))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
