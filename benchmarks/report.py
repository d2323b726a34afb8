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


def _title(cell: dict[str, Any]) -> str:
    return (
        f"H = {cell['num_items']:,}, D = {cell['dim']}, K = {cell['neighbors']}, "
        f"{cell['positions']:,} Zipf({cell['zipf']}) ids (U = {cell['unique']:,}, "
        f"V = {cell['touched_neighbors']:,})"
    )


def _rows(cell: dict[str, Any], phases: list[str]) -> list[str]:
    lines = ["| variant |" + "".join(f" {p}, ms | ratio [quartiles] |" for p in phases)]
    lines.append("|---|" + "---:|---:|" * len(phases))
    for name in cell[phases[0]]:
        row = f"| {name} |"
        for phase in phases:
            v = cell[phase][name]
            row += f" {v['median_ms']:.1f} | {v['ratio']:.2f} [{v['ratio_q1']:.2f}, {v['ratio_q3']:.2f}] |"
        lines.append(row)
    return lines


def _step_notes(cell: dict[str, Any]) -> list[str]:
    """Profile, ceiling and memory of the whole step, a line each."""
    lines = []
    for name, stages in cell["profile"].items():
        spent = ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items() if ms > 0)
        lines.append(f"Profile of {name}, ms: {spent}.")
    own = cell["step"][next(reversed(cell["profile"]))]["median_ms"]
    forward = cell["forward"]["resemb_ext"]["median_ms"]
    top, rates = cell["ceiling"], cell["rates"]
    lines.append(
        f"Ceiling ({cell['formula']}; measured {rates['read_gbs']:.1f}, {rates['change_gbs']:.1f} and "
        f"{rates['copy_gbs']:.1f} GB/s): forward {top['forward']:.1f} ms, of which ours reaches "
        f"{top['forward'] / forward:.0%}; step {top['step']:.1f} ms, {top['step'] / own:.0%}."
    )
    if cell["peak"]["bytes"] is not None:
        share = cell["peak"]["bytes"] / cell["peak"]["output_and_touched_rows"]
        lines.append(
            f"Peak memory of a step beyond tables and state: {cell['peak']['bytes'] / 2**20:.0f} MiB, "
            f"{share:.2f}x output + touched rows."
        )
    for name, bytes_ in cell["skipped"].items():
        lines.append(f"Skipped: {name}, which needs {bytes_ / 2**30:.1f} GiB more.")
    return lines


def table(result: dict[str, Any]) -> str:
    """Markdown: of every cell the lookup, the whole step, and what explains it."""
    lines = []
    for cell in result["cells"]:
        lines += [f"**Lookup**, {_title(cell)}", ""]
        lines += [*_rows(cell, ["forward", "forward+backward"]), ""]
        if "step" in cell:
            lines += [f"**Whole Adam step**, H = {cell['num_items']:,}", ""]
            lines += [*_rows(cell, ["step"]), ""]
            for note in _step_notes(cell):
                lines += [note, ""]
    m = result["machine"]
    lines.append(
        f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, {m['isa']} kernels, float32; medians of "
        f"{result['cells'][0]['rounds']} interleaved rounds over {result['cells'][0]['batches']} rotating "
        "batches in one process; ratio: the variant's time over resemb_ext's (in the step: that in "
        "backward) in the same round. Tables and graph lie on huge pages for all variants alike."
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
