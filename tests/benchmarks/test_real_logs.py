"""The runs on real logs: cells, resuming, what is kept, and the page."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.train import RunConfig

ROOT = Path(__file__).resolve().parents[2]
# At the end: the checkout has the benchmarks, but an installed package goes before its source.
sys.path.append(str(ROOT))

from benchmarks.real_logs import __main__ as command  # noqa: E402
from benchmarks.real_logs import report, running, store  # noqa: E402
from benchmarks.real_logs.cells import Cell, all_cells, changes, config_of, defaults  # noqa: E402

SMALL = ["--models", "dnn", "--category", "without", "--seeds", "0", "1", "--epochs", "1"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Small logs under the names of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("amazon-beauty", 1), ("ml-1m", 2)):
        log, truth = rx.data.simulate(users=120, items=100, domains=4, events_per_user=(5, 9), seed=seed)
        frame = {"user_id": log.user, "item_id": log.item, "category": truth.domain[log.item]}
        times = {"timestamp": np.arange(len(log)) % 977} if name == "ml-1m" else {"order": log.time}
        pd.DataFrame({**frame, **times}).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """The output of three small cells."""
    out = tmp_path_factory.mktemp("out") / "results" / "real.json"
    assert command.main(["--data-dir", str(data_dir), "--out", str(out), *SMALL]) == 0
    return out


def test_cells_cover_what_the_page_promises():
    cells = all_cells()
    assert len(cells) == len(set(cells)) == 17
    for log, split in (("amazon-beauty", "leave-last-out"), ("ml-1m", "leave-last-out"), ("ml-1m", "time")):
        found = {(c.model, c.category) for c in cells if (c.log, c.split) == (log, split)}
        main = {("dnn", False), ("dnn", True), ("din", False), ("din", True)}
        once = {(model, True) for model in rx.models.MODELS if model not in ("dnn", "din")}
        assert found == main | (once if log == "amazon-beauty" else set())
    assert config_of(Cell("amazon-beauty", "leave-last-out", "fm", True), Path()).seed == (0,)


def test_changes_name_every_option_that_differs():
    config = config_of(Cell("ml-1m", "time", "din", True), Path("/somewhere"), threads=1)
    found = changes(config.to_dict())
    assert found["model"] == "din" and found["split"] == "time" and found["category"] is True
    again = RunConfig.build(**{**defaults(), **found})
    place = {"data": config.data, "threads": config.threads}
    assert replace(again, **place) == config
    assert "/somewhere" not in json.dumps(found)


def test_the_output_is_whole_and_names_no_path(finished, data_dir):
    text = finished.read_text()
    for path in (data_dir, finished.parent, ROOT):
        assert str(path) not in text
    content = json.loads(text)
    assert [(c["log"], c["split"]) for c in content["cells"]] == [
        ("amazon-beauty", "leave-last-out"),
        ("ml-1m", "leave-last-out"),
        ("ml-1m", "time"),
    ]
    for cell in content["cells"]:
        assert cell["file"] == f"{cell['log']}.parquet"
        assert [(r["embedding"], r["seed"]) for r in cell["runs"]] == [
            ("plain", 0),
            ("res", 0),
            ("plain", 1),
            ("res", 1),
        ]
        test = [r["test"]["gauc"] for r in cell["runs"]]
        gain = cell["summary"]["difference"]["test"]["gauc"]
        assert gain["mean"] == pytest.approx((test[1] - test[0] + test[3] - test[2]) / 2)
        assert cell["gauc_over_users"]["mean"] == pytest.approx(gain["mean"], abs=1e-9)
        assert cell["hashes"]["test_candidates"] and cell["environment"]["workers"] == 1
    assert list(finished.parent.iterdir()) == [finished]  # neither locks nor leftovers


def test_cells_that_are_done_are_skipped(finished, data_dir, monkeypatch, capsys):
    monkeypatch.setattr(running, "run", lambda *a, **k: pytest.fail("ran again"))
    base = ["--data-dir", str(data_dir), "--out", str(finished)]
    assert command.main([*base, *SMALL]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert command.main([*base, *SMALL, "--list", "--redo", "--logs", "ml-1m"]) == 0
    assert capsys.readouterr().out.splitlines() == ["ml-1m, leave-last-out, dnn", "ml-1m, time, dnn"]


def test_a_cell_with_other_options_is_not_taken_for_done(finished, data_dir, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--data-dir", str(data_dir), "--out", str(finished), *SMALL[:-1], "2"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "(epochs)" in error and "--redo" in error


def test_other_defaults_need_a_new_file(finished, tmp_path):
    content = json.loads(finished.read_text())
    content["defaults"]["lr"] *= 2
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"other defaults of resemb train \(lr\)"):
        store.put(other, content["cells"][0])
    assert store.read(other) == content  # reading it for the page is fine


def test_cells_join_a_file_that_is_older_than_an_option(finished, tmp_path):
    content = json.loads(finished.read_text())
    usual = content["defaults"].pop("heads")
    older = tmp_path / "older.json"
    older.write_text(json.dumps(content))
    store.put(older, content["cells"][0])
    assert store.read(older)["defaults"] == {**content["defaults"], "heads": usual}
    content["defaults"]["gone"] = 1
    older.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"other defaults of resemb train \(gone\)"):
        store.load(older)


def test_cells_join_the_committed_file():
    content = store.load(command.RESULTS)
    held = [cell for cell in all_cells() if store.held(content, cell)]
    assert held and all(store.is_done(content, cell) for cell in held)


def test_models_that_are_run_once_and_cells_that_are_not_there(finished, data_dir, tmp_path):
    copy = tmp_path / "real.json"
    copy.write_text(finished.read_text())
    once = ["--models", "fm", "dien", "--epochs", "1"]
    assert command.main(["--data-dir", str(data_dir), "--out", str(copy), *once]) == 0
    text = command.page_text(copy)
    assert "| amazon-beauty | leave-last-out | FM | yes | res |" in text
    assert "seeds 0, 1. FM and DIEN: once, with category, seed 0." in text
    assert (
        "Not run yet: amazon-beauty (leave-last-out): DNN with category, DIN, DIN with category, "
        "Wide&Deep with category, DeepFM with category and PNN with category; ml-1m (" in text
    )


def test_a_cell_is_replaced_and_the_order_kept(finished, tmp_path):
    copy = tmp_path / "real.json"
    cells = json.loads(finished.read_text())["cells"]
    for cell in reversed(cells):
        store.put(copy, cell)
    store.put(copy, {**cells[1], "wall_s": 0.0})
    content = store.read(copy)
    assert [c["log"] for c in content["cells"]] == [c["log"] for c in cells]
    assert [c["wall_s"] for c in content["cells"]] == [cells[0]["wall_s"], 0, cells[2]["wall_s"]]


def test_workers_write_the_same_figures(finished, data_dir, tmp_path):
    out = tmp_path / "real.json"
    options = ["--data-dir", str(data_dir), "--out", str(out), "--logs", "ml-1m", *SMALL]
    # As a command: what a worker process can import depends on how the program was started.
    program = [sys.executable, "-m", "benchmarks.real_logs", *options, "--workers", "2"]
    assert subprocess.run(program, cwd=ROOT, timeout=300).returncode == 0
    ours, theirs = store.read(out)["cells"], store.read(finished)["cells"][1:]
    for a, b in zip(ours, theirs, strict=True):
        assert a["summary"] == b["summary"] and a["hashes"] == b["hashes"]
        assert a["environment"]["workers"] == 2


def test_a_failing_cell_leaves_the_others(data_dir, tmp_path, monkeypatch, capsys):
    whole = running.run

    def run(config, **options):
        if config.split == "time":
            raise ValueError("no such luck")
        return whole(config, **options)

    monkeypatch.setattr(running, "run", run)
    out = tmp_path / "real.json"
    options = ["--data-dir", str(data_dir), "--out", str(out), "--logs", "ml-1m", *SMALL]
    assert command.main(options) == 1
    assert "no such luck" in capsys.readouterr().err
    assert [c["split"] for c in store.read(out)["cells"]] == ["leave-last-out"]


def test_a_killed_process_fails_its_cell_alone(data_dir, monkeypatch):
    cell = all_cells()[0]
    task = running.Task(cell, data_dir, (0,), {}, 1, 2, None, False)
    monkeypatch.setattr(running, "run_task", _die)
    assert running.in_process(task) == (cell, None, "its process was killed")


def _die(task):
    os._exit(9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data-dir", "nowhere"], "no amazon-beauty.parquet in nowhere"),
        ([], "--data-dir is needed"),
        (["--report"], "No such file"),
        (["--data-dir", "nowhere", "--workers", "0"], "at least 1"),
    ],
)
def test_bad_input(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--out", str(tmp_path / "none.json"), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_page_of_a_small_run(finished, tmp_path):
    page = tmp_path / "docs" / "page.md"
    assert command.main(["--report", "--out", str(finished), "--page", str(page)]) == 0
    text = page.read_text()
    assert text == command.page_text(finished)
    assert "## Untuned" in text and "None" not in text and "nan" not in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ml-1m | time |")]
    assert len(rows) == 3  # plain, res, and their difference
    cell = store.read(finished)["cells"][2]
    mean = cell["summary"]["arms"]["res"]["test"]["gauc"]["mean"]
    assert rows[1][7].strip().startswith(f"{mean:.4f} ± ")


def test_the_verdict_needs_both_intervals():
    def cell(seeds, users, model="dnn"):
        both = [dict(zip(("low", "high"), x, strict=True)) for x in (seeds, users)]
        return {
            "log": "ml-1m",
            "split": "time",
            "model": model,
            "category": False,
            "summary": {"difference": {"test": {"gauc": both[0]}}},
            "gauc_over_users": both[1],
        }

    up, down, open_, one = (0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (None, None)
    for seeds, users, word in (
        (up, up, "above"),
        (down, down, "below"),
        (up, open_, "undecided"),
        (up, down, "undecided"),
        (one, down, "below"),
        (one, one, "undecided"),
    ):
        assert f"it is {word} in DNN." in report._verdict([cell(seeds, users)])
    text = report._verdict([cell(up, up), cell(down, down, "din")])
    assert "above in DNN, below in DIN" in text
