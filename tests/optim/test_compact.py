"""Compact state of Adam: the kernels against the algorithm in float64, and what random rounding is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, init_device_mesh

from resemb_ext import optim
from resemb_ext.optim.moments import STATES
from resemb_ext.testing.strategies import DIMS, examples

from .rounding import bits_of_table, round_to_bfloat16, round_to_codes, round_to_float16

COMPACT = ("bfloat16", "rowwise", "bfloat16_rowwise", "int8_rowwise")
ROUND = {torch.bfloat16: round_to_bfloat16, torch.float16: round_to_float16}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Numbers of H = 100 rows of D = 32 columns beside the parameter, in bytes.
BYTES = {"float32": 8, "bfloat16": 4, "rowwise": 4 + 4 / 32, "bfloat16_rowwise": 2 + 4 / 32, "int8_rowwise": 1 + 8 / 32}


def sparse(rows: Any, values: Tensor, num_rows: int) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.as_tensor(rows)[None], values, (num_rows, values.shape[1]), check_invariants=True
    )


def step(optimizer: Any, table: Tensor, gradient: Tensor) -> None:
    table.grad = gradient
    optimizer.step()


class Reference:
    """One step of Adam in float64 from a kernel's table and state, and by how much rounding may move each."""

    def __init__(self, state: str, table: Tensor, kept: dict[str, Tensor]) -> None:
        self.state = state
        self.p = table.detach().double()
        self.m = moment(kept)
        self.v = kept["exp_avg_sq"].double().clone()

    def row(self, r: int, g: Tensor, t: int, o: dict[str, Any]) -> None:
        beta1, beta2 = o["betas"]
        g = -g if o["maximize"] else g
        if o["decoupled_weight_decay"]:
            self.p[r] *= 1 - o["lr"] * o["weight_decay"]
        else:
            g = g + o["weight_decay"] * self.p[r]
        square = (g * g).mean() if "rowwise" in self.state else g * g
        self.m[r] += (1 - beta1) * (g - self.m[r])
        self.v[r] = beta2 * self.v[r] + (1 - beta2) * square
        root = (self.v[r] / (1 - beta2**t)).sqrt() + o["eps"]
        self.p[r] -= o["lr"] * self.m[r] / (1 - beta1**t) / root

    def quantum(self, r: int) -> Tensor:
        """The distance of neighbours among first moments, around those of row r."""
        if self.state == "int8_rowwise":
            return self.m[r].abs().max() / 127 + torch.zeros_like(self.m[r])
        return self.m[r].abs() * 2.0**-7 if "bfloat16" in self.state else torch.zeros_like(self.m[r])


def moment(kept: dict[str, Tensor]) -> Tensor:
    """First moments in float64."""
    values = kept["exp_avg"].double()
    return values * kept["exp_avg_scale"].double()[:, None] if "exp_avg_scale" in kept else values.clone()


