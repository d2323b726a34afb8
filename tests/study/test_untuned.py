"""Study ``untuned``: its plan, what a piece keeps, what one piece's trouble does to the others, and its tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from resemb_ext import data, models
from resemb_ext.runtime.files import plain
from resemb_ext.study.harness.pieces import Piece, Source, run_pieces
from resemb_ext.study.harness.results import Results, load_results, read_lines
from resemb_ext.study.untuned import experiment
from resemb_ext.study.untuned import page as untuned_page
from resemb_ext.study.untuned.experiment import Cell, config_of, own_options, pieces
from resemb_ext.study.untuned.protocol import OPTIONS, PROTOCOL, SETTINGS
from resemb_ext.train import RunConfig, TrainingDiverged

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "study" / "untuned.jsonl"
#: Options by which a run's result differs that no piece sets: columns and saved graphs of log files, and places;
#: or on which it does not depend.
NOT_SET = {
    *(f"{name}_column" for name in ("user", "item", "time", "category", "label", "session")),
    *("data", "out", "overwrite", "threads", "graph", "allow_future_edges", "sim_seed", "save_every"),
    *("delimiter", "drop_null", "history_separator", "log_to"),
    # The kept pieces are of float32, and of tables and batches as they come, which are their defaults.
    *("table_dtype", "state", "graph_weights", "smooth", "swap", "fresh_embeddings", "keep_counts"),
}


def _source(name: str, seed: int, setting: str = "", *, times: bool = False) -> Source:
    """A small log with categories, under the name of a real one."""

    def read() -> tuple[data.Log, None]:
        log, truth = data.simulate(users=120, items=100, domains=4, events_per_user=(5, 9), seed=seed)
        frame = {"user_id": log.user, "item_id": log.item, "category": truth.domain[log.item]}
        when = {"timestamp": np.arange(len(log)) % 977} if times else {"order": log.time}
        return data.read_log(pd.DataFrame({**frame, **when}), label=False), None

    return Source(name, read, setting)


@pytest.fixture(scope="module")
def plan() -> list[Piece]:
    return pieces([_source("amazon-beauty", 1), _source("ml-1m", 2, "dense", times=True)], quick=False)


def run(plan: list[Piece], out: Path, **options: Any) -> Results:
    run_pieces("untuned", plan, out, protocol=PROTOCOL, quick=False, progress=False, **options)
    return load_results(out, "untuned")


@pytest.fixture(scope="module")
def finished(plan: list[Piece], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A folder with the DNN's pieces without category."""
    out = tmp_path_factory.mktemp("out")
    return out, run(plan, out, only="*-dnn")


def test_the_plan_covers_every_log_split_and_model(plan: list[Piece]) -> None:
    assert len({piece.key for piece in plan}) == len(plan) == 17
    main = {("dnn", False), ("dnn", True), ("din", False), ("din", True)}
    once = {(model, True) for model in models.MODELS if model not in ("dnn", "din")}
    for log, split, expected in (
        ("amazon-beauty", "leave-last-out", main | once),
        ("ml-1m", "leave-last-out", main),
        ("ml-1m", "time", main),
    ):
        cells = [p.config["cell"] for p in plan if p.key.startswith(f"{log}-{split}-")]
        assert {(cell["model"], cell["category"]) for cell in cells} == expected
    seeds = {piece.key: tuple(piece.seeds) for piece in plan}
    assert seeds["amazon-beauty-leave-last-out-fm-category"] == (0,)
    assert seeds["amazon-beauty-leave-last-out-dnn"] == (0, 1, 2)


def test_a_log_without_categories_has_pieces_without_alone() -> None:
    def read() -> tuple[data.Log, data.SimulationTruth]:
        return data.simulate(users=60, items=100, domains=4)

    plan = pieces([Source("bare", read)], quick=False)
    assert len(plan) == 7 and not any(piece.config["cell"]["category"] for piece in plan)


def test_the_setting_is_not_read_off_the_name() -> None:
    keys = [p.key for p in pieces([_source("ml-1m", 2)], quick=False)]
    assert keys == [p.key.replace("other", "ml-1m") for p in pieces([_source("other", 2)], quick=False)]


