"""Builds in a work folder: the graph of arrays, whatever is killed, and one clear error for what cannot go on."""

import argparse
import json
import os
import random
import shutil
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.cli import graph_build as cli
from resemb_ext.data import IdMap, read_log
from resemb_ext.graph import resumed
from resemb_ext.runtime.files import locked
from resemb_ext.testing.strategies import examples
from tests import processes


def events(n=20_000, items=700, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": rng.integers(-200, 200, n),
            "item_id": np.minimum(rng.zipf(1.3, n), items - 1),
            "timestamp": rng.integers(0, n // 2 + 1, n),
        }
    )


def of_arrays(frame, **options):
    return InterestGraph.from_events(*(frame[c].to_numpy() for c in frame.columns[:3]), **options)


def write(path, frame, rows=1_500):
    pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=rows)
    return path


@pytest.fixture
def small_steps(monkeypatch):
    """So many of them that even a small build is saved often."""
    monkeypatch.setattr(resumed, "_EVENT_BYTES", 40_000)
    monkeypatch.setattr(resumed, "_POSITION_BYTES", 9_000)
    monkeypatch.setattr(resumed, "_SORTED_EVENTS", 2_000)


OPTIONS = (
    {},
    {"weighting": "cosine", "decay": 0.5, "window": 6, "top_k": None},
    {"weighting": "ppmi", "max_gap": 30, "directed": True},
    {"weighting": "jaccard", "session_gap": 40, "damping": 0.2, "min_count": 2, "max_gap": 100},
    {"category": np.arange(700) % 9, "category_edges": 2, "category_weight": 0.5},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("memory", [10**9, 150_000, 30_000])
def test_equals_arrays(tmp_path, small_steps, options, memory):
    frame = events()
    paths = [write(tmp_path / "a.parquet", frame[:9_000]), write(tmp_path / "b.parquet", frame[9_000:])]
    common = {"padding_idx": 0, "num_items": 700, **options}
    work, out = tmp_path / "work", tmp_path / "graph.npz"
    graph = InterestGraph.from_parquet(paths, memory=memory, work_dir=work, save=out, batch_rows=777, **common)
    same = of_arrays(frame, **common)
    assert graph.hash == same.hash and graph.meta == same.meta
    assert InterestGraph.load(out).hash == same.hash
    assert not work.exists()


class Killed(BaseException):
    """As a kill: nothing may run after it but what holds files open."""


def killed_at(place, monkeypatch):
    """Ends the build at the place-th step, before it is saved."""
    steps = 0
    save = resumed.Work.save

    def counted(self, **state):
        nonlocal steps
        steps += 1
        if steps == place:
            raise Killed
        save(self, **state)

    monkeypatch.setattr(resumed.Work, "save", counted)


@examples(12)
@given(data=st.data())
def test_goes_on_from_every_step(tmp_path_factory, data):
    frame = events(data.draw(st.integers(1, 1_200)), 60, data.draw(st.integers(0, 3)))
    folder = tmp_path_factory.mktemp("steps")
    path = write(folder / "log.parquet", frame, data.draw(st.integers(50, 900)))
    options = data.draw(st.sampled_from(OPTIONS[:4]))
    memory = data.draw(st.sampled_from([1, 2_000, 10**9]))
    rows = data.draw(st.integers(40, 500))
    built = None
    with pytest.MonkeyPatch.context() as small:
        small.setattr(resumed, "_EVENT_BYTES", data.draw(st.integers(100, 10_000)))
        small.setattr(resumed, "_POSITION_BYTES", data.draw(st.integers(40, 3_000)))
        small.setattr(resumed, "_SORTED_EVENTS", data.draw(st.integers(1, 900)))
        while built is None:
            with pytest.MonkeyPatch.context() as patch:
                killed_at(data.draw(st.integers(2, 30)), patch)
                try:
                    built = InterestGraph.from_parquet(
                        path, memory=memory, work_dir=folder / "work", batch_rows=rows, threads=2, **options
                    )
                except Killed:
                    assert (folder / "work" / "manifest.json").exists()
    same = of_arrays(frame, **options)
    assert built.hash == same.hash and built.meta == same.meta
    assert not (folder / "work").exists()


def stopped(path, work, monkeypatch, place=6, **options):
    with monkeypatch.context() as patch:
        killed_at(place, patch)
        with pytest.raises(Killed):
            InterestGraph.from_parquet(path, work_dir=work, memory=50_000, batch_rows=500, **options)


def test_other_arguments_or_input_are_refused_until_restart(tmp_path, small_steps, monkeypatch):
    frame = events(8_000)
    path, work = write(tmp_path / "log.parquet", frame), tmp_path / "work"
    stopped(path, work, monkeypatch, window=4)
    kept = sorted(os.listdir(work))
    build = {"work_dir": work, "batch_rows": 500}
    with pytest.raises(ValueError, match=r"work of another build: window is 4 there, 3 here; .*restart"):
        InterestGraph.from_parquet(path, **build)
    with pytest.raises(ValueError, match=r"items is None there"):
        InterestGraph.from_parquet(path, items=IdMap.fit(frame["item_id"]), window=4, **build)
    other = write(tmp_path / "other.parquet", frame)
    with pytest.raises(ValueError, match=r"files\[0\]\.path is"):
        InterestGraph.from_parquet(other, window=4, **build)
    changed = frame.copy()
    changed.loc[0, "item_id"] = 1 + frame.loc[0, "item_id"] % 5
    write(path, changed)
    with pytest.raises(ValueError, match=r"files\[0\]\.\w+ is"):
        InterestGraph.from_parquet(path, window=4, **build)
    assert sorted(os.listdir(work)) == kept
    graph = InterestGraph.from_parquet(path, window=4, restart=True, **build)
    assert graph.hash == of_arrays(changed, window=4).hash and not work.exists()


@pytest.mark.parametrize("place", [3, 10, 16, 19])
def test_damaged_work_is_never_a_graph(tmp_path, small_steps, monkeypatch, place):
    frame = events(8_000)
    path, work = write(tmp_path / "log.parquet", frame), tmp_path / "work"
    stopped(path, work, monkeypatch, place)
    for name in sorted(os.listdir(work)):
        if name == "manifest.json":
            continue
        copy = tmp_path / f"copy-{name}"
        shutil.copytree(work, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 3] ^= 1
        (copy / name).write_bytes(content)
        try:
            graph = InterestGraph.from_parquet(path, work_dir=copy, batch_rows=500)
        except ValueError as error:
            assert f"{copy / name} is not what the build wrote" in str(error)
            assert not copy.exists()
        else:  # a part that had not been saved
            assert graph.hash == of_arrays(frame).hash


def test_folders_that_are_not_its_own_are_left_alone(tmp_path):
    path = write(tmp_path / "log.parquet", events(300))
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match=r"work_dir: .* holds thesis\.tex, expected an empty folder"):
        InterestGraph.from_parquet(path, work_dir=work, restart=True)
    assert os.listdir(work) == ["thesis.tex"]
    (work / ".manifest.json.abcdefgh.resemb-tmp").mkdir()  # of a build that was killed at its start
    (work / "thesis.tex").unlink()
    InterestGraph.from_parquet(path, work_dir=work)
    assert os.listdir(work) == []  # it was there before
    (work / "manifest.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(ValueError, match="not of a build that this release can go on with"):
        InterestGraph.from_parquet(path, work_dir=work)
    with pytest.raises(NotADirectoryError, match="is a file, expected a folder"):
        InterestGraph.from_parquet(path, work_dir=path)
    with pytest.raises(FileNotFoundError, match=r"work_dir: folder .* does not exist"):
        InterestGraph.from_parquet(path, work_dir=tmp_path / "no" / "where")


class Numbers:
    size = 9

    def encode(self, ids, *, name="id"):
        return np.asarray(ids), 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"restart": True}, ValueError, "restart needs work_dir"),
        ({"save": "graph.npz"}, ValueError, "save needs work_dir"),
        ({"work_dir": "w", "spill_dir": "."}, ValueError, "spill_dir and work_dir are both given"),
        ({"work_dir": "w", "keep_counts": True}, ValueError, "keep_counts keeps all pairs in memory"),
        ({"work_dir": "w", "items": Numbers()}, TypeError, "items is a Numbers; with work_dir, expected a map"),
        ({"work_dir": "w", "num_items": 5}, IndexError, "expected an id in"),
    ],
)
def test_bad_arguments_leave_nothing(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "log.parquet", events(300))
    with pytest.raises(error, match=message):
        InterestGraph.from_parquet("log.parquet", **options)
    assert os.listdir(tmp_path) == ["log.parquet"]


