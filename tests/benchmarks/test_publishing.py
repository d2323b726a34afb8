"""The benchmark of publishing runs, and its table has its figures."""

from __future__ import annotations

from pathlib import Path

from benchmarks.publishing import measure, section


def test_a_small_one(tmp_path: Path) -> None:
    said: list[str] = []
    found = measure(items=5000, dim=8, neighbors=3, repeats=1, folder=tmp_path, say=said.append)
    assert found["bytes"]["known"] == found["bytes"]["scanned"] < 0.2 * found["bytes"]["full"]
    assert set(found["seconds"]) == {"full", "known", "scanned", "refresh"} and len(said) == 1
    lines = section(found).splitlines()
    assert lines[0].startswith("**Publishing 1% changed rows, H = 5,000, D = 8, int8**")
    assert lines[5].startswith("| rows are named |") and not [*tmp_path.iterdir()]
