"""The run folder: what it holds, opening it for a new run or to continue one."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resemb_ext.runtime.files import plain, remove_temporaries, write_atomic, write_json

from .config import RunConfig, read_config
from .report import CURVES, SUMMARY
from .saving import changed_options, check_space, space_needed

CONFIG, RESULT, SCORES = "config.resolved.json", "result.json", "test_scores.parquet"
GRAPH, IDS = "graph.npz", "id_maps.json"
CANDIDATES, ARMS, INPUTS, ENTRY = "valid_candidates.parquet", "arms", "inputs.json", "run.json"
_FILES = (CONFIG, RESULT, SCORES, SUMMARY, CURVES, GRAPH, IDS, CANDIDATES, INPUTS)


def arm_folder(folder: Path, arm: str, seed: int) -> Path:
    """Where the checkpoints of an arm and seed are."""
    return folder / ARMS / f"{arm}-seed{seed}"


def new_folder(config: RunConfig, started: datetime) -> Path:
    """Makes the run folder, which holds no run or one to overwrite.

    Raises:
        ValueError: the folder holds an earlier run and ``overwrite`` is off, or cannot be written.
    """
    name = Path(config.data).stem
    folder = Path(config.out or f"runs/{started:%Y%m%d-%H%M%S}-{name}-{config.model}")
    held = [file for file in (*_FILES, ARMS) if (folder / file).exists()]
    if held and not config.overwrite:
        raise ValueError(
            f"out: {folder} holds an earlier run ({held[0]}); choose another folder, give "
            "--overwrite, or continue it with --resume"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in held:
            if file == ARMS:
                shutil.rmtree(folder / ARMS)
            else:
                (folder / file).unlink()
        clean(folder)
        write_config(folder, config)
    except OSError as error:
        raise ValueError(f"out: cannot write to {folder}: {error.strerror or error}") from error
    return folder


def clean(folder: Path) -> None:
    """Removes half-written files that a killed process left in a run folder."""
    remove_temporaries(folder)
    for place in (folder / ARMS).glob("*/"):
        remove_temporaries(place)


def write_config(folder: Path, config: RunConfig) -> None:
    """Writes the resolved options."""
    write_json(folder / CONFIG, {**config.to_dict(), "out": str(folder)})


def saved_config(folder: Path | str) -> RunConfig:
    """The resolved options of the run in ``folder``, with ``out`` where it is now.

    Raises:
        ValueError: there is no run, or its options cannot be read.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} holds no run (no {CONFIG})")
    return RunConfig.saved(read_config(file), out=str(folder))


def resumed_config(config: RunConfig) -> RunConfig:
    """``config`` with what its run had resolved, for continuing the run in ``config.out``.

    Raises:
        ValueError: there is no run, or options differ from the saved ones; all are named.
    """
    if config.out is None:
        raise ValueError("resume: name the run folder")
    saved = saved_config(config.out)
    if config.threads is None:  # measured at the run's start; it must stay, bits depend on it
        config = RunConfig(**{**config.to_dict(), "threads": saved.threads})
    changed = changed_options(config.to_dict(), saved.to_dict(), RunConfig)
    if changed:
        raise ValueError(
            f"resume: options differ from those of the run in {config.out}: {', '.join(changed)}; "
            "leave them out, or start a new run"
        )
    return config


def check_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Writes what the run trains on, or compares it with what the run in ``folder`` had.

    Args:
        folder: the run folder.
        inputs: hashes by name.

    Raises:
        ValueError: they differ: the log has changed since, or the package makes other samples.
    """
    path = folder / INPUTS
    if not path.exists():
        write_json(path, inputs)
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name, value in plain(inputs).items() if saved.get(name) != value]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"resume: {path} cannot be read: {error}") from error
    if changed:
        raise ValueError(
            f"resume: the run in {folder} was begun on other inputs ({', '.join(changed)}); the log "
            "or the package has changed since: start a new run"
        )


def finished_arm(folder: Path, arm: str, seed: int) -> tuple[dict[str, Any], np.ndarray] | None:
    """Entry and test logits of an arm that was done before, or None."""
    entry = arm_folder(folder, arm, seed) / ENTRY
    column = f"{arm}_seed{seed}"
    if not entry.is_file() or not (folder / SCORES).is_file():
        return None
    try:
        with pq.ParquetFile(folder / SCORES) as file:
            if column not in file.schema_arrow.names:
                return None
            logits = file.read([column])[column].to_numpy()
        return json.loads(entry.read_text(encoding="utf-8")), logits
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(f"resume: {folder} has damaged results: {error}") from error


def finished_run(folder: Path) -> dict[str, Any] | None:
    """``result.json`` where the run is done, or None.

    Raises:
        ValueError: it cannot be read.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"resume: {path} cannot be read: {error}") from error


def check_folder_space(config: RunConfig, folder: Path, items: int, categories: int) -> None:
    """Refuses a disk on which the checkpoints of all arms and seeds will not fit.

    Args:
        config: arms, seeds, dimension.
        folder: the run folder.
        items, categories: rows of the tables.

    Raises:
        ValueError: too little disk is free.
    """
    beside = categories if config.category else 0
    rows = {"plain": items + beside, "res": 2 * items + beside}
    check_space(folder, space_needed(*(4 * config.dim * rows[arm] for arm in config.arms for _ in config.seed)))


def write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns as Parquet, atomically."""
    write_atomic(path, lambda target: pq.write_table(pa.table(columns), target))