@pytest.mark.parametrize("state", COMPACT)
@examples(40)
@given(data=st.data())
def test_a_step_is_the_algorithms_within_rounding(isa: str, state: str, data: st.DataObject) -> None:
    """Any width and dtype, rows with repeats and none, decay of both kinds; other rows keep their bits."""
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    dim = data.draw(st.sampled_from((*DIMS, 300)), label="dim")
    num_rows = data.draw(st.integers(1, 30), label="rows")
    options = {
        "lr": 0.05,
        "betas": (0.8, 0.95),
        "eps": 1e-6,
        "weight_decay": data.draw(st.sampled_from([0.0, 0.1]), label="decay"),
        "decoupled_weight_decay": data.draw(st.booleans(), label="decoupled"),
        "maximize": data.draw(st.booleans(), label="maximize"),
    }
    by_row = data.draw(st.booleans(), label="bias correction by row")
    rounded = data.draw(st.booleans(), label="random rounding of the table")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31), label="seed"))
    table = nn.Parameter(torch.from_numpy(rng.standard_normal((num_rows, dim))).to(dtype))
    optimizer = optim.Adam(
        [table],
        **options,
        state=state,
        bias_correction="row" if by_row else "global",
        stochastic_rounding=rounded,
        seed=int(rng.integers(100)),
    )
    kept = optimizer._state(optimizer.param_groups[0], table, torch.device("cpu"))
    row_steps = np.zeros(num_rows, dtype=int)
    for count in range(1, data.draw(st.integers(1, 4), label="steps") + 1):
        touched = rng.integers(0, num_rows, data.draw(st.integers(0, 2 * num_rows), label="touched"))
        values = torch.from_numpy(rng.standard_normal((len(touched), dim)) * 10.0 ** rng.integers(-3, 1)).to(dtype)
        gradient = sparse(touched, values, num_rows).coalesce()
        twin = Reference(state, table, kept)
        before = [table.detach().clone(), *(t.clone() for t in kept.values())]
        step(optimizer, table, gradient.clone())
        eps = torch.finfo(dtype).eps if dtype != torch.float32 else 0.0
        for r, g in zip(gradient.indices()[0].tolist(), gradient.values().double(), strict=True):
            row_steps[r] += 1
            start = twin.p[r].clone()
            twin.row(r, g, int(row_steps[r]) if by_row else count, options)
            size = g.abs() + twin.p[r].abs() * options["weight_decay"] + moment(kept)[r].abs()
            near(moment(kept)[r], twin.m[r], twin.quantum(r) * 1.001 + 1e-6 * size + 1e-30)
            near(kept["exp_avg_sq"][r], twin.v[r], twin.v[r] * (2.0**-7 if state == "bfloat16" else 1e-5) + 1e-30)
            change = (twin.p[r] - start).abs()
            last_place = torch.maximum(twin.p[r].abs() * eps, torch.tensor(2.0**-24 if eps else 0.0))
            near(table[r], twin.p[r], last_place * 1.001 + 2e-5 * change + 1e-6 * start.abs())
        others = np.setdiff1d(np.arange(num_rows), touched)
        for old, new in zip(before, [table.detach(), *kept.values()], strict=True):
            if new.dim() > 0:
                assert torch.equal(old[others], new[others])


def near(found: Tensor, expected: Tensor, bound: Tensor) -> None:
    excess = (found.detach().double() - expected).abs() - bound
    assert (excess <= 0).all(), (found, expected, bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 5, 8, 37, 48, 300, 320])
def test_moments_are_rounded_by_their_own_bits(isa: str, dim: int, dtype: torch.dtype) -> None:
    """With betas of 0 the moments are g and g^2, exact before they are rounded."""
    rng = np.random.default_rng(dim)
    given = torch.from_numpy(rng.standard_normal((9, dim)) * np.float64([1e-6, 1, 1e4] * 3)[:, None]).to(dtype)
    given[4] = 0
    gradient = given.float().numpy()
    bits = {which: bits_of_table(5, 1, gradient.shape, which) for which in ("first", "second")}
    kept: dict[str, dict[str, np.ndarray]] = {}
    for state in COMPACT:
        table = nn.Parameter(torch.zeros(gradient.shape, dtype=dtype))
        optimizer = optim.Adam([table], betas=(0.0, 0.0), seed=5, state=state)
        step(optimizer, table, given.clone())
        kept[state] = {
            key: (value.float() if value.is_floating_point() else value).numpy()
            for key, value in optimizer.state[table].items()
        }
    np.testing.assert_array_equal(kept["rowwise"]["exp_avg"], gradient)
    for state in ("bfloat16", "bfloat16_rowwise"):
        np.testing.assert_array_equal(kept[state]["exp_avg"], round_to_bfloat16(gradient, bits["first"]))
    squares = round_to_bfloat16(gradient * gradient, bits["second"])
    np.testing.assert_array_equal(kept["bfloat16"]["exp_avg_sq"], squares)
    codes = round_to_codes(gradient, bits["first"])
    np.testing.assert_array_equal(kept["int8_rowwise"]["exp_avg"], codes.codes)
    np.testing.assert_array_equal(kept["int8_rowwise"]["exp_avg_scale"], codes.scale)
    for state in ("rowwise", "bfloat16_rowwise", "int8_rowwise"):
        means = np.square(gradient, dtype=np.float64).mean(1)
        np.testing.assert_allclose(kept[state]["exp_avg_sq"], means, rtol=1e-6)


