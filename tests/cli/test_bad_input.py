"""Bad input: one line that says what is wrong and where, exit status 2, nothing left behind."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main

FAST = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--threads", "1", "--quiet"]


def good(users=6, items=20, events=7):
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": np.concatenate([rng.permutation(items)[:events] for _ in range(users)]),
            "timestamp": 1_500_000_000 + np.arange(users * events),
        }
    )


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must fail with one line, status 2 and no file; returns the line."""

    def run(*arguments: object) -> str:
        before = {path for path in tmp_path.rglob("*")}
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's own errors
            code = stop.code
        seen = capsys.readouterr()
        assert code == 2, seen
        assert len(seen.err.splitlines()) == 1, seen.err
        assert "Traceback" not in seen.err and seen.err.startswith("resemb")
        assert {path for path in tmp_path.rglob("*")} == before
        return seen.err

    return run


@pytest.fixture
def commands(refused, tmp_path):
    """Gives a log to every command that reads one; their lines must agree."""

    def run(log, *options: str) -> str:
        lines = [
            refused("train", "--data", log, *FAST, "--out", tmp_path / "run", *options),
            refused("graph", "build", "--data", log, "--out", tmp_path / "g.npz", *options),
            refused("data", "convert", log, "--out", tmp_path / "out.parquet", *options),
        ]
        bare = {line.split("error: ", 1)[1] for line in lines}
        assert len(bare) == 1, lines
        return bare.pop()

    return run


def saved(frame, tmp_path, kind):
    path = tmp_path / f"log.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "tsv"])
def test_missing_columns(commands, tmp_path, kind):
    log = saved(good().drop(columns="item_id"), tmp_path, kind)
    line = commands(log)
    assert "cannot guess the item column" in line and "user_id, timestamp" in line
    line = commands(log, "--item-column", "product")
    assert "no column 'product'" in line and "user_id, timestamp" in line


@pytest.mark.parametrize("kind", ["csv", "tsv", "inter", "dat", "json", "parquet"])
def test_empty_files(commands, tmp_path, kind):
    path = tmp_path / f"log.{kind}"
    path.write_bytes(b"")
    line = commands(path)
    assert "log." + kind in line
    assert ("empty" in line) or kind == "parquet"


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_header_and_nothing_else(commands, tmp_path, kind):
    assert "has no rows" in commands(saved(good().iloc[:0], tmp_path, kind))


def test_a_typed_header_and_nothing_else(commands, tmp_path):
    path = tmp_path / "log.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    assert "has no rows" in commands(path)


@pytest.mark.parametrize("split", ["leave-last-out", "time"])
def test_one_event(refused, tmp_path, split):
    log = saved(good().iloc[:1], tmp_path, "csv")
    line = refused("train", "--data", log, *FAST, "--out", tmp_path / "run", "--split", split)
    assert "leave-last-out needs" in line or "the time split leaves no training events" in line
    assert "1 events" in line
    refused("graph", "build", "--data", log, "--out", tmp_path / "g.npz", "--split", split)


def test_one_user(refused, tmp_path):
    log = saved(good(users=1).assign(user_id=17), tmp_path, "csv")
    line = refused("train", "--data", log, *FAST, "--out", tmp_path / "run")
    assert "user 17 knows every item" in line and "too few items" in line


def test_one_item(refused, tmp_path):
    log = saved(good().assign(item_id=3), tmp_path, "csv")
    line = refused("train", "--data", log, *FAST, "--out", tmp_path / "run")
    assert "knows every item" in line


@pytest.mark.parametrize("kind", ["csv", "parquet", "tsv"])
@pytest.mark.parametrize(("value", "words"), [(float("nan"), "null item id"), (2.5, "fractional item id")])
def test_nan_and_fractional_ids(commands, tmp_path, kind, value, words):
    frame = good().astype({"item_id": float})
    frame.loc[20, "item_id"] = value
    line = commands(saved(frame, tmp_path, kind))
    assert words in line and "'item_id'" in line
    # The header is line 1.
    assert ("row 20" if kind == "parquet" else "line 22") in line


