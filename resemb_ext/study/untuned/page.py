"""The page of study ``untuned``: its tables and figure, from kept pieces alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from resemb_ext.study.harness.report import Figure, Page, Panel, Table, side, signed
from resemb_ext.study.harness.results import Results
from resemb_ext.train.statistics import METRICS, shown_mean, shown_spread, summarise

from .experiment import ARMS

_MODELS = {"wide_deep": "Wide&Deep", "deepfm": "DeepFM"}
_WHERE = ("log", "split", "model", "category")


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    kept = {key: piece for key, piece in results.pieces.items() if "runs" in piece["result"]}
    tables = [
        difference_table(results, kept),
        metrics_table(results, kept),
        cap_table(results, kept),
        log_table(results),
        setting_table(results, kept),
        options_table(kept),
    ]
    caption = (
        "Test gAUC, res minus plain. Thick: 95 % interval over test users. Thin: 95 % t interval over seeds, where "
        "there are several."
    )
    panel = Panel("", partial(draw, results, kept))
    figure = Figure("", caption, [panel], list(kept), size=(6.4, 0.3 * len(kept) + 1.0))
    missing = [f"`{key}`" for key in results.missing]
    missing += [f"`{key}` (its loss was no longer finite)" for key in results.pieces if key not in kept]
    return Page([table for table in tables if table.rows], [figure] if kept else [], missing)


def summary(piece: Mapping[str, Any]) -> dict[str, Any]:
    """``summarise`` of a piece's runs."""
    runs = piece["result"]["runs"]
    return summarise([{**run, "test": {**run["test"], "seen": run["test_seen"]}} for run in runs])


def gain_side(piece: Mapping[str, Any]) -> str:
    """ "above" or "below" where every interval of the difference of gAUC that is there excludes 0 so, else "undecided"."""
    return common_side([summary(piece)["difference"]["test"]["gauc"], piece["result"]["gauc_over_users"]])


def common_side(intervals: Sequence[dict[str, Any]]) -> str:
    """The side of 0 that all intervals are on, those without bounds left out; else "undecided"."""
    sides = {side(interval) for interval in intervals if interval["low"] is not None}
    return sides.pop() if len(sides) == 1 else "undecided"


def difference_table(results: Results, kept: Mapping[str, Any]) -> Table:
    """Res minus plain, a row a cell."""
    rows = []
    for piece in kept.values():
        gain = summary(piece)["difference"]
        rows.append(
            (
                *_where(results, piece),
                str(gain["test"]["gauc"]["n"]),
                signed(gain["test"]["gauc"]),
                signed(piece["result"]["gauc_over_users"]),
                gain_side(piece),
                signed(gain["test"]["auc"]),
                signed(gain["test"]["logloss"]),
                signed(gain["test_seen"]["gauc"]),
            )
        )
    head = (*_WHERE, "seeds", "gAUC, over seeds", "gAUC, over users", "res is", "AUC", "logloss", "gAUC, seen")
    return Table(
        "Test, res minus plain; for logloss, below 0 is better; seen: targets with a training event", head, rows
    )


def metrics_table(results: Results, kept: Mapping[str, Any]) -> Table:
    """Test metrics and what training took, a row a cell and embedding."""
    rows = []
    for piece in kept.values():
        arms = summary(piece)["arms"]
        for arm in ARMS:
            runs = [run for run in piece["result"]["runs"] if run["embedding"] == arm]
            whole = ".0f" if len(runs) == 1 else ".1f"
            rows.append(
                (
                    *_where(results, piece),
                    arm,
                    *(shown_spread(arms[arm]["test"][metric]) for metric in METRICS),
                    shown_mean(runs, "aggregation_radius", ".3f"),
                    f"{shown_mean(runs, 'epochs', whole)} ({shown_mean(runs, 'best_epoch', whole)})",
                    shown_mean(runs, "samples_per_s", ",.0f"),
                    shown_mean(runs, "parameters", ",.0f"),
                )
            )
    head = (*_WHERE, "embedding", "AUC", "gAUC", "logloss", "radius", "epochs (best)", "samples/s", "parameters")
    return Table("Test metrics, mean ± standard deviation over seeds", head, rows)


