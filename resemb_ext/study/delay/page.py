"""The page of study ``delay``, from its kept pieces alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resemb_ext.study.delay import sensitivity
from resemb_ext.study.harness.report import Figure, Page, Table, interval, number
from resemb_ext.study.harness.results import Results

TIED = 0.1  # a larger share of neighbouring events at one second makes their order doubtful
LAGS = (1, 2, 5, 10, 20)  # shown in the table
#: Models whose chance that two events share a domain is known by lag.
BY_LAG = ("independent", "delay", "markov", "mixture")
LONG = 20  # events: with shorter histories at the median, the tail of stays cannot be told
COVERED = 0.9  # where fewer events have a domain it is said
#: What must be known about public logs to read their results, by file name.
CAVEATS = {
    "ml-1m": "users rated lists of films in one sitting, 30 % of the times are reconstructed, and "
    "first genres are few and broad: what looks like a stay is largely the order of the page.",
    "amazon-beauty": "reviews of goods, a few a user, in order but without times.",
    "amazon-toys": "reviews of goods, a few a user, in order but without times.",
    "taobao-userbehavior-815u": "clicks of nine days; a quarter of the events go back to an item met before, "
    "none to that of the event before, so that with communities, where returns were kept, events two apart share a "
    "domain more often than neighbours do.",
}


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    of = {
        prefix: {k: p["result"] for k, p in results.pieces.items() if k.startswith(prefix)}
        for prefix in ("recover-", "choose-", "log-", "tail-")
    }
    graphs, moved = sensitivity.table({k: p for k, p in results.pieces.items() if k.startswith("graph-")})
    answers, figures, verdicts = [], [], []
    logs_used = {p["config"].get("log") for p in results.pieces.values()}
    recovered = [
        (r["users"], kind, r["dwell"], entry) for r in of["recover-"].values() for kind, entry in r["estimates"].items()
    ]
    recovery, sizes = _recovery(recovered)
    answers += sizes
    chosen = Table(
        "Models chosen by BIC on drawn logs (300 users, 12 events each, 8 domains)",
        ("law", "logs", "right", "chosen", "best held out"),
        [
            (r["law"], str(r["logs"]), str(r["right"]), _counts(r["chosen"]), _counts(r["best_heldout"]))
            for r in of["choose-"].values()
        ],
    )
    rows = []
    for key, r in of["log-"].items():
        name = key.removeprefix("log-")
        for model, entry in r["models"]["models"].items():
            rows.append(
                (
                    name,
                    model,
                    str(entry["parameters"]),
                    f"{entry['bic']:.0f}",
                    number(entry["heldout"], 4),
                    interval(entry["against_delay"], 4),
                )
            )
        models = r["models"]
        verdicts.append(models)
        tied = r["tied"] is not None and r["tied"] > TIED
        covered = _covered(r["estimate"])
        answers.append(
            f"{name}: {models['chosen']} has the lowest BIC of the four, {models['chosen_of_all']} of "
            f"all five, {models['best_heldout']} predicts held-out users best; a stay beyond fixed interests "
            f"is worth {interval(models['stay_beyond_interests'], 4)} nats an event; neighbouring events share "
            f"a domain {interval(r['estimate']['excess'])} more often than chance; the tail of stays: "
            f"{_tail_said(r)} (median history {r['median_history']:.0f} events)"
            + (
                f"; {100 * r['tied']:.0f} % of neighbouring events have one time, so that their order is the "
                "source's rather than the user's"
                if tied
                else ""
            )
            + (f"; only {100 * covered:.0f} % of its events have a domain" if covered < COVERED else "")
            + "."
        )
        figures.append(Figure(name, f"{name}: chance of one domain by lag", _lag_plot(r), [key]))
    fits = Table(
        "Behaviour models on logs (log-likelihood an event in nats; delay minus model, 95 % over users)",
        ("log", "model", "parameters", "BIC", "held out", "delay minus it"),
        rows,
    )
    gaps = Table(
        "Chance that two events share a domain, by seconds between them",
        ("log", "gap [s]", "pairs", "mean lag", "share", *(f"{name}, by lag" for name in BY_LAG)),
        [
            (
                key.removeprefix("log-"),
                f"{low:.0f} to {'-' if high is None else f'{high:.0f}'}",
                str(pairs),
                number(lag, 1),
                number(share),
                *(number(found[i]) if (found := r["gaps"]["expected"].get(name)) else "-" for name in BY_LAG),
            )
            for key, r in of["log-"].items()
            if r["gaps"] is not None
            for i, (low, high, pairs, share, lag) in enumerate(
                zip(
                    r["gaps"]["low"],
                    r["gaps"]["high"],
                    r["gaps"]["pairs"],
                    r["gaps"]["share"],
                    r["gaps"]["mean_lag"],
                    strict=True,
                )
            )
        ],
    )
    references = {key.removeprefix("tail-"): r for key, r in of["tail-"].items()}
    tails = _tails(of["log-"], references)
    return Page(
        "The interest delay model",
        "Do users' interests stay put for a while, then jump, and better so than rival accounts?",
        (
            "Models are fitted on half of the users and scored on the others. Communities are Louvain's "
            "(networkx) on the interest graph of users who are not scored. Events whose item has no "
            "domain are left out of the models and of pairs; lags count them. The Markov chain's BIC pays for every "
            "pair of domains; its held-out score is that of rows drawn toward the shares at large, which is fair.",
            "The delay model's chance by lag is B + (1 - B) r^k with B that of two events at large: exact next door "
            "and for domains of one size, near by where their sizes differ. Dwell *by stays* and *by decay* agree "
            "where jumps go by the shares at large, as on simulated logs. Where they do not, users come "
            "back to domains of their own: the decay is that of interests, not the length of a stay.",
            "Events of one item again are left out once more where a log has any (first meetings): a return "
            "to an item is a return to its domain whatever the interest does. Category domains are given "
            "with the log; communities come from behaviour itself, though that of other users.",
            "By seconds, pairs of events at most 20 apart count; what a model says of a gap is its chance by lag, "
            "averaged over the pairs in that gap: none of them knows the time. A Markov chain over more than 500 domains "
            "is left out there. " + " ".join(f"{name}: {text}" for name, text in CAVEATS.items() if name in logs_used),
            "The simulated null log draws items without replacement, which puts its excess just below 0.",
        ),
        [
            *_in_one_sentence(
                verdicts,
                [_tail_verdict(r) for r in of["log-"].values()],
                [key.removeprefix("log-") for key in of["log-"]],
                [
                    _beyond(r["tail"], references.get(key.removeprefix("log-"))) if _long(r) else None
                    for key, r in of["log-"].items()
                ],
            ),
            *answers,
            *moved,
            *filter(None, [sensitivity.left_out(results.plan["data"]) if moved else None]),
        ]
        or ["No piece is done."],
        [t for t in (recovery, chosen, fits, _dwells(of["log-"]), gaps, tails, graphs) if t.rows],
        "That a stay is a habit of the page rather than of the user (lists shown by genre), or that users or domains "
        "differ in how long they stay: then a model with a stay of its own for each user or domain would beat "
        "delay+mixture. Times of real "
        "clocks in more logs would tell the first.",
        figures,
    )


def _dwells(logs: dict[str, dict[str, Any]]) -> Table:
    """Shares by lag beside the delay model's, and both dwells, of each log."""
    rows = []
    for key, r in logs.items():
        estimate = r["estimate"]
        at = [estimate["lags"].index(lag) for lag in LAGS]
        rows.append(
            (
                key.removeprefix("log-"),
                f"{100 * _covered(estimate):.0f} %",
                *(" ".join(number(curve[i]) for i in at) for curve in (estimate["share"], r["curves"]["delay"])),
                number(estimate["chance"]),
                interval(estimate["by_stays"], 2),
                interval(estimate["by_decay"], 1),
            )
        )
    lags = f"{', '.join(map(str, LAGS[:-1]))} and {LAGS[-1]}"
    return Table(
        f"Chance that two events {lags} apart share a domain, and dwell in events [95 % over users]",
        ("log", "events with a domain", "share", "delay model", "at large", "dwell by stays", "by decay"),
        rows,
    )


