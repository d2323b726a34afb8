"""A whole run: every arm and seed, and the folder with its results."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from resemb_ext import metrics
from resemb_ext.data import Samples

from . import report
from .clock import mean_seconds
from .config import RunConfig
from .environment import environment
from .files import plain, write_atomic, write_json, write_text
from .loop import fit
from .memory import PeakMemory
from .prepare import Prepared, build_model, item_vectors, prepare, train_samples
from .progress import Progress
from .statistics import summarise
from .threads import faster_threads, training_step

CONFIG, RESULT, SCORES = "config.resolved.json", "result.json", "test_scores.parquet"
SUMMARY, CURVES, GRAPH, IDS = "summary.md", "curves.png", "graph.npz", "id_maps.json"
CANDIDATES, ARMS = "valid_candidates.parquet", "arms"
_FILES = (CONFIG, RESULT, SCORES, SUMMARY, CURVES, GRAPH, IDS, CANDIDATES)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its ``folder``, and ``result`` as in ``result.json``."""

    folder: Path
    result: dict[str, Any]

    @property
    def table(self) -> str:
        """The table that ``resemb train`` ends with."""
        return report.text_table(self.result)


def run(config: RunConfig | None = None, **options: Any) -> RunResult:
    """Trains every arm with every seed and writes the run folder.

    The folder holds ``config.resolved.json`` from the start; ``graph.npz``, ``id_maps.json`` and
    ``valid_candidates.parquet`` once the data is ready; ``arms/ARM-seedN/`` with ``best.pt``,
    ``last.pt`` (each epoch) and ``run.json`` (when done); and at the end ``result.json``,
    ``summary.md``, ``curves.png`` and ``test_scores.parquet`` (a column of logits per arm and
    seed). Every file is written whole or not at all.

    Args:
        config: options; default ``RunConfig()``.
        **options: override single options; ``progress`` False, True or None as in ``fit``.

    Raises:
        FileNotFoundError, ValueError, TypeError: bad options or input.
        TrainingDiverged: a loss is no longer finite.
    """
    progress = Progress(options.pop("progress", None))
    if options:
        base = {} if config is None else config.to_dict()
        config = RunConfig(**{**base, **options})
    config = config or RunConfig()
    started = datetime.now(timezone.utc)
    clock = time.perf_counter()
    threads = torch.get_num_threads()
    try:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        # The data comes first: bad input leaves no folder behind.
        prepared = prepare(config)
        progress.say(describe(prepared))
        folder = open_folder(config, started)
        if config.threads is None:
            torch.set_num_threads(_measured_threads(config, prepared))
        progress.say(f"CPU threads: {torch.get_num_threads()}")
        result = _run(config, prepared, folder, progress)
    finally:
        torch.set_num_threads(threads)
    result["started"] = started.isoformat(timespec="seconds")
    result["wall_s"] = time.perf_counter() - clock
    result = plain(result)
    write_atomic(folder / CURVES, lambda target: report.draw_curves(result, target))
    write_text(folder / SUMMARY, report.summary(result))
    write_json(folder / RESULT, result)
    return RunResult(folder, result)


def describe(prepared: Prepared) -> str:
    """One line about the data."""
    log, split, graph = prepared.log, prepared.split, prepared.graph
    text = (
        f"{log.name}: {len(log):,} events, {log.num_users:,} users, {len(log.items):,} items; "
        f"{split.how}: {len(split.train_index):,} train, {len(split.valid):,} valid, "
        f"{len(split.test):,} test events"
    )
    return text + (f"; graph {graph.num_edges:,} entries" if graph is not None else "")


