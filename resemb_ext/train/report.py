"""What a run looks like to people: the table, ``summary.md``, the curves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resemb_ext.runtime.files import write_atomic
from resemb_ext.runtime.progress import RunWarning

from .statistics import defined, shown, shown_interval, shown_mean, shown_spread

SUMMARY, CURVES = "summary.md", "curves.png"
_COLUMNS = (
    ("valid", "gauc"),
    ("valid", "auc"),
    ("test", "gauc"),
    ("test", "auc"),
    ("test", "logloss"),
    ("test_seen", "gauc"),
)
_METRICS = ("valid gAUC", "valid AUC", "test gAUC", "test AUC", "test logloss", "seen gAUC")
_HEAD = ("embedding", *_METRICS, "radius", "samples/s", "peak MB", "epochs")


def table_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Header and rows of the final table: arms, their difference, and Bayes where it is known.

    Several seeds are shown as mean ± standard deviation; the difference as its mean (the
    interval is in ``notes``). "-" is a metric that is undefined.
    """
    rows: list[tuple[str, ...]] = [_HEAD]
    runs = result["runs"]
    for arm in dict.fromkeys(run["embedding"] for run in runs):
        of_arm = [run for run in runs if run["embedding"] == arm]
        spread = result["summary"]["arms"][arm]
        rows.append(
            (
                arm,
                *(shown_spread(spread[part][metric]) for part, metric in _COLUMNS),
                shown_mean(of_arm, "aggregation_radius", ".3f"),
                shown_mean(of_arm, "samples_per_s", ",.0f"),
                shown_mean(of_arm, "peak_memory_mb", ",.0f"),
                shown_mean(of_arm, "epochs", ".0f" if len(of_arm) == 1 else ".1f"),
            )
        )
    gain = result["summary"]["difference"]
    if gain is not None:
        rows.append(
            ("res - plain", *(shown(gain[part][metric]["mean"], "+.4f") for part, metric in _COLUMNS), *[""] * 4)
        )
    bayes = result["bayes"]
    if bayes is not None:

        def show(part: str, value: float | None) -> str:
            return ("~" if defined(value) and not bayes[part]["exact"] else "") + shown(value)

        rows.append(
            (
                "Bayes",
                show("valid", bayes["valid"]["gauc"]),
                show("valid", bayes["valid"]["auc"]),
                show("test", bayes["test"]["gauc"]),
                show("test", bayes["test"]["auc"]),
                "",
                show("test", bayes["test"]["seen"]["gauc"]),
                *[""] * 4,
            )
        )
    return rows