def _covered(estimate: dict[str, Any]) -> float:
    """Share of events with a domain."""
    return float(estimate["with_domain"] / estimate["events"])


def _recovery(estimates: Sequence[tuple[int, str, float | None, dict[str, Any]]]) -> tuple[Table, list[str]]:
    """Estimates (users, domains, true dwell, estimate) by size of log, and a sentence on known domains
    and one on estimated ones."""
    cells: dict[tuple[int, float | None, str], list[dict[str, Any]]] = {}
    for users, kind, true, entry in estimates:
        cells.setdefault((users, true, kind), []).append(entry)
    rows: list[tuple[str, ...]] = []
    worst: dict[str, dict[int, float]] = {}
    for (users, true, kind), group in sorted(cells.items(), key=lambda cell: (cell[0][0], cell[0][1] or 0.0)):
        shown = []
        for way in ("by_stays", "by_decay"):
            values = [e[way]["value"] for e in group if e[way]["value"] is not None]
            off = max(abs(v / true - 1) for v in values) if values and true else None
            shown += [
                number(float(np.mean(values)) if values else None, 2),
                "-" if off is None else f"{100 * off:.1f} %",
            ]
            if off is not None and way == "by_stays" and kind in ("known", "communities"):
                sizes = worst.setdefault(kind, {})
                sizes[users] = max(off, sizes.get(users, 0.0))
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
    said = [
        f"With {'known domains' if kind == 'known' else 'domains estimated from other users (communities)'}, the "
        "dwell of simulated logs was recovered within, at worst, "
        + ", ".join(f"{100 * off:.1f} % ({users} users)" for users, off in sizes.items())
        + "."
        for kind, sizes in worst.items()
    ]
    title = "Dwell on simulated logs in events, means over logs and the worst error (domains of items: known; communities of the other half's users; of the same users, circular; shuffled)"
    header = ("users", "true dwell", "domains", "logs", "by stays", "worst", "by decay", "worst", "excess over chance")
    return Table(title, header, rows), said


