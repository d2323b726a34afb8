"""The squeezed table against its formula, the hook after steps, held-out rows, the contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resemb_ext import data
from resemb_ext.study import studies
from resemb_ext.study.harness.pieces import Context, Source, run_pieces, simulated_source
from resemb_ext.study.harness.results import Results
from resemb_ext.study.methods.domains import permuted
from resemb_ext.study.methods.heldout import HELD_OUT, held_out_events, hold_out, row_losses
from resemb_ext.study.methods.probe import PARTS
from resemb_ext.study.methods.squeeze import SqueezedEmbedding, after_each_step
from resemb_ext.study.radius import contrast as radius_contrast
from resemb_ext.study.radius import experiment as radius
from resemb_ext.study.radius import page as radius_page
from resemb_ext.study.radius import sweep

DOMAIN = np.array([-1, 0, 0, 0, 1, 1, 1, -1])


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0, 3.0])
def test_squeezed_table_is_the_formula_with_its_variance_held(gamma: float) -> None:
    start = torch.randn(8, 5, dtype=torch.float64)
    table = SqueezedEmbedding(start, DOMAIN, gamma)
    v, e = table.weight.detach().numpy(), table.table().detach().numpy()
    for group in (0, 1):
        rows = group == DOMAIN
        centre = v[rows].mean(0)
        np.testing.assert_allclose(e[rows], centre + gamma * (v[rows] - centre), atol=1e-12)
    assert not e[0].any()
    np.testing.assert_array_equal(e[7], start[7])
    has = DOMAIN >= 0
    assert e[has].var(0).sum() == pytest.approx(start.numpy()[has].var(0).sum())
    if gamma == 1:
        np.testing.assert_allclose(e[1:], start[1:], atol=1e-12)


def test_variance_is_restored_after_each_step_of_its_own_optimizer_only() -> None:
    table = SqueezedEmbedding(torch.randn(8, 5), DOMAIN, 0.5)
    held = float(table.variance)
    calls = []

    def variance() -> float:
        return float(table.table().detach()[DOMAIN >= 0].var(0, correction=0).sum())

    def act() -> None:
        calls.append(variance())
        table.restore()

    other = torch.nn.Parameter(torch.ones(2))
    with after_each_step(table.weight, act):
        for parameter in (table.weight, other):
            optimizer = torch.optim.SGD([parameter], lr=1.0)
            (table(torch.arange(8)).pow(2).sum() + other.sum()).backward()
            optimizer.step()
    assert len(calls) == 1 and abs(calls[0] / held - 1) > 0.01
    assert variance() == pytest.approx(held, rel=1e-5)
    torch.optim.SGD([table.weight], lr=1.0).step()
    assert len(calls) == 1


def test_bags_are_means_of_lookups() -> None:
    table = SqueezedEmbedding(torch.randn(8, 5), DOMAIN, 0.5)
    ids, offsets = torch.tensor([1, 2, 0, 5]), torch.tensor([0, 3])
    found = table.bag(ids, offsets)
    torch.testing.assert_close(found[0], table(ids[:2]).mean(0))
    torch.testing.assert_close(found[1], table(ids[3]))


def test_bad_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma"):
        SqueezedEmbedding(torch.randn(8, 5), DOMAIN, -1)
    with pytest.raises(ValueError, match="domain must have"):
        SqueezedEmbedding(torch.randn(7, 5), DOMAIN, 1)
    with pytest.raises(ValueError, match="two items"):
        SqueezedEmbedding(torch.randn(3, 5), np.array([-1, 0, 1]), 1)
    with pytest.raises(ValueError, match="nothing to restore"):
        SqueezedEmbedding(torch.randn(8, 5), np.array([-1, 1, 1, 1, 1, 1, 1, 1]), 0)


def test_held_out_rows_keep_events_whole_and_the_training_ratio() -> None:
    log, _ = data.simulate(users=60, items=100, domains=4)
    samples = data.make_train_samples(data.split(log), negatives=1)
    rows, out = hold_out(samples, share=0.25, seed=1)
    assert len(rows) + len(out) == len(samples)
    assert out.label.mean() == rows.label.mean() == 0.5
    pairs = {(int(e), int(t)) for e, t in zip(rows.end, rows.target, strict=True)}
    positive = out.label == 1
    assert not pairs & set(zip(out.end[positive].tolist(), out.target[positive].tolist(), strict=True))
    logits = np.array([0.0, 3.0], dtype=np.float32)
    part = hold_out(samples, share=1 / (len(samples) // 2), seed=0)[1]
    np.testing.assert_allclose(row_losses(part, logits), [np.log(2), np.log1p(np.exp(3))])


def test_random_domains_keep_sizes() -> None:
    domain = np.repeat([-1, 0, 1, 2], [1, 5, 50, 10])
    random = permuted(domain, seed=3)
    assert random[0] == -1 and not np.array_equal(random, domain)
    np.testing.assert_array_equal(np.bincount(random[1:]), [5, 50, 10])


def test_loss_at_a_training_loss() -> None:
    curve = {"train": [0.7, 0.5, 0.3], "test": [0.7, 0.6, 0.8]}
    assert radius_contrast.at_level(curve, 0.4, "test") == pytest.approx(0.7)
    assert radius_contrast.at_level(curve, 0.7, "test") == 0.7
    # Before the first probe: from a coin's loss on every part, not the probe's own.
    early = {"train": [0.5, 0.4], "test": [0.62, 0.6]}
    coin = np.log(2)
    assert radius_contrast.at_level(early, (coin + 0.5) / 2, "test") == pytest.approx((coin + 0.62) / 2)
    assert radius_contrast.at_level(early, 0.5, "test") == pytest.approx(0.62)
    with pytest.raises(ValueError, match="never falls"):
        radius_contrast.at_level(curve, 0.2, "test")
    # Two probes an epoch: half way from the second to the third.
    assert radius_contrast.epochs_to(curve, 0.4) == pytest.approx(1.25)
    assert radius_contrast.epochs_to(curve, 0.7) == pytest.approx(0.5)


def _made(kinds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Results of two seeds: gamma 0.5 moves each kind's gap at equal training loss by so much."""
    results = {}
    for kind, change in kinds.items():
        for gamma in (0.5, 1.0):
            for seed in (0, 1):
                moved = change if gamma == 0.5 else 0.0
                more = [] if kind.endswith(radius.CONTROL) else [0.1]  # fits further
                train = [0.6, 0.4 + 0.01 * seed, *more]
                held = [0.6, 0.7 + seed + moved, *(9.0 for _ in more)]
                results[f"{kind}{gamma}{seed}"] = {
                    "domains": kind,
                    "gamma": gamma,
                    "seed": seed,
                    "gap": held[-1] - train[-1],
                    "rate": 0.01,
                    "rate_at_limit": True,
                    "radius": {"ratio": gamma},
                    "losses": dict.fromkeys(PARTS, 0.6),
                    "at": 0 if gamma == 0.5 and seed else len(train) - 1,
                    "curve": {"train": train, "heldout": held, "test": [x + 1 for x in held]},
                }
    return results


