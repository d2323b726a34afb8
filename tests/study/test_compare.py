"""The comparison: effects where there are some, none where there are none, and pages from JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from resemb_ext import data, metrics
from resemb_ext.study import studies
from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare import training as compare_training
from resemb_ext.study.compare.protocol import PROTOCOL, SETTINGS, Setting
from resemb_ext.study.compare.variants import Group, Variant
from resemb_ext.study.harness.checkpoint import Checkpoint
from resemb_ext.study.harness.pieces import Piece, Source, run_pieces, simulated_source
from resemb_ext.study.harness.results import load_results

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run on the simulated log and its null variant."""
    out = tmp_path_factory.mktemp("study")
    studies.run_study("compare", out, quick=True, jobs=2, progress=False)
    return out


@pytest.mark.full
def test_res_wins_where_domains_steer_and_nothing_wins_where_they_do_not(quick: Path) -> None:
    kept = load_results(quick, "compare").pieces
    found = kept["minus-simulated-dnn-res-plain"]["result"]["gauc"]
    assert found["low"] > 0
    assert kept["minus-simulated-dnn-res-res-entries"]["result"]["gauc"]["low"] > 0
    null = kept["minus-simulated-null-dnn-res-plain"]["result"]["gauc"]
    assert null["low"] <= 0 <= null["high"] and null["p"] > 0.05


@pytest.mark.full
def test_what_is_kept_is_what_was_asked(quick: Path) -> None:
    results = load_results(quick, "compare")
    assert not results.missing
    tune = results.pieces["tune-simulated-dnn-res"]["result"]
    assert len(tune["trials"]) == compare.QUICK.trials
    best = max(tune["trials"], key=lambda trial: trial["valid"]["gauc"])
    assert tune["options"] == best["options"] and tune["valid_gauc"] == best["valid"]["gauc"]
    seeds = results.pieces["seeds-simulated-dnn-res"]
    assert seeds["result"]["options"] == tune["options"]
    assert [run["seed"] for run in seeds["result"]["runs"]] == list(compare.QUICK.seeds)
    minus = results.pieces["minus-simulated-dnn-res-plain"]["result"]
    means = [
        np.mean([r["test"]["gauc"] for r in results.pieces[f"seeds-simulated-dnn-{t}"]["result"]["runs"]])
        for t in ("res", "plain")
    ]
    assert minus["gauc"]["value"] == pytest.approx(means[0] - means[1], abs=1e-12)
    assert minus["over_seeds"]["gauc"]["mean"] == pytest.approx(means[0] - means[1], abs=1e-12)


@pytest.mark.full
def test_kept_json_holds_no_users(quick: Path) -> None:
    users = simulated_source("x", users=1000, items=600).log.num_users
    results = load_results(quick, "compare")
    assert len(results.pieces) > 10 and _longest(results.pieces) < users / 20


def _longest(value: object) -> int:
    if isinstance(value, dict):
        return max(map(_longest, value.values()), default=0)
    if isinstance(value, list):
        return max([len(value), *map(_longest, value)])
    return 0


def test_tuning_never_makes_test_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    make = data.make_eval_samples

    def watched(split: data.Split, which: str, **options: object) -> data.Samples:
        asked.append(which)
        return make(split, which, **options)

    monkeypatch.setattr(data, "make_eval_samples", watched)
    source = simulated_source("tiny", users=100, items=100, domains=4)
    scale = compare_training.Scale(trials=2, seeds=(1,), epochs=1, draws=10)
    variant = Variant(Group("tiny", "dnn", False), "res")
    plan = compare.pieces_of_variant(variant, compare.dataset_of(source, Setting()), scale)
    run_pieces("s", plan[:1], tmp_path, protocol={}, quick=True, progress=False)
    assert asked == ["valid"]
    run_pieces("s", plan, tmp_path, protocol={}, quick=True, progress=False)
    assert asked == ["valid", "test"]


