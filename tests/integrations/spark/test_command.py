"""``resemb graph build --engine spark``, the session that it starts, and the page."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.testing.graphs import same_arrays
from tests.docs.pages import DOCS, ROOT, run_page
from tests.integrations.conftest import framework

framework("pyspark", __file__)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Text ids, dates, labels and sessions."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 40, 4_000),
            "item_id": np.char.add("i", np.minimum(rng.zipf(1.4, 4_000), 90).astype(str)),
            "timestamp": pd.to_datetime(rng.integers(10**9, 10**9 + 10**5, 4_000), unit="s").as_unit("us"),
            "click": rng.random(4_000) < 0.7,
            "session_id": rng.integers(0, 5, 4_000),
        }
    )
    frame.to_parquet("log.parquet")
    return frame


def build(*arguments):
    return main(["graph", "build", "--data", "log.parquet", *arguments])


def test_the_graph_is_that_of_the_other_engine(spark, log, tmp_path, capsys):
    options = ("--window", "4", "--top-k", "7", "--max-gap", "9000", "--session-gap", "5000", "--decay", "inverse")
    assert build(*options, "--out", "native.npz") == 0
    assert build(*options, "--out", "spark.npz", "--engine", "spark", "--parts", "2") == 0
    native, ours = (rx.InterestGraph.load(f"{name}.npz") for name in ("native", "spark"))
    assert same_arrays(native, ours) and native.hash == ours.hash and native.num_edges > 200
    assert ours.meta["ids"]["items"] == native.meta["ids"]["items"] and ours.meta["sessions"]
    report = json.loads((tmp_path / "spark.npz.json").read_text())
    assert report["hash"] == ours.hash and report["stats"]["events"] == int(log["click"].sum())
    assert {file.name for file in tmp_path.iterdir()} == {
        "log.parquet",
        *(f"{n}.npz{s}" for n in ("native", "spark") for s in ("", ".json")),
    }


def test_rows_alone(spark, log, tmp_path, capsys):
    before = "1000050000"
    assert build("--engine", "spark", "--rows", "rows", "--before", before, "--session-column", "-") == 0
    out = capsys.readouterr().out
    assert out.startswith("rows: ") and "parts                    64" in out
    assert build("--stream", "--before", before, "--session-column", "-", "--out", "native.npz") == 0
    assert rx.InterestGraph.from_rows("rows").hash == rx.InterestGraph.load("native.npz").hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "rows"), "--rows needs --engine spark"),
        (("--engine", "spark"), "--out is missing, expected the file to write (or --rows, a folder)"),
        ((), "--out is missing, expected the file to write"),
        (("--engine", "spark", "--out", "g", "--keep-counts"), "--keep-counts is not offered by --engine spark"),
        (("--engine", "spark", "--out", "g", "--category-edges", "2"), "--category-edges is not offered by --engine spark"),
        (("--engine", "spark", "--out", "g", "--stream"), "--stream is not offered by --engine spark; leave out one of them"),
        (("--engine", "spark", "--out", "g", "--split", "time"), "--split needs the whole log; with --engine spark"),
        (("--engine", "spark", "--out", "g", "--spark-conf", "x"), "--spark-conf is 'x', expected KEY=VALUE"),
        (("--engine", "spark", "--out", "g", "--threads", "1", "--master", "yarn"), "--threads and --master are both given"),
        (("--engine", "spark", "--rows", "log.parquet"), "out is there already, expected a new folder"),
        (("--engine", "spark", "--out", "g", "--item-column", "sku"), "'sku'"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(spark, log, tmp_path, capsys, arguments, message):
    assert build(*arguments) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and message in said.err and not said.out
    assert [file.name for file in tmp_path.iterdir()] == ["log.parquet"]


def test_a_process_of_its_own(log, tmp_path):
    """An embedded Spark starts, says nothing, and leaves nothing behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    options = [
        "--engine",
        "spark",
        "--threads",
        "2",
        "--memory",
        "700M",
        "--parts",
        "2",
        "--spark-conf",
        "spark.sql.shuffle.partitions=2",
    ]
    command = [
        sys.executable,
        "-m",
        "resemb_ext",
        "graph",
        "build",
        "--data",
        "log.parquet",
        "--out",
        "graph.npz",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    said = [
        line for line in done.stderr.splitlines() if line != "WARNING: Using incubator modules: jdk.incubator.vector"
    ]
    assert not said and done.stdout.startswith("graph.npz: ")  # that line is Java's
    assert {file.name for file in tmp_path.iterdir()} == {"log.parquet", "graph.npz", "graph.npz.json", "scratch"}
    assert not list(scratch.glob("resemb-spark-*"))
    env = {**env, "JAVA_HOME": str(scratch)}
    done = subprocess.run([*command[:-11], "again.npz", "--engine", "spark"], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"Spark needs Java 17 or later, found none in JAVA_HOME, {scratch}" in done.stderr


def test_page(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log, _ = rx.data.simulate(users=60, items=200, domains=4, seed=0)
    events = {"user_id": log.user, "item_id": log.item, "timestamp": log.time}
    pd.DataFrame(events).to_parquet("events.parquet")
    left = run_page(DOCS / "integrations" / "spark.md", {"frame": spark.read.parquet(str(tmp_path / "events.parquet"))})
    assert left["graph"].num_items > 100
