"""Search of options on validation, by the same means for a plain embedding and for Res-embedding."""

from __future__ import annotations

import math
import shutil
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resemb_ext.runtime.digests import read_checked_json, write_recorded_json
from resemb_ext.runtime.files import plain, shell_word
from resemb_ext.runtime.progress import Progress, RunWarning

from .config import RunConfig
from .fitted import TrainingDiverged
from .folder import CONFIG, changed_options, with_resolved
from .inputs import INPUTS, check_inputs, located
from .interrupt import TrainingInterrupted
from .loop import fit
from .opening import Kind, opened
from .prepare import Prepared, build_model, check_models, fit_parts, prepare, resolved, train_samples
from .report import write_report
from .runner import describe, measured_threads
from .saving import check_space, space_needed

#: Ranges of both arms: learning rates, L2 and the embeddings' start. All are searched in logarithms.
SPACE: dict[str, tuple[float, float]] = {
    "lr": (3e-4, 3e-2),
    "embedding_lr": (5e-4, 5e-2),
    "embedding_l2": (1e-7, 1e-3),
    "init_std": (5e-3, 0.3),
}
#: What Res-embedding has besides: how large its residual starts, and what holds it small.
RESIDUAL_SPACE: dict[str, tuple[float, float]] = {"residual_scale": (1e-2, 1.0), "residual_l2": (1e-6, 1e-2)}
RESULT, SUMMARY, TRIAL = "tune.json", "tune.md", "tune-trials"
SEARCH = Kind(
    "search",
    (RESULT, INPUTS, SUMMARY, "best-plain.json", "best-res.json"),
    TRIAL,
    recorded=(RESULT, INPUTS),
    other=(CONFIG, "a training run"),
)
_STARTUP = 10  # trials drawn at random before the sampler models what it has seen


