"""The committed JSON: what is kept of a run, and how cells are added to the file."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from resemb_ext.runtime.files import plain, write_json
from resemb_ext.study.harness.inference import user_interval
from resemb_ext.train import RunResult
from resemb_ext.train.runner import SCORES

from .cells import Cell, all_cells, changes, config_of, defaults

FORMAT = 1
_METRICS = ("auc", "gauc", "logloss", "rows", "gauc_users", "gauc_skipped_users")
_RADIUS = ("ratio", "permuted_ratio", "domains", "items", "min_items", "domain_source")
_RUN = (
    "embedding",
    "seed",
    "epochs",
    "best_epoch",
    "stopped",
    "steps",
    "aggregation_radius",
    "samples_per_s",
    "peak_memory_mb",
    "parameters",
    "wall_s",
)
_DATA = ("name", "events", "users", "items", "categories", "columns", "samples")
_ENVIRONMENT = ("versions", "commit", "machine", "threads", "isa")


def compact(cell: Cell, done: RunResult, workers: int = 1) -> dict[str, Any]:
    """What the file keeps of a run; no path of the machine.

    Args:
        cell: the cell that was run.
        done: the run, its folder still there.
        workers: cells that ran side by side, for whoever reads the speeds.
    """
    result = done.result
    config, data = result["config"], result["data"]
    split = dict(data["split"])
    split.pop("hash")  # among the hashes already
    entry = {
        **cell.key,
        "file": Path(data["source"]).name,
        "changes": changes(config),
        "data": {
            **{key: data[key] for key in _DATA},
            "split": split,
            "negatives": {
                "train": config["train_negatives"],
                "eval": config["eval_negatives"],
                "power": config["negative_power"],
            },
        },
        "graph": {key: result["graph"]["stats"][key] for key in ("num_edges", "isolated", "kept_mass")},
        "runs": [_run(run) for run in result["runs"]],
        "summary": result["summary"],
        "gauc_over_users": _over_users(done),
        "hashes": result["hashes"],
        "environment": {**{key: result[key] for key in _ENVIRONMENT}, "workers": workers},
        "started": result["started"],
        "wall_s": result["wall_s"],
    }
    return plain(entry)


def _run(run: dict[str, Any]) -> dict[str, Any]:
    radius = run["aggregation_radius_details"]
    parts = {"valid": run["valid"], "test": run["test"], "test_seen": run["test"]["seen"]}
    return {
        **{key: run[key] for key in _RUN},
        **{part: {key: values[key] for key in _METRICS} for part, values in parts.items()},
        "valid_gauc_by_epoch": [round(epoch["valid"]["gauc"], 5) for epoch in run["history"]],
        "aggregation_radius_details": None if radius is None else {k: radius[k] for k in _RADIUS},
    }


def _over_users(done: RunResult) -> dict[str, Any]:
    """:func:`user_interval` of res minus plain on the saved test scores."""
    scores = pq.read_table(done.folder / SCORES)

    def columns(arm: str) -> list[Any]:
        return [scores[f"{arm}_seed{seed}"].to_numpy() for seed in done.result["config"]["seed"]]

    return user_interval(scores["label"].to_numpy(), columns("plain"), columns("res"), scores["user"].to_numpy())


def read(path: Path) -> dict[str, Any]:
    """The file's content: ``format``, ``defaults`` of resemb train at the time, ``cells``.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is of another format.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is no result of this program (format {FORMAT})")
    return content


def load(path: Path) -> dict[str, Any]:
    """:func:`read` for adding cells; without a file, a new content without cells.

    An option that came after the file was at its default in all its cells.

    Raises:
        ValueError: as :func:`read`, or the file was made with other defaults, so that its cells
            and new ones would not belong together.
    """
    usual = defaults()
    if not path.exists():
        return {"format": FORMAT, "defaults": usual, "cells": []}
    content = read(path)
    then = content["defaults"]
    differ = sorted(k for k in then if k not in usual or then[k] != usual[k])
    if differ:
        raise ValueError(f"{path} was made with other defaults of resemb train ({', '.join(differ)}); start a new file")
    content["defaults"] = usual
    return content


def held(content: dict[str, Any], cell: Cell) -> dict[str, Any] | None:
    """The entry of a cell, or None."""
    for entry in content["cells"]:
        if all(entry[key] == value for key, value in cell.key.items()):
            return entry
    return None


def is_done(content: dict[str, Any], cell: Cell, **options: Any) -> bool:
    """Whether the cell is there.

    Args:
        content: of the file.
        cell: the cell.
        **options: as for :func:`config_of`.

    Raises:
        ValueError: it is there, but was run with other options.
    """
    entry = held(content, cell)
    if entry is None:
        return False
    wanted, given = changes(config_of(cell, Path(), **options).to_dict()), entry["changes"]
    if given != wanted:
        differ = sorted(k for k in {**wanted, **given} if wanted.get(k) != given.get(k))
        raise ValueError(
            f"{cell.name} is in the file with other options ({', '.join(differ)}); give --redo to replace it"
        )
    return True


def put(path: Path, entry: dict[str, Any]) -> None:
    """Adds a cell's entry, or replaces it; two processes may do so with one file.

    Raises:
        ValueError: as :func:`load`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [tuple(cell.key.values()) for cell in all_cells()]

    def place(item: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(item[key] for key in ("log", "split", "model", "category"))

    with _locked(path.parent):
        content = load(path)
        kept = [item for item in content["cells"] if place(item) != place(entry)]
        content["cells"] = sorted([*kept, entry], key=lambda item: order.index(place(item)))
        write_json(path, content)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time; the lock is on the folder itself and leaves no file behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