def test_a_search_that_was_stopped_goes_on_after_its_last_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = simulated_source("tiny", users=100, items=100, domains=4)
    scale = compare_training.Scale(trials=4, seeds=(1,), epochs=1, draws=10)
    variant = Variant(Group("tiny", "dnn", False), "plain")
    plan = compare.pieces_of_variant(variant, compare.dataset_of(source, Setting()), scale)[:1]
    options = {"protocol": {}, "quick": True, "progress": False}
    trained, train = [], compare_training.fit

    def counted(*args: object, **options: object) -> object:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(1)
        return train(*args, **options)

    monkeypatch.setattr(compare_training, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        run_pieces("s", plan, tmp_path, **options)
    checkpoint = tmp_path / "s" / f"trials-{variant.key}.checkpoint.json"
    assert len(json.loads(checkpoint.read_text())["steps"]) == 3
    monkeypatch.setattr(compare_training, "fit", lambda *a, **o: (trained.append(2), train(*a, **o))[1])
    run_pieces("s", plan, tmp_path, **options)
    assert trained == [1, 1, 1, 2] and not checkpoint.exists()
    run_pieces("s", plan, tmp_path / "whole", **options)
    first, whole = (
        [
            {k: v for k, v in trial.items() if k != "seconds"}
            for trial in load_results(folder, "s").pieces[f"tune-{variant.key}"]["result"]["trials"]
        ]
        for folder in (tmp_path, tmp_path / "whole")
    )
    assert first == whole


def test_a_checkpoint_of_something_else_is_not_taken(tmp_path: Path) -> None:
    def step(checkpoint: Checkpoint, name: str, value: float) -> float:
        return checkpoint.recall({"name": name}, lambda: (value, {}))[0]

    first = Checkpoint(tmp_path / "d", "x")
    assert [step(first, "a", 1.0), step(first, "b", -np.inf)] == [1.0, -np.inf]
    again = Checkpoint(tmp_path / "d", "x")
    assert [step(again, "a", 7.0), step(again, "b", 7.0), step(again, "c", 3.0)] == [1, -np.inf, 3]
    assert step(Checkpoint(tmp_path / "d", "y"), "a", 7.0) == 7.0  # made for something else
    first = Checkpoint(tmp_path / "d", "y")
    assert step(first, "z", 8.0) == 8.0 and step(first, "a", 9.0) == 9.0  # another step


def test_rows_with_category_and_din_run(tmp_path: Path) -> None:
    source = _with_category()
    scale = compare_training.Scale(trials=2, seeds=(1, 2), epochs=1, draws=20)
    dataset = compare.dataset_of(source, Setting(eval_negatives=5))
    variants = [Variant(Group("cats", "din", True), table) for table in ("plain", "res")]
    plan = [piece for variant in variants for piece in compare.pieces_of_variant(variant, dataset, scale)]
    plan.append(compare.contrast_piece(variants[1], variants[0], dataset, scale))
    run_pieces("compare", plan, tmp_path, protocol=PROTOCOL, quick=True, progress=False)
    page = studies.write_report(tmp_path, names=["compare"])[0].read_text()
    assert "cats, DIN with category: test" in page
    assert "| cats, DIN with category | 0." in page


def _with_category():
    log, truth = data.simulate(users=100, items=100, domains=4)
    import pandas as pd

    frame = pd.DataFrame(
        {"user_id": log.user, "item_id": log.item, "order": log.time, "category": truth.domain[log.item]}
    )
    return Source("cats", lambda: (data.read_log(frame, label=False), None))


def test_auc_by_frequency_counts_each_event_with_its_negatives() -> None:
    source = simulated_source("tiny", users=200, items=150, domains=4)
    dataset = compare.dataset_of(source, Setting(eval_negatives=4))
    test, counts = dataset.test, dataset.split.item_counts
    scores = np.random.default_rng(0).normal(size=len(test)).astype(np.float32)
    found = compare_training.by_frequency(test, scores, counts)
    assert sum(bucket["events"] for bucket in found) == len(test) // 5
    for number, bucket in enumerate(found):
        high = [*compare_training.BUCKETS, np.inf][number + 1]
        first = counts[test.target[::5]]  # the positive comes first
        rows = np.repeat((first >= bucket["least"]) & (first < high), 5)
        assert bucket["events"] == rows.sum() // 5
        if rows.any():
            assert bucket["auc"] == pytest.approx(metrics.auc(test.label[rows], scores[rows]))
        else:
            assert np.isnan(bucket["auc"])


@pytest.mark.full
def test_pages_have_the_same_bytes_every_time(quick: Path, tmp_path: Path) -> None:
    pages = [studies.write_report(quick, into=tmp_path / n, names=["compare"])[0] for n in "ab"]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    text = pages[0].read_text()
    assert "| simulated, DNN | 0." in text and "A quick run" in text


def test_pieces_name_all_that_they_depend_on() -> None:
    source = simulated_source("tiny", users=100, items=100, domains=4)
    plan = compare.pieces([source], quick=False)
    keys = [piece.key for piece in plan]
    assert len(set(keys)) == len(keys)
    known: set[str] = set()
    for piece in plan:  # what is needed comes before, so that one process never waits
        assert known.issuperset(piece.needs)
        known.add(piece.key)
        assert isinstance(piece, Piece)
    by_key = {piece.key: piece for piece in plan}
    one, two = (by_key[f"tune-tiny-dnn-gcn-{hops}"].config["options"] for hops in (1, 2))
    assert {k for k in one if one[k] != two[k]} == {"hops"}


def test_a_logs_name_does_not_choose_its_setting() -> None:
    plans = {}
    for name, setting in (("ml-1m", ""), ("other", "time-sample")):
        log = simulated_source(name, users=100, items=100, domains=4).log
        plans[name] = compare.pieces([Source(name, lambda log=log: (log, None), setting)], quick=False)
    usual = plans["ml-1m"][0].config
    assert usual["options"]["split"] == "leave-last-out" and usual["train_rows"] is None
    assert len(plans["ml-1m"]) > 20
    sample = SETTINGS["time-sample"]
    for piece in plans["other"]:
        if "options" in piece.config:
            assert piece.config["options"]["split"] == "time" and piece.config["train_rows"] == sample.train_rows
    tuned = [piece.key for piece in plans["other"] if piece.key.startswith("tune-")]
    assert tuned == [f"tune-other-dnn-{table}" for table in ("plain", "centre", "res")]