def test_contrast_by_hand() -> None:
    """A gap that comes of a closer fit alone is no difference where training losses are equal."""
    results = _made({"truth": -0.05, "truth-random": 0.05})
    found = radius_contrast.contrast(results, "truth", min)
    assert found["level"] == pytest.approx(0.405)
    # From 0.6 at the first probe, to 0.1 at the third with domains, to the level at the second with random ones.
    assert found["epochs"]["random"] == pytest.approx(1.0)
    assert found["epochs"]["domains"] == found["epochs"]["one"] == pytest.approx(1.0, abs=0.02)
    for name in ("matched_gap", "matched_test"):
        assert found[name]["domains"]["mean"] == pytest.approx(-0.05)
        assert found[name]["random"]["mean"] == pytest.approx(0.05)
        assert found[name]["difference"]["mean"] == pytest.approx(-0.1)
    assert found["gap"]["difference"]["mean"] == pytest.approx(-0.05)
    assert found["heldout"]["difference"]["mean"] == 0
    assert radius_contrast.contrast(results, "truth", max) is None


def test_a_gap_where_models_have_hardly_learned_tells_nothing() -> None:
    found = {"matched_gap": {"difference": {"low": 0.01, "high": 0.02}}}
    for level, side in ((0.5, "above"), (0.69, "hardly learned"), (0.71, "hardly learned")):
        assert radius_page.side_of_gap({**found, "level": level}) == side


