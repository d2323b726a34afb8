"""A whole run: every arm and seed, and the folder with its results."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resemb_ext import _loader, metrics
from resemb_ext.data import Samples
from resemb_ext.runtime.digests import write_recorded_json
from resemb_ext.runtime.environment import environment
from resemb_ext.runtime.files import plain, shell_word
from resemb_ext.runtime.peak_memory import PeakMemory
from resemb_ext.runtime.progress import Progress, RunWarning

from . import report
from .bayes import best_possible
from .clock import mean_seconds
from .config import AUTO_SPLIT, AUTO_TABLES, LARGE_TABLE, RunConfig
from .folder import (
    CANDIDATES,
    ENTRY,
    GRAPH,
    IDS,
    RESULT,
    RUN,
    SCORES,
    arm_folder,
    check_folder_space,
    finished_arm,
    finished_run,
    resumed_config,
    saved_config,
    write_config,
    write_table,
)
from .inputs import check_inputs, hashes, located, made_for
from .interrupt import TrainingInterrupted
from .loggers import RunLogger
from .logs import Logs
from .loop import fit
from .opening import opened
from .prepare import Prepared, build_model, check_models, fit_parts, item_vectors, prepare, resolved, train_samples
from .smoothing import smooth
from .statistics import shown, summarise
from .threads import faster_threads, training_step


@dataclass(frozen=True)
class RunResult:
    """A finished run: its ``folder``, and ``result`` as in ``result.json``."""

    folder: Path
    result: dict[str, Any]

    @property
    def table(self) -> str:
        """The table that ``resemb train`` ends with."""
        return report.text_table(self.result)


def run(
    config: RunConfig | None = None,
    *,
    resume: bool = False,
    log_to: Sequence[str | RunLogger] | None = None,
    **options: Any,
) -> RunResult:
    """Trains every arm with every seed and writes the run folder.

    The folder holds ``config.resolved.json`` from the start; ``inputs.json``, ``graph.npz``,
    ``id_maps.json`` and ``valid_candidates.parquet`` once the data is ready; ``arms/ARM-seedN/``
    with ``best.safetensors``, ``last.safetensors`` and ``run.json`` (when done); and at the end
    ``result.json``, ``summary.md``, ``curves.png`` and ``test_scores.parquet`` (a column of logits
    per arm and seed). Every file is written whole or not at all.

    Args:
        config: options; default ``RunConfig()``.
        resume: continue the run in ``config.out`` from its last checkpoints, with the options it
            was begun with: arms that are done stay, and on the CPU the end is the same, bit for bit,
            as without the stop. A run that is done is returned as it is.
        log_to: names as ``RunConfig.log_to`` has them, and loggers of your own; None takes the option's.
            A resumed run goes on in the same logs; your own loggers have to be given again.
        **options: override single options; ``progress`` False, True or None as in ``fit``.

    Raises:
        ImportError: the package of a logger is missing.
        FileNotFoundError, ValueError, TypeError: bad options or input, a logger that cannot start; with ``resume``, no run in
            the folder, damaged checkpoints, or options or inputs that differ from the saved ones.
        OSError: the disk is full, or the folder can no longer be written.
        TrainingDiverged: a loss is no longer finite.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP; the message says how to continue.
    """
    progress = Progress(options.pop("progress", None))
    own = [log for log in log_to or () if not isinstance(log, str)]
    if log_to is not None:
        options["log_to"] = tuple(log for log in log_to if isinstance(log, str))
    if options:
        base = {} if config is None else config.to_dict()
        config = RunConfig(**{**base, **options})
    config = config or RunConfig()
    started = datetime.now(timezone.utc)
    if resume:
        config = resumed_config(config)
        folder = Path(str(config.out))
        done = finished_run(folder)
        if done is not None:
            progress.say(f"{folder} is finished; nothing to resume")
            report.write_reports(done, folder)
            return RunResult(folder, done)
    elif config.out is not None:
        RUN.check(Path(config.out), config.overwrite)
    logs = Logs.of(config.log_to, own)
    threads = torch.get_num_threads()
    finished = False
    try:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        # The data comes first: bad input leaves no folder behind.
        saved = saved_config(folder) if resume else config
        source = located(config, saved.to_dict(), folder, folder / GRAPH) if resume else config
        prepared = prepare(source)
        progress.say(describe(config, prepared))
        config = resolved(config, prepared)
        sizes = check_models(config, prepared)
        if prepared.clean_graph is False:
            progress.say(
                f"warning: {config.graph} was built from other events than this split's training "
                "events; results on held-out events may be too good"
            )
        if not resume:
            name = f"{started:%Y%m%d-%H%M%S}-{Path(config.data).stem}-{config.model}"
            folder = Path(config.out or f"runs/{name}")
        check_folder_space(config, folder, sizes)
        # What takes much memory comes before an earlier run goes, too.
        first = config.seed[0]
        drawn = {first: train_samples(config, prepared.split, first)}
        if config.threads is None:
            config = replace(config, threads=measured_threads(config, prepared, drawn[first]))
            torch.set_num_threads(config.threads or 1)
        with opened(folder, RUN, resume=resume, overwrite=config.overwrite):
            if not resume:
                write_config(folder, config)
            else:  # another process may have worked there meanwhile
                resumed_config(replace(config, threads=saved.threads))
                done = finished_run(folder)
                if done is not None:
                    return RunResult(folder, done)
            check_inputs(folder, prepared, source)
            if _changeable(config) != _changeable(saved):
                write_config(folder, config)
            try:
                logs.begin(folder, config.to_dict(), resume)
                done_now = _in_folder(config, prepared, drawn, folder, progress, started, resume, logs)
                finished = True
                return done_now
            except KeyboardInterrupt as stop:
                where = str(stop) or "stopped"
                raise TrainingInterrupted(
                    f"{where}; continue with: resemb train --resume {shell_word(folder)}",
                    getattr(stop, "signum", signal.SIGINT),
                ) from stop
    finally:
        logs.close(finished)
        torch.set_num_threads(threads)


def _changeable(config: RunConfig) -> tuple[Any, ...]:
    """What a resumed run may have otherwise than its saved options."""
    return config.data, config.graph, config.threads, config.log_to


def _in_folder(
    config: RunConfig,
    prepared: Prepared,
    drawn: dict[int, Samples],
    folder: Path,
    progress: Progress,
    started: datetime,
    resumed: bool,
    logs: Logs,
) -> RunResult:
    """The run in its folder, new or begun."""
    progress.say(f"CPU threads: {torch.get_num_threads()}")
    result = _run(config, prepared, drawn, folder, progress, logs)
    result["started"] = started.isoformat(timespec="seconds")
    result["resumed"] = resumed  # then wall_s is that of the last part alone
    result["wall_s"] = (datetime.now(timezone.utc) - started).total_seconds()
    result = plain(result)
    write_recorded_json(folder, folder / RESULT, result)  # first: what comes then is made from it
    logs.end(result)
    report.write_reports(result, folder)
    return RunResult(folder, result)


def describe(config: RunConfig, prepared: Prepared) -> str:
    """A line about the data, and one about each choice of "auto" that is not the usual one."""
    log, split, graph = prepared.log, prepared.split, prepared.graph
    sizes = split.summary()
    text = (
        f"{log.name}: {len(log):,} events, {log.num_users:,} users, {len(log.items):,} items; "
        f"{split.how}: {sizes['train']:,} train, {sizes['valid']:,} valid, {sizes['test']:,} test"
    )
    if log.guessed or log.remarks:
        text += f"; columns: {log.columns_line}"
    text += f"; graph {graph.num_edges:,} entries" if graph is not None else ""
    if config.split == AUTO_SPLIT and split.how == "time":
        text += (
            "\nsplit by time, since the log has labels and gAUC needs several rows of a user; "
            "for the last event of each user: --split leave-last-out --metric auc"
        )
    if config.table_optimizer == AUTO_TABLES and resolved(config, prepared).lazy:
        text += (
            f"\ntable optimizer lazy: each step moves the rows of its batch alone, since more than {LARGE_TABLE:,} items "
            "make dense Adam slow; for every row at each step: --table-optimizer dense"
        )
    return text


def _run(
    config: RunConfig, prepared: Prepared, drawn: dict[int, Samples], folder: Path, progress: Progress, logs: Logs
) -> dict[str, Any]:
    """``drawn`` has the training samples of the first seed, and gives them away."""
    graph = prepared.graph
    if graph is not None:
        graph.save(folder / GRAPH)
    log = prepared.log
    maps = {"users": log.users, "items": log.items, "categories": log.categories}
    ids: dict[str, Any] = {k: None if m is None else m.to_dict() for k, m in maps.items()}
    counts = prepared.split.item_counts if config.smoothing_strengths else None
    write_recorded_json(folder, folder / IDS, {**ids, "item_category": log.item_category, "item_counts": counts})
    write_table(folder, folder / CANDIDATES, _identity(prepared, prepared.valid))

    # What can be told before training is, so that it cannot fail after it.
    split, parameters = prepared.split.summary(), None if prepared.truth is None else prepared.truth.parameters
    bayes, about_graph, of_inputs = best_possible(prepared), _about_graph(prepared), hashes(prepared)
    runs: list[dict[str, Any]] = []
    scores = _identity(prepared, prepared.test)
    sizes = {"valid": len(prepared.valid), "test": len(prepared.test)}
    for seed in config.seed:
        train = drawn.pop(seed) if seed in drawn else train_samples(config, prepared.split, seed)
        sizes["train"] = len(train)
        for arm in config.arms:
            place = arm_folder(folder, arm, seed)
            done = finished_arm(folder, arm, seed)
            on_epoch = logs.epochs_of(arm, seed, len(train))
            entry, logits = done or train_arm(
                config, prepared, train, arm, seed, place=place, on_epoch=on_epoch, progress=progress
            )
            runs.append(entry)
            scores[f"{arm}_seed{seed}"] = logits
            if done is None:
                # The entry says that the arm is done, so it comes after the scores.
                write_table(folder, folder / SCORES, scores)
                write_recorded_json(folder, place / ENTRY, entry)
            logs.arm_done(arm, seed, len(train), entry)
    return {
        "format": 1,
        "data": {**log.summary(), "source": config.data, "split": split, "samples": sizes, "simulation": parameters},
        "config": config.to_dict(),
        "runs": runs,
        "bayes": bayes,
        "summary": summarise(runs),
        "loggers": logs.summary,
        "graph": about_graph,
        "hashes": of_inputs,
        **environment(),
        "isa": _loader.isa(),
    }


def _about_graph(prepared: Prepared) -> dict[str, Any] | None:
    graph, cross = prepared.graph, prepared.cross_fit
    if graph is None:
        return None
    return {
        "meta": graph.meta,
        "stats": graph.stats(),
        "training_events_only": prepared.clean_graph,
        "cross_fit": None if cross is None else cross.summary(),
    }


def measured_threads(config: RunConfig, prepared: Prepared, train: Samples) -> int:
    """Threads for training on such samples; the step it measures is that of a model thrown away."""
    model = build_model(config, prepared, config.arms[-1], config.seed[0])
    step = training_step(model, train, config.fit_config())
    return faster_threads(step, torch.get_num_threads())


def train_arm(
    config: RunConfig,
    prepared: Prepared,
    train: Samples,
    arm: str,
    seed: int,
    *,
    place: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Trains one arm with one seed.

    Args:
        config: options of the run.
        prepared: what all arms share.
        train: training samples of the seed.
        arm: "plain" or "res".
        seed: of the model and of training.
        place: the arm's folder, where it goes on from the last checkpoint; None writes nothing.
        on_epoch: as of ``fit``.
        progress: where it is shown; None is silent.

    Returns:
        the arm's entry of ``result.json``, and its test logits, float32 [test samples].

    Raises:
        TrainingDiverged, TrainingInterrupted, ValueError, OSError: as ``fit``.
    """
    show = progress or Progress(False)
    name = f"{arm} seed {seed}"
    with PeakMemory() as memory:
        model = build_model(config, prepared, arm, seed)
        done = fit(
            model,
            train,
            prepared.valid,
            None if config.smoothing_strengths else prepared.test,
            config=config.fit_config(),
            seed=seed,
            folder=place,
            resume=place is not None,
            **fit_parts(config, prepared, model, arm, seed),
            made_for={**made_for(prepared), "embedding": arm},
            on_epoch=on_epoch,
            progress=show,
            name=name,
        )
        smoothed = smooth(model, prepared, config) if config.smoothing_strengths else None
    if smoothed is not None:
        model, done.valid = smoothed.model, smoothed.valid
        done.test_scores, done.test = smoothed.test_scores, smoothed.test
        show.say(f"{name}  smoothed with strength {smoothed.about['strength']:g}, chosen by validation")
    radius = None
    if prepared.domain is not None:
        try:
            radius = metrics.aggregation_radius(
                item_vectors(model.get_submodule("item_embedding")),
                prepared.domain,
                seen=prepared.split.item_counts,
                domain_source=prepared.domain_source,
            )
        except (ValueError, MemoryError) as error:  # a diverged row that validation does not look up, say
            warnings.warn(f"{name}: no aggregation radius: {error}", RunWarning, stacklevel=2)
    assert done.test is not None and done.test_scores is not None
    show.say(f"{name}  test gAUC {shown(done.test['gauc'])}  AUC {shown(done.test['auc'])}")
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
        "smoothing": None if smoothed is None else smoothed.about,
        "stopped": done.stopped,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "wall_s": done.wall_s,
        "seconds_per_epoch": mean_seconds(entry["seconds"] for entry in done.history),
        "history": done.history,
    }
    return plain(entry), done.test_scores


def _identity(prepared: Prepared, samples: Samples) -> dict[str, np.ndarray]:
    """Columns that identify evaluation rows, with raw ids."""
    return {
        "user": prepared.log.users.decode(samples.user),
        "item": prepared.log.items.decode(samples.target),
        "label": samples.label,
        "target_seen": samples.target_seen,
    }
