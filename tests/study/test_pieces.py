"""Pieces: written whole, skipped when done, refused when they differ; pages from JSON alone."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resemb_ext.cli import main
from resemb_ext.study import studies
from resemb_ext.study.delay import experiment as delay
from resemb_ext.study.delay import page as delay_page
from resemb_ext.study.harness import report
from resemb_ext.study.harness.pieces import Desk, Piece, run_pieces, simulated_source
from resemb_ext.study.harness.results import Results, load_results

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


def test_delay_page_from_json_alone(tmp_path: Path) -> None:
    config = {"log": "tiny"}
    pieces = [
        Piece("recover-tiny", lambda: delay._recover(TINY, 0.95), config, [0], TINY),
        Piece("choose-delay", lambda: delay.choices("delay", [0, 1]), config, [0, 1]),
        Piece("log-tiny-communities", lambda: delay._of_log(TINY, "communities"), config, [0], TINY),
    ]
    folder = tmp_path / "delay"
    run_pieces("delay", pieces, tmp_path, protocol=studies.PROTOCOLS["delay"], quick=True, progress=False)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "pieces": [*plan["pieces"], "log-late"]}))
    assert main(["study", "report", "--out", str(tmp_path), "--into", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / "delay.md").read_text()
    assert "Not run: `log-late`" in text and TINY.log.content_hash[:16] in text
    figure = tmp_path / "docs" / "delay-tiny-communities.svg"
    before = figure.read_bytes()
    found = re.search(r"<dc:description>(.*?)</dc:description>", before.decode(), re.DOTALL)
    assert found is not None
    told = json.loads(html.unescape(found[1]))
    assert told["pieces"] == ["log-tiny-communities"] and told["config"] == config
    assert told["seeds"] == [0] and told["data"] == {"tiny": TINY.log.content_hash}
    studies.write_report(tmp_path, into=tmp_path / "docs")
    assert figure.read_bytes() == before
    assert "tiny-communities" in text and "delay+mixture" in text
    kept = json.loads((folder / "log-tiny-communities.json").read_text())["result"]
    assert (
        f"dwell by stays | by decay |\n| --- | --- | --- | --- | --- | --- | --- |\n| tiny-communities | 100 % | {kept['estimate']['share'][0]:.3f} "
        in text
    )
    assert "of its events have a domain" not in text
    kept["estimate"]["with_domain"] *= 0.5
    page = delay_page.page(
        Results(
            {"pieces": [], "data": {}, "quick": True}, {"log-tiny-communities": {"config": config, "result": kept}}, []
        )
    )
    assert "; only 50 % of its events have a domain." in page.answers[-1]


def test_options_of_several_pieces_are_told_as_one() -> None:
    one, other = {"a": 1, "in": {"b": 2, "c": [3]}}, {"a": 1, "in": {"b": 4, "c": [3]}, "d": None}
    merged = {"a": 1, "in": {"b": [2, 4], "c": [3]}, "d": None}
    assert report._merged([one, other, one]) == merged
    assert report._merged([one, one]) == one and report._merged([]) is None


@pytest.mark.full
def test_committed_pages_are_those_of_the_committed_results(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for page in studies.write_report(root / "benchmarks" / "results" / "study", into=tmp_path):
        assert page.read_bytes() == (root / "docs" / "study" / page.name).read_bytes(), page.name


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
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err


def _chain(folder: Path, log: list[str], fail: str = "") -> list[Piece]:
    """b and c need a, which puts a file aside; d needs nothing. Work is noted in a file, so that
    it is seen from other processes too."""

    def note(key: str) -> None:
        with open(folder / "notes", "a") as file:
            file.write(f"{key} {os.getpid()}\n")
        if key == fail:
            raise ValueError(f"{key} cannot be done")

    def first(desk: Desk) -> dict[str, float]:
        note("a")
        (desk.folder / "a.txt").write_text("aside")
        return {"value": 2.0, "some_seconds": len(log) + os.getpid() + time.perf_counter()}

    def second(key: str, desk: Desk) -> dict[str, float]:
        assert (desk.folder / "a.txt").read_text() == "aside"
        note(key)
        return {"value": desk.results["a"]["value"] + 1}

    def last() -> dict[str, float]:
        note("d")
        return {"value": 0.0}

    return [
        Piece("b", partial(second, "b"), {}, [0], needs=["a"]),
        Piece("a", first, {}, [0], aside=["a.txt"]),
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


def test_lost_file_aside_is_made_again_only_where_it_is_needed(tmp_path: Path) -> None:
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
    # On another machine the file aside is made again, and the result with it.
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
    one = Piece("a", lambda desk: {}, {}, [0], needs=["b"])
    other = Piece("b", lambda desk: {}, {}, [0], needs=["a"])
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
    time.sleep(60)
pieces = [Piece("quick", lambda: {{"value": 1}}, {{}}, [0])]
pieces += [Piece(f"slow{{k}}", slow, {{}}, [0]) for k in range(2)]
run_pieces("s", pieces, folder, protocol={{}}, quick=True, jobs=2, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("pid-*"))) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(30) != 0
    finally:
        process.kill()
    assert (tmp_path / "s" / "quick.json").exists() and not list((tmp_path / "s").glob("slow*.json"))
    for file in tmp_path.glob("pid-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name[4:]), 0)


def test_answer_of_the_delay_model_counts_intervals_on_one_side() -> None:
    def pair(independent: float, mixture: float, markov: float, stay: float) -> dict[str, Any]:
        against = {"independent": independent, "mixture": mixture, "markov": markov}
        models = {
            name: {"against_delay": {"low": x - 0.1, "high": x + 0.1}, "parameters": 3000 - int(x)}
            for name, x in against.items()
        }
        return {"models": models, "stay_beyond_interests": {"low": stay, "high": stay + 1}}

    said = delay_page._in_one_sentence([pair(1, -1, 0, 0.1), pair(1, 1, -1, -0.1)])[0]
    assert "Of 2 pairs" in said and "draws in 2, than fixed interests of each user in 1 (worse in 1)" in said
    assert "over domains in 0 (worse in 1)" in said and "these alone in 1." in said
    said = delay_page._in_one_sentence([pair(1, 1, -1, 0), pair(1, -1, 1, 0)], (), "ab")[0]
    assert "of each user in 1, namely a (worse in 1)" in said
    assert "domains in 1, namely b, where it has 2,999 parameters (worse in 1)" in said
    pairs = [pair(1, -1, 0, 0.1)] * 3
    tails = ["heavier", "cannot tell", "heavier"]
    said = delay_page._in_one_sentence(pairs, tails, "abc", [True, None, False])[0]
    assert "geometric ones in 2 of the 2 whose histories are long enough to tell; users" in said
    assert "fitted interests and geometric stays in 1 of 2." in said
    said = delay_page._in_one_sentence(pairs, ["heavier"] * 3, "abc", [None] * 3)[0]
    assert said.endswith("in 3 of the 3 whose histories are long enough to tell.**")
    for history, verdict in ((19.5, "cannot tell"), (20.0, "lighter")):
        result = {"median_history": history, "tail": {"verdict": "lighter"}}
        assert delay_page._tail_verdict(result) == verdict
        assert ("too short; over their few steps lighter" in delay_page._tail_said(result)) == (
            verdict == "cannot tell"
        )
