"""Graphs of logs: ``InterestGraph.from_log`` and ``resemb graph``."""

import argparse
import decimal
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
        log.user, log.item, log.time, num_items=log.num_items, window=2, weighting="cosine", padding_idx=0
    )
    assert graph.hash == same.hash and graph.num_items == 32
    assert graph.meta["event_hash"] == log.content_hash
    assert graph.meta["time_cut"] == 399 and graph.meta["events"] == 400


def test_only_clicks_of_a_labelled_log_count():
    table = frame(label=True)
    log = read_log(table)
    clicked = log.label == 1
    graph = rx.InterestGraph.from_log(log)
    same = rx.InterestGraph.from_events(
        log.user[clicked], log.item[clicked], log.time[clicked], num_items=log.num_items, padding_idx=0
    )
    assert graph.hash == same.hash and graph.meta["events"] == clicked.sum() < 400
    assert graph.hash != rx.InterestGraph.from_log(read_log(table, label=False)).hash


def sessions_frame():
    """Sessions of one user that interleave, ids that users share, and one session of all pairs."""
    return pd.DataFrame(
        {
            "user_id": [1, 1, 1, 1, 1, 1, 2, 2, 2],
            "session_id": [7, 8, 7, 8, 7, 9, 7, 7, 8],
            "item_id": ["a", "b", "c", "d", "a", "c", "a", "d", "b"],
            "timestamp": range(9),
        }
    )


def pairs_of(log, graph):
    names = ["-", *log.items.values, "?"]
    row = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
    found = zip(row, graph.neighbors, graph.weights, strict=True)
    return {(names[i], names[j]): w for i, j, w in found if i < j}


def test_pairs_stay_within_sessions():
    log = read_log(sessions_frame())
    graph = rx.InterestGraph.from_log(log, window=1)
    # User 1: a c a and b d and c; user 2: a d and b. Distances are those within the session.
    assert pairs_of(log, graph) == {("a", "c"): 2, ("b", "d"): 1, ("a", "d"): 1}
    assert graph.meta["sessions"] is True and graph.meta["event_hash"] == log.content_hash
    plain = read_log(sessions_frame(), session=False)
    across = rx.InterestGraph.from_log(log, window=1, sessions=False)
    assert across.hash == rx.InterestGraph.from_log(plain, window=1).hash != graph.hash
    assert ("b", "c") in pairs_of(log, across) and across.meta["sessions"] is False
    assert plain.content_hash != log.content_hash
    with pytest.raises(TypeError, match="sessions is 1, expected True or False"):
        rx.InterestGraph.from_log(log, sessions=1)


def test_sessions_by_a_gap_are_those_of_session_gap():
    table = frame()
    by_log = rx.InterestGraph.from_log(read_log(table, session_gap=25))
    assert by_log.hash == rx.InterestGraph.from_log(read_log(table), session_gap=25).hash
    assert by_log.hash != rx.InterestGraph.from_log(read_log(table)).hash
    clicked = frame(label=True)
    log = read_log(clicked, session_gap=25)
    use = log.label == 1
    same = rx.InterestGraph.from_events(
        log.session[use], log.item[use], log.time[use], num_items=log.num_items, padding_idx=0
    )
    assert rx.InterestGraph.from_log(log).hash == same.hash


def test_update_within_sessions_takes_numbered_sessions():
    log = read_log(frame(), session_gap=25)
    old, new = log.time < 300, log.time >= 300
    part = log.subset(old)
    graph = rx.InterestGraph.from_log(part, keep_counts=True)
    with pytest.raises(ValueError, match=r"every log numbers from 0; give \(session, item, time\)"):
        graph.update(log.subset(new))
    updated = graph.update((log.session[new], log.item[new], log.time[new]))
    assert updated.hash == rx.InterestGraph.from_log(log).hash and updated.meta["sessions"]