def _long(result: dict[str, Any]) -> bool:
    """Whether histories are long enough to see the tail of stays."""
    return bool(result["median_history"] >= LONG)


def _tail_verdict(result: dict[str, Any]) -> str:
    """What is known of the tail of stays: "cannot tell" of short histories."""
    return result["tail"]["verdict"] if _long(result) else "cannot tell"


def _tail_said(result: dict[str, Any]) -> str:
    said, first = _tail_verdict(result), result["tail"]["verdict"]
    why = "" if said == first else f", histories being too short; over their few steps {first}"
    return said + why


def _beyond(tail: dict[str, Any], reference: dict[str, Any] | None) -> bool | None:
    """Whether the tail is heavier than in every log drawn with geometric stays; None where not known."""
    shapes = _shapes(reference)
    return tail["shape"] < min(shapes) if "shape" in tail and shapes else None


def _shapes(reference: dict[str, Any] | None) -> list[float]:
    return [] if reference is None else [s for s in reference["shapes"] if s is not None]


def _tails(logs: dict[str, dict[str, Any]], references: dict[str, dict[str, Any]]) -> Table:
    """Shapes of stays, beside those of logs with geometric stays and users of the fitted interests."""
    rows = []
    for key, r in logs.items():
        tail = r["tail"]
        reference = references.get(key.removeprefix("log-"))
        shapes = _shapes(reference)
        beyond = _beyond(tail, reference)
        rows.append(
            (
                key.removeprefix("log-"),
                str(tail["stays"]),
                str(tail["longest"]),
                interval({**tail, "value": tail["shape"]}) if "shape" in tail else "-",
                _tail_said(r) + (f": {tail['why']}" if "why" in tail else ""),
                f"{min(shapes):.3f} to {max(shapes):.3f}" if shapes else "-",
                "-" if beyond is None else "yes" if beyond else "no",
            )
        )
    return Table(
        "Stays of one domain (a user's first left out, the last taken as cut short): b of a discrete Weibull law, "
        f"1 is geometric, below 1 heavier; told where the median history has at least {LONG} events. Users who differ in their interests give b below 1 too: beside it b of "
        "drawn logs of the same users and lengths, with geometric stays on top of the fitted interests (delay+mixture)",
        ("log", "stays", "longest", "b [95 %]", "verdict", "b, geometric stays", "heavier than all of them"),
        rows,
    )


