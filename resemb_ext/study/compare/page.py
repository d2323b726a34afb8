"""Tables and figures of study ``compare``, from kept pieces alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from resemb_ext.study.harness.report import Figure, Page, Panel, Table, side, signed
from resemb_ext.study.harness.results import Results
from resemb_ext.train import paired_difference

from .experiment import contrast_key
from .training import BUCKETS, L2_MODES
from .variants import PENALTY, TABLES, Variant
from .view import FURTHER, Registered, Seen, Twice, minus_plain, registered, seen_variants, twice


def page(results: Results) -> Page:
    """Tables and figures of the study."""
    variants = seen_variants(results)
    tables = [
        _registered_table(registered(results)),
        _res_table(results, variants),
        *(_metrics_table(results, part) for part in _by_group(variants)),
        _further_table(results, variants),
        _twice_table(twice(results)),
        *(_frequency_table(log, variants) for log in results.plan["data"]),
        _tuning_table(variants),
    ]
    missing = [seen.variant.title for seen in variants if seen.seeds is None]
    return Page([table for table in tables if table.rows], _forest(results, variants), missing)


def _by_group(variants: Sequence[Seen]) -> list[list[Seen]]:
    groups = dict.fromkeys(seen.variant.group for seen in variants)
    return [[seen for seen in variants if seen.variant.group == group] for group in groups]


def _by_log(variants: Sequence[Seen]) -> dict[str, list[Seen]]:
    logs = dict.fromkeys(seen.variant.group.log for seen in variants)
    return {log: [seen for seen in variants if seen.variant.group.log == log] for log in logs}


def _forest(results: Results, variants: Sequence[Seen]) -> list[Figure]:
    """Differences to plain with their intervals, one below the other, a panel a log."""
    parts: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    keys: list[str] = []
    for log, part in _by_log(variants).items():
        lines = []
        for seen in part:
            found = minus_plain(results, seen.variant)
            if found is not None:
                lines.append((f"{seen.variant.group.setting}: {TABLES[seen.variant.table].title}", found["gauc"]))
                plain = seen.variant.beside("plain")
                keys += [contrast_key(seen.variant, plain), f"seeds-{seen.variant.key}", f"seeds-{plain.key}"]
        if lines:
            parts[log] = lines
    if not parts:
        return []
    longest = max(map(len, parts.values()))
    panels = [Panel(log, partial(_draw_lines, lines, longest)) for log, lines in parts.items()]
    caption = (
        "Test gAUC of each table minus that of plain with the same model and features, 95 % interval over users and "
        "seeds (blue: above 0, red: below 0, grey: the interval includes 0)"
    )
    kept = [key for key in dict.fromkeys(keys) if key in results.pieces]
    return [Figure("", caption, panels, kept, len(panels), (4.6, 0.9 + 0.17 * longest))]


def _draw_lines(lines: Sequence[tuple[str, dict[str, Any]]], places: int, axes: Any) -> None:
    for place, (_, entry) in enumerate(lines):
        color = {"above": "C0", "below": "C3", "undecided": "grey"}[side(entry)]
        axes.plot([entry["low"], entry["high"]], [place, place], color=color)
        axes.plot(entry["value"], place, "o", color=color, markersize=3)
    axes.axvline(0, color="grey", linestyle="--")
    axes.set_yticks(range(len(lines)), [title for title, _ in lines])
    axes.set_ylim(places - 0.4, -0.6)
    axes.set(xlabel="test gAUC minus plain's")


def _registered_table(tests: Sequence[Registered]) -> Table:
    return Table(
        "The protocol's comparisons: test gAUC",
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


def _res_table(results: Results, variants: Sequence[Seen]) -> Table:
    """Res-embedding (average) beside plain, the same without its residual, and the best other table."""
    lines = []
    for part in _by_group(variants):
        values = {s.variant.table: s.values("gauc") for s in part if s.seeds is not None}
        found = minus_plain(results, Variant(part[0].variant.group, "res"))
        if "res" not in values or found is None:
            continue
        residual = paired_difference(values["centre"], values["res"]) if "centre" in values else None
        others = {table: float(np.mean(v)) for table, v in values.items() if table != "res"}
        best = max(others, key=lambda table: others[table])
        lines.append(
            (
                part[0].variant.group.title,
                f"{np.mean(values['plain']):.4f}",
                f"{np.mean(values['res']):.4f}",
                signed(found["gauc"]),
                signed(found["over_seeds"]["gauc"]),
                signed(residual),
                f"{TABLES[best].title} ({others[best]:.4f})",
            )
        )
    return Table(
        "Res-embedding (average) and plain, both tuned: test gAUC",
        (
            "log, model",
            "plain",
            "res",
            "res minus plain",
            "over seeds",
            "res minus centre only, over seeds",
            "best other table",
        ),
        lines,
    )


def _metrics_table(results: Results, variants: Sequence[Seen]) -> Table:
    lines = []
    for seen in variants:
        if seen.seeds is None:
            continue
        found = minus_plain(results, seen.variant)
        plain = seen.variant.table == "plain"
        lines.append(
            (
                TABLES[seen.variant.table].title,
                seen.spread("gauc"),
                "" if plain else signed(None if found is None else found["gauc"]),
                "" if plain else signed(None if found is None else found["over_seeds"]["gauc"]),
                seen.spread("auc"),
                seen.spread("logloss"),
                seen.spread("gauc", "valid"),
                seen.mean("parameters", ",.0f"),
                seen.mean("train_seconds", ".0f"),
                f"{seen.mean('epochs', '.1f')} ({seen.mean('best_epoch', '.1f')})",
                str(sum(run["stopped"] == "epochs" for run in seen.seeds["runs"])),
            )
        )
    return Table(
        f"{variants[0].variant.group.title}: test, mean ± standard deviation over seeds",
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
            "epochs (best)",
            "stopped by the epoch limit",
        ),
        lines,
    )


def _further_table(results: Results, variants: Sequence[Seen]) -> Table:
    """Longer searches: all neighbours of the best tried, then L2 of touched rows alone."""
    lines = []
    for seen in variants:
        variant, on = seen.variant, results.pieces.get(f"tune-{seen.variant.key}{FURTHER}")
        if on is None or seen.tune is None:
            continue
        tune, before = on["result"], minus_plain(results, variant)
        after = results.pieces.get(f"minus-{variant.key}{FURTHER}-plain")
        lines.append(
            (
                variant.title,
                f"{len(seen.tune['trials'])}, {len(tune['trials'])}",
                "yes" if tune["closed"] else "no",
                str(len(tune["touched"]["trials"])),
                f"{seen.tune['valid_gauc']:.4f}",
                f"{tune['valid_gauc']:.4f}",
                "" if before is None else signed(before["gauc"]),
                "" if after is None else signed(after["result"]["gauc"]),
            )
        )
    return Table(
        "Longer searches: until closed, then with L2 of touched rows alone (added after the results above, exploratory)",
        (
            "variant",
            "trials before, after",
            "closed",
            "trials with L2 of touched rows",
            "valid gAUC before",
            "valid gAUC after",
            "test gAUC minus plain before",
            "test gAUC minus plain after",
        ),
        lines,
    )


def _twice_table(found: Sequence[Twice]) -> Table:
    return Table(
        "Differences of test gAUC, measured twice",
        ("comparison", "first", "second, as shown", "second within the first's interval", "same side of 0"),
        [
            (t.title, signed(t.first), signed(t.last), "no" if t.left else "yes", "no" if t.turned else "yes")
            for t in found
        ],
    )


def _frequency_table(log: str, variants: Sequence[Seen]) -> Table:
    lines, events = [], [0] * len(BUCKETS)
    for seen in variants:
        if seen.variant.group.log != log or seen.seeds is None:
            continue
        buckets = [run["by_frequency"] for run in seen.seeds["runs"]]
        events = [bucket["events"] for bucket in buckets[0]]
        means = [
            "-" if not count else f"{np.mean([run[place]['auc'] for run in buckets]):.4f}"
            for place, count in enumerate(events)
        ]
        lines.append((seen.variant.group.setting, TABLES[seen.variant.table].title, *means))
    ends = [f" to {high - 1}" if high > low + 1 else "" for low, high in pairwise(BUCKETS)]
    names = [f"{low}{end} ({count:,})" for low, end, count in zip(BUCKETS, [*ends, " or more"], events, strict=True)]
    return Table(
        f"{log}: test AUC by training events of the item (test events in brackets), mean over seeds",
        ("model", "table", *names),
        lines,
    )


def _tuning_table(variants: Sequence[Seen]) -> Table:
    lines = []
    for seen in variants:
        if seen.tune is None:
            continue
        found, trials = seen.tune["options"], seen.tune["trials"]
        first = trials[0].get("valid", {}).get("gauc")
        lines.append(
            (
                seen.variant.title,
                str(len(trials)),
                str(sum(trial["options"]["l2_of"] == L2_MODES[1] for trial in trials)),
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
        "Tuning: validation gAUC of seed 0 at the common start and at the best trial, and the options of the best",
        (
            "variant",
            "trials",
            "trials with L2 of touched rows",
            "gAUC at the start",
            "best gAUC",
            "closed",
            "learning rate",
            "L2",
            "initial scale",
            "minutes",
        ),
        lines,
    )
