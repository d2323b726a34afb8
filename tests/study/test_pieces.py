"""Pieces: written whole, skipped when done, refused when they differ; with what they need, side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from resemb_ext.cli import main
from resemb_ext.study import studies
from resemb_ext.study.harness.pieces import Context, Piece, Source, run_pieces, simulated_source
from resemb_ext.study.harness.report import Page
from resemb_ext.study.harness.results import load_results
from tests.processes import ended

TINY = simulated_source("tiny", users=200, items=200, domains=4, seed=0)


def _pieces(calls: list[str], value: float = 1.0, fail: str = "") -> list[Piece]:
    def work(key: str) -> dict[str, float]:
        if key == fail:
            raise RuntimeError("stopped")
        calls.append(key)
        return {"value": value, "nan": float("nan")}

    return [Piece(k, lambda k=k: work(k), {"x": 1}, [0], TINY) for k in ("a", "b")]


def test_stopped_study_goes_on_where_it_stood(tmp_path: Path) -> None:
    calls: list[str] = []
    options = {"protocol": {"version": 1}, "quick": True, "progress": False}
    with pytest.raises(RuntimeError):
        run_pieces("s", _pieces(calls, fail="b"), tmp_path, **options)
    assert load_results(tmp_path, "s").missing == ["b"]
    run_pieces("s", _pieces(calls), tmp_path, **options)
    assert calls == ["a", "b"]
    results = load_results(tmp_path, "s")
    kept = results.pieces["a"]
    assert kept["data"] == TINY.log.content_hash and kept["seeds"] == [0]
    assert kept["config"] == {"x": 1} and kept["result"] == {"value": 1.0, "nan": None}
    assert not results.missing
    with pytest.raises(ValueError, match="another protocol"):
        run_pieces("s", _pieces(calls), tmp_path, **{**options, "protocol": {"version": 2}})


def test_two_pieces_of_one_key_are_refused(tmp_path: Path) -> None:
    pieces = _pieces([]) + _pieces([])
    with pytest.raises(ValueError, match="different keys"):
        run_pieces("s", pieces, tmp_path, protocol={}, quick=True, progress=False)


def test_settings_reach_the_logs_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}

    def pieces(sources: list[Source], *, quick: bool) -> list[Piece]:
        found.update({source.name: source.setting for source in sources})
        return []

    study = replace(studies.STUDIES["compare"], pieces=pieces, page=lambda results: Page([], [], []))
    monkeypatch.setitem(studies.STUDIES, "compare", study)
    studies.run_study("compare", tmp_path / "a", settings={"simulated": "time-sample"}, quick=True, progress=False)
    assert found == {"simulated": "time-sample", "simulated-null": ""}
    found.clear()
    logs = [tmp_path / name for name in ("one.csv", "two.csv")]
    for log in logs:
        log.write_text("user_id,item_id,timestamp\n1,2,3\n")
    studies.run_study("compare", tmp_path / "b", data=logs, settings={"two": "time-sample"}, progress=False)
    assert found == {"one": "", "two": "time-sample"}


def test_command_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    for command, message in (
        (["study", "report", *out], "holds no study"),
        (["study", "delay", *out, "--data", "none.parquet"], "no file none.parquet"),
        (["study", "delay", *out, "--into", "x"], "report only"),
        (["study", "report", *out, "--quick"], "leave out"),
        (["study", "report", *out, "--jobs", "2"], "leave out --jobs"),
        (["study", "report", *out, "--only", "a"], "leave out --jobs and --only"),
        (["study", "compare", *out, "--jobs", "0"], "--jobs must be at least 1, found 0"),
        (["study", "all", *out, "--only", "a"], "name the study"),
        (["study", "report", *out, "--setting", "a=time-sample"], "leave out --data, --setting"),
        (["study", "delay", *out, "--setting", "a=time-sample"], "'time-sample' of a; study delay has none"),
        (["study", "compare", *out, "--setting", "a=other"], "'other' of a; study compare knows leave-last-out, time"),
        (
            ["study", "compare", *out, "--setting", "a=time-sample"],
            "no log is named a; found simulated, simulated-null",
        ),
        (["study", "untuned", *out, "--setting", "a=other"], "'other' of a; study untuned knows leave-last-out, dense"),
        (["study", "all", *out, "--setting", "a=other"], "no study knows 'other', given for a"),
        (["study", "compare", *out, "--setting", "time-sample"], "must be LOG=NAME, found 'time-sample'"),
        (["study", "compare", *out, "--setting", "a=b", "--setting", "a=c"], "a is given more than once"),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err


def _chain(folder: Path, log: list[str], fail: str = "") -> list[Piece]:
    """b and c need a, which writes a file; d needs nothing. Work is noted in a file, so that
    it is seen from other processes too."""

    def note(key: str) -> None:
        with open(folder / "notes", "a") as file:
            file.write(f"{key} {os.getpid()}\n")
        if key == fail:
            raise ValueError(f"{key} cannot be done")

    def first(context: Context) -> dict[str, float]:
        note("a")
        (context.folder / "a.txt").write_text("of a")
        return {"value": 2.0, "some_seconds": len(log) + os.getpid() + time.perf_counter()}

    def second(key: str, context: Context) -> dict[str, float]:
        assert (context.folder / "a.txt").read_text() == "of a"
        note(key)
        return {"value": context.results["a"]["value"] + 1}

    def last() -> dict[str, float]:
        note("d")
        return {"value": 0.0}

    return [
        Piece("b", partial(second, "b"), {}, [0], needs=["a"]),
        Piece("a", first, {}, [0], files=["a.txt"]),
        Piece("c", partial(second, "c"), {}, [0], needs=["a"]),
        Piece("d", last, {}, [0]),
    ]


def _notes(folder: Path) -> list[str]:
    file = folder / "notes"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


OPTIONS = {"protocol": {"version": 1}, "quick": True, "progress": False}


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_pieces_wait_for_what_they_need(tmp_path: Path, jobs: int) -> None:
    run_pieces("s", _chain(tmp_path, []), tmp_path, jobs=jobs, **OPTIONS)
    notes = _notes(tmp_path)
    assert sorted(notes) == ["a", "b", "c", "d"]
    assert notes.index("a") < notes.index("b") and notes.index("a") < notes.index("c")
    assert load_results(tmp_path, "s").pieces["b"]["result"] == {"value": 3.0}
    pids = {line.split()[1] for line in (tmp_path / "notes").read_text().splitlines()}
    assert (str(os.getpid()) in pids) == (jobs == 1)
    run_pieces("s", _chain(tmp_path, []), tmp_path, jobs=jobs, **OPTIONS)
    assert len(_notes(tmp_path)) == 4


def test_only_takes_what_is_named_and_needed(tmp_path: Path) -> None:
    run_pieces("s", _chain(tmp_path, []), tmp_path, only="[b]*", **OPTIONS)
    assert _notes(tmp_path) == ["a", "b"]
    assert load_results(tmp_path, "s").missing == ["c", "d"]
    with pytest.raises(ValueError, match="no piece of s is named like 'x\\*', say b"):
        run_pieces("s", _chain(tmp_path, []), tmp_path, only="x*", **OPTIONS)


def test_lost_file_is_made_again_only_where_it_is_needed(tmp_path: Path) -> None:
    run_pieces("s", _chain(tmp_path, []), tmp_path, **OPTIONS)
    (tmp_path / "s" / "a.txt").unlink()
    kept = (tmp_path / "s" / "a.json").read_bytes()
    run_pieces("s", _chain(tmp_path, []), tmp_path, **OPTIONS)
    assert len(_notes(tmp_path)) == 4  # nobody needs it
    (tmp_path / "s" / "c.json").unlink()
    run_pieces("s", _chain(tmp_path, []), tmp_path, **OPTIONS)
    assert _notes(tmp_path)[4:] == ["a", "c"]
    assert (tmp_path / "s" / "a.json").read_bytes() == kept  # the same but for its seconds


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_made_from_another_result_are_made_again(
    tmp_path: Path, jobs: int, capfd: pytest.CaptureFixture[str]
) -> None:
    run_pieces("s", _chain(tmp_path, []), tmp_path, **OPTIONS)
    kept = json.loads((tmp_path / "s" / "a.json").read_text())
    kept["result"]["value"] = 5.0
    (tmp_path / "s" / "a.json").write_text(json.dumps(kept))
    (tmp_path / "s" / "d.json").unlink()
    run_pieces("s", _chain(tmp_path, []), tmp_path, **OPTIONS, jobs=jobs, only="d")
    assert _notes(tmp_path)[4:] == ["d"]  # of what is not asked for nothing is done
    run_pieces("s", _chain(tmp_path, []), tmp_path, **OPTIONS | {"progress": None}, jobs=jobs)
    assert sorted(_notes(tmp_path)[5:]) == ["b", "c"]
    assert "b was made from another result" in capfd.readouterr().err
    results = load_results(tmp_path, "s")
    assert results.pieces["b"]["result"] == {"value": 6.0}
    assert [results.earlier[key]["result"] for key in sorted(results.earlier)] == [{"value": 3.0}] * 2
    # On another machine the file is made again, and the result with it.
    (tmp_path / "s" / "a.txt").unlink()
    (tmp_path / "s" / "c.json").unlink()
    run_pieces("s", _chain(tmp_path, []), tmp_path, **OPTIONS, jobs=jobs)
    assert sorted(_notes(tmp_path)[7:]) == ["a", "b", "c"]
    results = load_results(tmp_path, "s")
    for key in ("b", "c"):
        assert results.pieces[key]["result"] == {"value": 3.0}
    assert results.earlier["a"]["result"]["value"] == 5.0
    assert results.earlier["b"]["result"] == {"value": 3.0}  # the first stays


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_piece_is_told_and_the_rest_is_kept(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(ValueError, match="b cannot be done"):
        run_pieces("s", _chain(tmp_path, [], fail="b"), tmp_path, jobs=jobs, **OPTIONS)
    assert (tmp_path / "s" / "a.json").exists() and not (tmp_path / "s" / "b.json").exists()
    run_pieces("s", _chain(tmp_path, []), tmp_path, jobs=jobs, **OPTIONS)
    assert _notes(tmp_path).count("a") == 1


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    pieces = [Piece(k, lambda: os.kill(os.getpid(), signal.SIGKILL), {}, [0]) for k in "ab"]
    with pytest.raises(RuntimeError, match="died"):
        run_pieces("s", pieces, tmp_path, jobs=2, **OPTIONS)


def test_circles_and_no_jobs_are_refused(tmp_path: Path) -> None:
    one = Piece("a", lambda context: {}, {}, [0], needs=["b"])
    other = Piece("b", lambda context: {}, {}, [0], needs=["a"])
    for jobs in (1, 2):
        with pytest.raises(ValueError, match="circle"):
            run_pieces("s", [one, other], tmp_path, jobs=jobs, **OPTIONS)
    with pytest.raises(ValueError, match="jobs must be at least 1, found 0"):
        run_pieces("s", [one], tmp_path, jobs=0, **OPTIONS)


@pytest.mark.full
def test_ctrl_c_keeps_what_is_done_and_ends_the_processes(tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from pathlib import Path
from resemb_ext.study.harness.pieces import Piece, run_pieces
# A parent that runs in the background hands down an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path({str(tmp_path)!r})
def slow():
    (folder / f"pid-{{os.getpid()}}").touch()
    time.sleep(3600)
pieces = [Piece("quick", lambda: {{"value": 1}}, {{}}, [0])]
pieces += [Piece(f"slow{{k}}", slow, {{}}, [0]) for k in range(2)]
run_pieces("s", pieces, folder, protocol={{}}, quick=True, jobs=2, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        deadline = time.monotonic() + 600
        while len(list(tmp_path.glob("pid-*"))) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(600) != 0
    finally:
        process.kill()
    assert (tmp_path / "s" / "quick.json").exists() and not list((tmp_path / "s").glob("slow*.json"))
    for file in tmp_path.glob("pid-*"):
        assert ended(int(file.name[4:]))
