"""Pages of studies: tables, figures and answers, from kept JSON alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resemb_ext.runtime.files import write_atomic, write_text
from resemb_ext.study.harness.protocol import CHANGES
from resemb_ext.study.harness.results import Results, hours


@dataclass(frozen=True)
class Table:
    """A table: ``rows`` of text under ``header``."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As GitHub's Markdown."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += ["| " + " | ".join(row) + " |" for row in (self.header, ["---"] * len(self.header))]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines)

    def text(self) -> str:
        """As aligned text for a terminal."""
        cells = [list(self.header), *map(list, self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.header))]
        body = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join(([self.title] if self.title else []) + body)


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        name: of its file, after the study's.
        caption: for people.
        draw: gets matplotlib axes.
        pieces: keys of the pieces that it shows, whose seeds, data and options go into the file.
        size: in inches.
    """

    name: str
    caption: str
    draw: Callable[[Any], None]
    pieces: Sequence[str]
    size: tuple[float, float] = (6.4, 4.0)


@dataclass(frozen=True)
class Page:
    """What a study says.

    Attributes:
        title, question: of the study.
        protocol: how it was asked, paragraphs of Markdown.
        answers: one sentence each.
        tables, figures: what they rest on.
        change: what would change our mind.
        missing: what was not run, in words; None lists the keys of pieces.
    """

    title: str
    question: str
    protocol: Sequence[str]
    answers: Sequence[str]
    tables: Sequence[Table]
    change: str
    figures: Sequence[Figure] = field(default_factory=tuple)
    missing: str | None = None


def listed(texts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]


def number(value: Any, digits: int = 3) -> str:
    """A number for a table; "-" for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(entry: dict[str, Any] | None, digits: int = 3) -> str:
    """``value`` or ``mean`` with ``low`` and ``high``."""
    if entry is None or entry.get("value", entry.get("mean")) is None:
        return "-"
    middle = number(entry.get("value", entry.get("mean")), digits)
    if entry.get("low") is None:
        return middle
    return f"{middle} [{number(entry['low'], digits)}, {number(entry['high'], digits)}]"


def side(entry: dict[str, Any]) -> str:
    """ "below", "above" or "undecided": where an interval lies with regard to 0; "one seed" without one."""
    if entry["low"] is None:
        return "one seed"
    return "below" if entry["high"] < 0 else "above" if entry["low"] > 0 else "undecided"


def write_page(page: Page, results: Results, folder: Path, name: str) -> Path:
    """Writes ``NAME.md`` and its figures into ``folder``; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {page.title}", f"**Question.** {page.question}"]
    parts += ["## Answer", *page.answers]
    if results.plan["quick"]:
        parts.append("*A quick run: small data and few seeds, to show that it works.*")
    if page.missing is not None:
        parts.append(f"*{page.missing}*")
    elif results.missing:
        parts.append("*Not run: " + ", ".join(f"`{key}`" for key in results.missing) + ".*")
    parts += ["## Protocol", *page.protocol]
    protocol = results.plan["protocol"]
    changed = CHANGES.get(name)
    parts.append(
        "Set down before any test score of a tuned model was looked at:"
        if changed is None
        else f"Set down beforehand, then changed. {changed}"
    )
    parts.append("\n".join(f"- {key}: {_flat(value)}" for key, value in protocol.items()))
    parts += ["## Results", *(table.markdown() for table in page.tables)]
    for figure in page.figures:
        file = f"{name}-{figure.name}.svg"
        _draw(figure, folder / file, _made_of(results, figure.pieces))
        parts.append(f"![{figure.caption}]({file})\n\n{figure.caption}")
    parts += ["## What would change our mind", page.change]
    parts += ["## Where the figures come from", _origins(results)]
    path = folder / f"{name}.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _flat(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _origins(results: Results) -> str:
    data = results.plan["data"]
    lines = [
        f"- data `{name}`: {entry['events']} events of {entry['users']} users with "
        f"{entry['items']} items, hash `{entry['hash'][:16]}`"
        for name, entry in data.items()
    ]
    if len(lines) > 8:  # folded away on GitHub
        lines = [f"<details><summary>{len(lines)} logs and their hashes</summary>", "", *lines, "", "</details>", ""]
    pieces = results.pieces.values()
    seeds = sorted({seed for piece in pieces for seed in piece["seeds"]})
    spent = f"- {len(results.pieces)} pieces, {hours(pieces):.2f} hours of wall clock in all"
    lines.append(spent + (", scores taken before apart" if results.earlier else ""))
    if seeds:
        lines.append(
            f"- seeds {seeds[0]} to {seeds[-1]}; each piece's own, with its configuration and the hash of its "
            f"data, are in `{results.plan['study']}.jsonl`"
        )
    versions: dict[str, dict[str, None]] = {}
    for piece in pieces:
        for name, value in {"processor": "not recorded", **piece["versions"]}.items():
            versions.setdefault(name, {})[str(value)] = None
    texts = [f"{name}: {' or '.join(values)}" for name, values in versions.items()]
    lines.append("- " + "; ".join(texts))
    return "\n".join(lines)


def _made_of(results: Results, keys: Sequence[str]) -> str:
    """For a figure's metadata: study, pieces, their seeds, data and options."""
    pieces = [results.pieces[key] for key in keys]
    used = {piece.get("data") for piece in pieces}
    told = {
        "study": results.plan["study"],
        "protocol": results.plan["protocol"]["version"],
        "quick": results.plan["quick"],
        "pieces": list(keys),
        "seeds": sorted({seed for piece in pieces for seed in piece["seeds"]}),
        "data": {n: e["hash"] for n, e in results.plan["data"].items() if e["hash"] in used},
        "config": _merged([piece["config"] for piece in pieces]),
    }
    return json.dumps(told)


def _merged(values: Sequence[Any]) -> Any:
    """What is the same in all as it is; objects key by key; else each different value."""
    if all(value == values[0] for value in values):
        return values[0] if values else None
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _merged([value[key] for value in values if key in value]) for key in keys}
    return [json.loads(text) for text in dict.fromkeys(json.dumps(value) for value in values)]


def _draw(figure: Figure, path: Path, description: str) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    metadata = {"Date": None, "Description": description}
    # No dates and fixed ids: the same JSON gives the same file.
    with rc_context({"svg.hashsalt": figure.name}):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        FigureCanvasSVG(canvas)
        figure.draw(canvas.subplots())
        write_atomic(path, lambda p: canvas.savefig(p, format="svg", metadata=metadata))