def test_null_users(commands, tmp_path):
    frame = good().astype({"user_id": str})
    frame.loc[[5, 8], "user_id"] = None
    line = commands(saved(frame, tmp_path, "csv"))
    assert "line 7, column 'user_id': null user id, as in 1 more rows" in line


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("times", "words"),
    [
        ("yesterday", "time is neither a number nor ISO 8601 ('yesterday')"),
        (None, "null time"),
        (float("inf"), "time is not finite"),
    ],
)
def test_bad_times(commands, tmp_path, kind, times, words):
    frame = good()
    numbers = isinstance(times, float)
    frame["timestamp"] = frame.timestamp.astype(float if numbers else str)
    frame.loc[3, "timestamp"] = times
    line = commands(saved(frame, tmp_path, kind))
    assert words in line and "'timestamp'" in line
    assert ("row 3" if kind == "parquet" else "line 5") in line


@pytest.mark.parametrize("times", [[True, False] * 21, [[1, 2]] * 42])
def test_times_of_the_wrong_type(commands, tmp_path, times):
    frame = good().drop(columns="timestamp").assign(timestamp=times)
    line = commands(saved(frame, tmp_path, "parquet"))
    assert "times must be numbers, timestamps or ISO 8601 text" in line


def test_ids_of_the_wrong_type(commands, tmp_path):
    frame = good().assign(item_id=pd.to_datetime(good().timestamp, unit="s"))
    assert "item ids must be integers or text" in commands(saved(frame, tmp_path, "parquet"))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_labels(refused, tmp_path, label):
    log = saved(good().assign(label=label), tmp_path, "csv")
    line = refused("train", "--data", log, *FAST, "--out", tmp_path / "run")
    assert re.search(rf"all \d+ training events have label {label}", line) and "--label-column -" in line


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_labels_of_the_held_out(refused, tmp_path, label):
    frame = good().assign(label=[0, 1] * 21)
    frame.loc[frame.groupby("user_id").tail(1).index, "label"] = label
    log = saved(frame, tmp_path, "csv")
    last = ("--split", "leave-last-out", "--metric", "auc")
    line = refused("train", "--data", log, *FAST, *last, "--out", tmp_path / "run")
    assert f"all 6 test events have label {label}" in line


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_that_are_none(commands, tmp_path, kind):
    line = commands(saved(good().assign(label=[0, 1, 3] * 14), tmp_path, kind))
    assert "label must be 0 or 1 (3), as in 13 more rows" in line
    assert ("row 2" if kind == "parquet" else "line 4") in line


@pytest.mark.parametrize("bad", ["x", "2.5.1", "yes"])
def test_a_bad_label_in_the_middle(commands, tmp_path, bad):
    path = saved(good().assign(label=[0, 1] * 21), tmp_path, "csv")
    lines = path.read_text().splitlines()
    lines[25] = f"3,4,15000000,{bad}"
    path.write_text("\n".join(lines))
    assert f"line 26, column 'label': label must be 0 or 1 ('{bad}')" in commands(path)
    every = good().assign(label="no")
    assert "line 2, column 'label': label must be 0 or 1 ('no'), as in 41" in commands(saved(every, tmp_path, "csv"))


def test_labels_of_one_event_a_user(refused, tmp_path, capsys):
    """Leave-last-out holds out one event a user: its default metric is refused before training, with the way out."""
    log = saved(good().assign(label=[0, 1] * 21), tmp_path, "csv")
    train = ["train", "--data", log, *FAST, "--out", tmp_path / "run"]
    line = refused(*train, "--split", "leave-last-out")
    assert "gauc is undefined" in line and "take metric auc, or split time" in line
    assert main(["data", "validate", str(log)]) == 0
    assert "split: the log has labels: training splits by time" in capsys.readouterr().out
    alone = saved(good().assign(label=[0, 1] * 21, user_id=range(42)), tmp_path, "csv")
    line = refused("train", "--data", alone, *FAST, "--out", tmp_path / "run")
    assert "gauc is undefined" in line and line.endswith("take metric auc\n")


