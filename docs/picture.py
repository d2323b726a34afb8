"""``python -m docs.picture``: draws docs/picture.svg, the README's picture, from committed results.

Left: one training step of the lookup benchmark (``benchmarks/results/cpu.json``). Right: gAUC gained over a tuned
plain embedding (results of study ``compare``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from resemb_ext.study.compare.variants import Group, Variant
from resemb_ext.study.compare.view import minus_plain, seen_variants
from resemb_ext.study.harness.results import load_results

ROOT = Path(__file__).resolve().parents[1]
CPU = ROOT / "benchmarks" / "results" / "cpu.json"
STUDY = ROOT / "benchmarks" / "results" / "study"
PICTURE = ROOT / "docs" / "picture.svg"

OURS = {"resemb_ext, Adam in backward": "Res-embedding, step in backward", "resemb_ext, optim.Adam": "Res-embedding"}
OUR_PLAIN = "plain, resemb_ext.optim.Adam"
#: Item tables of the right panel, with their label, colour and marker.
TABLES = {
    "res": ("Res-embedding", "#0b5fa5", "o"),
    "centre": ("central table alone", "#6aaed6", "o"),
    "item2vec": ("plain, started by item2vec", "#d95f02", "s"),
    "laplacian": ("plain, penalty along the graph", "#e6ab02", "s"),
    "two-tables": ("two plain tables summed", "#999999", "D"),
    "res-entries": ("Res-embedding, permuted graph", "#555555", "x"),
}


def step_times(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each size: the milliseconds of our step, of the fastest PyTorch forms, and of plain tables.

    Args:
        result: what ``python -m benchmarks --out`` wrote.

    Returns:
        Dicts with ``items`` (H) and ``bars``: (label, kind, median ms) where kind is "ours", "form" (the fastest
        PyTorch form of Res-embedding) or "plain".
    """
    found = []
    for cell in result["cells"]:
        step = {name: entry["median_ms"] for name, entry in cell["step"].items()}
        forms = [name for name in step if not name.startswith(("resemb_ext", "plain"))]
        plains = [name for name in step if name.startswith("plain") and name != OUR_PLAIN]
        form, plain = min(forms, key=step.__getitem__), min(plains, key=step.__getitem__)
        bars = [(label, "ours", step[name]) for name, label in OURS.items()]
        bars.append((f"fastest PyTorch form:\n{form}", "form", step[form]))
        bars.append((f"plain table, fastest form:\n{plain.removeprefix('plain, ')}", "plain", step[plain]))
        bars.append(("plain table, SparseAdam", "plain", step["plain, SparseAdam"]))
        bars.append(("plain table, rx.optim.Adam", "plain", step[OUR_PLAIN]))
        found.append({"items": cell["items"], "bars": bars})
    return found


def gains(folder: Path) -> list[dict[str, Any]]:
    """Test gAUC minus that of the tuned plain embedding, by log and model.

    Args:
        folder: of the studies' results.

    Returns:
        Dicts with ``group`` (log, model, features) and ``points``: (table, value, low, high), 95 % interval.
    """
    results = load_results(folder, "compare")
    groups = dict.fromkeys(seen.variant.group for seen in seen_variants(results))
    found = []
    for group in groups:
        points = []
        for table in TABLES:
            entry = minus_plain(results, Variant(group, table))
            if entry is not None:
                points.append((table, *(entry["gauc"][key] for key in ("value", "low", "high"))))
        if points:
            found.append({"group": _title(group), "points": points})
    return found


def _title(group: Group) -> str:
    return f"{group.log}, {group.model.upper()}" + (" + category" if group.category else "")


def _draw_times(axes: Axes, times: list[dict[str, Any]]) -> None:
    colors = {"ours": "#0b5fa5", "form": "#d95f02", "plain": "#999999"}
    longest = max(ms for cell in times for *_, ms in cell["bars"])
    place, ticks, labels = 0, [], []
    for cell in times:
        axes.text(0, place + 0.1, f" {cell['items']:,} items", fontweight="bold", va="center")
        place += 1
        for label, kind, ms in cell["bars"]:
            axes.barh(place, ms, color=colors[kind])
            axes.text(ms + longest * 0.01, place, f"{ms:.0f}", va="center", fontsize=8)
            ticks.append(place)
            labels.append(label)
            place += 1
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set_xlim(0, longest * 1.08)
    axes.set_ylim(place - 0.4, -0.6)
    axes.set(title="Time of one training step", xlabel="median, ms")


def _draw_gains(axes: Axes, groups: list[dict[str, Any]]) -> None:
    shown = set()
    for place, group in enumerate(groups):
        step = 0.8 / len(TABLES)
        for table, value, low, high in group["points"]:
            label, color, marker = TABLES[table]
            y = place + (list(TABLES).index(table) - (len(TABLES) - 1) / 2) * step
            axes.plot([low, high], [y, y], color=color, linewidth=1.2)
            axes.plot(value, y, marker, color=color, markersize=4, label=None if table in shown else label)
            shown.add(table)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(groups)), [group["group"] for group in groups], fontsize=8)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set(title="Ranking quality", xlabel="test gAUC gained over a tuned plain table")


def digest(cpu: Path = CPU, study: Path = STUDY) -> str:
    """Hex sha256 over the numbers that the picture shows; it stands in the file's metadata."""
    numbers = [step_times(json.loads(cpu.read_text())), gains(study)]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def draw(out: Path, cpu: Path = CPU, study: Path = STUDY) -> None:
    """Writes the picture as SVG.

    Args:
        out: file to write.
        cpu: result of ``python -m benchmarks``.
        study: folder of the studies' results.
    """
    with plt.rc_context({"svg.hashsalt": "picture", "svg.fonttype": "none", "font.size": 9}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
        _draw_times(left, step_times(json.loads(cpu.read_text())))
        _draw_gains(right, gains(study))
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*right.get_legend_handles_labels(), ncols=3, fontsize=8, loc="outside lower right")
        figure.savefig(out, format="svg", metadata={"Date": None, "Description": f"sha256 {digest(cpu, study)}"})
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m docs.picture", description="Draws the README's picture from committed results."
    )
    parser.add_argument("--out", type=Path, default=PICTURE, help="SVG file (default: docs/picture.svg)")
    args = parser.parse_args(arguments)
    draw(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
