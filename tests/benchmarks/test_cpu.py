"""The committed figures, and the pages that show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.publish import GRAPH_PLOT, PLOT, blocks, page
from resemb_ext.runtime.pages import put_block

BLOCKS = blocks()


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
def test_page_shows_the_committed_results(path: Path) -> None:
    assert path.read_text() == page(path, BLOCKS[path])


def test_plots_are_there() -> None:
    assert PLOT.exists()
    assert GRAPH_PLOT.exists()


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    text = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"
    assert put_block(text, "a", "new") == text.replace("old", "new")
    for broken in (text.replace("begin", "start"), text + text, "<!-- a: end --><!-- a: begin -->"):
        with pytest.raises(ValueError, match="markers"):
            put_block(broken, "a", "new")
