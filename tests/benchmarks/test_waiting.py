"""How waiting threads are timed: every way in turn, compared round by round with the default."""

from __future__ import annotations

import json
import sys

from benchmarks import waiting


def test_each_way_is_compared_with_the_default_of_its_round(monkeypatch, tmp_path, capsys):
    seconds = {"default": iter([1.0, 2.0] * 2), "resemb": iter([2.0, 1.0] * 2), "passive": iter([4.0, 4.0] * 2)}
    monkeypatch.setattr(waiting, "in_process", lambda way, count, threads: next(seconds[way]))
    monkeypatch.setattr(waiting.os, "cpu_count", lambda: 0)
    out = tmp_path / "waiting.json"
    monkeypatch.setattr(sys, "argv", ["waiting", "--rounds", "2", "--threads", "1", "--out", str(out)])
    waiting.main()
    for cell in json.loads(out.read_text())["cells"]:
        assert cell["ms"] == {"default": 1500.0, "resemb": 1500.0, "passive": 4000.0}
        assert cell["to_default"] == {"resemb": [2.0, 0.5], "passive": [4.0, 2.0]}
    assert "passive/default 3.0 [2.0, 4.0]" in capsys.readouterr().out