def test_domains_of_each_kind_leave_held_out_events_alone() -> None:
    source = simulated_source("tiny", users=600, items=120, domains=4, seed=0)
    split = data.split(source.log)
    truth = source.truth.domain
    for kind in ("truth", "random", "communities", "item2vec"):
        domain = radius.domains_of(source, kind, 0)
        control = radius.domains_of(source, f"{kind}-random", 0)
        assert (domain[split.item_counts == 0] < 0).all()
        sizes = np.bincount(domain[domain >= 0])
        np.testing.assert_array_equal(sizes, np.bincount(control[control >= 0]))
        assert not np.array_equal(domain, control)
        has = domain >= 0
        table = np.zeros((domain.max() + 1, 4))
        np.add.at(table, (domain[has], truth[has]), 1)
        purity = table.max(axis=1).sum() / has.sum()
        assert purity == 1 if kind == "truth" else purity < 0.5 if kind == "random" else purity > 0.9
    samples = data.make_train_samples(split, negatives=1, seed=3)
    out = held_out_events(samples, share=HELD_OUT, seed=3)
    held = hold_out(samples, share=HELD_OUT, seed=3)[1]
    np.testing.assert_array_equal(split.train.item[out], held.target[held.label == 1])
    np.testing.assert_array_equal(split.train.user[out], held.user[held.label == 1])


def test_control_at_gamma_1_is_the_same_training() -> None:
    source = simulated_source("tiny", users=150, items=120, domains=4, seed=0)
    kind, control = "truth", "truth-random"
    own, other = (radius._train(source, k, 1.0, (5e-3,), 2, 0) for k in (kind, control))
    piece = radius._piece(source, control, 1.0, (5e-3,), 2, 0)
    assert piece.needs == ["tiny-truth-gamma1-seed0"]
    context = Context(Path(), {piece.needs[0]: own}, "")
    del other["control_radius"]
    assert piece.work(context) == other


