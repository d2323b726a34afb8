"""Graphs of logs: `InterestGraph.from_log` and `resemb graph`."""

import argparse
import json

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import graph as cli
from resemb_ext.data import read_log, split


def frame(events=400, label=False):
    rng = np.random.default_rng(0)
    columns = {
        "user_id": rng.integers(0, 20, events),
        "item_id": [f"i{k}" for k in rng.integers(0, 30, events)],
        "timestamp": rng.permutation(events),
    }
    if label:
        columns["label"] = rng.integers(0, 2, events)
    return pd.DataFrame(columns)


def test_from_log_equals_from_events():
    log = read_log(frame())
    graph = rx.InterestGraph.from_log(log, window=2, weighting="cosine")
    same = rx.InterestGraph.from_events(
        log.user, log.item, log.time, num_items=log.num_items, window=2, weighting="cosine",
        padding_idx=0,
    )  # fmt: skip
    assert graph.hash == same.hash and graph.num_items == 32
    assert graph.meta["event_hash"] == log.content_hash
    assert graph.meta["time_cut"] == 399 and graph.meta["events"] == 400


def test_only_clicks_of_a_labelled_log_count():
    table = frame(label=True)
    log = read_log(table)
    clicked = log.label == 1
    graph = rx.InterestGraph.from_log(log)
    same = rx.InterestGraph.from_events(
        log.user[clicked], log.item[clicked], log.time[clicked],
        num_items=log.num_items, padding_idx=0,
    )  # fmt: skip
    assert graph.hash == same.hash and graph.meta["events"] == clicked.sum() < 400
    assert graph.hash != rx.InterestGraph.from_log(read_log(table, label=False)).hash


def test_training_events_only():
    log = read_log(frame())
    train = split(log, "time").train
    graph = rx.InterestGraph.from_log(train)
    assert graph.num_items == log.num_items
    assert graph.meta["events"] == len(train) and graph.meta["time_cut"] < log.time.max()
    assert graph.meta["event_hash"] == train.content_hash


@pytest.fixture
def command():
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())

    def run(*arguments):
        args = parser.parse_args(["graph", *map(str, arguments)])
        return args.run(args)

    return run