def text_table(result: dict[str, Any]) -> str:
    """The table for a terminal."""
    rows = table_rows(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join((first, *rest)).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def notes(result: dict[str, Any]) -> list[str]:
    """Sentences that say what the table's figures are."""
    runs, config = result["runs"], result["config"]
    seeds = len(config["seed"])
    details = next((run["aggregation_radius_details"] for run in runs if run["aggregation_radius_details"]), None)
    split = result["data"]["split"]
    found = []
    gain = result["summary"]["difference"]
    if gain is not None and seeds > 1:
        parts = [
            f"{name} {shown_interval(gain['test'][metric])}"
            for name, metric in (("gAUC", "gauc"), ("AUC", "auc"), ("logloss", "logloss"))
        ]
        found.append(
            f"res - plain on test, paired by seed, with 95 % t interval over {seeds} seeds: " + ", ".join(parts) + "."
        )
    found += [
        f"{split['how']}: {split['train']:,} training, {split['valid']:,} validation, "
        f"{split['test']:,} test events; {_graph_note(result)}, validation "
        f"{config['metric']} picks the epoch (patience {config['patience']}), test is scored once.",
        "untuned: one set of options for both arms"
        + ("; ± is the standard deviation over seeds." if seeds > 1 else ", one seed."),
        "seen gAUC: targets with a training event only.",
        "radius: aggregation radius over separation, against random domains of the same sizes "
        "(1: domains say nothing); domains: " + (details["domain_source"] if details else "none taken") + ".",
        f"peak MB: {runs[0]['peak_memory_source']}; the data counts in every arm.",
    ]
    found += _times(runs)
    test = runs[0]["test"]
    skipped = test["gauc_skipped_users"]
    if not test["gauc_users"]:
        found.append("test gAUC is undefined (-): no user has both classes among the test rows.")
    elif skipped:
        found.append(f"gAUC leaves out {skipped:,} test users with one class only.")
    if test["gauc_users"] and not test["seen"]["gauc_users"]:
        found.append("seen gAUC is undefined (-): no user has both classes among targets with a training event.")
    if result["bayes"] is not None:
        found.append(
            "Bayes: the best possible scorer, which knows the simulation; ~ where it models the "
            "negatives approximately."
        )
    return found


def meaning(result: dict[str, Any]) -> str:
    """What the table says, in a sentence: the gain on test, or the one arm's; by AUC where gAUC is undefined."""
    seeds = len(result["config"]["seed"])
    over = "one seed" if seeds == 1 else f"{seeds} seeds"
    arms, gain = result["summary"]["arms"], result["summary"]["difference"]
    users = result["runs"][0]["test"]["gauc_users"]
    metric, name = ("gauc", "gAUC") if users else ("auc", "AUC")
    if gain is None:
        ((arm, spread),) = arms.items()
        return f"The {arm} embedding has test {name} {shown_spread(spread['test'][metric])} ({over})."
    value = gain["test"][metric]
    if value["mean"] is None:
        return "Neither gAUC nor AUC is defined on these test rows."
    side = "above" if value["mean"] >= 0 else "below"
    found = f"With one set of options for both, Res-embedding's test {name} is {abs(value['mean']):.4f} {side} the plain one's"
    if value["low"] is None:
        return f"{found} ({over}; more seeds, such as --seed 0 1 2, give an interval)."
    return f"{found} (95 % interval over {over}: {value['low']:+.4f} to {value['high']:+.4f})."


def write_reports(result: dict[str, Any], folder: Path) -> None:
    """Writes ``summary.md`` and ``curves.png`` where they are not there yet, as in the folder of a new run."""
    if not (folder / SUMMARY).exists():
        write_report(folder / SUMMARY, lambda target: target.write_text(summary(result), encoding="utf-8"))
    if not (folder / CURVES).exists():
        write_report(folder / CURVES, lambda target: draw_curves(result, target))


def write_report(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file for people, atomically; where that fails, a ``RunWarning`` says so and no more.

    Call it when the results themselves are written: a picture or a table must not lose them.
    """
    try:
        write_atomic(path, write)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"cannot write {path}: {reason}; the results are whole", RunWarning, stacklevel=3)


def closing(result: dict[str, Any], folder: Path) -> str:
    """What ``resemb train`` ends with: the table, what it means, and where the files are."""
    lines = [text_table(result), "", meaning(result)]
    graph = result["graph"]
    if graph is not None and not graph.get("training_events_only", True):
        lines.append(f"Warning: {_graph_note(result)}.")
    files = [name for name in ("result.json", "test_scores.parquet", CURVES) if (folder / name).exists()]
    explained = f"{SUMMARY} explains the table; " if (folder / SUMMARY).exists() else ""
    lines.append(f"results in {folder} ({result['wall_s']:.0f} s): {explained}{', '.join(files)}")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """``summary.md``."""
    rows = table_rows(result)
    data = result["data"]
    lines = [
        f"# {result['config']['model'].upper()} on {data['name']}",
        "",
        f"{data['events']:,} events, {data['users']:,} users, {data['items']:,} items.",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|" + "---|" * len(rows[0]),
        *("| " + " | ".join(row) + " |" for row in rows[1:]),
        "",
        meaning(result),
        "",
        *(f"- {note[0].upper()}{note[1:]}" for note in notes(result)),
        "",
        f"torch {result['versions']['torch']}, {result['threads']} threads, {result['isa']}, "
        f"{result['machine']['cpu']}; {result['wall_s']:.0f} s in all.",
        "",
        "![curves](curves.png)",
        "",
    ]
    return "\n".join(lines)


def draw_curves(result: dict[str, Any], path: Path) -> None:
    """Training loss and validation metric over epochs, a line per arm and seed, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metric = result["config"]["metric"]
    figure = Figure(figsize=(9, 3.6))  # a layout engine would draw it twice
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.15, top=0.88, wspace=0.25)
    FigureCanvasAgg(figure)
    loss, valid = figure.subplots(1, 2)
    colours = {"plain": "tab:grey", "res": "tab:blue"}
    labelled: set[str] = set()
    for run in result["runs"]:
        arm = run["embedding"]
        epochs = [entry["epoch"] for entry in run["history"]]
        style: dict[str, Any] = {"color": colours[arm], "marker": ".", "alpha": 0.8}
        if arm not in labelled:
            style["label"] = arm
            labelled.add(arm)
        loss.plot(epochs, [_height(entry["loss"]) for entry in run["history"]], **style)
        valid.plot(epochs, [_height(entry["valid"][metric]) for entry in run["history"]], **style)
        valid.plot(run["best_epoch"], _height(run["valid"][metric]), "o", color=colours[arm])
    loss.set(xlabel="epoch", ylabel="training logloss")
    valid.set(xlabel="epoch", ylabel=f"validation {'gAUC' if metric == 'gauc' else 'AUC'}")
    for axes in (loss, valid):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    valid.legend()
    figure.suptitle(f"{result['config']['model'].upper()} on {result['data']['name']}")
    figure.savefig(path, dpi=120, format="png")


def _times(runs: list[dict[str, Any]]) -> list[str]:
    """Where an epoch's time goes, the mean over an arm's seeds."""
    arms: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        if "seconds_per_epoch" in run:
            arms.setdefault(run["embedding"], []).append(run["seconds_per_epoch"])
    shown = [
        f"{arm} " + ", ".join(f"{part} {sum(s[part] for s in of) / len(of):.2f}" for part in of[0])
        for arm, of in arms.items()
    ]
    return [f"seconds an epoch: {'; '.join(shown)}."] if shown else []


def _graph_note(result: dict[str, Any]) -> str:
    graph = result["graph"]
    if graph is None:
        return "no graph"
    if not graph.get("training_events_only", True):
        return "THE GRAPH WAS BUILT FROM OTHER EVENTS and may know held-out ones"
    note = "the graph is built from training events only"
    folds = graph.get("cross_fit")
    if folds:
        note += f" (cross-fitted: a batch uses the graph without its one of {folds['folds']} folds)"
    return note


def _height(value: float | None) -> float:
    """Of a point of a curve; matplotlib leaves a gap where it is NaN."""
    return math.nan if value is None else value
