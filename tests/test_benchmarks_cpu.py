"""The committed CPU figures and the README's table of them."""

from __future__ import annotations

import json

from benchmarks.report import BEGIN, END, RESULTS, ROOT, table


def test_readme_shows_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text()
    block = readme.split(BEGIN)[1].split(END)[0].strip("\n")
    assert block == table(json.loads(RESULTS.read_text()))
