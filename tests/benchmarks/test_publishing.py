"""The benchmark of publishing runs, and its table has its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import publishing


def test_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    out, tables = tmp_path / "publishing.json", tmp_path / "tables"
    tables.mkdir()
    sizes = ("--items", "5000", "--dim", "8", "--neighbors", "3", "--repeats", "1", "--threads", "1")
    monkeypatch.setattr(sys, "argv", ["publishing", *sizes, "--folder", str(tables), "--out", str(out)])
    publishing.main()
    found = json.loads(out.read_text())
    assert found["bytes"]["known"] == found["bytes"]["scanned"] < 0.2 * found["bytes"]["full"]
    assert set(found["seconds"]) == {"full", "known", "scanned", "refresh"} and not [*tables.iterdir()]
    shown = capsys.readouterr().out
    assert shown.startswith("turn 1 of 1: full ") and publishing.section(found) in shown
    lines = publishing.section(found).splitlines()
    assert lines[0] == "**Publishing 1% changed rows, H = 5,000, D = 8, int8**"
    assert lines[5].startswith("| rows are named |") and publishing.section({}) == ""
