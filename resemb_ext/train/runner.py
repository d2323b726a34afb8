"""A whole run: every arm and seed, and the folder with its results."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resemb_ext import _loader
from resemb_ext.data import Samples
from resemb_ext.runtime.digests import write_recorded_json
from resemb_ext.runtime.environment import environment
from resemb_ext.runtime.files import plain, shell_word
from resemb_ext.runtime.progress import Progress

from . import report
from .arm import train_arm
from .bayes import best_possible
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
from .inputs import check_inputs, hashes, located
from .interrupt import TrainingInterrupted
from .launch import joined, launched
from .loggers import RunLogger
from .logs import Logs
from .opening import opened
from .prepare import Prepared, build_model, check_models, prepare, resolved, train_samples
from .ranks import Ranks
from .statistics import summarise
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
    distributed: bool | None = None,
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
        distributed: whether processes that torchrun started train together, each with a part of the tables and of
            every batch; the result and the folder are those of one process. All of them call this with the same
            arguments. None: where torchrun started this one. True also takes torch.distributed's default group.
        **options: override single options; ``progress`` False, True or None as in ``fit``.

    Raises:
        ImportError: the package of a logger is missing.
        FileNotFoundError, ValueError, TypeError: bad options or input, a logger that cannot start; with ``resume``, no run in
            the folder, damaged checkpoints, or options or inputs that differ from the saved ones.
        OSError: the disk is full, or the folder can no longer be written.
        TrainingDiverged: a loss is no longer finite.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP; the message says how to continue.
        RankError: another rank is gone.
    """
    with launched(distributed) as ranks:
        return _run_on(ranks, config, resume, log_to, options)


def _run_on(
    ranks: Ranks,
    config: RunConfig | None,
    resume: bool,
    log_to: Sequence[str | RunLogger] | None,
    options: dict[str, Any],
) -> RunResult:
    """``run`` on ranks, all of which call this; rank 0 shows and writes."""
    show = options.pop("progress", None)
    progress = Progress(show if ranks.first else False)
    own = [log for log in log_to or () if not isinstance(log, str)]
    if log_to is not None:
        options["log_to"] = tuple(log for log in log_to if isinstance(log, str))
    if options:
        base = {} if config is None else config.to_dict()
        config = RunConfig(**{**base, **options})
    config = config or RunConfig()
    started = datetime.now(timezone.utc)
    resume = ranks.all_do(partial(joined, ranks, config, resume))
    # Files are compared by what they hold.
    given = {name: value for name, value in config.to_dict().items() if name not in ("data", "graph")}
    ranks.compare("options", {**given, "resume": resume})
    if resume:
        config = ranks.all_do(partial(resumed_config, config))
        folder = Path(str(config.out))
        done = ranks.first_does(partial(finished_run, folder))
        if done is not None:
            progress.say(f"{folder} is finished; nothing to resume")
            ranks.first_does(partial(report.write_reports, done, folder))
            return RunResult(folder, done)
    elif config.out is not None:
        ranks.first_does(partial(RUN.check, Path(config.out), config.overwrite))
    logs = ranks.all_do(partial(Logs.of, *((config.log_to, own) if ranks.first else ((), ()))))
    threads = torch.get_num_threads()
    finished = False
    try:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        # The data comes first: bad input leaves no folder behind.
        saved = ranks.all_do(partial(saved_config, folder)) if resume else config
        source = config
        if resume:
            source = ranks.all_do(partial(located, config, saved.to_dict(), folder, folder / GRAPH))
        prepared = ranks.all_do(partial(prepare, source))
        ranks.compare("inputs", hashes(prepared))
        progress.say(describe(config, prepared))
        config = resolved(config, prepared)
        sizes = ranks.all_do(partial(check_models, config, prepared, ranks))
        if prepared.clean_graph is False:
            progress.say(
                f"warning: {config.graph} was built from other events than this split's training "
                "events; results on held-out events may be too good"
            )
        if not resume:
            name = f"{started:%Y%m%d-%H%M%S}-{Path(config.data).stem}-{config.model}"
            folder = Path(config.out or ranks.first_does(lambda: f"runs/{name}"))
        ranks.first_does(partial(check_folder_space, config, folder, sizes))
        # What takes much memory comes before an earlier run goes, too.
        first = config.seed[0]
        drawn = {first: ranks.all_do(partial(train_samples, config, prepared.split, first))}
        if config.threads is None:
            # torchrun gives each rank its threads, as OMP_NUM_THREADS.
            most = measured_threads(config, prepared, drawn[first]) if ranks.alone else torch.get_num_threads()
            config = replace(config, threads=most)
            torch.set_num_threads(most)

        def begin() -> dict[str, Any] | None:
            if not resume:
                write_config(folder, config)
            else:  # another process may have worked there meanwhile
                resumed_config(replace(config, threads=saved.threads))
                done = finished_run(folder)
                if done is not None:
                    return done
            check_inputs(folder, prepared, source)
            if _changeable(config) != _changeable(saved):
                write_config(folder, config)
            logs.begin(folder, config.to_dict(), resume)
            return None

        with ranks.first_holds(lambda: opened(folder, RUN, resume=resume, overwrite=config.overwrite)):
            done = ranks.first_does(begin)
            if done is not None:
                return RunResult(folder, done)
            try:
                done_now = _in_folder(config, prepared, drawn, folder, progress, started, resume, logs, ranks)
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
    ranks: Ranks,
) -> RunResult:
    """The run in its folder, new or begun."""
    progress.say(
        f"CPU threads: {torch.get_num_threads()}" + ("" if ranks.alone else f" on each of {ranks.count} ranks")
    )
    result = _run(config, prepared, drawn, folder, progress, logs, ranks)
    result["started"] = started.isoformat(timespec="seconds")
    result["resumed"] = resumed  # then wall_s is that of the last part alone
    result["wall_s"] = (datetime.now(timezone.utc) - started).total_seconds()

    def end() -> dict[str, Any]:
        told = plain(result)
        write_recorded_json(folder, folder / RESULT, told)  # first: what comes then is made from it
        logs.end(told)
        report.write_reports(told, folder)
        return told

    return RunResult(folder, ranks.first_does(end))


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