@pytest.mark.parametrize("dim", [5, 32, 272])
@pytest.mark.parametrize("dtype", ROUND)
@pytest.mark.parametrize("state", ["float32", *COMPACT])
def test_tables_are_rounded_by_their_own_bits(isa: str, state: str, dtype: torch.dtype, dim: int) -> None:
    """A zero gradient leaves the decay alone, exact in float32 but for its own rounding."""
    table = nn.Parameter(torch.randn(6, dim, generator=torch.Generator().manual_seed(dim)).to(dtype))
    decayed = table.detach().float().numpy() * np.float32(1 - 0.5 * 2.0**-8)
    optimizer = optim.AdamW([table], lr=0.5, weight_decay=2.0**-8, stochastic_rounding=True, seed=9, state=state)
    step(optimizer, table, sparse(torch.arange(6), torch.zeros(6, dim, dtype=dtype), 6))
    expected = ROUND[dtype](decayed, bits_of_table(9, 1, decayed.shape, "param"))
    np.testing.assert_array_equal(table.detach().float().numpy(), expected)


@pytest.mark.parametrize("state", ["bfloat16", "bfloat16_rowwise", "int8_rowwise"])
def test_random_rounding_is_unbiased(state: str) -> None:
    """The mean of first moments over 300 rows and 30 seeds, against five standard errors of a uniform error."""
    gradient = torch.linspace(-1, 1, 19).tanh() * 0.37
    means = torch.zeros(19, dtype=torch.float64)
    for seed in range(30):
        table = nn.Parameter(torch.zeros(300, 19))
        optimizer = optim.Adam([table], state=state, seed=seed)
        step(optimizer, table, gradient.repeat(300, 1))
        means += moment(optimizer.state[table]).mean(0) / 30
    exact = gradient.double() * 0.1
    quantum = exact.abs().max() / 127 if state == "int8_rowwise" else exact.abs() * 2.0**-7
    assert ((means - exact).abs() <= 5 * quantum / 2 / 9000**0.5 + 1e-8).all()


