"""Pieces: written whole, skipped when done, refused when they differ; pages from JSON alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resemb_ext.cli import main
from resemb_ext.study import delay, studies
from resemb_ext.study.frame import Piece, read_results, run_pieces, simulated_source

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
    assert read_results(tmp_path).missing == ["b"]
    run_pieces("s", _pieces(calls), tmp_path, **options)
    assert calls == ["a", "b"]
    results = read_results(tmp_path)
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
        Piece(
            "log-tiny-communities", lambda: delay._of_log(TINY, "communities"), config, [0], TINY
        ),
    ]
    folder = tmp_path / "delay"
    run_pieces(
        "delay",
        pieces,
        folder,
        protocol=studies.PROTOCOLS["delay"],
        quick=True,
        progress=False,
    )
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "pieces": [*plan["pieces"], "log-late"]}))
    assert main(["study", "report", "--out", str(tmp_path), "--into", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / "delay.md").read_text()
    assert "Not run: `log-late`" in text and TINY.log.content_hash[:16] in text
    figure = tmp_path / "docs" / "delay-tiny-communities.svg"
    before = figure.read_bytes()
    studies.write_report(tmp_path, into=tmp_path / "docs")
    assert figure.read_bytes() == before
    assert "tiny-communities" in text and "delay+mixture" in text


def test_command_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    for command, message in (
        (["study", "report", *out], "holds no study"),
        (["study", "delay", *out, "--data", "none.parquet"], "no file none.parquet"),
        (["study", "delay", *out, "--into", "x"], "report only"),
        (["study", "report", *out, "--quick"], "leave out"),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err
