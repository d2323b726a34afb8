"""`python -m benchmarks.publish`: README, docs/benchmarks.md and plots from the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import table
from benchmarks.suite_report import below_bar, draw, page
from resemb_ext.train.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "benchmarks.png"


def load(name: str) -> dict[str, Any]:
    """A committed result: "cpu", "suite", "din" or "lazy"."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def blocks() -> dict[str, str]:
    """What the README shows, by the name in its markers."""
    return {
        "benchmark": table(load("cpu")),
        "suite": "\n".join(below_bar(load("suite")) or ["None."]),
    }


def put(text: str, name: str, block: str) -> str:
    """`text` with what stands between the markers of `name` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def main() -> None:
    text = README.read_text()
    for name, block in blocks().items():
        text = put(text, name, block)
    write_text(README, text)
    draw(load("suite"), PLOT)
    write_text(PAGE, page(load("suite"), load("din"), load("lazy"), PLOT.name))


if __name__ == "__main__":
    main()
