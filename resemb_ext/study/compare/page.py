"""The page of study ``compare``, and the tuned table of docs/results.md, from kept pieces alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from resemb_ext.study.compare.experiment import contrast_key
from resemb_ext.study.compare.rows import PENALTY, TABLES
from resemb_ext.study.compare.said import (
    at_the_cap,
    best_against_res,
    by_seeds,
    not_above_plain,
    not_run,
    open_searches,
    said_by_residual,
    said_further,
    said_hours,
    said_twice,
    verdict,
)
from resemb_ext.study.compare.view import (
    Registered,
    Seen,
    Twice,
    main_rows,
    minus_plain,
    registered,
    seen_rows,
    signed,
    twice,
)
from resemb_ext.study.compare.work import BUCKETS
from resemb_ext.study.harness.report import Figure, Page, Table, side
from resemb_ext.study.harness.results import Results

PROTOCOL = (
    "Rows differ in the item table; groups in log, model and whether the category is given. amazon logs are "
    "split by leave-last-out with 20 negatives per validation and test event, ml-1m by time with 4, "
    "histories of 20 and a fixed sample of 200,000 training rows (its graph and histories see all training "
    "events). Graphs and item2vec see training events only. Dimension 32 (64 for *twice as wide*), category "
    "tables 32, hidden layers 64 and 32, batches of 1,024, at most 30 epochs.",
    "Tuning: each row makes the same number of trials from one common start (learning rate of "
    "tables 0.005, L2 3e-5 of the whole table under dense Adam, scale of the start 0.05). A trial is an "
    "untried neighbour of the best point so far, in one order of moves drawn once for all rows; the grid "
    "has no edge. *closed* says whether all neighbours of the best point were tried. A trial ends after two "
    "epochs without a better validation gAUC, or once the line through its last three epochs' gain stays "
    "below the best trial up to the last epoch. The learning rate of the other layers (0.003) and the residual's "
    "scale (0.1 of the centre's) and L2 (10 times the tables') are fixed.",
    "*two plain tables summed* is a Res-embedding over a graph without edges, E = C + R: the same "
    "parameters and treatment without a graph. *permuted neighbour entries* keeps each row's number of "
    "neighbours and weights and how often each item is a neighbour; *permuted item labels* is the same graph "
    "on other items; both are drawn anew for each seed. *centre only* holds R at 0.",
    "The interval of a difference is a bootstrap over users, then over the paired seeds. Five seeds drawn again from "
    "themselves, and percentiles in place of t, make the seeds' part about a third too narrow; *over seeds* is the t "
    "interval over them, which leaves out that of users. "
    "Under leave-last-out other users' later events are in training and in the graph. The graph holds "
    "the edge from a training target to the last item of its own history too (no cross-fitting). "
    "*training, s* is wall clock on one thread beside whatever else the machine did, other rows among it: "
    "indicative only.",
)


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    rows = seen_rows(results)
    tests = registered(results)
    tables = [_registered_table(tests)] if tests else []
    tables += [_metrics_table(results, part) for part in _by_group(rows)]
    again = twice(results)
    tables.append(_twice_table(again))
    tables += [_frequency_table(log, rows) for log in results.plan["data"]]
    tables.append(_tuning_table(rows))
    notes = (
        _tested(tests),
        by_seeds(results, rows),
        best_against_res(rows),
        said_by_residual(rows),
        open_searches(rows),
        said_further(results),
        at_the_cap(rows),
        said_twice(again),
    )
    answers = [verdict(results, rows), *filter(None, notes)]
    return Page(
        "Res-embedding against plain tables and controls",
        "Is a Res-embedding better than plain tables and controls, all tuned alike?",
        (*PROTOCOL, *filter(None, (said_hours(results, rows),))),
        answers,
        [table for table in tables if table.rows],
        "The registered differences with the other sign on further logs; or a longer search that moves a "
        "row past another: searches that are not closed may have stopped short.",
        list(filter(None, (_forest(results, part, log) for log, part in _by_log(rows).items()))),
        missing=not_run([*rows, *seen_rows(results, further=True)]),
    )


def _by_group(rows: Sequence[Seen]) -> list[list[Seen]]:
    groups = dict.fromkeys(seen.row.group for seen in rows)
    return [[seen for seen in rows if seen.row.group == group] for group in groups]


def _by_log(rows: Sequence[Seen]) -> dict[str, list[Seen]]:
    logs = dict.fromkeys(seen.row.group.log for seen in rows)
    return {log: [seen for seen in rows if seen.row.group.log == log] for log in logs}


def _forest(results: Results, rows: Sequence[Seen], log: str) -> Figure | None:
    """Differences to plain of a log with their intervals, one below the other."""
    lines, keys = [], []
    for seen in rows:
        found = minus_plain(results, seen.row)
        if found is not None:
            lines.append((f"{seen.row.group.setting}: {TABLES[seen.row.table].title}", found["gauc"]))
            plain = seen.row.beside("plain")
            keys += [contrast_key(seen.row, plain), f"seeds-{seen.row.key}", f"seeds-{plain.key}"]
    if not lines:
        return None

    def draw(axes: Any) -> None:
        for place, (_, entry) in enumerate(lines):
            color = {"above": "C0", "below": "C3", "undecided": "grey"}[side(entry)]
            axes.plot([entry["low"], entry["high"]], [place, place], color=color)
            axes.plot(entry["value"], place, "o", color=color, markersize=4)
        axes.axvline(0, color="grey", linestyle="--")
        axes.set_yticks(range(len(lines)), [title for title, _ in lines])
        axes.invert_yaxis()
        axes.set(xlabel="test gAUC minus plain's, 95 % interval")

    return Figure(
        log,
        f"{log}: test gAUC of each table minus that of plain with the same model and features (blue: above, red: "
        "below, grey: not told apart)",
        draw,
        [key for key in dict.fromkeys(keys) if key in results.pieces],
        (8.0, 0.9 + 0.22 * len(lines)),
    )


def _tested(tests: Sequence[Registered]) -> str | None:
    done = [test for test in tests if test.found is not None]
    if not done:
        return None
    texts = [
        f"{test.title}: {signed(test.found['gauc'] if test.found else None)}, p {test.shown(test.holm)}"
        for test in done
    ]
    rest = len(tests) - len(done)
    return (
        "Registered comparisons, test gAUC with p by Holm over all "
        f"{len(tests)}: " + "; ".join(texts) + (f" ({rest} are not run and count as p = 1)." if rest else ".")
    )


def _registered_table(tests: Sequence[Registered]) -> Table:
    return Table(
        "Comparisons set down beforehand: test gAUC",
        ("comparison", "difference", "over seeds", "p", "p by Holm", "logloss, over seeds"),
        [
            (
                test.title,
                signed(None if test.found is None else test.found["gauc"]),
                signed(None if test.found is None else test.found["over_seeds"]["gauc"]),
                test.shown(test.p),
                test.shown(test.holm),
                signed(None if test.found is None else test.found["over_seeds"]["logloss"]),
            )
            for test in tests
        ],
    )


def _twice_table(found: Sequence[Twice]) -> Table:
    return Table(
        "Differences of test gAUC taken twice",
        ("comparison", "first", "last, as shown", "last within the first's interval"),
        [(t.title, signed(t.first), signed(t.last), "no" if t.left else "yes") for t in found],
    )


def _metrics_table(results: Results, rows: Sequence[Seen]) -> Table:
    lines = []
    for seen in rows:
        if seen.seeds is None:
            continue
        found = minus_plain(results, seen.row)
        plain = seen.row.table == "plain"
        lines.append(
            (
                TABLES[seen.row.table].title,
                seen.spread("gauc"),
                "" if plain else signed(None if found is None else found["gauc"]),
                "" if plain else signed(None if found is None else found["over_seeds"]["gauc"]),
                seen.spread("auc"),
                seen.spread("logloss"),
                seen.spread("gauc", "valid"),
                seen.mean("parameters", ",.0f"),
                seen.mean("train_seconds", ".0f"),
                f"{seen.mean('epochs', '.1f')} ({seen.mean('best_epoch', '.1f')})",
            )
        )
    return Table(
        f"{rows[0].row.group.title}: test, mean ± standard deviation over seeds",
        (
            "table",
            "gAUC",
            "minus plain",
            "over seeds",
            "AUC",
            "logloss",
            "valid gAUC",
            "parameters",
            "training, s",
            "epochs (kept)",
        ),
        lines,
    )


def _frequency_table(log: str, rows: Sequence[Seen]) -> Table:
    lines, events = [], [0] * len(BUCKETS)
    for seen in rows:
        if seen.row.group.log != log or seen.seeds is None:
            continue
        buckets = [run["by_frequency"] for run in seen.seeds["runs"]]
        events = [bucket["events"] for bucket in buckets[0]]
        means = [
            "-" if not count else f"{np.mean([run[place]['auc'] for run in buckets]):.4f}"
            for place, count in enumerate(events)
        ]
        lines.append((seen.row.group.setting, TABLES[seen.row.table].title, *means))
    ends = [f" to {high - 1}" if high > low + 1 else "" for low, high in pairwise(BUCKETS)]
    names = [f"{low}{end} ({count:,})" for low, end, count in zip(BUCKETS, [*ends, " or more"], events, strict=True)]
    return Table(
        f"{log}: test AUC by training events of the item (test events in brackets), mean over seeds",
        ("model", "table", *names),
        lines,
    )


def _tuning_table(rows: Sequence[Seen]) -> Table:
    lines = []
    for seen in rows:
        if seen.tune is None:
            continue
        found, trials = seen.tune["options"], seen.tune["trials"]
        first = trials[0].get("valid", {}).get("gauc")
        lines.append(
            (
                f"{seen.row.group.title}: {TABLES[seen.row.table].title}",
                str(len(trials)),
                "-" if first is None else f"{first:.4f}",
                f"{seen.tune['valid_gauc']:.4f}",
                "yes" if seen.tune["closed"] else "no",
                f"{found['embedding_lr']:.3g}",
                f"{found['embedding_l2']:.3g} of {found['l2_of']}",
                f"{found['init_std']:.3g}" + (f", penalty {found[PENALTY]:.3g}" if PENALTY in found else ""),
                f"{sum(trial['seconds'] for trial in trials) / 60:.1f}",
            )
        )
    return Table(
        "Tuning: validation gAUC of seed 0 at the common start and at the best trial, and its options",
        ("row", "trials", "start", "best", "closed", "learning rate", "L2", "start's scale", "minutes"),
        lines,
    )


def tuned_section(results: Results) -> list[str]:
    """Paragraphs of Markdown for docs/results.md: the tuned table, its sentences, what is missing.

    None where no row is done.
    """
    rows = main_rows(seen_rows(results))
    done = [seen for seen in rows if seen.seeds is not None]
    if not done:
        return []
    lines = []
    for seen in done:
        group, found = seen.row.group, minus_plain(results, seen.row)
        lines.append(
            (
                group.log,
                group.model.upper(),
                "yes" if group.category else "no",
                TABLES[seen.row.table].title,
                *(seen.spread(metric) for metric in ("auc", "gauc", "logloss")),
                "" if seen.row.table == "plain" else signed(None if found is None else found["gauc"]),
                seen.mean("parameters", ",.0f"),
                "" if seen.tune is None else ("yes" if seen.tune["closed"] else "no"),
            )
        )
    head = (
        "log",
        "model",
        "category",
        "embedding",
        "AUC",
        "gAUC",
        "logloss",
        "minus plain, gAUC",
        "parameters",
        "search closed",
    )
    parts = [Table("", head, lines).markdown(), verdict(results, rows)]
    notes = (
        best_against_res(rows),
        not_above_plain(results, rows),
        said_by_residual(rows),
        open_searches(rows),
        said_further(results),
        said_twice(twice(results)),
        not_run(rows),
    )
    parts += filter(None, notes)
    return parts
