"""The README: its length, its picture, and its figures, which are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from docs import picture
from resemb_ext.study.compare.variants import Group, Variant
from resemb_ext.study.compare.view import contrast, minus_plain
from resemb_ext.study.harness.results import load_results
from resemb_ext.study.untuned.page import summary
from tests.docs.pages import ROOT, blocks

README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
TEXT = README.read_text(encoding="utf-8")
ROWS = dict(line.strip("| ").split(" | ", 1) for line in TEXT.splitlines() if line.count(" | ") >= 2)


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert len(TEXT.split()) <= 900


@pytest.mark.parametrize("name", ["main", "test"])
def test_newcomers_commands_are_marked(name: str) -> None:
    after = TEXT.split(f"<!-- newcomer: {name} -->\n")
    assert len(after) == 2
    assert after[1].startswith("```bash\n")


def test_swap_takes_ten_lines() -> None:
    (swap,) = (block for block in blocks(README) if block.language == "python")
    assert len(swap.text.strip().splitlines()) <= 10


def best(phase: dict[str, Any]) -> float:
    """The least median among the forms of Res-embedding in PyTorch."""
    return min(entry["median_ms"] for name, entry in phase.items() if not name.startswith(("resemb_ext", "plain")))


def test_times_of_the_lookup() -> None:
    (cell,) = (cell for cell in load("cpu")["cells"] if cell["items"] == 1_000_000)
    for row, phase in (
        ("lookup, forward, 1,000,000 items", "forward"),
        ("forward and backward, 1,000,000 items", "forward+backward"),
    ):
        ours = cell[phase]["resemb_ext"]["median_ms"]
        assert ROWS[row] == f"{ours:.1f} ms | fastest PyTorch form {best(cell[phase]):.1f} ms"


def test_times_of_the_step() -> None:
    (cell,) = (cell for cell in load("cpu")["cells"] if cell["items"] == 1_000_000)
    step = cell["step"]
    plain = step[cell["best_plain_step"]]["median_ms"]
    found = f"{step['resemb_ext, Adam in backward']['median_ms']:.1f} ms | fastest PyTorch form {best(step):.1f} ms; "
    assert ROWS["whole Adam step in backward, 1,000,000 items"] == f"{found}plain table {plain:.1f} ms"
    assert f"plain tables: {step[picture.OUR_PLAIN]['median_ms']:.0f} ms" in TEXT


def test_peak_memory() -> None:
    found = load("compact")["memory"]["10000000"]
    peaks = {name: one["peak_bytes"] / 2**30 for name, one in found["processes"].items()}
    plain, compact = peaks["plain nn.Embedding, SparseAdam"], peaks["resemb_ext, compact"]
    text = f"{compact:.1f} GiB with [compact state](docs/optimizers.md) | plain table with SparseAdam {plain:.1f} GiB"
    assert ROWS[f"peak memory of training, 10,000,000 items, D = {found['dim']}"] == text


def test_times_of_the_graph_builder() -> None:
    cells = load("graph")["cells"]
    (large,) = (cell["runs"] for cell in cells if cell["events"] == 10_000_000)
    seconds = {name: median(run["seconds"] for run in runs) for name, runs in large.items()}
    text = "{:.2f} s | polars {:.2f} s, duckdb {:.2f} s, scipy {:.2f} s"
    names = ("resemb_ext", "polars", "duckdb", "scipy.sparse")
    assert ROWS["graph of 10,000,000 events"] == text.format(*(seconds[name] for name in names))


def test_cells_where_a_plain_table_is_quicker() -> None:
    cells = [cell for cell in load("suite")["cells"] if "step" in cell]
    quicker = [cell for cell in cells if cell["step"][cell["best_plain_step"]]["ratio"] < 1]
    assert f"quicker in {len(quicker)} of {len(cells)} cells" in TEXT


def test_gains_in_gauc() -> None:
    results = load_results(picture.STUDY, "compare")
    logs = ("amazon-beauty", "amazon-toys")
    found = [minus_plain(results, Variant(Group(log, "dnn", True), "res")) for log in logs]
    gains = " and ".join(f"{entry['gauc']['value']:+.4f}" for entry in found if entry)
    assert ROWS[f"test gAUC, DNN with category, {' and '.join(logs)}"] == f"{gains} | tuned plain embedding"


def test_item2vec_is_level_on_one_log_and_close_on_the_other() -> None:
    results = load_results(picture.STUDY, "compare")
    groups = [Group(log, "dnn", False) for log in ("amazon-beauty", "amazon-toys")]
    beauty, toys = (contrast(results, Variant(group, "res"), Variant(group, "item2vec")) for group in groups)
    assert beauty and beauty["gauc"]["low"] < 0 < beauty["gauc"]["high"]
    assert toys and f"{toys['gauc']['value']:.3f}" == "0.007"


def test_gains_on_a_dense_log() -> None:
    pieces = load_results(picture.STUDY, "untuned").pieces
    gains = [summary(p)["difference"]["test"]["gauc"]["mean"] for key, p in pieces.items() if key.startswith("ml-1m")]
    assert f"gAUC {min(gains):+.4f} to {max(gains):+.4f}" in TEXT
    entry = minus_plain(load_results(picture.STUDY, "compare"), Variant(Group("ml-1m", "dnn", False), "res"))
    assert entry and f"it gains ({entry['gauc']['value']:+.4f}, tuned)" in " ".join(TEXT.split())


def test_command_draws_the_committed_picture(tmp_path: Path) -> None:
    drawn = tmp_path / "picture.svg"
    picture.main(["--out", str(drawn)])
    for file in (drawn, picture.PICTURE):
        assert picture.digest() in file.read_text(encoding="utf-8")