@pytest.mark.parametrize(
    ("best", "tried", "chosen", "at_limit"),
    [
        (3e-3, [], 3e-3, False),  # an inner rate of the grid: nothing is tried
        (1e-3, [3e-4], 1e-3, False),  # the further one is worse
        (3e-4, [3e-4, 1e-4], 3e-4, False),
        (1e-4, [3e-4, 1e-4], 1e-4, True),  # better at every step, of which there are two
        (3e-2, [3e-2, 1e-1], 3e-2, False),
    ],
)
def test_rates_are_extended_while_the_end_is_the_best(
    best: float, tried: list[float], chosen: float, at_limit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(
        source: object, kind: str, gamma: float, rates: Sequence[float], epochs: int, seed: int
    ) -> dict[str, Any]:
        runs = [{"rate": r, "losses": {"valid": abs(np.log(r / best))}} for r in rates]
        return {**min(runs, key=lambda run: run["losses"]["valid"]), "runs": runs}

    monkeypatch.setattr(radius, "_train", trained)
    base = trained(None, "truth", 3.0, (1e-3, 3e-3, 1e-2), 2, 0)
    found = radius._train_further(None, "truth", 3.0, 2, 0, "key", Context(Path(), {"key": base}, ""))
    assert found["rate"] == chosen and found["rate_at_limit"] is at_limit
    assert [run["rate"] for run in found["runs"]] == [1e-3, 3e-3, 1e-2, *tried]
    assert len(base["runs"]) == 3


def _page_of(made: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, list[tuple[str, ...]]]:
    """Rows of the page's tables by title, of results by what goes before their keys."""
    pieces = {}
    for name, results in made.items():
        for key, r in results.items():
            config = {"log": "made", "domains": r["domains"], "gamma": r["gamma"]}
            config |= {name: []} if name else {"rates": [0.01, 0.1]}
            pieces[name + key] = {"config": config, "seeds": [r["seed"]], "result": r}
    return {table.title: list(table.rows) for table in radius_page.page(Results({}, pieces, [])).tables}


def _rows(tables: Mapping[str, list[tuple[str, ...]]], start: str) -> list[tuple[str, ...]]:
    (found,) = (rows for title, rows in tables.items() if title.startswith(start))
    return found


def test_tables_set_claims_apart_from_what_is_no_evidence() -> None:
    kinds = ("truth", "random", "communities")
    made = _made({k: v for kind in kinds for k, v in ((kind, -0.05), (f"{kind}-random", 0.05))})
    tables = _page_of({"": made})
    primary = _rows(tables, "Primary outcome")
    # Two seeds alike to rounding: an interval of hardly any width, off 0.
    assert [(row[1], row[3][:7], row[4]) for row in primary] == [
        ("truth", "-0.1000", "below"),
        ("random", "-0.1000", "below"),
        ("communities (circular)", "-0.1000", "below"),
    ]
    empty = _rows(tables, "Controls without an effect")
    assert sum(int(row[1]) for row in empty) == 4 and sum(int(row[2]) for row in empty) == 3
    # Of seed 1 at gamma 0.5, those with a second epoch were at their best in the first.
    limits = _rows(tables, "Trainings whose best learning rate")
    assert limits == [("0.5", "12", "12", "0", "9"), ("1", "6", "6", "0", "6")]
    assert not any(title.startswith("The same, with further") for title in tables)


def test_trainings_with_further_rates_stand_apart_on_the_page() -> None:
    base = _made({"truth": -0.05, "truth-random": 0.05})
    wider = _made({"truth": 0.05, "truth-random": 0.05})
    tables = _page_of({"": base, radius.WIDER: wider})
    (row,) = _rows(tables, "Primary outcome")
    assert row[3].startswith("-0.1000")
    (row,) = _rows(tables, "The same, with further learning rates")
    assert row[3].startswith("0.0000 [") and row[4:] == ("undecided", "8 of 8")


def _contrast(source: Source, kind: str, seeds: int) -> dict[str, dict[str, float]]:
    results = {}
    for seed in range(seeds):
        for k in (kind, f"{kind}-random"):
            for gamma in (0.1, 1.0):
                result = radius._train(source, k, gamma, (1e-2,), 8, seed)
                results[f"{k}{gamma}{seed}"] = {**result, "seed": seed}
    found = radius_contrast.contrast(results, kind, min)
    return {name: found[name]["difference"] for name in radius_contrast.OUTCOMES}


@pytest.mark.slow
@pytest.mark.parametrize(("null", "kind"), [(True, "truth"), (False, "random"), (False, "truth")])
def test_no_effect_on_the_null_log_and_of_random_domains(null: bool, kind: str) -> None:
    """And one of true domains where the log has them, so that the test could fail."""
    source = simulated_source("log", users=1000, items=400, domains=8, null=null, seed=2)
    found = _contrast(source, kind, seeds=5)
    if null or kind == "random":
        for name in ("matched_gap", "matched_test", "heldout"):
            assert found[name]["low"] < 0 < found[name]["high"], name
    else:  # the test loss at that place, over negatives of one draw, is too noisy for five seeds
        for name in ("matched_gap", "heldout"):
            assert found[name]["high"] < 0, name


def test_small_study_end_to_end(tmp_path: Path) -> None:
    source = simulated_source("tiny", users=150, items=120, domains=4, seed=0)
    pieces = [
        radius._piece(source, kind, gamma, (5e-3,), 2, 0) for kind in ("truth", "truth-random") for gamma in (0.25, 1.0)
    ] + sweep.pieces(source, 1, 2, quick=True)
    protocol = studies.STUDIES["radius"].protocol
    run_pieces("radius", pieces, tmp_path, protocol=protocol, quick=True, progress=False)
    page = studies.write_report(tmp_path, names=["radius"])[0].read_text()
    assert "| tiny | truth | 0.25 | 1 | gap at equal training loss (primary) |" in page and "residual_l2" in page
    results = studies.load_results(tmp_path, "radius").pieces
    ratio = {
        p["config"]["gamma"]: p["result"]["radius"]["ratio"] for key, p in results.items() if "-truth-gamma" in key
    }
    assert ratio[0.25] < 0.5 * ratio[1.0]
    scale = {
        p["config"]["value"]: p["result"]["residual_share"] for key, p in results.items() if "residual_scale" in key
    }
    assert scale[0.03] < scale[1.0]
    assert (tmp_path / "report" / "radius-logs.svg").exists()