@pytest.mark.parametrize("folder", ["work_dir", "spill_dir"])
def test_a_folder_without_room_is_refused_before_reading(tmp_path, monkeypatch, folder):
    path, given = write(tmp_path / "log.parquet", events(3_000)), tmp_path / "full"
    given.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 40_000))
    with pytest.raises(OSError, match=rf"{folder}: 3,000 events need 0.0 GB, and .*full has 0.0 GB free"):
        InterestGraph.from_parquet(path, memory=1_000, **{folder: given})
    assert os.listdir(given) == []
    assert InterestGraph.from_parquet(path, spill_dir=given, memory=10**9).num_edges  # nothing is spilled


def build_in_small_steps(path, work, out, ready):
    """In a process of its own."""
    resumed._EVENT_BYTES, resumed._POSITION_BYTES, resumed._SORTED_EVENTS = 300_000, 60_000, 20_000
    ready.touch()
    InterestGraph.from_parquet(path, work_dir=work, save=out, window=40, batch_rows=5_000, memory=2_000_000)


@pytest.mark.full
def test_killed_at_random_moments(tmp_path):
    frame = events(150_000, 3_000)
    path, work, out = write(tmp_path / "log.parquet", frame, 20_000), tmp_path / "work", tmp_path / "graph.npz"
    moment, ready = random.Random(0), tmp_path / "ready"
    for _ in range(6):
        ready.unlink(missing_ok=True)
        child = processes.begin(build_in_small_steps, path, work, out, ready)
        try:
            while not ready.exists():
                assert child.is_alive()
                time.sleep(0.002)
            child.join(moment.uniform(0, 0.6))
        finally:
            child.kill()
            child.join()
        if out.exists():  # it is whole, at whatever moment the kill came
            assert InterestGraph.load(out).hash == of_arrays(frame, window=40).hash
            break
    last = processes.begin(build_in_small_steps, path, work, out, ready)
    last.join()
    assert last.exitcode == 0
    assert InterestGraph.load(out).hash == of_arrays(frame, window=40).hash
    assert not work.exists()