def test_second_moments_in_bfloat16_follow() -> None:
    """With beta2 = 0.999, rounding to nearest stalls where a step is below half of the last place."""
    steps, exact = 2000, 1 - 0.999**2000
    table = nn.Parameter(torch.zeros(4, 64))
    optimizer = optim.Adam([table], lr=0.0, betas=(0.9, 0.999), state="bfloat16")
    nearest = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(steps):
        step(optimizer, table, torch.ones(4, 64))
        nearest = (0.999 * nearest.float() + 0.001).bfloat16()
    found = optimizer.state[table]["exp_avg_sq"].float().mean().item()
    assert nearest < 0.6 * exact
    assert abs(found - exact) < 0.02 * exact


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("state", COMPACT)
def test_bits_do_not_depend_on_threads(state: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    gradients = [sparse(rng.integers(0, 3000, 9000), torch.randn(9000, 20).to(dtype), 3000) for _ in range(2)]
    start = torch.randn(3000, 20).to(dtype)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        table = nn.Parameter(start.clone())
        optimizer = optim.Adam([table], lr=0.01, state=state, stochastic_rounding=True)
        for gradient in gradients:
            step(optimizer, table, gradient.clone())
        results.append([table.detach(), *optimizer.state[table].values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("state", COMPACT)
def test_a_dense_gradient_is_one_of_all_rows(state: str) -> None:
    start, dense = torch.randn(40, 9), torch.randn(40, 9)
    results = []
    for gradient in (dense.clone(), sparse(torch.arange(40), dense, 40)):
        table = nn.Parameter(start.clone())
        optimizer = optim.AdamW([table], lr=0.01, state=state)
        step(optimizer, table, gradient)
        results.append([table.detach(), *optimizer.state[table].values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("state", COMPACT)
def test_what_is_not_finite_stays_so(isa: str, state: str, dtype: torch.dtype, bad: float) -> None:
    """In its row and column: no state hides it. Other rows have the numbers that they would have had."""
    results = []
    for value in (bad, 1.0):
        table = nn.Parameter(torch.ones(3, 11, dtype=dtype))
        optimizer = optim.Adam([table], lr=0.01, state=state, stochastic_rounding=True)
        for number in (value, 0.5, 0.5):
            gradient = torch.full((3, 11), 0.5, dtype=dtype)
            gradient[1, 3] = number
            step(optimizer, table, gradient)
        results.append([table.detach(), moment(optimizer.state[table]), optimizer.state[table]["exp_avg_sq"]])
    for found, clean in zip(*results, strict=True):
        assert torch.equal(found[[0, 2]], clean[[0, 2]])
        assert not (found[1, 3] if found.dim() == 2 else found[1]).isfinite()
    if state == "int8_rowwise":
        assert results[0][1][1].isnan().all()


def test_rows_of_zeros_in_int8() -> None:
    """Zero gradients leave a row exactly as it is, and moments that fade become zeros, not NaN."""
    table = nn.Parameter(torch.ones(2, 12))
    optimizer = optim.Adam([table], lr=0.1, state="int8_rowwise")
    step(optimizer, table, torch.zeros(2, 12))
    kept = optimizer.state[table]
    assert torch.equal(table.detach(), torch.ones(2, 12))
    assert not any(kept[key].any() for key in ("exp_avg", "exp_avg_scale", "exp_avg_sq"))
    step(optimizer, table, torch.full((2, 12), 1e-30))
    for _ in range(400):
        step(optimizer, table, torch.zeros(2, 12))
        assert all(value.isfinite().all() for value in (table.detach(), *kept.values()))
    assert not kept["exp_avg"].any()
    assert not kept["exp_avg_scale"].any()


@pytest.mark.parametrize("state", BYTES)
def test_bytes_an_item(state: str) -> None:
    table = nn.Parameter(torch.zeros(100, 32))
    optimizer = optim.Adam([table], state=state)
    step(optimizer, table, torch.zeros(100, 32))
    kept = [value for key, value in optimizer.state[table].items() if key != "step"]
    assert sum(value.nbytes for value in kept) == 100 * 32 * BYTES[state]


def test_the_recommended_state_is_one_of_the_others() -> None:
    assert STATES["compact"] in [STATES[name] for name in COMPACT]
    assert list(STATES) == [*BYTES, "compact"]


@pytest.mark.parametrize(
    ("parameter", "found"),
    [
        (torch.zeros(3, 2, dtype=torch.float64), r"torch\.float64 and shape \[3, 2\] on cpu"),
        (torch.zeros(3, 2, dtype=torch.complex64), r"torch\.complex64"),
        (torch.zeros(()), r"torch\.float32 and shape \[\]"),
    ],
    ids=["float64", "complex", "number"],
)
def test_parameters_that_have_none_are_refused(parameter: Tensor, found: str) -> None:
    others = [nn.Parameter(torch.zeros(2, 2))]
    message = f"parameter 1: state='compact' for a .*{found}.*expected a table of float32, bfloat16 or float16"
    with pytest.raises(ValueError, match=message):
        optim.Adam([*others, nn.Parameter(parameter)], state="compact")
    optimizer = optim.Adam(others)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(parameter)], "state": "compact"})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [nn.Parameter(parameter)]})


def test_a_module_that_becomes_float64_is_refused_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1))
    optimizer = optim.Adam(model.parameters(), lr=0.1, state="compact")
    model(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    model.double()
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match=r"parameter 0: state='compact' for a Tensor of torch\.float64"):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_sharded_table_is_refused(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        weight: Any = DTensor.from_local(torch.zeros(4, 2), init_device_mesh("cpu", (1,)))
        table = nn.Parameter(weight)
        with pytest.raises(ValueError, match="parameter 0: state='compact' for a DTensor"):
            optimizer = optim.Adam([table], lr=0.1, state="compact")
            table.grad = DTensor.from_local(torch.ones(4, 2), init_device_mesh("cpu", (1,)))
            optimizer.step()
        assert not table.full_tensor().any()
    finally:
        dist.destroy_process_group()


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"state: found 'int4'; expected one of 'float32', .*'compact'"):
        optim.Adam([torch.zeros(2, 2, requires_grad=True)], state="int4")
    with pytest.raises(ValueError, match="state: found None"):
        optim.AdamW([{"params": [torch.zeros(2, 2, requires_grad=True)], "state": None}])
    with pytest.raises(ValueError, match=r"state: found \['compact'\]; expected one of"):
        optim.AdamW([{"params": [torch.zeros(2, 2, requires_grad=True)], "state": ["compact"]}])
