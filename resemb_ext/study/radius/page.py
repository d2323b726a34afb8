"""The page of study ``radius``, from its kept pieces alone, and the contrasts on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from resemb_ext.study.harness.report import Figure, Page, Table, interval, listed, number, side
from resemb_ext.study.harness.results import Results
from resemb_ext.study.methods.heldout import HELD_OUT
from resemb_ext.study.methods.probe import PARTS, PER_EPOCH
from resemb_ext.study.radius import sweep
from resemb_ext.study.radius.contrast import COIN, LEARNED, OUTCOMES, contrast
from resemb_ext.study.radius.experiment import CIRCULAR, CONTROL, WIDER


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    swept = [p for p in results.pieces.values() if "sweep" in p["config"]]
    kept: dict[str, dict[str, dict[str, Any]]] = {}
    wider: dict[str, dict[str, dict[str, Any]]] = {}
    for key, piece in results.pieces.items():
        if "domains" in piece["config"]:
            entry = {**piece["result"], "seed": piece["seeds"][0]}
            of = wider if WIDER in piece["config"] else kept
            of.setdefault(piece["config"]["log"], {})[key] = entry
    rows, contrasts, answers, figures = [], [], [], []
    claims: dict[str, dict[str, list[str]]] = {}
    alarms: list[bool] = []
    for log, entries in kept.items():
        cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for r in entries.values():
            cells.setdefault((r["domains"], r["gamma"]), []).append(r)
        for (kind, gamma), group in cells.items():
            rows.append(
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
            )
        for kind in dict.fromkeys(k for k, _ in cells if not k.endswith(CONTROL)):
            for extreme in (min, max):
                found = contrast(entries, kind, extreme)
                if found is None:
                    continue
                for name in OUTCOMES:
                    entry = found[name]
                    contrasts.append(
                        (
                            log,
                            _marked(kind),
                            f"{found['gamma']:g}",
                            str(entry["difference"]["n"]),
                            _NAMES[name],
                            f"{found['level']:.3f} ({_passes(found)})" if "matched" in name else "-",
                            *(interval(entry[k], 4) for k in ("domains", "random", "difference")),
                        )
                    )
                    told = "matched" not in name or not _hardly_learned(found)
                    if _empty(log, kind) and entry["difference"]["low"] is not None and told:
                        alarms.append(side(entry["difference"]) != "undecided")
                answers.append(_answer(log, kind, found))
                if kind in ("truth", "category"):
                    own = " (drawn from the paper's own model)" if kind == "truth" else ""
                    own = " (no domains: nothing to be seen)" if "null" in log else own
                    way = "smaller" if extreme is min else "larger"
                    sides = claims.setdefault(way, {})
                    effect = _side_of_gap(found)
                    sides.setdefault(effect, []).append(log + own + _caveats(found, effect))
        figures += [
            Figure(
                f"{log}-{kind}",
                f"{log}, {_marked(kind)}: held-out against training logloss all along the training, mean over "
                "seeds (dashed: random domains; lower at the same place is better generalisation)",
                partial(_plot, cells, kind),
                [key for key, r in entries.items() if r["domains"].removesuffix(CONTROL) == kind],
            )
            for kind in dict.fromkeys(k.removesuffix(CONTROL) for k, _ in cells)
        ]
    return Page(
        "The aggregation radius",
        "Does a small radius inside interest domains, rather than shrinking as such, generalise better?",
        (
            "E_i = m_g + gamma (V_i - m_g) in a DNN; after each step V is scaled about its mean so that the "
            "total variance of E is that of the start. Random domains of the same sizes get the same treatment: "
            "what gamma does with domains minus what it does with random ones is the claim. "
            f"{100 * HELD_OUT:.0f} % of training events are held out of training with their negatives; "
            "all losses are over rows with one negative a positive, the training's own ratio. Events held out stay in the "
            "histories of their users' later rows. One learning "
            "rate steps the whole model, the best of the grid on validation for each gamma, domains and seed. "
            "At gamma 1 domains do not enter, so both arms' runs of a seed are the same there and the difference "
            "is that of the other gamma alone.",
            "**The gap by itself cannot tell.** Held-out minus training loss grows with the fit, and gamma decides "
            "how far a model fits: drawn tight to random domains it can hardly tell items apart, learns little "
            "and so has little gap, which says nothing of generalising. So the gap is taken where all four "
            "runs of a contrast have come down to the same training loss (the lowest that all of them reach). "
            "A level near a coin's loss, 0.693, sets models against each other that have hardly learned, and tells "
            "nothing. Nor do the runs get to it after as many epochs: a model in its first pass has met no row twice and "
            "can have next to no gap. Domains that let a model come down in fewer passes thus narrow the gap by that "
            "too; the table has the passes. "
            "Beside it stand the test loss at that place and the held-out loss at each model's own best epoch: "
            "whether it predicts better in the end. The gap at the best epoch is reported as secondary.",
            "What it still cannot tell: items drawn to their domain's mean tell the model the domains, so that a small "
            "radius and knowing the domains come as one here (the compare study gives the category to all "
            "its main rows); gamma changes how fast an item's own part learns (Adam's step in V is "
            "gamma times as long in E) as much as how far it may go, and the optimizer can undo part of gamma "
            "through V: the ratio of mean radius to separation that came out is in the table. "
            f"Circular kinds ({', '.join(CIRCULAR)}) are read off the rows that train the model (held-out events "
            "left out); they are no evidence for the claim.",
            "Learning rates at an end of the grid, and logs of one kind, are limits of this design.",
        ),
        [
            *_in_one_sentence(claims),
            *answers,
            *_false_alarms(alarms),
            *_at_limits(results),
            *_at_the_end(results),
            *_with_more_rates(wider),
            *sweep.answers(swept),
        ]
        or ["No contrast can be formed from the pieces done."],
        [
            t
            for t in (
                Table(
                    "Gamma minus 1, with domains, with random domains, and the difference (logloss; 95 % t over "
                    "seeds; below 0: the smaller or larger gamma generalises better; epochs until the training loss was that: with "
                    "domains / with random ones / at gamma 1)",
                    (
                        "log",
                        "domains",
                        "gamma",
                        "seeds",
                        "outcome",
                        "at training loss (after epochs)",
                        "domains",
                        "random",
                        "difference",
                    ),
                    contrasts,
                ),
                Table(
                    "Means over seeds, at the best validation loss",
                    ("log", "domains", "gamma", "seeds", "radius / separation", "rates", *PARTS, "gap"),
                    rows,
                ),
                sweep.table(swept),
            )
            if t.rows
        ],
        "A contrast of the other sign on logs with domains that were not read off the same events, or one "
        "that vanishes when the radius that came out, not gamma, is held alike in both arms.",
        figures,
        _left_out(results.missing),
    )


def _left_out(missing: list[str]) -> str | None:
    """Pieces that were not run, counted by log and domains or sweep; None where there are none."""
    if not missing:
        return None
    groups = Counter(re.sub(r"(-gamma|(?<=_scale)|(?<=_l2))[0-9].*$", "", key) for key in missing)
    return "Not run, for time: " + ", ".join(f"{name} ({n} pieces)" for name, n in groups.items()) + "."


_NAMES = {
    "matched_gap": "gap at equal training loss (primary)",
    "matched_test": "test at equal training loss",
    "gap": "gap at best epoch (confounded)",
    "heldout": "held-out at best epoch",
}


def _marked(kind: str) -> str:
    return f"{kind} (circular)" if kind in CIRCULAR else kind


def _empty(log: str, kind: str) -> bool:
    """Whether there are no true domains, so that no effect can be but by chance."""
    return kind == "random" or "null" in log


def _hardly_learned(found: dict[str, Any]) -> bool:
    """Whether one of the runs never came far below a coin's loss."""
    return bool(COIN - found["level"] < LEARNED)