def test_two_processes_do_not_share_a_folder(tmp_path):
    path = write(tmp_path / "log.parquet", events(300))
    work = tmp_path / "work"
    work.mkdir()
    with locked(work), pytest.raises(ValueError, match=f"work_dir: another process is working in {work}"):
        InterestGraph.from_parquet(path, work_dir=work)


def build(*arguments):
    """``resemb graph build``."""
    parser = argparse.ArgumentParser()
    cli.add_build(parser.add_subparsers())
    args = parser.parse_args(["build", *map(str, arguments)])
    return args.run(args)


@pytest.mark.parametrize("ids", ["dense", "apart", "text"])
def test_command_line(tmp_path, small_steps, monkeypatch, ids):
    frame = events(6_000, 300).assign(user_id=lambda table: table["user_id"] % 50)
    if ids != "dense":
        frame["item_id"] = frame["item_id"] * 10**9 if ids == "apart" else "i" + frame["item_id"].astype(str)
    path, out, work = write(tmp_path / "log.parquet", frame), tmp_path / "graph.npz", tmp_path / "work"
    stream = ("--data", path, "--out", out, "--stream")
    assert build(*stream, "--spill-dir", tmp_path, "--memory", "1M") == 0
    whole = InterestGraph.load(out)
    assert whole.hash == InterestGraph.from_log(read_log(path)).hash
    out.unlink()
    with monkeypatch.context() as patch:
        killed_at(4, patch)
        with pytest.raises(Killed):
            build(*stream, "--work-dir", work)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"window is 3 there, 2 here"):
        build(*stream, "--work-dir", work, "--window", 2)
    assert build(*stream, "--work-dir", work) == 0
    assert InterestGraph.load(out).hash == whole.hash and InterestGraph.load(out).meta == whole.meta
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph.npz", "graph.npz.json", "log.parquet"]


def test_options_of_streams_need_a_stream(tmp_path):
    path, out = write(tmp_path / "log.parquet", events(300)), tmp_path / "graph.npz"
    for option in (("--work-dir", tmp_path / "w"), ("--spill-dir", tmp_path), ("--restart",)):
        with pytest.raises(ValueError, match=rf"{option[0]} needs --stream"):
            build("--data", path, "--out", out, *option)
    with pytest.raises(ValueError, match="--restart needs --work-dir"):
        build("--data", path, "--out", out, "--stream", "--restart")
    assert not out.exists()