def test_sessions_on_the_command_line(command, tmp_path):
    path, out = tmp_path / "log.parquet", tmp_path / "g.npz"
    rng = np.random.default_rng(1)
    frame().assign(session_id=rng.integers(0, 3, 400)).to_parquet(path)
    log = read_log(path)
    assert command("build", "--data", path, "--out", out) == 0
    within = rx.InterestGraph.load(out)
    assert within.hash == rx.InterestGraph.from_log(log).hash and within.meta["sessions"]
    assert command("build", "--data", path, "--out", out, "--session-column", "-") == 0
    across = rx.InterestGraph.load(out)
    assert across.hash == rx.InterestGraph.from_log(log, sessions=False).hash != within.hash
    assert across.meta["event_hash"] != within.meta["event_hash"]
    stream = ("build", "--data", path, "--out", out, "--stream")
    with pytest.raises(ValueError, match="has the session column 'session_id'; leave out --stream"):
        command(*stream)
    assert command(*stream, "--session-column", "-") == 0
    assert rx.InterestGraph.load(out).hash == across.hash
    assert command(*stream, "--user-column", "session_id") == 0
    assert rx.InterestGraph.load(out).meta["events"] == 400


def test_training_keeps_the_sessions_of_the_log(command, tmp_path):
    from resemb_ext.train import RunConfig
    from resemb_ext.train.prepare import prepare

    path, out = tmp_path / "log.parquet", tmp_path / "g.npz"
    frame().assign(session_id=np.arange(400) % 3).to_parquet(path)
    options = {"data": str(path), "embedding": "res", "eval_negatives": 2}
    built = prepare(RunConfig(**options))
    assert built.graph.meta["sessions"] and built.clean_graph
    across = prepare(RunConfig(**options, session_column="-"))
    assert across.graph.hash != built.graph.hash and not across.graph.meta["sessions"]
    common = ("build", "--data", path, "--out", out, "--split", "leave-last-out")
    command(*common)
    assert prepare(RunConfig(**options, graph=str(out))).graph.hash == built.graph.hash
    command(*common, "--session-column", "-")
    with pytest.raises(ValueError, match="was built from other events"):
        prepare(RunConfig(**options, graph=str(out)))


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
    assert (
        graph.hash
        == rx.InterestGraph.from_log(log, window=2, top_k=4, weighting="cosine", self_weight=0.5, min_count=2).hash
    )
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
    command("build", "--data", log_file, "--out", out, "--top-k", "all", "--directed", "--threads", 2)
    log = read_log(log_file)
    expected = rx.InterestGraph.from_log(log, top_k=None, directed=True)
    assert rx.InterestGraph.load(out).hash == expected.hash


def test_every_option_and_category_edges(command, tmp_path, capsys):
    table = frame()
    table["category"] = table["item_id"].str[-1]
    table.to_parquet(tmp_path / "log.parquet")
    out = tmp_path / "g.npz"
    options = {
        "max_gap": 90.0,
        "session_gap": 60.5,
        "decay": 0.5,
        "weighting": "ppmi",
        "damping": 0.25,
        "category_edges": 2,
        "category_weight": 0.5,
        "keep_counts": True,
    }
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
def test_stream_equals_whole(command, tmp_path, text_users, capsys):
    table = frame(3_000)
    if text_users:
        table["user_id"] = "u" + table["user_id"].astype(str)
    table.to_parquet(tmp_path / "log.parquet")
    out = tmp_path / "g.npz"
    common = ("build", "--data", tmp_path / "log.parquet", "--out", out, "--stream")
    assert command(*common, "--memory", "1M", "--decay", "inverse") == 0
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
    for size, words in (
        ("4", "'4' is 4 bytes, expected at least 1M; write 4G for 4 gigabytes"),
        ("20K", "'20K' is 20,480 bytes, expected at least 1M\n"),
        ("1023KiB", "expected at least 1M\n"),
        ("9B", "'9B' is 9 bytes, expected at least 1M\n"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            command(*common, "--memory", size)
        assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match="leave it out with --stream"):
        command(*common, "--category-column", "item_id")


def test_stream_takes_users_beyond_int64(command, tmp_path):
    table = frame()
    table["user_id"] = table["user_id"].astype("uint64") + np.uint64(2**63 - 10)
    table.to_parquet(tmp_path / "log.parquet")
    out = tmp_path / "g.npz"
    assert command("build", "--data", tmp_path / "log.parquet", "--out", out, "--stream") == 0
    assert rx.InterestGraph.load(out).hash == rx.InterestGraph.from_log(read_log(tmp_path / "log.parquet")).hash


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("timestamp", str, "column 'timestamp' is .*string; --stream needs times as numbers or dates: store them so"),
        ("timestamp", decimal.Decimal, "column 'timestamp' is decimal.*; --stream needs times"),
        ("label", str, "column 'label' is .*string; --stream needs labels as 0/1 .* or --label-column -"),
        ("label", lambda label: label + 4, "label is [45], expected 0 or 1; --label-column - leaves the column out"),
    ],
)
def test_stream_says_what_it_cannot_take(command, tmp_path, column, change, words):
    table = frame(label=True)
    table[column] = table[column].map(lambda value: change(int(value)))
    table.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=words):
        command("build", "--data", tmp_path / "log.parquet", "--out", tmp_path / "g.npz", "--stream")