def _side_of_gap(found: dict[str, Any]) -> str:
    """Where the primary outcome lies with regard to 0, or "hardly learned"."""
    return "hardly learned" if _hardly_learned(found) else side(found["matched_gap"]["difference"])


def _side_of_heldout(found: dict[str, Any]) -> str:
    """The same of the held-out loss, where none being shown needs no model that learned."""
    seen = side(found["heldout"]["difference"])
    return "hardly learned" if _hardly_learned(found) and seen in ("below", "above") else seen


def _caveats(found: dict[str, Any], effect: str) -> str:
    """What weakens an effect: the control alone makes it, or the level is reached before any row came twice."""
    if effect not in ("below", "above"):
        return ""
    gap, texts = found["matched_gap"], []
    if side(gap["domains"]) != effect:
        texts.append(
            f"there against random domains alone: by itself {interval(gap['domains'], 4)}, with random ones "
            f"{interval(gap['random'], 4)}"
        )
    if found["epochs"]["domains"] < 1:
        texts.append("there matched in its first pass, which leaves next to no gap in itself")
    return f" ({'; '.join(texts)})" if texts else ""


def _passes(found: dict[str, Any]) -> str:
    return " / ".join(f"{found['epochs'][arm]:.1f}" for arm in ("domains", "random", "one"))


def _verdict(log: str, kind: str, gamma: float, found: str) -> str:
    """What an interval on that side of 0 says; for the paper: a small radius is better, a large one worse."""
    if found in _SAYS_NOTHING:
        return _SAYS_NOTHING[found]
    if _empty(log, kind):
        return "a false alarm"
    if kind in CIRCULAR:
        return "lower" if found == "below" else "higher"
    return "for the paper" if (found == "below") == (gamma < 1) else "against the paper"


_SAYS_NOTHING = {
    "one seed": "one seed says nothing of chance",
    "undecided": "no difference shown",
    "hardly learned": "tells nothing: models that have hardly learned are in it",
}


def _false_alarms(alarms: list[bool]) -> list[str]:
    if not alarms:
        return []
    return [
        f"Where nothing can be seen (random domains against other random ones, the null log), 0 is outside {sum(alarms)} of "
        f"{len(alarms)} intervals of differences (four outcomes of a contrast rest on the same trainings, so they are not "
        "independent; what is matched where models have hardly learned is left out); chance alone puts it outside 1 in 20."
    ]