def test_a_piece_names_all_that_its_result_depends_on() -> None:
    """So other defaults of training, and options that it gets later, leave kept pieces what they are."""
    cell = Cell("ml-1m", "time", "din", True)
    config = config_of(cell, SETTINGS["dense"])
    named = {**OPTIONS, **own_options(cell, SETTINGS["dense"])}
    assert RunConfig.build(**plain(named)) == config
    assert (config.split, config.model, config.category, config.eval_negatives) == ("time", "din", True, 4)
    assert (config.max_history, config.epochs, config.patience) == (20, 5, 2)
    assert set(RunConfig().to_dict()) - set(named) - NOT_SET == {"seed"}


def test_what_is_kept_is_whole_and_names_no_path(finished: tuple[Path, Results]) -> None:
    out, results = finished
    assert sorted(path.name for path in out.iterdir()) == ["untuned", "untuned.jsonl"]
    text = (out / "untuned.jsonl").read_text()
    assert str(out) not in text and str(ROOT) not in text
    assert list(results.pieces) == ["amazon-beauty-leave-last-out-dnn", "ml-1m-leave-last-out-dnn", "ml-1m-time-dnn"]
    for piece in results.pieces.values():
        kept = piece["result"]
        assert [(r["seed"], r["embedding"]) for r in kept["runs"]] == [
            (seed, arm) for seed in piece["seeds"] for arm in ("plain", "res")
        ]
        test = [run["test"]["gauc"] for run in kept["runs"]]
        gain = untuned_page.summary(piece)["difference"]["test"]["gauc"]
        assert gain["mean"] == pytest.approx(np.mean(np.subtract(test[1::2], test[::2])))
        assert kept["gauc_over_users"]["mean"] == pytest.approx(gain["mean"], abs=1e-9)
        assert all(kept["hashes"].values()) and kept["environment"]["isa"]
        assert len(kept["runs"][0]["valid_gauc_by_epoch"]) == kept["runs"][0]["epochs"]