@dataclass(frozen=True)
class TuneResult:
    """A search: its ``folder``, and ``result`` as in ``tune.json``."""

    folder: Path
    result: dict[str, Any]

    @property
    def table(self) -> str:
        """The table that ``resemb tune`` ends with."""
        rows = _table_rows(self.result)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def tune(
    config: RunConfig | None = None,
    *,
    trials: int = 30,
    tune_seed: int = 0,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> TuneResult:
    """Searches options of each arm on validation; test events are never scored.

    Every arm gets the same number of trials. The first one has the options as given. The next ones
    are drawn at random, the same draws for both arms. The rest come from optuna's tree-structured
    Parzen estimator (Bergstra et al. 2011). A trial's value is its best validation ``config.metric``,
    averaged over ``config.seed``. A trial whose loss or scores diverge counts as one. The trials depend on the
    version of optuna; ``tune.json`` has it.

    The folder ``config.out`` holds ``tune.json`` (space, every trial, the best of each arm), written
    after each trial, ``tune.md``, and ``best-ARM.json``, options for ``resemb train --config``.

    Args:
        config: the options that are not searched, the arms and the folder.
        trials: of each arm.
        tune_seed: of the search.
        ranges: other limits than ``SPACE`` and ``RESIDUAL_SPACE``, by option.
        resume: continue the search in ``config.out``; ``trials`` may be larger than before.
        progress: as in ``fit``.

    Raises:
        ImportError: optuna is not installed.
        ValueError: a bad range, a folder with an earlier search, or (``resume``) without one, or with
            one of other options or inputs.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP; the message says how to continue.
    """
    config = config or RunConfig()
    if config.log_to:
        raise ValueError("log_to: a search keeps its trials in its folder and has no loggers; leave it out")
    search = _Search(config, trials, tune_seed, _space(config, ranges or {}), Progress(progress))
    return search.run(resume)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ImportError('tuning needs optuna, which is not installed: pip install "resemb_ext[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _space(config: RunConfig, ranges: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Ranges by arm."""
    known = {**SPACE, **RESIDUAL_SPACE}
    for name, (low, high) in ranges.items():
        if name not in known:
            raise ValueError(f"range: {name} is not searched; these are: {', '.join(known)}")
        if not (math.isfinite(high) and 0 < low < high):
            raise ValueError(f"range: {name} must be LOW:HIGH with 0 < LOW < HIGH, found {low}:{high}")
        for value in (low, high):
            options: dict[str, Any] = {name: value}
            replace(config, **options)  # the option's own limits
    highest: dict[str, Any] = {name: ranges.get(name, limits)[1] for name, limits in known.items()}
    try:
        replace(config, **highest)  # options that must not be large together
    except ValueError as error:
        raise ValueError(f"range: the upper limits do not go together: {error}") from error
    both = {name: ranges.get(name, limits) for name, limits in SPACE.items()}
    residual = {name: ranges.get(name, limits) for name, limits in RESIDUAL_SPACE.items()}
    return {arm: {**both, **residual} if arm == "res" else both for arm in config.arms}


class _Search:
    def __init__(
        self,
        config: RunConfig,
        trials: int,
        seed: int,
        space: dict[str, dict[str, tuple[float, float]]],
        progress: Progress,
    ) -> None:
        if trials < 1:
            raise ValueError(f"trials must be at least 1, found {trials}")
        self.config, self.trials, self.seed = config, trials, seed
        self.space, self.show = space, progress
        self.done: list[dict[str, Any]] = []
        self.optuna = _optuna()

    def run(self, resume: bool) -> TuneResult:
        if self.config.out is None:
            raise ValueError("out: name the folder of the search")
        folder = Path(self.config.out)
        if resume:
            self._take_up(folder)
        else:
            SEARCH.check(folder, self.config.overwrite)
        before = torch.get_num_threads()
        try:
            if self.config.threads is not None:
                torch.set_num_threads(self.config.threads)
            source = self.config
            if resume:
                source = located(source, read_search(folder)["config"], folder)
                self._compare_versions()
            prepared = prepare(source)
            self.show.say(describe(self.config, prepared))
            self.config = resolved(self.config, prepared)
            sizes = check_models(self.config, prepared)
            # Of one trial: its checkpoints go when it is done.
            check_space(folder, max(space_needed(*[size] * len(self.config.seed)) for size in sizes.values()))
            with opened(folder, SEARCH, resume=resume, overwrite=self.config.overwrite):
                if resume:  # another process may have worked there meanwhile
                    self._take_up(folder)
                check_inputs(folder, prepared, source)
                return self._search(folder, prepared)
        finally:
            torch.set_num_threads(before)

    def _search(self, folder: Path, prepared: Prepared) -> TuneResult:
        if self.config.threads is None:
            train = train_samples(self.config, prepared.split, self.config.seed[0])
            threads = measured_threads(self.config, prepared, train)
            torch.set_num_threads(threads)
            self.config = replace(self.config, threads=threads)
        self._write(folder)
        try:
            # In turn: a search that is cut short leaves both arms with as many trials.
            for number in range(self.trials):
                for arm in self.config.arms:
                    if not any(t["arm"] == arm and t["number"] == number for t in self.done):
                        self._trial(folder, prepared, arm, number)
        except KeyboardInterrupt as stop:
            raise TrainingInterrupted(
                f"{str(stop) or 'stopped'}; continue with: resemb tune --resume {shell_word(folder)}",
                getattr(stop, "signum", signal.SIGINT),
            ) from stop
        shutil.rmtree(folder / TRIAL, ignore_errors=True)
        result = self._write(folder)
        for arm, best in result["best"].items():
            if best is not None:
                options = {**self.config.to_dict(), **best["params"], "embedding": arm}
                options = {k: v for k, v in options.items() if k not in ("out", "overwrite", "threads")}
                write_recorded_json(folder, folder / f"best-{arm}.json", options)
        done = TuneResult(folder, result)
        write_report(folder / SUMMARY, lambda target: target.write_text(_summary(result), encoding="utf-8"))
        return done

    def _trial(self, folder: Path, prepared: Prepared, arm: str, number: int) -> None:
        params = self._propose(arm, number)
        config = replace(self.config, **params)
        name = f"{arm} trial {number + 1}/{self.trials}"
        entry: dict[str, Any] = {"arm": arm, "number": number, "params": params, "value": None}
        entry["optuna"] = self.optuna.__version__
        valid, epochs, wall = [], [], 0.0
        try:
            for seed in config.seed:
                model = build_model(config, prepared, arm, seed)
                done = fit(
                    model,
                    train_samples(config, prepared.split, seed),
                    prepared.valid,
                    config=config.fit_config(),
                    seed=seed,
                    folder=folder / TRIAL / f"{arm}-{number}-seed{seed}",
                    resume=True,
                    **fit_parts(config, prepared, model, arm, seed),
                    progress=Progress(False),
                    name=name,
                )
                valid.append(done.valid)
                epochs.append(done.best_epoch)
                wall += done.wall_s
            entry["value"] = float(np.mean([metrics[config.metric] for metrics in valid]))
            found = f"valid {config.metric} {entry['value']:.4f}"
        except TrainingDiverged as error:
            entry["diverged"], found = str(error), "diverged"
        self.done.append({**entry, "valid": valid, "best_epochs": epochs, "wall_s": wall})
        self._write(folder)
        for seed in config.seed:
            shutil.rmtree(folder / TRIAL / f"{arm}-{number}-seed{seed}", ignore_errors=True)
        shown = "  ".join(f"{option} {value:.3g}" for option, value in params.items())
        self.show.say(f"{name}  {found}  {shown}")

    def _propose(self, arm: str, number: int) -> dict[str, Any]:
        """The next trial's options: a function of the seed and the arm's trials so far."""
        optuna, space = self.optuna, self.space[arm]
        if number == 0:
            return {name: getattr(self.config, name) for name in space}
        # Draws at random are the same for both arms: what they share is drawn first.
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        # One option at a time, optuna's default before 5.0; from there on it is all at once.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=False)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = {
            name: optuna.distributions.FloatDistribution(low, high, log=True) for name, (low, high) in space.items()
        }
        states = optuna.trial.TrialState
        for trial in self.done:
            inside = all(space[n][0] <= v <= space[n][1] for n, v in trial["params"].items() if n in space)
            if trial["arm"] != arm or not inside:  # optuna refuses what lies outside
                continue
            diverged = trial["value"] is None
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.FAIL if diverged else states.COMPLETE,
                    params=trial["params"],
                    distributions=distributions,
                    value=trial["value"],
                )
            )
        return dict(study.ask(distributions).params)

    def _write(self, folder: Path) -> dict[str, Any]:
        best: dict[str, Any] = {}
        for arm in self.config.arms:
            good = [t for t in self.done if t["arm"] == arm and t["value"] is not None]
            best[arm] = max(good, key=lambda trial: trial["value"]) if good else None
        result = plain(
            {
                "format": 1,
                "metric": self.config.metric,
                "trials_per_arm": self.trials,
                "tune_seed": self.seed,
                "space": self.space,
                "config": self.config.to_dict(),
                "trials": self.done,
                "best": best,
                "versions": {"optuna": self.optuna.__version__, "torch": torch.__version__},
            }
        )
        write_recorded_json(folder, folder / RESULT, result)
        return result

    def _take_up(self, folder: Path) -> None:
        path = folder / RESULT
        saved = read_search(folder)
        try:
            had = RunConfig.saved(saved["config"]).to_dict()  # with what an older version had no option for
            self.config = with_resolved(self.config, had)
            changed = changed_options(self.config.to_dict(), had, RunConfig)
            if saved["tune_seed"] != self.seed:
                changed.append(f"tune_seed {self.seed} (saved: {saved['tune_seed']})")
            for arm, limits in plain(self.space).items():
                changed += [
                    f"range {name} {limits[name]} (saved: {old})"
                    for name, old in saved["space"].get(arm, {}).items()
                    if limits.get(name) != old
                ]
            kept = [dict(trial) for trial in saved["trials"]]
            for trial in kept:
                _ = trial["arm"], trial["number"], trial["params"].items(), trial["value"]
                trial.setdefault("optuna", saved["versions"]["optuna"])
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"resume: {path} is no search of this package: {error!r}") from error
        if changed:
            listed = ", ".join(dict.fromkeys(changed))
            raise ValueError(f"resume: options differ from those of the search: {listed}")
        self.done = kept

    def _compare_versions(self) -> None:
        """Says where other versions of optuna made trials: the next ones are not those that they would have made."""
        now = self.optuna.__version__
        others = sorted({trial["optuna"] for trial in self.done} - {now})
        if others:
            warnings.warn(
                f"optuna {', '.join(others)} made trials of this search, and optuna {now} goes on with it: the next "
                f"trials are not those of a search without the stop; for the same ones, pip install "
                f'"optuna=={others[0]}" and resume',
                RunWarning,
                stacklevel=2,
            )


