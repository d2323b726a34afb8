"""The tables of docs/compatibility.md: ``python -m tests.upstream.page`` writes them anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .groups import GROUPS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
_BEGIN, _END = "<!-- tables: tests/upstream -->\n", "<!-- end of tables -->\n"


def tables() -> str:
    """Both tables, of the installed torch."""
    first = ["| inputs | asked | cases | as torch | otherwise |", "|---|---|--:|--:|--:|"]
    reasons: Counter[tuple[str, str]] = Counter()
    for group in GROUPS.values():
        names = [*group.cases()]
        found = [difference for name in names if (difference := group.difference(name))]
        reasons.update((one.what, one.why) for one in found)
        first.append(f"| {group.inputs} | {group.asked} | {len(names)} | {len(names) - len(found)} | {len(found)} |")
    second = ["| otherwise | cases | why |", "|---|--:|---|"]
    second += [f"| {what} | {count} | {why} |" for (what, why), count in reasons.items()]
    return "\n".join(first) + "\n\n" + "\n".join(second) + "\n"


def parts() -> tuple[str, str, str]:
    """The page before, in and after its tables."""
    before, rest = PAGE.read_text().split(_BEGIN)
    inside, after = rest.split(_END)
    return before + _BEGIN, inside, _END + after


if __name__ == "__main__":
    head, _, tail = parts()
    PAGE.write_text(head + "\n" + tables() + "\n" + tail)
