"""Tables and figures of study ``radius``, from kept pieces alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from resemb_ext.study.harness.report import Figure, Page, Panel, Table, interval, number, side
from resemb_ext.study.harness.results import Results
from resemb_ext.study.methods.probe import PARTS, PER_EPOCH

from . import sweep
from .contrast import COIN, LEARNED, OUTCOMES, contrast
from .experiment import CIRCULAR, CONTROL, WIDER

#: Results of one log: pieces by key, each with its seed.
Kept = dict[str, dict[str, Any]]


def page(results: Results) -> Page:
    """Tables and figures of the study."""
    kept, wider = _by_log(results, wider=False), _by_log(results, wider=True)
    found = _contrasts(kept)
    tables = [
        _primary_table(found, "Primary outcome: the gap at equal training loss"),
        _contrast_table(found),
        _empty_table(found),
        _primary_table(
            _contrasts(wider), "The same, with further learning rates where the end of the grid was best", wider
        ),
        _limits_table(results),
        _means_table(kept),
        sweep.table([p for p in results.pieces.values() if "sweep" in p["config"]]),
    ]
    return Page([t for t in tables if t.rows], _figures(kept), _left_out(results.missing))


def _by_log(results: Results, *, wider: bool) -> dict[str, Kept]:
    """Trainings with the fixed grid of rates, or with further ones."""
    logs: dict[str, Kept] = {}
    for key, piece in results.pieces.items():
        config = piece["config"]
        if "domains" in config and (WIDER in config) == wider:
            logs.setdefault(config["log"], {})[key] = {**piece["result"], "seed": piece["seeds"][0]}
    return logs


def _cells(entries: Kept) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """Results by kind of domains and gamma."""
    cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for r in entries.values():
        cells.setdefault((r["domains"], r["gamma"]), []).append(r)
    return cells


def _contrasts(kept: dict[str, Kept]) -> list[tuple[str, str, dict[str, Any]]]:
    """Log, kind of domains and contrast of its smallest and of its largest gamma, where they can be formed."""
    found = []
    for log, entries in kept.items():
        for kind in dict.fromkeys(k for k, _ in _cells(entries) if not k.endswith(CONTROL)):
            both = (contrast(entries, kind, extreme) for extreme in (min, max))
            found += [(log, kind, entry) for entry in both if entry is not None]
    return found


def _primary_table(
    found: list[tuple[str, str, dict[str, Any]]], title: str, wider: dict[str, Kept] | None = None
) -> Table:
    """The primary outcome; with ``wider`` how many rates are still at an end of what was tried."""
    rows = []
    for log, kind, entry in found:
        gap = entry["matched_gap"]["difference"]
        rates = [] if wider is None else [r["rate_at_limit"] for r in wider[log].values()]
        more = [] if wider is None else [f"{sum(rates)} of {len(rates)}"]
        rows.append((log, _marked(kind), f"{entry['gamma']:g}", interval(gap, 4), side_of_gap(entry), *more))
    header = ("log", "domains", "gamma", "difference", "sign", *(["best rate at an end"] if wider is not None else []))
    return Table(
        f"{title} (effect of gamma with domains minus with random ones; 95 % t over seeds; below 0: narrower gap)",
        header,
        rows,
    )


def _contrast_table(found: list[tuple[str, str, dict[str, Any]]]) -> Table:
    return Table(
        "Value at gamma minus value at gamma 1, and the difference between domains and random domains (95 % t over "
        "seeds; epochs to the training loss: with domains / with random ones / at gamma 1)",
        (
            "log",
            "domains",
            "gamma",
            "seeds",
            "outcome",
            "training loss (epochs to it)",
            "domains",
            "random",
            "difference",
        ),
        [
            (
                log,
                _marked(kind),
                f"{entry['gamma']:g}",
                str(entry[name]["difference"]["n"]),
                _NAMES[name],
                f"{entry['level']:.3f} ({_passes(entry)})" if "matched" in name else "-",
                *(interval(entry[name][k], 4) for k in ("domains", "random", "difference")),
            )
            for log, kind, entry in found
            for name in OUTCOMES
        ],
    )


def _empty_table(found: list[tuple[str, str, dict[str, Any]]]) -> Table:
    """Intervals where no effect can be but by chance: random domains, and the log without domains."""
    sides: dict[str, list[str]] = {}
    for log, kind, entry in found:
        for name in OUTCOMES:
            told = "matched" not in name or not hardly_learned(entry)
            difference = entry[name]["difference"]
            if (kind == "random" or "null" in log) and difference["low"] is not None and told:
                sides.setdefault(_NAMES[name], []).append(side(difference))
    return Table(
        "Controls without an effect: random domains against other random ones, and the log without domains (by chance "
        "1 interval in 20 excludes 0)",
        ("outcome", "intervals", "intervals that exclude 0"),
        [(name, str(len(s)), str(len(s) - s.count("undecided"))) for name, s in sides.items()],
    )


def _limits_table(results: Results) -> Table:
    """Trainings whose learning rate is at an end of its grid, or whose best epoch is the last."""
    places: dict[float, Counter[str]] = {}
    for config, result in _trainings(results):
        of_gamma = places.setdefault(config["gamma"], Counter())
        place = "lowest" if result["rate"] == min(config["rates"]) else "highest"
        of_gamma["all"] += 1
        of_gamma[place] += result["rate_at_limit"]
        of_gamma["late"] += result["at"] >= len(result["curve"]["train"]) - PER_EPOCH
    return Table(
        "Trainings whose best learning rate is at an end of the grid, and whose best epoch is the last",
        ("gamma", "trainings", "at the lowest rate", "at the highest rate", "best in the last epoch"),
        [
            (f"{gamma:g}", *(str(n[name]) for name in ("all", "lowest", "highest", "late")))
            for gamma, n in sorted(places.items())
        ],
    )


def _trainings(results: Results) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Options and results of the trainings over a fixed grid of rates, each once."""
    for piece in results.pieces.values():
        config = piece["config"]
        again = config.get("gamma") == 1 and config["domains"].endswith(CONTROL)  # as with domains
        if "rates" in config and not again:
            yield config, piece["result"]