def cap_table(results: Results, kept: Mapping[str, Any]) -> Table:
    """Runs that ended at the epoch limit, a row a cell that has some, and their sum."""
    rows: list[tuple[str, ...]] = []
    capped: Counter[str] = Counter()
    for piece in kept.values():
        runs = piece["result"]["runs"]
        here = Counter(run["embedding"] for run in runs if run["stopped"] == "epochs")
        if here:
            of = len(runs) // len(ARMS)
            rows.append((*_where(results, piece), *(f"{here[arm]} of {of}" for arm in ARMS)))
        capped += here
    if rows:
        of = sum(len(piece["result"]["runs"]) for piece in kept.values()) // len(ARMS)
        rows.append(("all", "", "", "", *(f"{capped[arm]} of {of}" for arm in ARMS)))
    return Table("Runs that ended at the epoch limit, before early stopping", (*_WHERE, *ARMS), rows)


def log_table(results: Results) -> Table:
    """Sizes of the logs."""
    names = ("users", "items", "events", "categories")
    rows = [
        (name, *("-" if log[key] is None else f"{log[key]:,}" for key in names))
        for name, log in results.plan["data"].items()
    ]
    return Table("Logs; every event is a positive, whatever its rating", ("log", *names), rows)


def setting_table(results: Results, kept: Mapping[str, Any]) -> Table:
    """How each log, split and model was run."""
    rows: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for piece in kept.values():
        log, split, model, _ = _where(results, piece)
        options = {**piece["config"]["options"], **piece["config"]["cell"]}
        sizes = piece["result"]["data"]
        rows[log, split, model] = (
            log,
            split,
            model,
            *(f"{sizes['split'][part]:,}" for part in ("train", "valid", "test")),
            str(options["eval_negatives"]),
            f"{sizes['samples']['test']:,}",
            *(str(options[name]) for name in ("max_history", "epochs", "patience")),
            ", ".join(map(str, piece["seeds"])),
        )
    head = ("log", "split", "model", "training events", "validation events", "test events", "negatives per event")
    more = ("test candidates", "history", "most epochs", "patience", "seeds")
    return Table("Sizes and options of each log, split and model", head + more, list(rows.values()))


def options_table(kept: Mapping[str, Any]) -> Table:
    """Options of every run, unless the table before names others."""
    options: Mapping[str, Any] = next((piece["config"]["options"] for piece in kept.values()), {})
    rows = [(f"`{name}`", _value(value)) for name, value in options.items() if value not in (None, [])]
    return Table(
        "Options of every run, unless the table above has another", ("option of `resemb train`", "value"), rows
    )


def draw(results: Results, kept: Mapping[str, Any], axes: Any) -> None:
    """The difference of gAUC by cell, with both intervals."""
    names = []
    for place, piece in enumerate(kept.values()):
        over_users, over_seeds = piece["result"]["gauc_over_users"], summary(piece)["difference"]["test"]["gauc"]
        for interval, width in ((over_seeds, 1), (over_users, 3)):
            if interval["low"] is not None:
                axes.plot(
                    [interval["low"], interval["high"]],
                    [place, place],
                    color="C0",
                    linewidth=width,
                    solid_capstyle="butt",
                )
        axes.plot([over_seeds["mean"]], [place], "o", color="C0", markersize=4)
        log, split, model, category = _where(results, piece)
        names.append(f"{log}, {split}, {model}" + (", category" if category == "yes" else ""))
    axes.axvline(0, color="grey", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("test gAUC, res minus plain")


def _where(results: Results, piece: Mapping[str, Any]) -> tuple[str, str, str, str]:
    cell = piece["config"]["cell"]
    log = next(name for name, entry in results.plan["data"].items() if entry["hash"] == piece["data"])
    model = _MODELS.get(cell["model"], cell["model"].upper())
    return log, cell["split"], model, "yes" if cell["category"] else "no"


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
