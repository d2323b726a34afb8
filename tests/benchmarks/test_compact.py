"""The benchmark of compact state at small sizes: bytes, step, peak memory, forward, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import compact
from benchmarks.cells import Cell
from benchmarks.compact_report import compact_section

TINY = Cell(name="tiny", items=3_000, dim=16, neighbors=4, positions=500, batches=2)


def test_bytes_are_those_of_the_forms() -> None:
    found = {(row["tables"], row["state"], row["dim"]): row for row in compact.measure_bytes(200)["rows"]}
    for dim in compact.DIMS:
        assert found["float32", "float32", dim]["res"] == 24
        assert found["float32", "float32", dim]["plain"] == 12
        assert found["bfloat16", "int8_rowwise", dim]["res"] == pytest.approx(2 * (3 + 8 / dim))
        assert found["bfloat16", "bfloat16_rowwise", dim]["res"] == pytest.approx(2 * (4 + 4 / dim))
        assert found["bfloat16", "compact", dim]["res"] <= 8


@pytest.mark.full
def test_all_parts_are_measured_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compact.json"
    sizes = ["--items", "3000", "--forward-items", "2000", "--dim", "16", "--neighbors", "4", "--positions", "500"]
    arguments = ["compact", *sizes, "--rounds", "2", "--warmup", "1", "--out", str(out)]
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "step", "memory"])
    compact.main()
    first = json.loads(out.read_text())
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "bytes", "forward"])
    compact.main()
    torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert set(result) == set(compact.PARTS) and result["step"] == first["step"]
    assert result["step"]["3000"]["bytes"]["float32"] == 24 * 3000 * 16
    assert result["step"]["3000"]["step"]["float32"]["ratio"] == 1
    kept = {name: found["kept_bytes"] for name, found in result["memory"]["3000"]["processes"].items()}
    assert kept[compact.PLAIN] == 12 * 3000 * 16 and kept["resemb_ext, float32"] == 24 * 3000 * 16
    assert kept["resemb_ext, compact"] == result["step"]["3000"]["bytes"]["compact"]
    for found in result["memory"]["3000"]["processes"].values():
        assert found["peak_bytes"] > found["start_bytes"] > 2**26
    shown = compact_section(result)
    assert shown in capsys.readouterr().out
    assert "| 3,000 | 16 | 4 |" in shown and "| bfloat16 | compact | 7.00 |" in shown


def test_vectors_that_differ_are_not_timed() -> None:
    modules = compact.two_of(TINY, compact.graph_of(TINY))
    compact.check_close(modules, torch.arange(500))
    with torch.no_grad():
        modules["compact"].residual[7] += 1
    with pytest.raises(AssertionError):
        compact.check_close(modules, torch.arange(500))


def test_what_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "available_bytes", lambda: 2**30)
    monkeypatch.setattr(compact, "graph_of", lambda cell: pytest.fail("made"))
    for measure, words in (
        (lambda: compact.measure_step(TINY, 1, 0), "step"),
        (lambda: compact.measure_memory(TINY, 1), "memory"),
    ):
        with pytest.raises(SystemExit, match=rf"{words}: needs 1\.0 GiB, found 1\.0 GiB free; take fewer --items"):
            measure()


def test_the_largest_step_fits_24_gib() -> None:
    large = Cell(name="", items=10_000_000)
    assert 20 * 2**30 < compact.need_of_step(large) < 24 * 2**30
    assert compact.need_of_memory(large) < compact.need_of_step(large)
