"""The tables of ``docs/tables.md`` that ``python -m benchmarks.serving`` measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import publishing
from benchmarks.report import ratio_text

_MIB = 2**20


def serving_section(result: Mapping[str, Any]) -> str:
    """Markdown: a table a part that the result has, each with its machine."""
    makers = {"int8": _int8, "cached": _cached, "sparse": _sparse, "publishing": publishing.section}
    parts = [make(result[name]) for name, make in makers.items() if name in result]
    return "\n\n".join(parts)


def _origin(part: Mapping[str, Any]) -> str:
    m = part["machine"]
    return f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, {m['isa']} kernels"


def _forms(cells: Mapping[str, Mapping[str, Any]], first: str) -> list[str]:
    lines = [f"| {first} | form | ms | time over ours [quartiles] |", "|---|---|---:|---|"]
    for name, forms in cells.items():
        for form, found in forms.items():
            lines.append(f"| {name} | {form} | {found['median_ms']:.3f} | {ratio_text(found)} |")
    return lines


def _int8(part: Mapping[str, Any]) -> str:
    lines = [
        f"**int8, H = {part['items']:,}, D = {part['dim']}**: the mapped file against torch's operators, in turns",
        "",
        *_forms(part["cells"], f"{part['positions']:,} ids"),
        "",
        f"{_origin(part)}; medians of {part['rounds']} rounds in one process. The file is preloaded.",
    ]
    return "\n".join(lines)


def _cached(part: Mapping[str, Any]) -> str:
    named = {f"{int(positions):,}": forms for positions, forms in part["cells"].items()}
    lines = [
        f"**In the page cache, H = {part['items']:,}, D = {part['dim']}**: ours is int8, and other dtypes of a table",
        "",
        *_forms(named, "ids"),
        "",
        f"Zipf({part['zipf']}) ids; {_origin(part)}; medians of {part['rounds']} rounds in one process.",
    ]
    return "\n".join(lines)


def _sparse(part: Mapping[str, Any]) -> str:
    lines = [
        f"**A file of {part['file_bytes'] / 2**30:.1f} GiB, H = {part['items']:,}, D = {part['dim']}**: {part['bags']:,} "
        "random bags of 20, each form in processes of its own",
        "",
        "| form | open, ms | bags, first time, ms | again, ms | pages touched, MiB | resident set grew by, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in part["processes"].items():
        lines.append(
            f"| {name} | {found['open_ms']:.1f} | {found['cold_ms']:.0f} | {found['warm_ms']:.1f} | "
            f"{found['touched_bytes'] / _MIB:.0f} | {found['grown_bytes'] / _MIB:.0f} |"
        )
    lines += ["", f"The file has holes in place of rows; {_origin(part)}; medians of {part['rounds']} processes."]
    return "\n".join(lines)
