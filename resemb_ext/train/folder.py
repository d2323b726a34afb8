"""The run folder: what it holds, and reading and writing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resemb_ext.runtime.digests import check_digest, read_checked_json, write_recorded, write_recorded_json

from . import report
from .config import AUTO_SPLIT, AUTO_TABLES, RunConfig
from .inputs import INPUTS
from .logs import LOGGED, STATE
from .opening import Kind
from .options import from_mapping
from .saving import Sizes, changed_options, check_space, space_needed
from .statistics import summarise

CONFIG, RESULT, SCORES = "config.resolved.json", "result.json", "test_scores.parquet"
GRAPH, IDS = "graph.npz", "id_maps.json"
CANDIDATES, ARMS, ENTRY = "valid_candidates.parquet", "arms", "run.json"
GROWN = "grown.json"  # of a run that resemb grow made of another
RUN = Kind(
    "run",
    (CONFIG, RESULT, SCORES, report.SUMMARY, report.CURVES, GRAPH, IDS, CANDIDATES, INPUTS, LOGGED, GROWN),
    ARMS,
    recorded=(CONFIG, RESULT, SCORES, IDS, CANDIDATES, INPUTS, GROWN, f"{ARMS}/*/{ENTRY}", f"{LOGGED}/{STATE}"),
    other=("tune.json", "a search"),
)


def arm_folder(folder: Path, arm: str, seed: int) -> Path:
    """Where the checkpoints of an arm and seed are."""
    return folder / ARMS / f"{arm}-seed{seed}"


def write_config(folder: Path, config: RunConfig) -> None:
    """Writes the resolved options."""
    write_recorded_json(folder, folder / CONFIG, {**config.to_dict(), "out": str(folder)})


def saved_config(folder: Path | str) -> RunConfig:
    """The resolved options of the run in ``folder``, with ``out`` where it is now.

    Raises:
        ValueError, TypeError: there is no run, its options cannot be read, or they do not match
            their digest.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} holds no run (no {CONFIG})")
    values = read_checked_json(Path(folder), file)
    if not isinstance(values, Mapping):
        raise ValueError(f"{file}: expected options by name, found {type(values).__name__}")
    return RunConfig.saved(from_mapping(RunConfig, values, str(file)), out=str(folder))


def resumed_config(config: RunConfig) -> RunConfig:
    """``config`` with what its run had resolved, for continuing the run in ``config.out``.

    Raises:
        ValueError: there is no run, or options differ from the saved ones; all are named.
    """
    if config.out is None:
        raise ValueError("resume: name the run folder")
    saved = saved_config(config.out)
    if (Path(config.out) / GROWN).exists():
        raise ValueError(
            f"resume: {config.out} holds a grown run ({GROWN}), which was not trained there; to train on all events, start "
            "a new run"
        )
    config = with_resolved(config, saved.to_dict())
    changed = changed_options(config.to_dict(), saved.to_dict(), RunConfig)
    if changed:
        raise ValueError(
            f"resume: options differ from those of the run in {config.out}: {', '.join(changed)}; "
            "leave them out, or start a new run"
        )
    return config


def with_resolved(config: RunConfig, saved: Mapping[str, Any]) -> RunConfig:
    """``config`` with what its run had where it leaves that open: threads, split, table optimizer, loggers."""
    left: dict[str, Any] = {"log_to": (), "threads": None, "split": AUTO_SPLIT, "table_optimizer": AUTO_TABLES}
    found = {name: saved[name] for name, value in left.items() if getattr(config, name) == value}
    if "table_optimizer" in found:
        found["in_backward"] = saved["in_backward"]
    return replace(config, **found)


def finished_arm(folder: Path, arm: str, seed: int) -> tuple[dict[str, Any], np.ndarray] | None:
    """Entry and test logits of an arm that was done before, or None.

    Raises:
        ValueError: they are damaged.
    """
    path, scores = arm_folder(folder, arm, seed) / ENTRY, folder / SCORES
    column = f"{arm}_seed{seed}"
    if not path.is_file() or not scores.is_file():
        return None
    entry = read_checked_json(folder, path)
    check_digest(folder, scores)
    try:
        with pq.ParquetFile(scores) as file:
            if column not in file.schema_arrow.names:
                return None
            logits = file.read([column])[column].to_numpy()
        summarise([entry])
    except (ValueError, LookupError, TypeError, AttributeError, OSError, pa.ArrowException) as error:
        raise ValueError(f"resume: {folder} has damaged results of arm {arm} with seed {seed}: {error!r}") from error
    return entry, logits


def finished_run(folder: Path) -> dict[str, Any] | None:
    """``result.json`` where the run is done, or None.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    result = read_checked_json(folder, path)
    try:
        report.closing(result, folder)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"resume: {path} is no result of a run: {error!r}") from error
    return result


def check_folder_space(config: RunConfig, folder: Path, sizes: Mapping[str, Sizes]) -> None:
    """Refuses a disk on which the checkpoints of all arms and seeds will not fit.

    Args:
        config: arms and seeds.
        folder: the run folder; it need not exist.
        sizes: of the checkpoints, by arm.

    Raises:
        ValueError: too little disk is free.
    """
    check_space(folder, space_needed(*(sizes[arm] for arm in config.arms for _ in config.seed)))


def write_table(folder: Path, path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns as Parquet, atomically, with a digest."""
    write_recorded(folder, path, lambda target: pq.write_table(pa.table(columns), target))
