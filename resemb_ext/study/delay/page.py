"""Tables and figures of study ``delay``, from kept pieces alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resemb_ext.study.harness.report import Figure, Page, Panel, Table, interval, number, side
from resemb_ext.study.harness.results import Results

from . import sensitivity

LAGS = (1, 2, 5, 10, 20)  # shown in the table
#: Models whose probability that two events share a domain is known by lag.
BY_LAG = ("independent", "delay", "markov", "mixture")
LONG = 20  # events: with shorter histories at the median, the tail of stays cannot be told


def page(results: Results) -> Page:
    """Tables and figures of the study."""
    of = {
        prefix: {k.removeprefix(prefix): p["result"] for k, p in results.pieces.items() if k.startswith(prefix)}
        for prefix in ("recover-", "choose-", "log-", "tail-")
    }
    logs = of["log-"]
    tables = [
        _rivals(logs, of["tail-"]),
        _logs(logs),
        _fits(logs),
        _dwells(logs),
        _gaps(logs),
        _tails(logs, of["tail-"]),
        _recovery(list(of["recover-"].values())),
        _choices(list(of["choose-"].values())),
        sensitivity.table({k: p for k, p in results.pieces.items() if k.startswith("graph-")}),
    ]
    figures = []
    if logs:
        panels = [Panel(name, _lag_plot(r, legend=not place)) for place, (name, r) in enumerate(logs.items())]
        caption = (
            "Probability that two events of a user share a domain, by their distance in events: the log with its 95 % "
            "interval over users, and each model"
        )
        keys = [f"log-{name}" for name in logs]
        figures = [Figure("", caption, panels, keys, min(3, len(panels)), (3.6, 2.6))]
    return Page([table for table in tables if table.rows], figures)


def _rivals(logs: dict[str, dict[str, Any]], references: dict[str, dict[str, Any]]) -> Table:
    """How often an interval lies on one side of 0, over all pairs of a log and a kind of domains."""
    found: dict[str, list[str]] = {}
    for name, r in logs.items():
        for model in ("independent", "mixture", "markov"):
            entry = r["models"]["models"][model]["against_delay"]
            found.setdefault(f"delay better than {model} on held-out users", []).append(side(entry))
        worth = side(r["models"]["stay_beyond_interests"])
        found.setdefault("delay+mixture better than mixture on held-out users", []).append(worth)
        tail = _tail_verdict(r)
        found.setdefault("tail of stays heavier than geometric", []).append(
            {"heavier": "above", "lighter": "below", "geometric": "undecided"}.get(tail, "")
        )
        beyond = _beyond(r["tail"], references.get(name)) if _long(r) else None
        found.setdefault("tail heavier than in all drawn logs with geometric stays", []).append(
            "" if beyond is None else "above" if beyond else "undecided"
        )
    return Table(
        f"Each statement on the {len(logs)} pairs of a log and a kind of domains (95 % intervals over users)",
        ("statement", "it holds", "the opposite holds", "undecided", "not applicable"),
        [(text, *(str(sides.count(s)) for s in ("above", "below", "undecided", ""))) for text, sides in found.items()],
    )


def _logs(logs: dict[str, dict[str, Any]]) -> Table:
    """One row a log and kind of domains."""
    return Table(
        "Each log and kind of domains",
        (
            "log",
            "events with a domain",
            "median history",
            "neighbours at the same time",
            "lowest BIC of the first four models",
            "lowest BIC of all five",
            "best held out",
            "delay+mixture minus mixture, held out [nats an event]",
            "excess over chance of neighbours in one domain",
        ),
        [
            (
                name,
                f"{100 * _covered(r['estimate']):.0f} %",
                f"{r['median_history']:.0f}",
                "-" if r["tied"] is None else f"{100 * r['tied']:.0f} %",
                r["models"]["chosen"],
                r["models"]["chosen_of_all"],
                r["models"]["best_heldout"],
                interval(r["models"]["stay_beyond_interests"], 4),
                interval(r["estimate"]["excess"]),
            )
            for name, r in logs.items()
        ],
    )


def _fits(logs: dict[str, dict[str, Any]]) -> Table:
    rows = [
        (
            name,
            model,
            str(entry["parameters"]),
            f"{entry['bic']:.0f}",
            number(entry["heldout"], 4),
            interval(entry["against_delay"], 4),
        )
        for name, r in logs.items()
        for model, entry in r["models"]["models"].items()
    ]
    return Table(
        "Behaviour models on logs (log-likelihood in nats an event, 95 % over users)",
        ("log", "model", "parameters", "BIC", "held out", "delay minus model"),
        rows,
    )


def _choices(found: Sequence[dict[str, Any]]) -> Table:
    return Table(
        "Models chosen by BIC on logs drawn from each model (300 users, 12 events each, 8 domains)",
        ("drawn from", "logs", "right", "chosen", "best held out"),
        [(r["law"], str(r["logs"]), str(r["right"]), _counts(r["chosen"]), _counts(r["best_heldout"])) for r in found],
    )


def _gaps(logs: dict[str, dict[str, Any]]) -> Table:
    rows = []
    for name, r in logs.items():
        gaps = r["gaps"]
        if gaps is None:
            continue
        columns = (gaps[key] for key in ("low", "high", "pairs", "share", "mean_lag"))
        for i, (low, high, pairs, share, lag) in enumerate(zip(*columns, strict=True)):
            curves = [gaps["expected"].get(model) for model in BY_LAG]
            rows.append(
                (
                    name,
                    f"{low:.0f} to {'-' if high is None else f'{high:.0f}'}",
                    str(pairs),
                    number(lag, 1),
                    number(share),
                    *("-" if not curve else number(curve[i]) for curve in curves),
                )
            )
    return Table(
        "Probability that two events share a domain, by seconds between them",
        ("log", "gap [s]", "pairs", "mean lag", "log's share", *(f"{name}, by lag" for name in BY_LAG)),
        rows,
    )


def _dwells(logs: dict[str, dict[str, Any]]) -> Table:
    """Shares by lag beside the delay model's, and both dwells, of each log."""
    rows = []
    for name, r in logs.items():
        estimate = r["estimate"]
        at = [estimate["lags"].index(lag) for lag in LAGS]
        rows.append(
            (
                name,
                *(" ".join(number(curve[i]) for i in at) for curve in (estimate["share"], r["curves"]["delay"])),
                number(estimate["chance"]),
                interval(estimate["by_stays"], 2),
                interval(estimate["by_decay"], 1),
            )
        )
    lags = f"{', '.join(map(str, LAGS[:-1]))} and {LAGS[-1]}"
    return Table(
        f"Probability that two events {lags} apart share a domain, and dwell in events [95 % over users]",
        ("log", "log's share", "delay model", "overall", "dwell by stays", "dwell by decay"),
        rows,
    )


