"""The suite's block of ``docs/benchmarks.md`` and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import OWN_STEP, ratio_text
from resemb_ext.runtime.files import write_atomic

PHASES = ("forward", "forward+backward", "step")


def own_name(phase: str) -> str:
    return OWN_STEP if phase == "step" else "resemb_ext"


def _against(cell: dict[str, Any], phase: str, name: str) -> str:
    return f"{ratio_text(cell[phase][name])} {name}"


def suite_table(result: dict[str, Any]) -> str:
    """Markdown: a row a cell with our time, and the ratio to the best baseline of every phase."""
    lines = [
        "| cell | U | V | forward, ms | against the best Res-embedding form in PyTorch | forward+backward, ms | against the best form "
        "| step, ms | against the best form | against the best plain form | against plain SparseAdam | of T* |",
        "|---|---:|---:|---:|---|---:|---|---:|---|---|---|---:|",
    ]
    for cell in result["cells"]:
        row = f"| {cell['name']} | {cell['unique']:,} | {cell['touched_neighbors']:,} |"
        for phase in PHASES:
            best = _against(cell, phase, cell[f"best_baseline_{phase}"])
            row += f" {cell[phase][own_name(phase)]['median_ms']:.2f} | {best} |"
        row += f" {_against(cell, 'step', cell['best_plain_step'])} |"
        sparse = cell["step"].get("plain, SparseAdam")
        row += f" {sparse['ratio']:.2f} |" if sparse else " refused |"
        top = cell.get("ceiling")
        row += f" {top['step'] / cell['step'][OWN_STEP]['median_ms']:.0%} |" if top else " |"
        lines.append(row)
    if spread := result.get("spread"):
        low, middle, high = spread["ratio"]
        lines += [
            "",
            f"Tables {spread['factor']} times as large, the same rows touched (D = {spread['dim']}): the step takes "
            f"{spread['step_ratio']:.2f} times as long, reading the rows alone {spread['read_ratio']:.2f} times; "
            f"ratio of the two {middle:.2f} [{low:.2f}, {high:.2f}].",
        ]
    for name, why in result.get("not_run", {}).items():
        lines += ["", f"Not run: {name} ({why})."]
    return "\n".join(lines)


def faster_table(result: dict[str, Any]) -> str:
    """Markdown: phases of cells in which another form, or a plain table, takes less time than ours."""
    lines = ["| cell | phase | form | its time over ours [quartiles] |", "|---|---|---|---:|"]
    for cell in result["cells"]:
        for phase in PHASES:
            names = [cell[f"best_baseline_{phase}"]]
            if phase == "step":
                names += dict.fromkeys([cell["best_plain_step"], "plain, SparseAdam"])
            for name in names:
                found = cell[phase].get(name)
                if found is not None and found["ratio"] < 1:
                    lines.append(f"| {cell['name']} | {phase} | {name} | {ratio_text(found)} |")
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """PNG: of every cell the ratio to the best Res-embedding baseline, with quartiles, by phase."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = result["cells"]
    figure, axes = pyplot.subplots(figsize=(9, 0.28 * len(cells) + 1.5))
    for shift, (phase, colour) in enumerate(zip(PHASES, ("C0", "C1", "C2"), strict=True)):
        best = [cell[phase][cell[f"best_baseline_{phase}"]] for cell in cells]
        middle = [v["ratio"] for v in best]
        spread = [[v["ratio"] - v["ratio_q1"] for v in best], [v["ratio_q3"] - v["ratio"] for v in best]]
        places = [i + 0.25 * (shift - 1) for i in range(len(cells))]
        axes.errorbar(middle, places, xerr=spread, fmt="o", ms=3, lw=1, color=colour, label=phase)
    axes.axvline(1.0, color="grey", lw=0.7, ls="--")
    axes.set_yticks(range(len(cells)), [cell["name"] for cell in cells], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("time of the best plain PyTorch form of Res-embedding over ours (median, quartiles)")
    axes.legend(loc="upper right", fontsize=7)
    figure.tight_layout()
    write_atomic(path, lambda target: figure.savefig(target, format="png", dpi=120))
    pyplot.close(figure)


def suite_section(suite: dict[str, Any], plot: str) -> str:
    """Markdown: the machine, the plot, all cells, where another form is faster, what could not be run.

    Args:
        suite: the committed result.
        plot: name of the plot's file.
    """
    machine, cells = suite["machine"], suite["cells"]
    skipped = [
        f"- {cell['name']}: {name}, which would take {bytes_ / 2**30:.1f} GiB more"
        for cell in cells
        for name, bytes_ in cell["skipped"].items()
    ]
    refused = sorted({f"- {name}: {words}" for c in cells for name, words in c["refused"].items()})
    return "\n".join(
        [
            f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, {machine['isa']} kernels.",
            "",
            f"![ratios]({plot})",
            "",
            suite_table(suite),
            "",
            "### Where another form is faster",
            "",
            faster_table(suite),
            "",
            "### Skipped (over 40 % of memory)",
            "",
            *(skipped or ["None."]),
            "",
            "### Refused by torch",
            "",
            *(refused or ["None."]),
        ]
    )
