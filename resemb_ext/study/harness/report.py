"""Pages of studies: tables, figures and answers, from kept JSON alone."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resemb_ext.runtime.files import write_text
from resemb_ext.runtime.pages import around_block, markers

from .results import Results, hours


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
class Panel:
    """One plot of a figure; ``draw`` gets matplotlib axes."""

    title: str
    draw: Callable[[Any], None]


@dataclass(frozen=True)
class Figure:
    """Plots in one file.

    Attributes:
        name: of its file, after the study's; "" for the study's name alone.
        caption: for people.
        panels: plots, row by row.
        pieces: keys of the pieces that it shows, whose seeds, data and options go into the file.
        columns: panels side by side.
        size: of a panel, in inches.
    """

    name: str
    caption: str
    panels: Sequence[Panel]
    pieces: Sequence[str]
    columns: int = 1
    size: tuple[float, float] = (6.4, 4.0)


@dataclass(frozen=True)
class Page:
    """What code gives to a page: tables and figures from kept pieces; prose is written by people.

    Attributes:
        tables, figures: in order.
        missing: what was not run, as a list; None lists the keys of pieces.
    """

    tables: Sequence[Table]
    figures: Sequence[Figure] = field(default_factory=tuple)
    missing: Sequence[str] | None = None


#: Between these lines stands what code writes; all else of a page is kept as it is.
RESULTS = markers("results")
#: Between these a person answers the question.
ANSWER = markers("answer")


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


def signed(entry: dict[str, Any] | None) -> str:
    """A difference, ``value`` or ``mean``, and its interval, with signs; "not run" without one."""
    if entry is None:
        return "not run"
    value = entry.get("value", entry.get("mean"))
    if value is None:
        return "-"
    if entry.get("low") is None:
        return f"{value:+.4f}"
    return f"{value:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"


def side(entry: dict[str, Any]) -> str:
    """ "below", "above" or "undecided": where an interval lies with regard to 0; "one seed" without one."""
    if entry["low"] is None:
        return "one seed"
    return "below" if entry["high"] < 0 else "above" if entry["low"] > 0 else "undecided"


def write_page(page: Page, results: Results, path: Path, *, title: str, question: str) -> None:
    """Writes tables and figures into a page, between its markers; figures become files beside it.

    Args:
        page: what goes in.
        results: that it was made from.
        path: of the page, named after the study. Where there is none, one is begun.
        title, question: of a page that is begun.

    Raises:
        ValueError: the page has not each of the two markers once, in order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else _begun(title, question)
    try:
        before, after = around_block(text, "results")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; without the file, a page is begun anew") from error
    write_text(path, "\n\n".join([before, *_block(page, results, path), after]))


def _begun(title: str, question: str) -> str:
    parts = [
        f"# {title}",
        f"**Question.** {question}",
        "## Answer",
        "\n".join(ANSWER),
        "## Results",
        "\n".join(RESULTS),
    ]
    return "\n\n".join(parts) + "\n"


def _block(page: Page, results: Results, path: Path) -> list[str]:
    parts = []
    if results.plan["quick"]:
        parts.append("*A quick run: small data and few seeds, to show that it works.*")
    missing = [f"`{key}`" for key in results.missing] if page.missing is None else page.missing
    if missing:
        parts.append("*Not run: " + ", ".join(missing) + ".*")
    parts += ["### Protocol", "\n".join(f"- {k}: {_flat(v)}" for k, v in results.plan["protocol"].items())]
    parts += ["### Tables", *(table.markdown() for table in page.tables)]
    if page.figures:
        parts.append("### Figures")
    for figure in page.figures:
        file = f"{path.stem}-{figure.name}.svg" if figure.name else f"{path.stem}.svg"
        _draw(figure, path.with_name(file), _made_of(results, figure.pieces))
        parts.append(f"![{Path(file).stem}]({file})\n\n{figure.caption}")
    return [*parts, "### Data, seeds and versions", _origins(results)]


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
    lines.append(f"- pieces of work: {len(results.pieces)}, {hours(pieces):.2f} hours of wall-clock time in total")
    if results.earlier:
        earlier = hours(results.earlier.values())
        lines.append(
            f"- pieces that were run twice, with the first result kept: {len(results.earlier)}, {earlier:.2f} hours"
        )
    if seeds:
        lines.append(
            f"- seeds: {seeds[0]} to {seeds[-1]}; `{results.plan['study']}.jsonl` has seeds, options and data of each piece"
        )
    versions: dict[str, dict[str, None]] = {}
    for piece in pieces:
        for name, value in {"processor": "not recorded", **piece["versions"]}.items():
            versions.setdefault(name, {})[str(value)] = None
    texts = [f"{name}: {' or '.join(values)}" for name, values in versions.items()]
    if texts:
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

    rows = -(-len(figure.panels) // figure.columns)
    # No dates and fixed ids: the same results give the same file.
    with rc_context({"svg.hashsalt": path.stem, **_LIGHT}):
        canvas = Canvas(figsize=(figure.columns * figure.size[0], rows * figure.size[1]), layout="constrained")
        FigureCanvasSVG(canvas)
        grid = canvas.subplots(rows, figure.columns, squeeze=False).ravel()
        for axes, panel in zip(grid, figure.panels, strict=False):
            panel.draw(axes)
            axes.set_title(panel.title)
        for axes in grid[len(figure.panels) :]:
            axes.set_visible(False)
        metadata = {"Date": None, "Description": description}
        file = io.StringIO()
        canvas.savefig(file, format="svg", metadata=metadata)
    write_text(path, _lighter(file.getvalue()))


#: Letters stay text, in a font that need not be there.
_LIGHT: Any = {"svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": "DejaVu Sans", "font.size": 8}


def _lighter(svg: str) -> str:
    """Without indentation, with places to a hundredth of a point: a third as large, and looks the same."""
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", re.sub(r"\n\s+", "\n", svg))

    def cut(found: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", found[0])

    return re.sub(r' (?:d|x|y)="[^"]*"', cut, svg)
