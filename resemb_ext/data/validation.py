"""What a log holds, what is odd about it, and what reading, splitting and training do with that."""

from __future__ import annotations

import time as clock
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .clocks import time_unit
from .findings import ERROR, NOTE, WARNING, Finding
from .log import Log, expect_log
from .ready import ReadySplit
from .sample_report import look_over
from .samples import check_labels
from .splits import HOWS, has_both_classes, split, times_are_positions, usual_split


@dataclass(frozen=True)
class LogReport:
    """Figures of a log by name, and the findings, errors first."""

    figures: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    @property
    def level(self) -> str:
        """The worst level among the findings."""
        levels = {finding.level for finding in self.findings}
        return next((level for level in (ERROR, WARNING) if level in levels), NOTE)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: figures, findings, level."""
        return {
            "figures": self.figures,
            "findings": [asdict(finding) for finding in self.findings],
            "level": self.level,
        }


def duplicates(log: Log) -> np.ndarray:
    """bool [n]: whether an earlier event has the same user, item and time."""
    order = np.lexsort((log.item, log.exact_time, log.user))
    same = np.ones(max(len(log) - 1, 0), dtype=bool)
    for values in (log.user, log.exact_time, log.item):
        same &= values[order][1:] == values[order][:-1]
    repeated = np.zeros(len(log), dtype=bool)
    repeated[order[1:]] = same
    return repeated


def validate(log: Log | ReadySplit, *, now: float | None = None) -> LogReport:
    """Looks a log over, or ready-made samples.

    Args:
        log: with at least one event; or what ``read_ready_made`` gives.
        now: Unix seconds; times past it are in the future. Default: the clock.

    Returns:
        the report.
    """
    if isinstance(log, ReadySplit):
        return _report(*look_over(log))
    expect_log(log)
    unit = time_unit(log.time)
    figures: dict[str, Any] = {
        "rows": len(log),
        "users": log.num_users,
        "items": len(log.items),
        "categories": None if log.categories is None else len(log.categories),
        "sessions": None if log.session is None else log.num_sessions,
        "columns": dict(log.columns),
        "guessed": list(log.guessed),
        "time_from": log.time.min().item(),
        "time_to": log.time.max().item(),
        "time_unit": None if unit is None else unit[0],
    }
    findings = [
        *log.findings,
        *_times(log, figures, unit, clock.time() if now is None else now),
        *_repeats(log, figures),
        *_labels(log, figures),
        *_categories(log, figures),
        *_splits(log, figures),
    ]
    return _report(figures, findings)


def _report(figures: dict[str, Any], findings: list[Finding]) -> LogReport:
    rank = (ERROR, WARNING, NOTE)
    return LogReport(figures, sorted(findings, key=lambda f: rank.index(f.level)))


def _share(count: int, of: int) -> str:
    return f"{count:,} of {of:,} ({count / of:.1%})"


def _times(log: Log, figures: dict[str, Any], unit: tuple[str, int] | None, now: float) -> list[Finding]:
    found = []
    figures["in_time_order"] = log.was_sorted
    if not log.was_sorted:
        found.append(
            Finding(
                NOTE,
                "time order",
                "events of a user do not come in time order",
                "sorted by user and time; ties keep the order of the source",
            )
        )
    ties = int(((log.user[1:] == log.user[:-1]) & (log.exact_time[1:] == log.exact_time[:-1])).sum())
    figures["same_time_as_previous"] = ties
    if ties:
        found.append(
            Finding(
                NOTE,
                "ties",
                f"{_share(ties, len(log))} events have the time of the user's event before",
                "kept in the order of the source",
            )
        )
    future = 0 if unit is None else int((log.time > now * unit[1]).sum())
    figures["future_times"] = future
    if future:
        found.append(
            Finding(
                WARNING,
                "future times",
                f"{_share(future, len(log))} events lie past the clock",
                "kept; a time split puts them into its test part",
            )
        )
    figures["times_are_positions"] = times_are_positions(log)
    return found


def _repeats(log: Log, figures: dict[str, Any]) -> list[Finding]:
    found = []
    doubled = int(duplicates(log).sum())
    figures["duplicates"] = doubled
    if doubled:
        found.append(
            Finding(
                WARNING,
                "duplicates",
                f"{_share(doubled, len(log))} events repeat a user, item and time",
                "kept, each an event; resemb data convert --drop-duplicates writes a log without them",
            )
        )
    pairs = np.unique(log.user * np.int64(log.num_items) + log.item)
    again = len(log) - len(pairs) - doubled
    figures["repeated_items"] = again
    if again:
        found.append(
            Finding(
                NOTE,
                "repeats",
                f"{_share(again, len(log))} events bring an item that the user has met before",
                "kept; an item is no neighbour of itself",
            )
        )
    counts = np.bincount(log.item, minlength=log.num_items)
    figures["items_met_once"] = int((counts == 1).sum())
    known = np.bincount(pairs // log.num_items, minlength=log.num_users)
    all_known = int((known == len(log.items)).sum())
    figures["users_who_know_every_item"] = all_known
    if all_known and log.label is None:
        found.append(
            Finding(
                ERROR,
                "too few items",
                f"{_share(all_known, log.num_users)} users have met all {len(log.items)} items",
                "no negative can be drawn for them: training stops; it needs more items or a label column",
            )
        )
    return found


def _labels(log: Log, figures: dict[str, Any]) -> list[Finding]:
    if log.label is None:
        figures["positive_share"] = None
        return [
            Finding(
                NOTE,
                "no labels",
                "there is no label column",
                "every event is a positive; negatives are drawn by popularity",
            )
        ]
    share = float(log.label.mean())
    figures["positive_share"] = share
    if share in (0.0, 1.0):
        return [
            Finding(
                ERROR,
                "one-class labels",
                f"all {len(log):,} events have label {share:.0f}",
                "training stops; --label-column - leaves the column out and draws negatives",
            )
        ]
    return [
        Finding(
            NOTE,
            "labels",
            f"{share:.1%} of the events have label 1",
            "every event is a sample; histories and graph take label 1 alone",
        )
    ]


def _categories(log: Log, figures: dict[str, Any]) -> list[Finding]:
    found = []
    if log.category is None or log.item_category is None:
        return []
    without = int((log.category == 0).sum())
    figures["without_category"] = without
    if without:
        found.append(
            Finding(
                NOTE,
                "no category",
                f"{_share(without, len(log))} events have none",
                "they get the number 0, as padding",
            )
        )
    first = log.item_category[log.item]
    changing = len(np.unique(log.item[(log.category > 0) & (log.category != first)]))
    figures["items_of_several_categories"] = changing
    if changing:
        found.append(
            Finding(
                NOTE,
                "several categories",
                f"{_share(changing, len(log.items))} items have more than one",
                "an item has that of its first event in user and time order",
            )
        )
    return found


def _splits(log: Log, figures: dict[str, Any]) -> list[Finding]:
    found = []
    lengths = np.diff(log.user_start)
    short = int((lengths < 3).sum())
    figures["events_per_user"] = {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "max": int(lengths.max()),
    }
    figures["users_under_3_events"] = short
    if 0 < short < log.num_users:
        found.append(
            Finding(
                NOTE,
                "short users",
                f"{_share(short, log.num_users)} users have fewer than 3 events",
                "leave-last-out only trains on them",
            )
        )
    sizes: dict[str, Any] = {}
    why: dict[str, str] = {}
    usual, gauc = usual_split(log), {}
    label = log.label
    mixed = label is not None and bool(label.min() != label.max())  # else said as one-class labels
    for how in HOWS:
        try:
            parts = split(log, how)
            if mixed:
                check_labels(parts, "valid", "test")
        except ValueError as error:
            sizes[how], why[how] = None, str(error)
        else:
            sizes[how] = {"train": len(parts.train_index), "valid": len(parts.valid), "test": len(parts.test)}
            gauc[how] = label is None or not mixed or has_both_classes(log.user[parts.valid], label[parts.valid])
    figures["splits"], figures["usual_split"] = sizes, usual

    def needed(how: str) -> str:
        """Options of a training by a split that is possible."""
        options = ([] if how == usual else [f"--split {how}"]) + ([] if gauc[how] else ["--metric auc"])
        return " ".join(options) or "no option"

    if not gauc.get(usual, True):
        ways = [needed(usual), *(needed(how) for how in HOWS if how != usual and gauc.get(how))]
        found.append(
            Finding(
                WARNING,
                "gAUC",
                f"no user has validation events of both labels in the {usual} split",
                f"gAUC is undefined: training needs {' or '.join(ways)}",
            )
        )
    elif mixed and usual != HOWS[0] and usual in gauc:
        back = f"; --split {HOWS[0]} needs --metric auc" if not gauc.get(HOWS[0], True) else ""
        found.append(
            Finding(NOTE, "split", f"the log has labels: training splits by {usual}", f"gAUC is defined{back}")
        )
    for how, reason in why.items():
        default = how == usual
        level = ERROR if len(why) == len(HOWS) else WARNING if default else NOTE
        other = next((h for h in HOWS if h not in why), None)
        done = f"training needs {needed(other)}" if other else "it cannot be split: training stops"
        if level == NOTE:
            done = f"--split {how} stops; {other} works"
        found.append(Finding(level, f"{how} split", reason, done))
    return found
