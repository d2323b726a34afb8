"""Tables from committed results: `python -m benchmarks.report` rewrites the README's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from resemb_ext.train.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


def table(result: dict[str, Any]) -> str:
    """Markdown: a line a variant, for every cell and phase the median and the ratio to resemb_ext."""
    lines = []
    for cell in result["cells"]:
        phases = [p for p in ("forward", "forward+backward") if p in cell]
        lines.append(
            f"H = {cell['num_items']:,}, D = {cell['dim']}, K = {cell['neighbors']}, "
            f"{cell['positions']:,} Zipf({cell['zipf']}) ids (U = {cell['unique']:,}, "
            f"V = {cell['touched_neighbors']:,})\n"
        )
        lines.append("| variant |" + "".join(f" {p}, ms | ratio [quartiles] |" for p in phases))
        lines.append("|---|" + "---:|---:|" * len(phases))
        for name in cell[phases[0]]:
            row = f"| {name} |"
            for phase in phases:
                v = cell[phase][name]
                row += f" {v['median_ms']:.1f} | {v['ratio']:.2f} [{v['ratio_q1']:.2f}, {v['ratio_q3']:.2f}] |"
            lines.append(row)
        lines.append("")
    m = result["machine"]
    lines.append(
        f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, {m['isa']} kernels, float32; medians of "
        f"{result['cells'][0]['rounds']} interleaved rounds over {result['cells'][0]['batches']} rotating "
        "batches in one process; ratio: the variant's time over resemb_ext's in the same round."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rewrite the README's benchmark table from JSON.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    args = parser.parse_args()
    text = args.readme.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    block = table(json.loads(args.results.read_text()))
    write_text(args.readme, f"{head}{BEGIN}\n{block}\n{END}{tail}")


if __name__ == "__main__":
    main()
