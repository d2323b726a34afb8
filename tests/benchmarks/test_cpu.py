"""The committed CPU figures, and the pages that show them."""

from __future__ import annotations

import pytest

from benchmarks.publish import ON_PAGE, PAGE, PLOT, README, blocks, load, put
from benchmarks.suite_report import page


@pytest.mark.parametrize("name", ["benchmark", "suite"])
def test_readme_shows_the_committed_results(name: str) -> None:
    readme = README.read_text()
    assert readme == put(readme, name, blocks()[name])


def test_page_shows_the_committed_results() -> None:
    found = page({name: load(name) for name in ON_PAGE}, PLOT.name)
    assert found == PAGE.read_text()
    assert PLOT.exists()
