"""``python -m benchmarks.publish``: the marked blocks and plots of docs/ from the committed results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.compact_report import compact_section, short_table
from benchmarks.distributed_model import section as distributed_section
from benchmarks.distributed_torchrec import section as torchrec_section
from benchmarks.frameworks.recbole_report import din_table as recbole_table
from benchmarks.frameworks.report import frameworks_table
from benchmarks.graph_report import draw_graph, graph_section, large_line
from benchmarks.publishing import section as publishing_section
from benchmarks.report import attention_table, din_attention_table, din_table, din_versions_table, lazy_table, table
from benchmarks.serving_report import serving_section
from benchmarks.spark import table as spark_table
from benchmarks.suite_report import draw, suite_section
from resemb_ext.runtime.files import write_text
from resemb_ext.runtime.pages import put_block

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
PLOT = DOCS / "benchmarks.png"
GRAPH_PLOT = DOCS / "graph.png"


def load(name: str) -> dict[str, Any]:
    """A committed result by the name of its file: "cpu", "suite", "graph", ..."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def blocks() -> Mapping[Path, Mapping[str, str]]:
    """What each page shows, by the names in its markers."""
    return {
        DOCS / "benchmarks.md": {
            "short": short_table(load("cpu"), load("compact")),
            "compact": compact_section(load("compact")),
            "benchmark": table(load("cpu")),
            "suite": suite_section(load("suite"), PLOT.name),
            "din": din_table(load("din")),
            "din versions": din_versions_table(load("din_versions")),
            "frameworks": frameworks_table(load("frameworks")),
            "din attention": din_attention_table(load("din_attention")),
            "lazy": lazy_table(load("lazy")),
            "attention": attention_table(load("attention")),
        },
        DOCS / "integrations" / "recbole.md": {"recbole din": recbole_table(load("recbole_din"))},
        DOCS / "integrations" / "spark.md": {"spark": spark_table(load("spark"))},
        DOCS / "distributed.md": {
            "distributed model": distributed_section(load("distributed_model")),
            "distributed torchrec": torchrec_section(load("distributed_torchrec")),
        },
        DOCS / "publish.md": {"publishing": publishing_section(load("publishing"))},
        DOCS / "tables.md": {"serving": serving_section(load("serving"))},
        DOCS / "build-graph.md": {"graph large": large_line(load("graph_large"))},
        DOCS / "graph.md": {"graph": graph_section(load("graph"), GRAPH_PLOT.name)},
    }


def page(path: Path, found: Mapping[str, str]) -> str:
    """The page's text with its blocks replaced."""
    text = path.read_text()
    for name, block in found.items():
        text = put_block(text, name, block)
    return text


def main() -> None:
    for path, found in blocks().items():
        write_text(path, page(path, found))
    draw(load("suite"), PLOT)
    draw_graph(load("graph"), GRAPH_PLOT)


if __name__ == "__main__":
    main()