def read_search(folder: Path) -> dict[str, Any]:
    """``tune.json`` of a folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = folder / RESULT
    if not path.is_file():
        raise ValueError(f"resume: {folder} holds no search (no {RESULT})")
    saved = read_checked_json(folder, path)
    if not isinstance(saved, dict):
        raise ValueError(f"resume: {path} is no search of this package")
    return saved


def _table_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Header and a row an arm: validation as given and at best, and the best options."""
    number: Callable[[Any], str] = lambda value: "-" if value is None else f"{value:.4f}"  # noqa: E731
    metric = "gAUC" if result["metric"] == "gauc" else "AUC"
    names = list(dict.fromkeys(name for limits in result["space"].values() for name in limits))
    rows = [("embedding", "trials", "diverged", f"valid {metric} as given", "tuned", *names)]
    for arm in result["space"]:
        trials = [trial for trial in result["trials"] if trial["arm"] == arm]
        best = result["best"][arm]
        params = {} if best is None else best["params"]
        rows.append(
            (
                arm,
                str(len(trials)),
                str(sum(trial["value"] is None for trial in trials)),
                number(next((t["value"] for t in trials if t["number"] == 0), None)),
                number(None if best is None else best["value"]),
                *(f"{params[name]:.3g}" if name in params else "-" for name in names),
            )
        )
    return rows


def _summary(result: Mapping[str, Any]) -> str:
    rows = _table_rows(result)
    lines = [
        "# Options searched on validation",
        "",
        "| " + " | ".join(rows[0]) + " |",
        "|" + "---|" * len(rows[0]),
        *("| " + " | ".join(row) + " |" for row in rows[1:]),
        "",
        f"{result['trials_per_arm']} trials for each arm: the options as given, then optuna's TPE with "
        "seed "
        f"{result['tune_seed']}; a trial's value is the best epoch's validation metric, averaged over "
        f"the seeds {result['config']['seed']}. Test events were not scored.",
        "",
    ]
    return "\n".join(lines)
