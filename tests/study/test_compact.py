"""Study ``compact``: stores of fewer bytes, the plain Adam over them, its plan and its tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import resemb_ext as rx
from resemb_ext.study.compact import page as compact_page
from resemb_ext.study.compact.plain_adam import FORMS, PlainAdam
from resemb_ext.study.compact.protocol import MARGIN
from resemb_ext.study.compact.stores import (
    Bfloat16,
    DynamicBlocks,
    Exact,
    Int8ByRow,
    OneByRow,
    Store,
    dynamic_code,
    round_at_random,
)
from resemb_ext.study.harness.inference import equivalence
from resemb_ext.study.harness.results import Results

pytestmark = pytest.mark.usefixtures("one_thread")


def _dynamic(items: int, dim: int, block: int, **options: bool) -> DynamicBlocks:
    return DynamicBlocks(items, dim, torch.Generator().manual_seed(3), block=block, **options)  # type: ignore[arg-type]


def _values(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(3 * torch.randn(rows, 1, generator=generator))
    return torch.randn(rows, dim, generator=generator) * spread


@pytest.mark.parametrize("kind", [Exact, Bfloat16, Int8ByRow])
def test_a_store_keeps_rows_to_its_precision_and_leaves_the_others(kind: type[Store]) -> None:
    store = kind(50, 8, torch.Generator().manual_seed(1))
    assert store.read(torch.arange(50)).eq(0).all()
    rows, values = torch.tensor([3, 11, 49]), _values(3, 8)
    values[1] = 0
    store.write(rows, values)
    unit = {Exact: torch.zeros(3, 1), Bfloat16: values.abs() * 2**-7, Int8ByRow: values.abs().amax(1, True) / 127}
    assert (store.read(rows) - values).abs().le(unit[kind] * 1.0001).all()
    others = torch.tensor([i for i in range(50) if i not in rows])
    assert store.read(others).eq(0).all()


@pytest.mark.parametrize("make", [Bfloat16, Int8ByRow, lambda h, d, g: _dynamic(h, d, 16, signed=True, at_random=True)])
def test_rounding_at_random_is_right_on_average(make: Any) -> None:
    store = make(1, 16, torch.Generator().manual_seed(2))
    values, row = _values(1, 16, seed=5), torch.zeros(1, dtype=torch.int64)
    values *= values[0, values.abs().argmax()].sign()  # the paper's code has 1, but not -1
    read = []
    for _ in range(1500):
        store.write(row, values)
        read.append(store.read(row))
    found = torch.stack(read)
    error = found.std(0) / len(read) ** 0.5
    assert found.std(0).gt(0).any()
    assert (found.mean(0) - values).abs().le(5 * error + 1e-6 * values.abs().max()).all()


def test_the_dynamic_code_has_256_values_that_lie_as_in_the_paper() -> None:
    for signed in (True, False):
        code = dynamic_code(signed)
        assert len(code.unique()) == 256 and code.eq(code.sort().values).all()
        assert code.max() == 1 and 0 in code and bool((code < 0).any()) == signed
    signed_code, unsigned_code = dynamic_code(True), dynamic_code(False)
    # A sign, a one, and 6 bits of fraction; without a sign 7.
    assert ((signed_code >= 0.1) & (signed_code < 1)).sum() == 64
    assert ((unsigned_code >= 0.1) & (unsigned_code < 1)).sum() == 128
    assert signed_code[signed_code > 0].min() == pytest.approx(0.55e-6)


@pytest.mark.parametrize(("dim", "block"), [(8, 8), (8, 32), (32, 8), (16, 64)])
@pytest.mark.parametrize("signed", [True, False])
def test_dynamic_blocks_take_the_nearest_value_of_the_code(dim: int, block: int, signed: bool) -> None:
    items = 13
    store = _dynamic(items, dim, block, signed=signed, at_random=False)
    values = _values(items, dim) if signed else _values(items, dim).abs()
    values[4] = 0
    whole = torch.zeros(-(-items * dim // block) * block)
    rows = torch.tensor([0, 4, 5, 12])
    store.write(rows, values[rows])
    whole[: items * dim].view(items, dim)[rows] = values[rows]
    grouped = whole.view(-1, block)
    largest = grouped.abs().amax(1, True)
    code = dynamic_code(signed)
    apart = (grouped[:, :, None] - code * largest[:, :, None]).abs().amin(2)
    found = torch.zeros_like(whole)
    found[: items * dim] = store.read(torch.arange(items)).reshape(-1)
    assert ((found - whole).abs() <= apart.reshape(-1) * (1 + 1e-4) + 1e-7 * whole.abs().max()).all()
    with pytest.raises(ValueError, match="one divides the other"):
        _dynamic(4, 24, 16, signed=True, at_random=False)


def test_bfloat16_at_random_is_one_of_both_neighbours() -> None:
    values = torch.cat([_values(50, 20).reshape(-1), torch.tensor([0.0, -0.0, 1.0, -2.5])])
    found = round_at_random(values, torch.Generator().manual_seed(0)).float()
    gap = torch.nextafter(values.bfloat16().abs(), torch.tensor(torch.inf, dtype=torch.bfloat16)).float() - values.abs()
    assert ((found - values).abs() <= 2 * gap.abs() + values.abs() * 2**-7).all()
    exact = values.bfloat16().float() == values
    assert exact.sum() >= 4 and found[exact].equal(values[exact])


def _trained(step: Any, table: torch.nn.Parameter, steps: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    for _ in range(steps):
        ids = torch.randint(0, len(table), (40,), generator=generator)
        vectors = torch.nn.functional.embedding(ids, table, sparse=True)
        (vectors * torch.randn(40, table.shape[1], generator=generator)).sum().backward()
        step()
    return table.detach()


@pytest.mark.parametrize("state", ["float32", "rowwise"])
def test_exact_forms_make_the_steps_of_the_package(state: str) -> None:
    start = _values(30, 8)
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    plain = PlainAdam([(mine, 0.02, 0.1)], FORMS[state], seed=0)
    own = rx.optim.Adam([theirs], lr=0.02, weight_decay=0.1, state=state)

    def step() -> None:
        own.step()
        own.zero_grad()

    torch.testing.assert_close(_trained(plain.step, mine), _trained(step, theirs), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_form_stays_close_to_float32(form: str, dtype: torch.dtype) -> None:
    start = _values(30, 64).clamp(-1, 1).to(dtype).float()
    table, exact = (torch.nn.Parameter(start.to(kind, copy=True)) for kind in (dtype, torch.float32))
    found = _trained(PlainAdam([(table, 1e-2, 0.0)], FORMS[form], seed=1).step, table).float()
    base = FORMS["rowwise" if FORMS[form].second is OneByRow else "float32"]
    wanted = _trained(PlainAdam([(exact, 1e-2, 0.0)], base, seed=1).step, exact)
    moved = (wanted - start).abs().mean()
    assert (found - wanted).abs().mean() < 0.2 * moved


def test_bytes_are_those_that_are_kept() -> None:
    table = torch.nn.Parameter(torch.zeros(64, 32, dtype=torch.bfloat16))
    sizes = {name: PlainAdam([(table, 0.1, 0.0)], form, 0).bytes / table.numel() for name, form in FORMS.items()}
    assert sizes == {
        "float32": 10,
        "bfloat16": 6,
        "rowwise": 6 + 4 / 32,
        "bfloat16_rowwise": 4 + 4 / 32,
        "int8_rowwise": 3 + 8 / 32,
        "dynamic8": 4 + 8 / 64,
        "dynamic8_random": 4 + 8 / 64,
        "dynamic8_rowwise": 3 + 4 / 64 + 4 / 32,
    }


def test_equivalence_is_that_of_two_one_sided_t_tests() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.001, -0.0014, 0.004):
        first = rng.normal(0.78, 0.002, 8)
        second = first + shift + rng.normal(0, 0.0006, 8)
        found = equivalence(first.tolist(), second.tolist(), MARGIN)
        lower = stats.ttest_1samp(second - first, -MARGIN, alternative="greater").pvalue
        upper = stats.ttest_1samp(second - first, MARGIN, alternative="less").pvalue
        assert found["p"] == pytest.approx(max(lower, upper))
        assert found["equivalent"] == (max(lower, upper) < 0.05)
        assert found["equivalent"] == (found["low"] > -MARGIN and found["high"] < MARGIN)
    assert equivalence([0.5, 0.5], [0.5, 0.5], MARGIN)["equivalent"]
    assert not equivalence([0.5, 0.5], [0.6, 0.6], MARGIN)["equivalent"]
    with pytest.raises(ValueError, match="at least two pairs"):
        equivalence([0.5], [0.5], MARGIN)


def _kept(name: str, seed: int, gauc: float) -> dict[str, Any]:
    metrics = {"auc": 0.8, "gauc": gauc, "logloss": 0.5}
    options = {"dim": 32, "hidden": [64, 32]}
    return {
        "config": {"log": "toys", "trained": name, "options": options, "train_rows": None},
        "result": {"seed": seed, "valid": metrics, "test": metrics, "epochs": 4},
    }


def test_the_page_pairs_seeds_and_shows_the_first_five_and_all() -> None:
    pieces = {f"float32-toys-{seed}": _kept("float32", seed, 0.77 + 0.001 * seed) for seed in range(1, 9)}
    pieces |= {
        f"compact-toys-{s}": _kept("compact", s, 0.77 + 0.001 * s + (-1) ** s * 1e-4) for s in range(1, 9) if s != 7
    }
    results = Results({"pieces": [*pieces, "compact-toys-7", "trade-x-y"]}, pieces, ["compact-toys-7", "trade-x-y"])
    made = compact_page.page(results)
    rows = made.tables[0].rows
    assert [row[2] for row in rows] == ["5", "7"]
    gains = [(-1) ** s * 1e-4 for s in (1, 2, 3, 4, 5, 6, 8)]
    for row, count in zip(rows, (5, 7), strict=True):
        assert row[5].startswith(f"{np.mean(gains[:count]):+.4f} [") and row[7] == "yes"
    assert made.missing == ["`compact-toys` (seeds 7)", "`trade-x-y`"]
    assert ("`hidden`", "64, 32") in made.tables[-1].rows
