"""The studies by name: running them and writing their pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resemb_ext.runtime.files import write_text
from resemb_ext.study.bound import experiment as bound
from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare import page as compare_page
from resemb_ext.study.delay import experiment as delay
from resemb_ext.study.delay import page as delay_page
from resemb_ext.study.harness.pieces import Piece, Source, file_source, run_pieces, simulated_source
from resemb_ext.study.harness.protocol import PROTOCOLS
from resemb_ext.study.harness.report import Page, write_page
from resemb_ext.study.harness.results import Results, has_results, hours, load_results
from resemb_ext.study.radius import experiment as radius
from resemb_ext.study.radius import page as radius_page

REPORT = "report"
#: What all studies in full should take at most, in core-hours.
HOURS = 10
INTRODUCTION = (
    "Experiments on the claims of Zhou et al. 2019 (arXiv 1906.10304), written from the kept results alone by "
    "`resemb study report --out RESULTS --into PAGES`, RESULTS the folder of the studies' JSON and PAGES this one. "
    "Answers, each in a sentence:"
)


@dataclass(frozen=True)
class Study:
    """A study: ``pieces(sources, quick=...)``, ``page(results)``, and what it asks in short."""

    pieces: Callable[..., list[Piece]]
    page: Callable[[Results], Page]
    help: str


STUDIES: dict[str, Study] = {
    "compare": Study(
        compare.pieces, compare_page.page, "is Res-embedding better than plain tables and controls, all tuned alike?"
    ),
    "delay": Study(delay.pieces, delay_page.page, "does the interest delay model hold?"),
    "radius": Study(radius.pieces, radius_page.page, "does a small radius in domains generalise better?"),
    "bound": Study(bound.pieces, bound.page, "a generalisation bound in the radius, and whether it says anything"),
}


def default_sources(quick: bool) -> list[Source]:
    """What is studied where no log is given: a simulated log and its null variant."""
    sizes: dict[str, Any] = {"users": 1000, "items": 600} if quick else {}
    return [simulated_source("simulated", **sizes), simulated_source("simulated-null", null=True, **sizes)]


def run_study(
    name: str,
    out: Path | str,
    *,
    data: Sequence[Path | str] = (),
    quick: bool = False,
    jobs: int = 1,
    only: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Runs a study, or goes on with it, and writes its report.

    Args:
        name: one of :data:`STUDIES`.
        out: folder; the results become ``out/NAME.jsonl``.
        data: log files; none: simulated logs.
        quick: small data and few seeds.
        jobs, only: processes, and which pieces, as in
            :func:`~resemb_ext.study.harness.pieces.run_pieces`.
        progress: as in :func:`~resemb_ext.study.harness.pieces.run_pieces`.

    Returns:
        the path of its page.

    Raises:
        ValueError: an unknown study, two logs of one name, or a folder with results of other options.
        FileNotFoundError: a log is missing.
    """
    if name not in STUDIES:
        raise ValueError(f"study must be one of {', '.join(STUDIES)}; found {name!r}")
    sources = [file_source(path) for path in data] or default_sources(quick)
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"data: logs must have different file names, found {', '.join(names)}")
    study = STUDIES[name]
    run_pieces(
        name,
        study.pieces(sources, quick=quick),
        Path(out),
        protocol=PROTOCOLS[name],
        quick=quick,
        jobs=jobs,
        only=only,
        progress=progress,
    )
    return write_report(out, names=[name])[0]


def tables_text(out: Path | str, name: str) -> str:
    """The tables of a study's page, for a terminal.

    Raises:
        FileNotFoundError: ``out`` does not hold it.
    """
    page = STUDIES[name].page(load_results(out, name))
    return "\n\n".join(table.text() for table in page.tables)


def write_report(out: Path | str, *, into: Path | str | None = None, names: Sequence[str] | None = None) -> list[Path]:
    """Writes pages and figures from the results under ``out`` alone.

    Args:
        out: folder of :func:`run_study`.
        into: where the pages go; default ``out/report``.
        names: studies; default all that ``out`` holds.

    Returns:
        paths of the pages, then (without ``names``) of ``README.md``, which links them.

    Raises:
        FileNotFoundError: ``out`` holds no study.
    """
    root = Path(out)
    folder = root / REPORT if into is None else Path(into)
    chosen = list(names or [name for name in STUDIES if has_results(root, name)])
    if not chosen:
        raise FileNotFoundError(f"out: {root} holds no study; run one first")
    spent: dict[str, float] = {}
    paths, lines = [], ["# Studies", "", INTRODUCTION, ""]
    for name in chosen:
        results = load_results(root, name)
        page = STUDIES[name].page(results)
        paths.append(write_page(page, results, folder, name))
        answer = next(iter(page.answers)).replace("**", "")
        lines += [f"- [{page.title}]({name}.md): {page.question}", f"  *{answer}*"]
        done = [*results.pieces.values(), *results.earlier.values()]
        spent[name] = hours(done)
    if names is None:
        total = sum(spent.values())
        over = f", over the {HOURS} core-hours that they should take" if total > HOURS else ""
        each = ", ".join(f"{name} {value:.1f}" for name, value in spent.items())
        lines += [
            "",
            f"The pieces of all studies took {total:.1f} hours of wall clock ({each}){over}: "
            "one thread each, other work of the machine beside them.",
        ]
        index = folder / "README.md"
        write_text(index, "\n".join(lines) + "\n")
        paths.append(index)
    return paths
