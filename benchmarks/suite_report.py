"""The suite's page, `docs/benchmarks.md`, its plot, and the README's list of the hardest cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import OWN_STEP, above_twice_average, attention_table, din_attention_table, din_table, lazy_table
from resemb_ext.train.files import write_atomic

PHASES = ("forward", "forward+backward", "step")
BAR = 2.0  # times faster than the best peer: cells below are listed


def own_name(phase: str) -> str:
    return OWN_STEP if phase == "step" else "resemb_ext"


def _against(cell: dict[str, Any], phase: str, name: str) -> str:
    v = cell[phase][name]
    return f"{v['ratio']:.2f} [{v['ratio_q1']:.2f}, {v['ratio_q3']:.2f}] {name}"


def suite_table(result: dict[str, Any]) -> str:
    """Markdown: a row a cell with our time, and the ratio to the best peer of every phase."""
    lines = [
        "| cell | U | V | forward, ms | against the best Res-embedding peer | forward+backward, ms | against the best peer "
        "| step, ms | against the best peer | against the best plain form | against plain SparseAdam | of T* |",
        "|---|---:|---:|---:|---|---:|---|---:|---|---|---|---:|",
    ]
    for cell in result["cells"]:
        row = f"| {cell['name']} | {cell['unique']:,} | {cell['touched_neighbors']:,} |"
        for phase in PHASES:
            best = _against(cell, phase, cell[f"best_peer_{phase}"])
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


def below_bar(result: dict[str, Any]) -> list[str]:
    """A line for every phase of a cell in which we are less than `BAR` times as fast as the best peer."""
    lines = []
    for cell in result["cells"]:
        for phase in PHASES:
            name = cell[f"best_peer_{phase}"]
            found = cell[phase][name]
            if found["ratio"] < BAR:
                lines.append(
                    f"- {cell['name']}, {phase}: {found['ratio']:.2f} [{found['ratio_q1']:.2f}, "
                    f"{found['ratio_q3']:.2f}] times as fast as {name}"
                )
    return lines


def draw(result: dict[str, Any], path: Path) -> None:
    """PNG: of every cell the ratio to the best Res-embedding peer, with quartiles, by phase."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = result["cells"]
    figure, axes = pyplot.subplots(figsize=(9, 0.28 * len(cells) + 1.5))
    for shift, (phase, colour) in enumerate(zip(PHASES, ("C0", "C1", "C2"), strict=True)):
        best = [cell[phase][cell[f"best_peer_{phase}"]] for cell in cells]
        middle = [v["ratio"] for v in best]
        spread = [[v["ratio"] - v["ratio_q1"] for v in best], [v["ratio_q3"] - v["ratio"] for v in best]]
        places = [i + 0.25 * (shift - 1) for i in range(len(cells))]
        axes.errorbar(middle, places, xerr=spread, fmt="o", ms=3, lw=1, color=colour, label=phase)
    for bar in (1.0, BAR):
        axes.axvline(bar, color="grey", lw=0.7, ls="--")
    axes.set_yticks(range(len(cells)), [cell["name"] for cell in cells], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("time of the best plain PyTorch form of Res-embedding over ours (median, quartiles)")
    axes.legend(loc="upper right", fontsize=7)
    figure.tight_layout()
    write_atomic(path, lambda target: figure.savefig(target, format="png", dpi=120))
    pyplot.close(figure)


def page(results: Mapping[str, dict[str, Any]], plot: str) -> str:
    """docs/benchmarks.md from the committed results.

    Args:
        results: "suite", "din", "din_attention", "lazy" and "attention".
        plot: name of the plot's file.
    """
    suite, attention = results["suite"], results["attention"]
    machine, cells = suite["machine"], suite["cells"]
    above = above_twice_average(attention)
    skipped = [
        f"- {cell['name']}: {name}, which would take {bytes_ / 2**30:.1f} GiB more"
        for cell in cells
        for name, bytes_ in cell["skipped"].items()
    ]
    refused = sorted({f"- {name}: {words}" for c in cells for name, words in c["refused"].items()})
    return "\n".join(
        [
            "# Benchmarks on the CPU",
            "",
            "Generated by `python -m benchmarks.publish` from `benchmarks/results/`. Base cell: H = 1,000,000, D = 64, "
            "K = 20, P = 200,000, ids and neighbours Zipf(1.05), float32; every other cell names what it changes. All "
            "variants of a cell ran interleaved in one process, checked equal first; a ratio is the peer's time over "
            "ours in the same round, its median with quartiles; peers over 12 times our time were timed in 3 rounds, over 40 times in one; computing the whole table "
            "each step, 80 times our time at a million items, was left out there beside the base cell. "
            f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, {machine['isa']} kernels.",
            "",
            "## The suite",
            "",
            f"![ratios]({plot})",
            "",
            suite_table(suite),
            "",
            f"### Cells below {BAR:g}x",
            "",
            *(below_bar(suite) or ["None."]),
            "",
            "### Skipped (over 40 % of memory)",
            "",
            *(skipped or ["None."]),
            "",
            "### Refused by torch",
            "",
            *(refused or ["None."]),
            "",
            "## DIN end to end",
            "",
            din_table(results["din"]),
            "",
            "### DIN's attention unit",
            "",
            "Its first layer takes [q, k, q - k, q * k]. The model applies it in parts, so that this concatenation "
            "of 4 D numbers a pair is never made (split); the same scores and gradients, checked first.",
            "",
            din_attention_table(results["din_attention"]),
            "",
            "## Lazy against dense Adam",
            "",
            "They are different algorithms; the tables' test AUC, paired by seed, the same options for both:",
            "",
            lazy_table(results["lazy"]),
            "",
            "## The attention link",
            "",
            "One lookup under link attention against one under link average, sparse gradients, the base cells with "
            f"{attention['machine']['threads']} threads; {attention['machine']['cpu']}, torch {attention['machine']['torch']}, "
            f"{attention['machine']['isa']} kernels, {attention['cells'][0]['rounds']} interleaved rounds.",
            "",
            attention_table(attention),
            "",
            "The aim, forward + backward in at most twice the average link's time, is met"
            + (f" but for {', '.join(above)}." if above else " in every row."),
            "",
        ]
    )