def _covered(estimate: dict[str, Any]) -> float:
    """Share of events with a domain."""
    return float(estimate["with_domain"] / estimate["events"])


def _recovery(found: Sequence[dict[str, Any]]) -> Table:
    """Estimates of the dwell of simulated logs by size of log."""
    cells: dict[tuple[int, float | None, str], list[dict[str, Any]]] = {}
    for r in found:
        for kind, entry in r["estimates"].items():
            cells.setdefault((r["users"], r["dwell"], kind), []).append(entry)
    rows: list[tuple[str, ...]] = []
    for (users, true, kind), group in sorted(cells.items(), key=lambda cell: (cell[0][0], cell[0][1] or 0.0)):
        shown = []
        for way in ("by_stays", "by_decay"):
            values = [e[way]["value"] for e in group if e[way]["value"] is not None]
            off = max(abs(v / true - 1) for v in values) if values and true else None
            shown += [
                number(float(np.mean(values)) if values else None, 2),
                "-" if off is None else f"{100 * off:.1f} %",
            ]
        excess = [e["excess"]["value"] for e in group]
        rows.append(
            (
                str(users),
                "none (null log)" if true is None else number(true, 0),
                kind,
                str(len(group)),
                *shown,
                f"{min(excess):.4f} to {max(excess):.4f}",
            )
        )
    title = "Dwell in events on simulated logs: mean over logs, and the largest error"
    header = (
        "users",
        "true dwell",
        "domains",
        "logs",
        "by stays",
        "largest error",
        "by decay",
        "largest error",
        "excess over chance",
    )
    return Table(title, header, rows)


def _long(result: dict[str, Any]) -> bool:
    """Whether histories are long enough to see the tail of stays."""
    return bool(result["median_history"] >= LONG)


def _tail_verdict(result: dict[str, Any]) -> str:
    """What is known of the tail of stays: "cannot tell" of short histories."""
    return result["tail"]["verdict"] if _long(result) else "cannot tell"


def _beyond(tail: dict[str, Any], reference: dict[str, Any] | None) -> bool | None:
    """Whether the tail is heavier than in every log drawn with geometric stays; None where not known."""
    shapes = _shapes(reference)
    return tail["shape"] < min(shapes) if "shape" in tail and shapes else None


def _shapes(reference: dict[str, Any] | None) -> list[float]:
    return [] if reference is None else [s for s in reference["shapes"] if s is not None]


def _tails(logs: dict[str, dict[str, Any]], references: dict[str, dict[str, Any]]) -> Table:
    """Shapes of stays, beside those of logs with geometric stays and users of the fitted interests."""
    rows = []
    for name, r in logs.items():
        tail = r["tail"]
        reference = references.get(name)
        shapes = _shapes(reference)
        beyond = _beyond(tail, reference)
        rows.append(
            (
                name,
                str(tail["stays"]),
                str(tail["longest"]),
                interval({**tail, "value": tail["shape"]}) if "shape" in tail else "-",
                f"{_tail_verdict(r)} ({tail['why']})" if "why" in tail else _tail_verdict(r),
                f"{min(shapes):.3f} to {max(shapes):.3f}" if shapes else "-",
                "-" if beyond is None else "yes" if beyond else "no",
            )
        )
    return Table(
        "Stays of one domain: shape b of a discrete Weibull distribution (1: geometric, below 1: heavier tail; "
        f"no verdict where the median history has under {LONG} events)",
        ("log", "stays", "longest", "b [95 %]", "verdict", "b of 20 drawn logs", "tail heavier than in all drawn logs"),
        rows,
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda x: -x[1]))


def _lag_plot(result: dict[str, Any], *, legend: bool) -> Any:
    def plot(axes: Any) -> None:
        estimate = result["estimate"]
        lags = estimate["lags"]
        keep = [i for i, share in enumerate(estimate["share"]) if share is not None]
        at = [lags[i] for i in keep]
        share = np.array([estimate["share"][i] for i in keep])
        low = np.array([estimate["share_low"][i] for i in keep])
        high = np.array([estimate["share_high"][i] for i in keep])
        axes.errorbar(at, share, yerr=np.maximum([share - low, high - share], 0), fmt="ko", markersize=3, label="log")
        for name, curve in result["curves"].items():
            if curve is not None:
                axes.plot(lags, curve, color=f"C{BY_LAG.index(name)}", label=name)
        axes.set(xlabel="events apart", ylabel="probability", ylim=(0, None), xticks=(1, *range(5, max(lags) + 1, 5)))
        if legend:
            axes.legend(fontsize=6)

    return plot