#: What a radius does to the gap, by the side of 0 that its interval lies on.
_EFFECTS = {
    "below": "narrows it on",
    "above": "widens it on",
    "undecided": "makes no difference that shows on",
    "one seed": "was tried with one seed on",
    "hardly learned": "has an effect that cannot be told, as models had hardly learned, on",
}


def _in_one_sentence(claims: dict[str, dict[str, list[str]]]) -> list[str]:
    """The primary contrast over all logs: ``claims`` has logs by way and side of 0."""
    if not claims:
        return []
    ways = {"smaller": "a smaller radius (the smallest gamma)", "larger": "a larger one (the largest)"}
    texts = [
        f"{ways[way]} " + "; ".join(f"{_EFFECTS[found]} {listed(logs)}" for found, logs in sides.items())
        for way, sides in claims.items()
    ]
    return [
        "**The gap at equal training loss, in interest domains against the same in random ones: "
        f"{'. And '.join(texts)}. The paper would have the first narrow and the second widen it.**"
    ]


def _answer(log: str, kind: str, found: dict[str, Any]) -> str:
    gap, heldout, gamma = found["matched_gap"], found["heldout"]["difference"], found["gamma"]
    epochs = found["epochs"]
    return (
        f"{log}, {_marked(kind)}: gamma {gamma:g} against 1 changes the gap at equal training loss "
        f"({found['level']:.3f}, reached after {epochs['domains']:.1f} epochs and {epochs['one']:.1f} at gamma 1) by "
        f"{interval(gap['domains'], 4)}, with random domains ({epochs['random']:.1f} epochs) by "
        f"{interval(gap['random'], 4)}: a difference of {interval(gap['difference'], 4)} "
        f"({_verdict(log, kind, gamma, _side_of_gap(found))}). For the held-out loss at the best epoch the difference "
        f"is {interval(heldout, 4)} ({_verdict(log, kind, gamma, _side_of_heldout(found))})."
    )


def _trainings(results: Results) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Options and results of the trainings over a fixed grid of rates, each once."""
    for piece in results.pieces.values():
        config = piece["config"]
        again = config.get("gamma") == 1 and config["domains"].endswith(CONTROL)  # as with domains
        if "rates" in config and not again:
            yield config, piece["result"]


def _at_limits(results: Results) -> list[str]:
    """One sentence on trainings whose learning rate is at an end of its grid."""
    ends: dict[float, Counter[str]] = {}
    for config, result in _trainings(results):
        place = "lowest" if result["rate"] == min(config["rates"]) else "highest"
        of_gamma = ends.setdefault(config["gamma"], Counter())
        of_gamma[place if result["rate_at_limit"] else "inner"] += 1
    if not ends:
        return []
    texts = [
        f"gamma {gamma:g}: {n['lowest']} at the lowest and {n['highest']} at the highest of {n.total()}"
        for gamma, n in sorted(ends.items())
    ]
    return [
        "Learning rates found at an end of the grid, where a further one might have been better still: "
        + "; ".join(texts)
        + "."
    ]


def _at_the_end(results: Results) -> list[str]:
    """One sentence on trainings that were at their best in the last epoch there was."""
    ended: dict[float, list[bool]] = {}
    for config, result in _trainings(results):
        last = len(result["curve"]["train"]) - PER_EPOCH
        ended.setdefault(config["gamma"], []).append(result["at"] >= last)
    if not ended:
        return []
    texts = [f"gamma {gamma:g}: {sum(found)} of {len(found)}" for gamma, found in sorted(ended.items())]
    return [
        "Best on validation in the last epoch there was, so that what is said of the best epoch also measures how "
        f"fast they learn: {'; '.join(texts)}."
    ]


def _with_more_rates(wider: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """A sentence a log on the contrasts of trainings whose grid of rates was extended where its end was best."""
    answers = []
    for log, entries in wider.items():
        (kind,) = {r["domains"].removesuffix(CONTROL) for r in entries.values()}
        texts = []
        for extreme in (min, max):
            found = contrast(entries, kind, extreme)
            if found is not None:
                gap, gamma = found["matched_gap"]["difference"], found["gamma"]
                texts.append(f"gamma {gamma:g} {interval(gap, 4)} ({_verdict(log, kind, gamma, _side_of_gap(found))})")
        if texts:
            left = sum(r["rate_at_limit"] for r in entries.values())
            answers.append(
                f"{log}, {kind}, with further learning rates wherever the end of the grid was best (tried after the "
                f"results above; {left} of {len(entries)} are still at an end): difference of the gap at equal "
                f"training loss, {'; '.join(texts)}."
            )
    return answers


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


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
                axes.plot(train, other, style, marker=".", color=f"C{number_}", label=label)
    axes.invert_xaxis()
    axes.set(xlabel="training logloss", ylabel="held-out logloss")
    low = min(min(r["curve"]["heldout"]) for (k, _), g in cells.items() if k.startswith(kind) for r in g)
    axes.set_ylim(low - 0.02, 0.85)
    axes.legend()