def _write_inputs(config: RunConfig, prepared: Prepared, folder: Path) -> None:
    """The graph, the maps of ids and the candidates of validation."""
    graph, log = prepared.graph, prepared.log
    if graph is not None:
        graph.save(folder / GRAPH)
    maps = {"users": log.users, "items": log.items, "categories": log.categories}
    ids: dict[str, Any] = {k: None if m is None else m.to_dict() for k, m in maps.items()}
    counts = prepared.split.item_counts if config.smoothing_strengths else None
    write_recorded_json(folder, folder / IDS, {**ids, "item_category": log.item_category, "item_counts": counts})
    write_table(folder, folder / CANDIDATES, _identity(prepared, prepared.valid))


def _run(
    config: RunConfig,
    prepared: Prepared,
    drawn: dict[int, Samples],
    folder: Path,
    progress: Progress,
    logs: Logs,
    ranks: Ranks,
) -> dict[str, Any]:
    """``drawn`` has the training samples of the first seed, and gives them away."""
    log = prepared.log
    ranks.first_does(partial(_write_inputs, config, prepared, folder))

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
            done = ranks.first_does(partial(finished_arm, folder, arm, seed))
            on_epoch = logs.epochs_of(arm, seed, len(train))
            entry, logits = done or train_arm(
                config, prepared, train, arm, seed, place=place, on_epoch=on_epoch, progress=progress, ranks=ranks
            )
            runs.append(entry)
            scores[f"{arm}_seed{seed}"] = logits
            if done is None:
                ranks.first_does(partial(_write_arm, folder, place, scores, entry))
            logs.arm_done(arm, seed, len(train), entry)
    return {
        "format": 1,
        "data": {**log.summary(), "source": config.data, "split": split, "samples": sizes, "simulation": parameters},
        "config": config.to_dict(),
        "runs": runs,
        "bayes": bayes,
        "summary": summarise(runs),
        "loggers": logs.summary,
        "ranks": ranks.count,
        "graph": about_graph,
        "hashes": of_inputs,
        **environment(),
        "isa": _loader.isa(),
    }


def _write_arm(folder: Path, place: Path, scores: dict[str, np.ndarray], entry: dict[str, Any]) -> None:
    # The entry says that the arm is done, so it comes after the scores.
    write_table(folder, folder / SCORES, scores)
    write_recorded_json(folder, place / ENTRY, entry)


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


def _identity(prepared: Prepared, samples: Samples) -> dict[str, np.ndarray]:
    """Columns that identify evaluation rows, with raw ids."""
    return {
        "user": prepared.log.users.decode(samples.user),
        "item": prepared.log.items.decode(samples.target),
        "label": samples.label,
        "target_seen": samples.target_seen,
    }