def _in_one_sentence(
    verdicts: list[dict[str, Any]],
    tails: Sequence[str] = (),
    names: Sequence[str] = (),
    beyond: Sequence[bool | None] = (),
) -> list[str]:
    """The answer over all logs and kinds of domains, called ``names``.

    ``tails``: verdicts on stays; ``beyond``: whether they are heavier than fixed interests explain, None
    where that is not known.
    """
    if not verdicts:
        return []

    def beats(name: str) -> int:
        return sum(v["models"][name]["against_delay"]["low"] > 0 for v in verdicts)

    def loses(name: str) -> int:
        return sum(v["models"][name]["against_delay"]["high"] < 0 for v in verdicts)

    def named(rival: str) -> str:
        where = [
            name for name, v in zip(names, verdicts, strict=False) if v["models"][rival]["against_delay"]["low"] > 0
        ]
        return f", namely {', '.join(where)}" if where else ""

    sizes = sorted(
        {v["models"]["markov"]["parameters"] for v in verdicts if v["models"]["markov"]["against_delay"]["low"] > 0}
    )
    ends = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))) if sizes else ""
    pays = f", where it has {ends} parameters" if sizes else ""
    heavy = list(tails).count("heavier")
    told = len(tails) - list(tails).count("cannot tell")
    known = [found for found in beyond if found is not None]
    worth = sum(v["stay_beyond_interests"]["low"] > 0 for v in verdicts)
    return [
        f"**Of {len(verdicts)} pairs of a log and a kind of domains, the delay model predicts held-out users "
        f"better than independent draws in {beats('independent')}, than fixed interests of each user "
        f"in {beats('mixture')}{named('mixture')} (worse in {loses('mixture')}) and than a Markov chain over domains in "
        f"{beats('markov')}{named('markov')}{pays} (worse in {loses('markov')}); a stay on top of fixed interests "
        f"predicts better than these alone in {worth}"
        + (
            f"; stays have a heavier tail than geometric ones in {heavy} of the {told} whose histories are long enough "
            "to tell"
            if heavy
            else ""
        )
        + (
            "; users with different interests would give that too, but the tail is also heavier than in logs drawn with "
            f"the fitted interests and geometric stays in {known.count(True)} of {len(known)}"
            if heavy and known
            else ""
        )
        + ".**"
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda x: -x[1]))


def _lag_plot(result: dict[str, Any]) -> Any:
    def plot(axes: Any) -> None:
        estimate = result["estimate"]
        lags = estimate["lags"]
        keep = [i for i, share in enumerate(estimate["share"]) if share is not None]
        at = [lags[i] for i in keep]
        share = np.array([estimate["share"][i] for i in keep])
        low = np.array([estimate["share_low"][i] for i in keep])
        high = np.array([estimate["share_high"][i] for i in keep])
        axes.errorbar(at, share, yerr=np.maximum([share - low, high - share], 0), fmt="ko", label="log")
        for name, curve in result["curves"].items():
            if curve is not None:
                axes.plot(lags, curve, label=name)
        axes.set(xlabel="events apart", ylabel="chance of one domain", ylim=(0, None))
        axes.legend()

    return plot