def test_stream_cuts_at_exact_times(command, tmp_path):
    table = frame()
    table["timestamp"] += 2**60
    table.to_parquet(tmp_path / "log.parquet")
    out = tmp_path / "g.npz"
    cut = 2**60 + 201
    assert command("build", "--data", tmp_path / "log.parquet", "--out", out, "--stream", "--before", cut) == 0
    assert rx.InterestGraph.load(out).meta["events"] == 201


def test_stream_takes_seconds_where_times_are_dates(command, tmp_path):
    """As ``read_log`` does, which makes Unix seconds of dates."""
    table = frame(3_000)
    table["timestamp"] = pd.to_datetime(table["timestamp"] + 1_500_000_000, unit="s")
    table["label"] = 1
    table.to_parquet(tmp_path / "log.parquet")
    out = tmp_path / "g.npz"
    common = ("build", "--data", tmp_path / "log.parquet", "--out", out)
    options = {"max_gap": 90.0, "session_gap": 60.5}
    flags = [text for name, v in options.items() for text in (f"--{name.replace('_', '-')}", v)]
    log = read_log(tmp_path / "log.parquet")
    whole = rx.InterestGraph.from_log(log, **options)
    assert whole.hash != rx.InterestGraph.from_log(log).hash
    for stream in ((), ("--stream",)):
        assert command(*common, *stream, *flags) == 0
        assert rx.InterestGraph.load(out).hash == whole.hash
    assert command(*common, "--stream", "--before", 1_500_001_000) == 0
    part = log.subset(log.time < 1_500_001_000)
    assert 0 < len(part) < len(log)
    assert rx.InterestGraph.load(out).hash == rx.InterestGraph.from_log(part).hash
    with pytest.raises(ValueError, match="--before: found nan, expected seconds"):
        command(*common, "--stream", "--before", "nan")


def test_category_edges_of_a_named_column(command, log_file, tmp_path):
    out = tmp_path / "g.npz"
    table = pd.read_parquet(log_file)
    table["kind"] = table["item_id"].str[-1]
    table.to_parquet(tmp_path / "kinds.parquet")
    build = ("build", "--data", tmp_path / "kinds.parquet", "--out", out, "--category-edges", 2)
    assert command(*build, "--category-column", "kind") == 0
    log = read_log(tmp_path / "kinds.parquet", category="kind")
    assert rx.InterestGraph.load(out).hash == rx.InterestGraph.from_log(log, category_edges=2).hash
    with pytest.raises(ValueError, match="the log has no category column; name one"):
        command(*build)
    with pytest.raises(ValueError, match="--category-weight needs --category-edges"):
        command(*build[:-2], "--category-weight", 2)


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