@pytest.fixture
def log_file(tmp_path):
    frame().to_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def test_build_stats_neighbors(command, log_file, tmp_path, capsys):
    out = tmp_path / "g.npz"
    options = ("--window", 2, "--top-k", 4, "--weighting", "cosine", "--self-weight", 0.5)
    assert command("build", "--data", log_file, "--out", out, *options, "--min-count", 2) == 0
    log = read_log(log_file)
    graph = rx.InterestGraph.load(out)
    assert graph.hash == rx.InterestGraph.from_log(
        log, window=2, top_k=4, weighting="cosine", self_weight=0.5, min_count=2
    ).hash  # fmt: skip
    report = json.loads((tmp_path / "g.npz.json").read_text())
    assert report["hash"] == graph.hash and report["stats"] == graph.stats()
    assert report["meta"] == graph.meta and report["split"] == "none"
    assert "num_edges" in capsys.readouterr().out

    assert command("stats", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_items"] == 32
    assert command("stats", out) == 0
    assert "option weighting" in capsys.readouterr().out

    row = int(log.items.encode(["i7"])[0][0])
    assert command("neighbors", out, row, "--json") == 0
    by_row = json.loads(capsys.readouterr().out)
    assert command("neighbors", out, "i7", "--data", log_file, "--json") == 0
    by_name = json.loads(capsys.readouterr().out)
    assert [e["row"] for e in by_row["neighbors"]] == [e["row"] for e in by_name["neighbors"]]
    weights = [e["weight"] for e in by_name["neighbors"]]
    assert weights == sorted(weights, reverse=True) and len(weights) == 5
    assert {e["row"]: e["item"] for e in by_name["neighbors"]}[row] == "i7"
    assert command("neighbors", out, "i7", "--data", log_file) == 0
    assert "(itself)" in capsys.readouterr().out


def test_build_from_training_events(command, log_file, tmp_path):
    out = tmp_path / "g.npz"
    assert command("build", "--data", log_file, "--out", out, "--split", "leave-last-out") == 0
    train = split(read_log(log_file), "leave-last-out").train
    assert rx.InterestGraph.load(out).hash == rx.InterestGraph.from_log(train).hash


def test_options_all_and_directed(command, log_file, tmp_path):
    out = tmp_path / "g.npz"
    command(
        "build", "--data", log_file, "--out", out, "--top-k", "all", "--directed", "--threads", 2
    )
    log = read_log(log_file)
    expected = rx.InterestGraph.from_log(log, top_k=None, directed=True)
    assert rx.InterestGraph.load(out).hash == expected.hash


def test_every_option_and_category_edges(command, tmp_path, capsys):
    table = frame()
    table["category"] = table["item_id"].str[-1]
    table.to_parquet(tmp_path / "log.parquet")
    out = tmp_path / "g.npz"
    options = {
        "max_gap": 90.0, "session_gap": 60.5, "decay": 0.5, "weighting": "ppmi", "damping": 0.25,
        "category_edges": 2, "category_weight": 0.5, "keep_counts": True,
    }  # fmt: skip
    flags = []
    for name, value in options.items():
        flags += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    assert command("build", "--data", tmp_path / "log.parquet", "--out", out, *flags) == 0
    log = read_log(tmp_path / "log.parquet")
    graph = rx.InterestGraph.load(out)
    assert graph.hash == rx.InterestGraph.from_log(log, **options).hash
    assert graph.counts is not None
    same = rx.InterestGraph.from_log(log, **options, category=log.category_domain)
    assert graph.hash == same.hash != rx.InterestGraph.from_log(log).hash
    graph.with_link("gcn", padding_idx=0, hops=2).save(out)
    assert command("stats", out) == 0
    assert "hop_kept_mass" in capsys.readouterr().out


@pytest.mark.parametrize("text_users", [False, True])
def test_stream_equals_whole(command, tmp_path, text_users):
    table = frame(3_000)
    if text_users:
        table["user_id"] = "u" + table["user_id"].astype(str)
    table.to_parquet(tmp_path / "log.parquet")
    out = tmp_path / "g.npz"
    common = ("build", "--data", tmp_path / "log.parquet", "--out", out, "--stream")
    assert command(*common, "--memory", "20K", "--decay", "inverse") == 0
    log = read_log(tmp_path / "log.parquet")
    whole = rx.InterestGraph.from_log(log, decay="inverse")
    assert rx.InterestGraph.load(out).hash == whole.hash
    assert command(*common, "--before", 1_000) == 0
    part = log.subset(log.time < 1_000)
    assert rx.InterestGraph.load(out).hash == rx.InterestGraph.from_log(part).hash
    with pytest.raises(ValueError, match="give the cut as --before"):
        command(*common, "--split", "time")
    with pytest.raises(ValueError, match="--category-edges needs the whole log"):
        command(*common, "--category-edges", 2)
    with pytest.raises(ValueError, match="--memory needs --stream"):
        command(*common[:-1], "--memory", "1G")
    with pytest.raises(ValueError, match=r"--stream needs a \.parquet file"):
        command("build", "--data", tmp_path / "log.csv", "--out", out, "--stream")
    with pytest.raises(SystemExit):
        command(*common, "--memory", "much")


def test_bad_input(command, log_file, tmp_path, capsys):
    out = tmp_path / "g.npz"
    with pytest.raises(FileNotFoundError, match="--out: folder"):
        command("build", "--data", log_file, "--out", tmp_path / "no" / "g.npz")
    with pytest.raises(ValueError, match="is a folder"):
        command("build", "--data", log_file, "--out", tmp_path)
    with pytest.raises(ValueError, match="window is 0"):
        command("build", "--data", log_file, "--out", out, "--window", 0)
    assert not out.exists()
    with pytest.raises(SystemExit) as status:
        command("build", "--data", log_file, "--out", out, "--top-k", "many")
    assert status.value.code == 2 and "expected a whole number" in capsys.readouterr().err
    command("build", "--data", log_file, "--out", out)
    with pytest.raises(IndexError, match=r"ITEM is 32, expected a row in \[0, 32\)"):
        command("neighbors", out, 32)
    with pytest.raises(ValueError, match="ITEM is 'i7', expected a row number; give --data"):
        command("neighbors", out, "i7")
    with pytest.raises(ValueError, match="the log has no item 'nobody'"):
        command("neighbors", out, "nobody", "--data", log_file)
    frame(40).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="expected the log that the graph was built from"):
        command("neighbors", out, "i7", "--data", tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="not a readable interest graph"):
        command("stats", log_file)