def test_a_piece_gives_what_a_run_gives(finished: tuple[Path, Results], tmp_path: Path) -> None:
    """The same figures as ``resemb train`` on the same file with the same options."""
    from resemb_ext.train import run as train

    log = _source("ml-1m", 2, times=True).log
    frame = pd.DataFrame(
        {
            "user_id": log.users.decode(log.user),
            "item_id": log.items.decode(log.item),
            "category": log.item_category[log.item],
            "timestamp": log.time,
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    config = config_of(Cell("ml-1m", "time", "dnn", False), SETTINGS["dense"])
    done = train(config, data=str(tmp_path / "log.parquet"), out=str(tmp_path / "run"), threads=1, progress=False)
    kept = finished[1].pieces["ml-1m-time-dnn"]["result"]["runs"]
    for ours, theirs in zip(kept, done.result["runs"], strict=True):
        assert ours["test"]["gauc"] == theirs["test"]["gauc"] and ours["best_epoch"] == theirs["best_epoch"]


def test_pieces_that_are_done_are_not_trained_again(
    plan: list[Piece], finished: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "train_arm", lambda *a, **k: pytest.fail("trained again"))
    assert run(plan, finished[0], only="*-dnn").pieces == finished[1].pieces


def test_a_piece_of_other_options_is_not_taken_for_done(plan: list[Piece], finished: tuple[Path, Results]) -> None:
    other = [replace(piece, config={**piece.config, "options": {**OPTIONS, "lr": 1.0}}) for piece in plan]
    with pytest.raises(ValueError, match="was made with another config"):
        run(other, finished[0], only="*-dnn")


def test_processes_side_by_side_give_the_same_figures(
    plan: list[Piece], finished: tuple[Path, Results], tmp_path: Path
) -> None:
    again = run(plan, tmp_path, only="ml-1m-*-dnn", jobs=2)
    for key in ("ml-1m-leave-last-out-dnn", "ml-1m-time-dnn"):
        one, other = finished[1].pieces[key], again.pieces[key]
        assert untuned_page.summary(one) == untuned_page.summary(other)
        assert one["result"]["hashes"] == other["result"]["hashes"]


def _failing(error: Exception) -> Callable[..., Any]:
    whole = experiment.train_arm

    def train_arm(config: RunConfig, *arguments: Any, **options: Any) -> Any:
        if config.split == "time":
            raise error
        return whole(config, *arguments, **options)

    return train_arm


def test_what_fails_leaves_the_others_and_may_be_run_again(
    plan: list[Piece], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(experiment, "train_arm", _failing(ValueError("no such luck")))
        with pytest.raises(ValueError, match="no such luck"):
            run(plan, tmp_path, only="ml-1m-*-dnn")
    assert list(load_results(tmp_path, "untuned").pieces) == ["ml-1m-leave-last-out-dnn"]
    assert "ml-1m-time-dnn" in run(plan, tmp_path, only="ml-1m-*-dnn").pieces


def test_a_loss_that_is_no_longer_finite_is_kept_as_that(
    plan: list[Piece], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "train_arm", _failing(TrainingDiverged("the loss is nan")))
    results = run(plan, tmp_path, only="ml-1m-*-dnn")
    assert results.pieces["ml-1m-time-dnn"]["result"] == {"diverged": "the loss is nan"}
    page = untuned_page.page(results)
    assert page.missing is not None and "`ml-1m-time-dnn` (its loss was no longer finite)" in page.missing
    rows = [row for table in page.tables for row in table.rows]
    assert any(row[:2] == ("ml-1m", "leave-last-out") for row in rows)
    assert not any(row[:2] == ("ml-1m", "time") for row in rows)


def test_models_that_are_run_once_train(plan: list[Piece], tmp_path: Path) -> None:
    results = run(plan, tmp_path, only="*-fm-category")
    (piece,) = results.pieces.values()
    assert piece["seeds"] == [0] and len(piece["result"]["runs"]) == 2
    difference = untuned_page.page(results).tables[0]
    assert [row[:5] for row in difference.rows] == [("amazon-beauty", "leave-last-out", "FM", "yes", "1")]
    assert "amazon-beauty-leave-last-out-dien-category" in results.missing and len(results.missing) == 16


def test_the_tables_show_what_is_kept(finished: tuple[Path, Results]) -> None:
    page = untuned_page.page(finished[1])
    difference, metrics, *_ = page.tables
    assert len(difference.rows) == 3 and len(metrics.rows) == 6
    summary = untuned_page.summary(finished[1].pieces["amazon-beauty-leave-last-out-dnn"])
    res = summary["arms"]["res"]["test"]["gauc"]
    assert metrics.rows[1][4:7:2] == ("res", f"{res['mean']:.4f} ± {res['std']:.4f}")
    gain = summary["difference"]["test"]["gauc"]
    assert difference.rows[0][5] == f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    text = json.dumps([[table.title, table.header, table.rows] for table in page.tables])
    assert "None" not in text and "nan" not in text
    with_times = {
        row[:3]: row
        for table in page.tables
        if table.title == "Sizes and options of each log, split and model"
        for row in table.rows
    }
    assert with_times["ml-1m", "time", "DNN"][6] == "4"


@pytest.mark.parametrize(
    ("seeds", "users", "word"),
    [
        ((0.1, 0.2), (0.1, 0.2), "above"),
        ((-0.2, -0.1), (-0.2, -0.1), "below"),
        ((0.1, 0.2), (-0.1, 0.1), "undecided"),
        ((0.1, 0.2), (-0.2, -0.1), "undecided"),
        ((None, None), (-0.2, -0.1), "below"),
        ((None, None), (None, None), "undecided"),
    ],
)
def test_a_side_needs_both_intervals(seeds: Any, users: Any, word: str) -> None:
    intervals = [{"low": low, "high": high} for low, high in (seeds, users)]
    assert untuned_page.common_side(intervals) == word


def test_committed_pieces_are_those_of_the_plan(plan: list[Piece]) -> None:
    """New pieces join the committed file: options, seeds and protocol are the same."""
    kept = read_lines(RESULTS)
    assert kept.plan["pieces"] == [piece.key for piece in plan]
    for piece in plan:
        if piece.key in kept.pieces:
            found, wanted = kept.pieces[piece.key], piece.identity("untuned", PROTOCOL)
            assert {k: v for k, v in wanted.items() if k != "data"} == {k: found[k] for k in wanted if k != "data"}
