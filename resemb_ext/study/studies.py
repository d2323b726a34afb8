"""The studies by name: running them and writing their pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resemb_ext.runtime.files import check_out
from resemb_ext.study.bound import experiment as bound
from resemb_ext.study.bound import page as bound_page
from resemb_ext.study.bound import protocol as bound_protocol
from resemb_ext.study.coldstart import experiment as coldstart
from resemb_ext.study.coldstart import page as coldstart_page
from resemb_ext.study.coldstart import protocol as coldstart_protocol
from resemb_ext.study.compact import experiment as compact
from resemb_ext.study.compact import page as compact_page
from resemb_ext.study.compact import protocol as compact_protocol
from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare import page as compare_page
from resemb_ext.study.compare import protocol as compare_protocol
from resemb_ext.study.delay import experiment as delay
from resemb_ext.study.delay import page as delay_page
from resemb_ext.study.delay import protocol as delay_protocol
from resemb_ext.study.gain import experiment as gain
from resemb_ext.study.gain import page as gain_page
from resemb_ext.study.gain import protocol as gain_protocol
from resemb_ext.study.harness.pieces import Piece, Source, file_source, run_pieces, simulated_source
from resemb_ext.study.harness.report import Page, write_page
from resemb_ext.study.harness.results import Results, has_results, load_results
from resemb_ext.study.quantised import experiment as quantised
from resemb_ext.study.quantised import page as quantised_page
from resemb_ext.study.quantised import protocol as quantised_protocol
from resemb_ext.study.radius import experiment as radius
from resemb_ext.study.radius import page as radius_page
from resemb_ext.study.radius import protocol as radius_protocol
from resemb_ext.study.untuned import experiment as untuned
from resemb_ext.study.untuned import page as untuned_page
from resemb_ext.study.untuned import protocol as untuned_protocol

REPORT = "report"


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        title: of its page.
        question: that it asks.
        pieces: called with sources and ``quick``.
        page: tables and figures of its results.
        protocol: written before the results and kept with them.
        settings: names of ways to set up a log, the usual one first; none where there is only one.
    """

    title: str
    question: str
    pieces: Callable[..., list[Piece]]
    page: Callable[[Results], Page]
    protocol: Mapping[str, Any]
    settings: Sequence[str] = ()


STUDIES: dict[str, Study] = {
    "compare": Study(
        "Res-embedding against plain tables and controls",
        "Is Res-embedding better than plain tables and controls, all tuned alike?",
        compare.pieces,
        compare_page.page,
        compare_protocol.PROTOCOL,
        tuple(compare_protocol.SETTINGS),
    ),
    "delay": Study(
        "The interest delay model",
        "Do users' interests stay put for a while, then jump?",
        delay.pieces,
        delay_page.page,
        delay_protocol.PROTOCOL,
    ),
    "radius": Study(
        "The aggregation radius",
        "Does a small radius inside interest domains generalise better?",
        radius.pieces,
        radius_page.page,
        radius_protocol.PROTOCOL,
    ),
    "bound": Study(
        "A bound in the radius",
        "Does a small radius inside domains imply that a model generalises?",
        bound.pieces,
        bound_page.page,
        bound_protocol.PROTOCOL,
    ),
    "untuned": Study(
        "Untuned: both embeddings at one set of options",
        "What does Res-embedding give in place of a plain embedding on a real log, when nothing is tuned?",
        untuned.pieces,
        untuned_page.page,
        untuned_protocol.PROTOCOL,
        tuple(untuned_protocol.SETTINGS),
    ),
    "compact": Study(
        "Compact state and bfloat16 tables",
        "What do bfloat16 tables and Adam's state in fewer bytes cost in gAUC?",
        compact.pieces,
        compact_page.page,
        compact_protocol.PROTOCOL,
        tuple(compare_protocol.SETTINGS),
    ),
    "coldstart": Study(
        "Rows of new items without training",
        "What are the rows of new items worth that grow from the graph alone?",
        coldstart.pieces,
        coldstart_page.page,
        coldstart_protocol.PROTOCOL,
        tuple(coldstart_protocol.SETTINGS),
    ),
    "quantised": Study(
        "Served tables of fewer bits",
        "What do served item tables of 16, 8 and 4 bits cost in gAUC?",
        quantised.pieces,
        quantised_page.page,
        quantised_protocol.PROTOCOL,
        tuple(compare_protocol.SETTINGS),
    ),
    "gain": Study(
        "A gain over the cheap alternatives",
        "Does a form of Res-embedding gain more than every cheaper trick, and hurt on no log?",
        gain.pieces,
        gain_page.page,
        gain_protocol.PROTOCOL,
        tuple(gain_protocol.SETTINGS),
    ),
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
    settings: Mapping[str, str] | None = None,
    quick: bool = False,
    jobs: int = 1,
    only: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Runs a study, or goes on with it, and writes its report.

    Args:
        name: one of ``STUDIES``.
        out: folder; the results become ``out/NAME.jsonl``.
        data: log files; none: simulated logs.
        settings: how a log is set up, by its name (of a file, without its ending): one of the study's settings.
        quick: small data and few seeds.
        jobs, only: processes, and which pieces, as in
            ``resemb_ext.study.harness.pieces.run_pieces``.
        progress: as in ``resemb_ext.study.harness.pieces.run_pieces``.

    Returns:
        the path of its page.

    Raises:
        ValueError: an unknown study or setting, two logs of one name, or a folder with results of other options.
        FileNotFoundError: a log is missing.
    """
    if name not in STUDIES:
        raise ValueError(f"study must be one of {', '.join(STUDIES)}; found {name!r}")
    study = STUDIES[name]
    given = dict(settings or {})
    for log, setting in given.items():
        if setting not in study.settings:
            known = f"knows {', '.join(study.settings)}" if study.settings else "has none"
            raise ValueError(f"setting: {setting!r} of {log}; study {name} {known}")
    check_out(Path(out), [Path(path) for path in data])
    found = [file_source(path) for path in data] or default_sources(quick)
    names = [source.name for source in found]
    if unknown := given.keys() - set(names):
        raise ValueError(f"setting: no log is named {', '.join(sorted(unknown))}; found {', '.join(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"data: logs must have different file names, found {', '.join(names)}")
    run_pieces(
        name,
        study.pieces([replace(source, setting=given.get(source.name, "")) for source in found], quick=quick),
        Path(out),
        protocol=study.protocol,
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
    """Writes tables and figures into the studies' pages, from the results under ``out`` alone.

    What people wrote on a page stays; see ``resemb_ext.study.harness.report.write_page``.

    Args:
        out: folder of ``run_study``.
        into: where the pages are; default ``out/report``.
        names: studies; default all that ``out`` holds.

    Returns:
        paths of the pages.

    Raises:
        FileNotFoundError: ``out`` holds no study.
        ValueError: a page lacks the markers.
    """
    root = Path(out)
    folder = root / REPORT if into is None else Path(into)
    chosen = list(names or [name for name in STUDIES if has_results(root, name)])
    if not chosen:
        raise FileNotFoundError(f"out: {root} holds no study; run one first")
    paths = [folder / f"{name}.md" for name in chosen]
    for name, path in zip(chosen, paths, strict=True):
        study, results = STUDIES[name], load_results(root, name)
        write_page(study.page(results), results, path, title=study.title, question=study.question)
    return paths