def open_folder(config: RunConfig, started: datetime) -> Path:
    """Makes the run folder and writes the resolved options into it.

    Raises:
        ValueError: the folder holds an earlier run and ``overwrite`` is off, or cannot be written.
    """
    name = Path(config.data).stem
    folder = Path(config.out or f"runs/{started:%Y%m%d-%H%M%S}-{name}-{config.model}")
    held = [file for file in (*_FILES, ARMS) if (folder / file).exists()]
    if held and not config.overwrite:
        raise ValueError(
            f"out: {folder} holds an earlier run ({held[0]}); choose another folder or give "
            "--overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in held:
            if file == ARMS:
                shutil.rmtree(folder / ARMS)
            else:
                (folder / file).unlink()
        resolved = RunConfig(**{**config.to_dict(), "out": str(folder)})
        write_json(folder / CONFIG, resolved.to_dict())
    except OSError as error:
        raise ValueError(f"out: cannot write to {folder}: {error.strerror or error}") from error
    return folder


def _run(config: RunConfig, prepared: Prepared, folder: Path, progress: Progress) -> dict[str, Any]:
    graph = prepared.graph
    if graph is not None:
        graph.save(folder / GRAPH)
    log = prepared.log
    maps = {"users": log.users, "items": log.items, "categories": log.categories}
    write_json(folder / IDS, {k: None if m is None else m.to_dict() for k, m in maps.items()})
    _write_table(folder / CANDIDATES, _rows(prepared, prepared.valid))

    runs: list[dict[str, Any]] = []
    scores = _rows(prepared, prepared.test)
    sizes = {"valid": len(prepared.valid), "test": len(prepared.test)}
    for seed in config.seed:
        train = train_samples(config, prepared.split, seed)
        sizes["train"] = len(train)
        for arm in config.arms:
            place = folder / ARMS / f"{arm}-seed{seed}"
            entry, logits = _arm(config, prepared, train, arm, seed, place, progress)
            runs.append(entry)
            write_json(place / "run.json", entry)
            scores[f"{arm}_seed{seed}"] = logits
            _write_table(folder / SCORES, scores)
    return {
        "format": 1,
        "data": {
            **log.summary(),
            "source": config.data,
            "split": prepared.split.summary(),
            "samples": sizes,
            "simulation": None if prepared.truth is None else prepared.truth.parameters,
        },
        "config": config.to_dict(),
        "runs": runs,
        "bayes": _bayes(prepared),
        "summary": summarise(runs),
        "graph": None if graph is None else {"meta": graph.meta, "stats": graph.stats()},
        "hashes": {
            "data": log.content_hash,
            "split": prepared.split.hash,
            "graph": None if graph is None else graph.hash,
            "graph_events": None if graph is None else graph.meta.get("event_hash"),
            "valid_candidates": prepared.valid.candidate_hash,
            "test_candidates": prepared.test.candidate_hash,
        },
        **environment(),
    }


def _measured_threads(config: RunConfig, prepared: Prepared) -> int:
    """Threads for training; the step it measures is that of a model thrown away."""
    model = build_model(config, prepared, config.arms[-1], config.seed[0])
    train = train_samples(config, prepared.split, config.seed[0])
    step = training_step(model, train, config.fit_config())
    return faster_threads(step, torch.get_num_threads())


def _arm(
    config: RunConfig,
    prepared: Prepared,
    train: Samples,
    arm: str,
    seed: int,
    place: Path,
    progress: Progress,
) -> tuple[dict[str, Any], np.ndarray]:
    """Trains one arm with one seed; its entry of ``result.json`` and its test logits."""
    name = f"{arm} seed {seed}"
    with PeakMemory() as memory:
        model = build_model(config, prepared, arm, seed)
        done = fit(
            model,
            train,
            prepared.valid,
            prepared.test,
            config=config.fit_config(),
            seed=seed,
            folder=place,
            progress=progress,
            name=name,
        )
    radius = None
    if prepared.domain is not None:
        radius = metrics.aggregation_radius(
            item_vectors(model.item_embedding),
            prepared.domain,
            seen=prepared.split.item_counts,
            domain_source=prepared.domain_source,
        )
    assert done.test is not None and done.test_scores is not None
    progress.say(f"{name}  test gAUC {done.test['gauc']:.4f}  AUC {done.test['auc']:.4f}")
    entry = {
        "embedding": arm,
        "model": config.model,
        "seed": seed,
        "valid": done.valid,
        "test": done.test,
        "aggregation_radius": None if radius is None else radius.normalised,
        "aggregation_radius_details": None if radius is None else radius.to_dict(),
        "samples_per_s": done.samples_per_s,
        "peak_memory_mb": memory.peak_mb,
        "peak_memory_before_mb": memory.before_mb,
        "peak_memory_source": memory.source,
        "epochs": done.epochs,
        "best_epoch": done.best_epoch,
        "steps": done.steps,
        "stopped": done.stopped,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "wall_s": done.wall_s,
        "seconds_per_epoch": mean_seconds(entry["seconds"] for entry in done.history),
        "history": done.history,
    }
    return plain(entry), done.test_scores


def _bayes(prepared: Prepared) -> dict[str, Any] | None:
    """AUC and gAUC of the best possible scorer on the same candidates, for a simulated log.

    ``exact`` says whether the negatives' law is modelled exactly (see ``bayes_scores``).
    """
    if prepared.truth is None:
        return None
    result: dict[str, Any] = {}
    for which, samples in (("valid", prepared.valid), ("test", prepared.test)):
        score = prepared.truth.bayes_scores(samples)
        seen = samples.target_seen
        result[which] = {
            **_ranking(samples.label, score, samples.user),
            "seen": _ranking(samples.label[seen], score[seen], samples.user[seen]),
            "exact": which == "test" and prepared.split.how == "leave-last-out",
        }
    return result


def _ranking(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> dict[str, float]:
    return {"auc": metrics.auc(labels, scores), "gauc": metrics.gauc(labels, scores, users)}


def _rows(prepared: Prepared, samples: Samples) -> dict[str, np.ndarray]:
    """Columns that identify evaluation rows, with raw ids."""
    return {
        "user": prepared.log.users.decode(samples.user),
        "item": prepared.log.items.decode(samples.target),
        "label": samples.label,
        "target_seen": samples.target_seen,
    }


def _write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    write_atomic(path, lambda target: pq.write_table(pa.table(columns), target))
