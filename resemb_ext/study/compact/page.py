"""The page of study ``compact``: its tables, from kept pieces alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resemb_ext.study.harness.inference import equivalence
from resemb_ext.study.harness.report import Page, Table, number, signed
from resemb_ext.study.harness.results import Results

from .experiment import TRAINED
from .protocol import FIRST_SEEDS, MARGIN

Runs = Mapping[str, Mapping[str, Mapping[int, dict[str, Any]]]]  # by log, form and seed


def page(results: Results) -> Page:
    """The page of the study, from its kept pieces."""
    runs = trained_runs(results)
    tables = [equivalence_table(runs), metrics_table(runs), trade_table(results), options_table(results)]
    return Page([table for table in tables if table.rows], missing=_missing(results))


def trained_runs(results: Results) -> Runs:
    """What the kernels trained."""
    runs: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for piece in results.pieces.values():
        config = piece["config"]
        if "trained" in config:
            of_log = runs.setdefault(config["log"], {}).setdefault(config["trained"], {})
            of_log[piece["result"]["seed"]] = piece["result"]
    return runs


def paired(runs: Runs, log: str, name: str, metric: str = "gauc") -> tuple[list[int], list[float], list[float]]:
    """Seeds that both float32 and a form were trained with, and both test metrics."""
    first, second = (runs[log].get(which, {}) for which in ("float32", name))
    seeds = sorted(first.keys() & second.keys())
    one, other = ([of[seed]["test"][metric] for seed in seeds] for of in (first, second))
    return seeds, one, other


def equivalence_table(runs: Runs) -> Table:
    """Test gAUC of each form minus float32, of the first seeds and of all."""
    rows = []
    for log in runs:
        for name in ("compact", "next"):
            seeds, first, second = paired(runs, log, name)
            for count in dict.fromkeys((min(FIRST_SEEDS, len(seeds)), len(seeds))):
                if count < 2:
                    continue
                found = equivalence(first[:count], second[:count], MARGIN)
                rows.append(
                    (
                        log,
                        form_title(name),
                        str(count),
                        number(float(np.mean(first[:count])), 4),
                        number(float(np.mean(second[:count])), 4),
                        signed(found),
                        number(found["p"], 4) if found["p"] >= 0.0001 else "below 0.0001",
                        "yes" if found["equivalent"] else "not shown",
                    )
                )
    head = ("log", "tables, state", "seeds", "float32", "this form", "difference [90 % interval]", "p", "equivalent")
    return Table(f"Test gAUC, form minus float32; equivalent: inside ±{MARGIN}", head, rows)


def metrics_table(runs: Runs) -> Table:
    """Means of what the kernels trained, a row a log and form."""
    rows = []
    for log, forms in runs.items():
        for name, of_seed in forms.items():
            ran = list(of_seed.values())
            of_part = [(part, metric) for part in ("test", "valid") for metric in ("auc", "gauc", "logloss")]
            rows.append(
                (
                    log,
                    form_title(name),
                    str(len(ran)),
                    *(number(float(np.mean([run[p][m] for run in ran])), 4) for p, m in of_part),
                    number(float(np.mean([run["epochs"] for run in ran])), 1),
                )
            )
    head = ("log", "tables, state", "seeds", "AUC", "gAUC", "logloss", "valid AUC", "valid gAUC", "valid logloss")
    return Table("What the kernels trained, means over seeds", (*head, "epochs"), rows)


def form_title(name: str) -> str:
    """A form of ``TRAINED`` for people."""
    form = TRAINED[name]
    return f"{form['table_dtype']}, {form['state']}"


def trade_table(results: Results) -> Table:
    """Every form in plain PyTorch minus float32, a row a dtype of the tables and form."""
    trade = {key: piece for key, piece in results.pieces.items() if key.startswith("trade-")}
    base = trade.get("trade-float32-float32")
    rows = []
    for piece in trade.values() if base is not None else ():
        assert base is not None
        result, config = piece["result"], piece["config"]
        gains = [
            [run[part]["gauc"] - plain[part]["gauc"] for part in ("valid", "test")]
            for run, plain in zip(result["runs"], base["result"]["runs"], strict=True)
        ]
        valid, test = np.mean(gains, axis=0)
        rows.append(
            (
                config["cell"]["table_dtype"],
                config["form"],
                number(result["bytes_per_number"], 2),
                f"{valid:+.4f}",
                f"{test:+.4f}",
                ", ".join(f"{gain[1]:+.4f}" for gain in gains),
                number(float(np.mean([run["epochs"] for run in result["runs"]])), 1),
            )
        )
    head = ("tables", "moments", "bytes an item and dimension", "valid gAUC", "test gAUC", "by seed", "epochs")
    return Table("The trade in plain PyTorch: minus float32 tables and moments", head, rows)


def options_table(results: Results) -> Table:
    """Options of the runs, and what differs between logs."""
    by_log: dict[str, dict[str, Any]] = {}
    for piece in results.pieces.values():
        config = piece["config"]
        by_log[config["log"]] = {**config["options"], "training rows": config["train_rows"] or "all"}
    names = list(dict.fromkeys(name for options in by_log.values() for name in options))
    rows = []
    for name in names:
        values = dict.fromkeys(_text(options[name]) for options in by_log.values())
        if len(values) == 1:
            rows.append((f"`{name}`", next(iter(values))))
        else:
            rows.append((f"`{name}`", "; ".join(f"{log}: {_text(of[name])}" for log, of in by_log.items())))
    return Table("Options of every run", ("option of `resemb train`", "value"), [row for row in rows if row[1]])


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _missing(results: Results) -> list[str]:
    """Pieces that were not run, those of one form and log as one."""
    found: dict[str, list[str]] = {}
    for key in results.missing:
        name, _, seed = key.rpartition("-")
        whole = key.startswith("trade-")
        found.setdefault(key if whole else name, []).extend([] if whole else [seed])
    return [f"`{name}`" + (f" (seeds {', '.join(seeds)})" if seeds else "") for name, seeds in found.items()]
