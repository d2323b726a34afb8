"""The graph builder's table and plot for docs/graph.md."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

OWN = "resemb_ext"


def _good(cell: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [run for run in cell["runs"].get(method, []) if "failed" not in run]


def _methods(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for cell in result["cells"] for name in cell["runs"]))


def _ratios(cell: dict[str, Any], method: str) -> list[float]:
    """A method's time over ours, of every round that both ended."""
    both = zip(cell["runs"][method], cell["runs"][OWN], strict=True)
    return [a["seconds"] / b["seconds"] for a, b in both if "failed" not in a | b]


def graph_table(result: dict[str, Any]) -> str:
    """Markdown: medians of every log and method, and the ratio to ours within the same round."""
    lines = [
        "| events | method | runs | seconds | CPU seconds | peak memory, MiB | time over ours [least, most] |",
        "|---:|---|---:|---:|---:|---:|---|",
    ]
    for cell in result["cells"]:
        for method in _methods(result):
            runs = _good(cell, method)
            if not runs:
                for run in cell["runs"].get(method, [])[:1]:
                    lines.append(f"| {cell['events']:,} | {method} | | {run['failed']} | | | |")
                continue
            figures = [median(r[name] for r in runs) for name in ("seconds", "cpu_seconds", "peak_mib")]
            ratio = _ratios(cell, method)
            lines.append(
                f"| {cell['events']:,} | {method} | {len(runs)} | {figures[0]:.2f} | {figures[1]:.2f} | "
                f"{figures[2]:,.0f} | {median(ratio):.2f} [{min(ratio):.2f}, {max(ratio):.2f}] |"
            )
    return "\n".join(lines)


def draw_graph(result: dict[str, Any], path: Path) -> None:
    """PNG: seconds and peak memory over the number of events, medians with the range of the runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from resemb_ext.runtime.files import write_atomic

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = {"seconds": "seconds", "peak_mib": "peak memory of the process, MiB"}
    for axis, (field, label) in zip(axes, labels.items(), strict=True):
        for method in _methods(result):
            cells = [cell for cell in result["cells"] if _good(cell, method)]
            events = [cell["events"] for cell in cells]
            runs = [[run[field] for run in _good(cell, method)] for cell in cells]
            middle = [median(values) for values in runs]
            (line,) = axis.loglog(events, middle, marker="o", ms=4, label=method)
            axis.fill_between(events, [min(v) for v in runs], [max(v) for v in runs], color=line.get_color(), alpha=0.2)
        axis.set(xlabel="events", ylabel=label)
        axis.grid(True, alpha=0.3)
    axes[0].legend()
    write_atomic(path, lambda target: figure.savefig(target, format="png", dpi=120))
    pyplot.close(figure)


def graph_section(result: dict[str, Any], plot: str) -> str:
    """Markdown: settings and versions, the plot, the table."""
    m, s = result["machine"], result["settings"]
    return "\n".join(
        [
            f"{s['items']:,} items, window {s['window']}, top_k {s['top_k']}, {s['threads']} threads; {m['cpu']}, "
            f"{m['cores']} cores; scipy {m['scipy']}, polars {m['polars']}, duckdb {m['duckdb']}, pyarrow "
            f"{m['pyarrow']}.",
            "",
            f"![time and memory]({plot})",
            "",
            graph_table(result),
        ]
    )


def large_line(result: dict[str, Any]) -> str:
    """One line: what a build of a log larger than memory took."""
    m, s, run = result["machine"], result["settings"], result["run"]
    return (
        f"{s['events']:,} events of {s['items']:,} items in Parquet files of {s['log_mib'] / 1024:.1f} GiB (window "
        f"{s['window']}, top_k {s['top_k']}, `--memory {s['memory_mib'] // 1024}G`, {s['threads']} threads, {m['cpu']}) "
        f"took {run['seconds']:.0f} s, {run['cpu_seconds']:.0f} CPU seconds, and {run['peak_mib'] / 1024:.1f} GiB at the "
        f"peak, in {run['starts']} start{'s' * (run['starts'] > 1)}."
    )
