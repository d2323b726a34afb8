"""The compact state's tables of ``docs/benchmarks.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import OWN_STEP, ratio_text

_GIB = 2**30


def compact_section(result: Mapping[str, Any]) -> str:
    """Markdown: a table a part that the result has, each with its machine."""
    parts = [
        make(result[name])
        for name, make in (("step", _step), ("memory", _memory), ("bytes", _bytes), ("forward", _forward))
        if name in result
    ]
    return "\n\n".join(parts)


def short_table(cpu: Mapping[str, Any], compact: Mapping[str, Any]) -> str:
    """Markdown: what a user gets, in bytes and time, beside what else there is.

    Args:
        cpu: the committed result of ``python -m benchmarks``; its largest cell is taken.
        compact: that of ``python -m benchmarks.compact``, whose parts need not all be there.
    """
    lines = ["| | resemb_ext | compared with |", "|---|---|---|"]
    if "bytes" in compact:
        rows = compact["bytes"]["all"]["rows"]
        dim = max(row["dim"] for row in rows)
        of = {(row["tables"], row["state"]): row for row in rows if row["dim"] == dim}
        whole = of["float32", "float32"]
        lines.append(
            f"| tables and Adam's state, bytes for an item and dimension, D = {dim} | "
            f"{of['bfloat16', 'compact']['res']:.2f} compact, {whole['res']:.0f} in float32 | "
            f"plain table with Adam in float32 {whole['plain']:.0f} |"
        )
    if "memory" in compact:
        cell = _by_items(compact["memory"])[0]
        peaks = {name: f"{found['peak_bytes'] / _GIB:.1f} GiB" for name, found in cell["processes"].items()}
        lines.append(
            f"| peak memory of training, {cell['items']:,} items, D = {cell['dim']} | {peaks['resemb_ext, compact']} compact, "
            f"{peaks['resemb_ext, float32']} in float32 | plain table with SparseAdam {next(iter(peaks.values()))} |"
        )
    if "step" in compact:
        cell = _by_items(compact["step"])[0]
        lines.append(
            f"| whole Adam step, {cell['items']:,} items | {cell['step']['compact']['median_ms']:.0f} ms compact | "
            f"{cell['step']['float32']['median_ms']:.0f} ms in float32 |"
        )
    cell = max(cpu["cells"], key=lambda cell: cell["items"])
    for title, phase, own in (("lookup, forward", "forward", "resemb_ext"), ("whole Adam step", "step", OWN_STEP)):
        times = cell[phase]
        beside = f"fastest PyTorch form {times[cell[f'best_baseline_{phase}']]['median_ms']:.1f} ms"
        if phase == "step":
            beside += f"; plain table with SparseAdam {times['plain, SparseAdam']['median_ms']:.1f} ms"
        lines.append(f"| {title}, {cell['items']:,} items, float32 | {times[own]['median_ms']:.1f} ms | {beside} |")
    return "\n".join(lines)


def _by_items(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [part[key] for key in sorted(part, key=int, reverse=True)]


def _origin(one: Mapping[str, Any]) -> str:
    m = one["machine"]
    return f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, {m['isa']} kernels"


def _origins(cells: list[dict[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(_origin(cell) for cell in cells))


def _step(part: Mapping[str, Any]) -> str:
    cells = _by_items(part)
    lines = [
        "**Whole Adam step in backward**, compact and float32 in turns",
        "",
        "| H | D | K | U | V | tables and state, GiB: float32 | compact | float32, ms | compact, ms "
        "| compact over float32 [quartiles] |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for cell in cells:
        step, kept = cell["step"], cell["bytes"]
        lines.append(
            f"| {cell['items']:,} | {cell['dim']} | {cell['neighbors']} | {cell['unique']:,} | "
            f"{cell['touched_neighbors']:,} | {kept['float32'] / _GIB:.2f} | {kept['compact'] / _GIB:.2f} | "
            f"{step['float32']['median_ms']:.1f} | {step['compact']['median_ms']:.1f} | {ratio_text(step['compact'])} |"
        )
    first = cells[0]
    lines += [
        "",
        f"{first['positions']:,} Zipf({first['zipf']}) ids; {_origins(cells)}; medians of {first['rounds']} rounds in "
        "one process.",
    ]
    return "\n".join(lines)


def _memory(part: Mapping[str, Any]) -> str:
    cells = _by_items(part)
    lines = [
        "**Peak memory of training**, graph included, each in a process of its own",
        "",
        "| H | D | K | training | tables and state, GiB | peak of the process, GiB | over plain |",
        "|---:|---:|---:|---|---:|---:|---:|",
    ]
    for cell in cells:
        plain = next(iter(cell["processes"].values()))["peak_bytes"]
        for name, found in cell["processes"].items():
            lines.append(
                f"| {cell['items']:,} | {cell['dim']} | {cell['neighbors']} | {name} | {found['kept_bytes'] / _GIB:.2f} | "
                f"{found['peak_bytes'] / _GIB:.2f} | {found['peak_bytes'] / plain:.2f} |"
            )
    lines += [
        "",
        f"One pass over all items in batches of {cells[0]['positions']:,}, with the graph read from a file; "
        f"{_origins(cells)}.",
    ]
    return "\n".join(lines)


def _bytes(part: Mapping[str, Any]) -> str:
    rows = part["all"]["rows"]
    dims = sorted({row["dim"] for row in rows})
    heads = "".join(f" D = {dim}: res | plain |" for dim in dims)
    lines = [
        "**Bytes of tables and state** for an item and dimension",
        "",
        f"| tables | state |{heads}",
        "|---|---|" + "---:|" * (2 * len(dims)),
    ]
    for tables in ("float32", "bfloat16"):
        for state in dict.fromkeys(row["state"] for row in rows):
            of = {row["dim"]: row for row in rows if (row["tables"], row["state"]) == (tables, state)}
            sizes = "".join(f" {of[dim]['res']:.2f} | {of[dim]['plain']:.2f} |" for dim in dims)
            lines.append(f"| {tables} | {state} |{sizes}")
    return "\n".join(lines)


def _forward(part: Mapping[str, Any]) -> str:
    cells = _by_items(part)
    lines = [
        "**Forward pass**, bfloat16 and float32 tables in turns",
        "",
        "| H | D | K | float32, ms | bfloat16, ms | bfloat16 over float32 [quartiles] |",
        "|---:|---:|---:|---:|---:|---|",
    ]
    for cell in cells:
        times = cell["forward"]
        lines.append(
            f"| {cell['items']:,} | {cell['dim']} | {cell['neighbors']} | {times['float32']['median_ms']:.1f} | "
            f"{times['compact']['median_ms']:.1f} | {ratio_text(times['compact'])} |"
        )
    first = cells[0]
    lines += [
        "",
        f"{first['positions']:,} Zipf({first['zipf']}) ids; {_origins(cells)}; medians of {first['rounds']} rounds in "
        "one process.",
    ]
    return "\n".join(lines)