def _means_table(kept: dict[str, Kept]) -> Table:
    return Table(
        "Means over seeds, at the best validation loss",
        ("log", "domains", "gamma", "seeds", "radius / separation", "rates", *PARTS, "gap"),
        [
            (
                log,
                kind,
                f"{gamma:g}",
                str(len(group)),
                number(_mean(r["radius"]["ratio"] for r in group)),
                " ".join(f"{r['rate']:g}" for r in group),
                *(number(_mean(r["losses"][part] for r in group), 4) for part in PARTS),
                number(_mean(r["gap"] for r in group), 4),
            )
            for log, entries in kept.items()
            for (kind, gamma), group in _cells(entries).items()
        ],
    )


def _left_out(missing: list[str]) -> list[str]:
    """Pieces that were not run, counted by log and domains or sweep."""
    groups = Counter(re.sub(r"(-gamma|(?<=_scale)|(?<=_l2))[0-9].*$", "", key) for key in missing)
    return [f"{name} ({n} pieces)" for name, n in groups.items()]


_NAMES = {
    "matched_gap": "gap at equal training loss (primary)",
    "matched_test": "test at equal training loss",
    "gap": "gap at best epoch (confounded)",
    "heldout": "held-out at best epoch",
}


def _marked(kind: str) -> str:
    return f"{kind} (circular)" if kind in CIRCULAR else kind


def hardly_learned(found: dict[str, Any]) -> bool:
    """Whether one of a contrast's runs never came far below a coin's loss."""
    return bool(COIN - found["level"] < LEARNED)


def side_of_gap(found: dict[str, Any]) -> str:
    """Where the primary outcome lies with regard to 0, or "hardly learned"."""
    return "hardly learned" if hardly_learned(found) else side(found["matched_gap"]["difference"])


def _passes(found: dict[str, Any]) -> str:
    return " / ".join(f"{found['epochs'][arm]:.1f}" for arm in ("domains", "random", "one"))


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _figures(kept: dict[str, Kept]) -> list[Figure]:
    """Simulated logs and real ones apart; a panel a log and kind of domains."""
    figures = []
    for name, chosen in (("simulated", True), ("logs", False)):
        panels, keys = [], []
        for log, entries in kept.items():
            if log.startswith("simulated") != chosen:
                continue
            cells = _cells(entries)
            for kind in dict.fromkeys(k.removesuffix(CONTROL) for k, _ in cells):
                panels.append(Panel(f"{log}, {_marked(kind)}", partial(_plot, cells, kind)))
                keys += [key for key, r in entries.items() if r["domains"].removesuffix(CONTROL) == kind]
        if panels:
            caption = (
                "Held-out against training logloss during training, mean over seeds (dashed: random domains; a lower line "
                "is better generalisation)"
            )
            figures.append(Figure(name, caption, panels, keys, min(3, len(panels)), (3.6, 2.6)))
    return figures


def _plot(cells: dict[tuple[str, float], list[dict[str, Any]]], kind: str, axes: Any) -> None:
    gammas = sorted({g for k, g in cells if k.removesuffix(CONTROL) == kind})
    for number_, gamma in enumerate(gammas):
        for name, style in ((kind, "-"), (kind + CONTROL, "--")):
            group = cells.get((name, gamma))
            if group:
                length = min(len(r["curve"]["train"]) for r in group)
                train, other = (
                    np.mean([r["curve"][part][:length] for r in group], axis=0) for part in ("train", "heldout")
                )
                label = f"gamma {gamma:g}" if style == "-" else None
                axes.plot(train, other, style, color=f"C{number_}", label=label)
    axes.invert_xaxis()
    axes.set(xlabel="training logloss", ylabel="held-out logloss")
    low = min(min(r["curve"]["heldout"]) for (k, _), g in cells.items() if k.startswith(kind) for r in g)
    axes.set_ylim(low - 0.02, 0.85)
    axes.legend(fontsize=6)