def test_columns_left_out(tmp_path, capsys):
    """ "-" leaves out a category column as well, in every command that reads a log."""
    log = str(saved(good().assign(category=["a", "b"] * 21), tmp_path, "csv"))
    out, graph = tmp_path / "run", tmp_path / "g.npz"
    none = ["--category-column", "-"]
    assert main(["train", "--data", log, *FAST, *none, "--out", str(out)]) == 0
    assert json.loads((out / "result.json").read_text())["data"]["categories"] is None
    assert main(["graph", "build", "--data", log, *none, "--out", str(graph)]) == 0
    assert main(["data", "convert", log, *none, "--out", str(tmp_path / "c.parquet")]) == 0
    assert "category" not in pd.read_parquet(tmp_path / "c.parquet")
    capsys.readouterr()


def test_a_bad_row_in_the_middle(commands, tmp_path):
    path = saved(good(), tmp_path, "csv")
    lines = path.read_text().splitlines()
    lines[25] = "3,4"
    path.write_text("\n".join(lines))
    assert "line 26: expected 3 columns, found 2 ('3,4')" in commands(path)
    lines[25] = "3,4,15000000,9"
    path.write_text("\n".join(lines))
    assert "line 26: expected 3 columns, found 4" in commands(path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_parquet(commands, tmp_path, share):
    path = saved(good(events=20), tmp_path, "parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    line = commands(path)
    assert "cannot read" in line and "log.parquet" in line


@pytest.mark.parametrize("bytes_", [b"PAR1", b"not parquet at all", bytes(100), b"PAR1" * 30])
def test_foreign_parquet(commands, tmp_path, bytes_):
    path = tmp_path / "log.parquet"
    path.write_bytes(bytes_)
    assert "cannot read" in commands(path)


def test_damaged_parquet_pages(commands, tmp_path):
    path = tmp_path / "log.parquet"
    good(users=50, items=40).to_parquet(path, compression="zstd")
    whole = bytearray(path.read_bytes())
    whole[40:140] = bytes(100)
    path.write_bytes(whole)
    assert "cannot read" in commands(path)


def test_other_kinds_of_files(commands, tmp_path):
    path = tmp_path / "log.xlsx"
    path.write_bytes(b"x")
    assert "expected a .parquet, .csv" in commands(path)
    assert "no log at" in commands(tmp_path / "none.csv")


@pytest.fixture
def trained(tmp_path_factory, capsys):
    """A log, the graph of its training events, and another log's graph."""
    folder = tmp_path_factory.mktemp("graphs")
    good().to_csv(folder / "log.csv", index=False)
    good(items=30).to_csv(folder / "other.csv", index=False)
    build = ["graph", "build", "--split", "leave-last-out", "--data"]
    for name in ("log", "other"):
        path = folder / f"{name}.csv"
        assert main([*build, str(path), "--out", str(folder / f"{name}.npz")]) == 0
    capsys.readouterr()
    return folder


def test_a_graph_that_does_not_fit_the_log(trained, refused, tmp_path):
    train = ["train", "--data", trained / "log.csv", *FAST, "--out", tmp_path / "run", "--graph"]
    assert "items, the log" in refused(*train, trained / "other.npz")
    assert "graph: no file" in refused(*train, trained / "none.npz")
    # The same items, other events: the graph of the whole log.
    log = rx.data.read_log(trained / "log.csv")
    rx.InterestGraph.from_log(log).save(trained / "all.npz")
    assert "was built from other events" in refused(*train, trained / "all.npz")


@pytest.mark.parametrize("damage", ["half", "empty", "foreign", "flipped", "npz"])
def test_damaged_graphs(trained, refused, tmp_path, damage):
    path = trained / "log.npz"
    whole = path.read_bytes()
    if damage == "npz":
        np.savez(path, x=np.arange(3))
    else:
        middle = len(whole) // 2
        path.write_bytes(
            {
                "half": whole[:middle],
                "empty": b"",
                "foreign": b"user_id,item_id\n1,2\n",
                "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            }[damage]
        )
    for arguments in (
        ["train", "--data", trained / "log.csv", *FAST, "--out", tmp_path / "run", "--graph", path],
        ["graph", "stats", path],
        ["graph", "neighbors", path, 1],
    ):
        assert "not a readable interest graph" in refused(*arguments)


def test_json_reports_errors_too(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("user,item,ts\n1,,3\n")
    assert main(["data", "validate", str(path), "--json"]) == 2
    seen = capsys.readouterr()
    assert "line 2, column 'item': null item id" in json.loads(seen.out)["error"]
    assert len(seen.err.splitlines()) == 1
