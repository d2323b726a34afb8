"""The benchmark of served tables at small sizes: all parts, their report, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import serving
from benchmarks.serving_report import serving_section
from resemb_ext.serving import Table


@pytest.mark.full
def test_all_parts_are_measured_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "serving.json"
    sizes = [
        "--items",
        "3000",
        "--cached-items",
        "500",
        "--sparse-items",
        "200000",
        "--dim",
        "16",
        "--positions",
        "400",
    ]
    sizes += ["--cached-positions", "40", "--bags", "50", "--sparse-rounds", "1", "--published-items", "600"]
    arguments = ["serving", *sizes, "--rounds", "2", "--warmup", "1", "--folder", str(tmp_path), "--out", str(out)]
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "int8"])
    serving.main()
    first = json.loads(out.read_text())
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "cached", "sparse", "publishing"])
    serving.main()
    torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert set(result) == set(serving.PARTS) and result["int8"] == first["int8"]
    assert len(result["int8"]["cells"]) == 4
    assert all(cell[serving.OWN]["ratio"] == 1 for cell in result["int8"]["cells"].values())
    assert set(result["cached"]["cells"]) == {"40"}
    for found in result["sparse"]["processes"].values():
        assert 0 < found["touched_bytes"] <= 200_000 * 24 + 4096 and found["open_ms"] > 0
    assert result["publishing"]["items"] == 600
    assert result["sparse"]["file_bytes"] == 4096 + 200_000 * 24
    shown = serving_section(result)
    assert shown in capsys.readouterr().out
    assert "| bags of 20, uniform ids | resemb_ext |" in shown and "| 40 | F.embedding, float32 |" in shown
    assert [p.name for p in tmp_path.iterdir()] == ["serving.json"]


def test_a_file_with_holes_takes_no_room(tmp_path: Path) -> None:
    path = tmp_path / "t.table"
    serving.sparse_table(path, 10_000_000, 64)
    assert path.stat().st_size == 4096 + 72 * 10_000_000 and path.stat().st_blocks * 512 < 2**20
    table = Table.open(path)
    assert not table(torch.tensor([0, 9_999_999, 123])).any()


def test_vectors_that_differ_are_not_timed() -> None:
    ids = torch.arange(3)
    serving.check_close({serving.OWN: torch.sqrt, "other": torch.sqrt}, ids)
    with pytest.raises(AssertionError, match="other"):
        serving.check_close({serving.OWN: torch.sqrt, "other": torch.exp}, ids)


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "available_bytes", lambda: 2**30)
    monkeypatch.setattr(sys, "argv", ["serving", "--out", str(tmp_path / "o.json")])
    with pytest.raises(SystemExit, match=r"int8: needs 2\.3 GiB, found 1\.0 GiB free"):
        serving.main()
    monkeypatch.setattr(sys, "argv", ["serving", "--positions", "30", "--out", str(tmp_path / "o.json")])
    with pytest.raises(SystemExit, match="--positions: found 30; expected a multiple of 20"):
        serving.main()
