"""The loggers of one run: each is told everything once, and one that fails does not end the run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resemb_ext.runtime.digests import read_checked_json, write_recorded_json
from resemb_ext.runtime.progress import RunWarning

from .log_writers import make_logger
from .loggers import LoggedRun, RunLogger

#: In the run folder: what the named loggers write, and where each stands.
LOGGED, STATE = "logged", "state.json"


class Logs:
    """The loggers of one run.

    Args:
        loggers: by name.
    """

    def __init__(self, loggers: Mapping[str, RunLogger]) -> None:
        self._loggers = dict(loggers)
        self._state: dict[str, dict[str, Any]] = {}
        self._folder: Path | None = None
        self._opened: list[RunLogger] = []

    @classmethod
    def of(cls, names: Sequence[str], own: Sequence[RunLogger]) -> Logs:
        """Loggers by the names that ``--log-to`` takes, then those of the caller.

        Raises:
            ImportError: a logger's package is missing; the extra is named.
            TypeError: one of ``own`` is no logger.
        """
        found = {name.partition("=")[0]: make_logger(name) for name in names}
        for logger in own:
            if not isinstance(logger, RunLogger):
                raise TypeError(
                    f"log_to holds a {type(logger).__name__}, expected a name such as 'tensorboard' or a "
                    "resemb_ext.train.RunLogger"
                )
            name, number = type(logger).__name__, 2
            while name in found:
                name, number = f"{type(logger).__name__} {number}", number + 1
            found[name] = logger
        return cls(found)

    def begin(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        """Starts the loggers; one that cannot start is an error."""
        if not self._loggers:
            return
        self._folder = folder
        file = folder / LOGGED / STATE
        before = read_checked_json(folder, file) if resumed and file.is_file() else {}
        for name, logger in self._loggers.items():
            state = {"kept": {}, "epochs": {}, "done": [], "failed": None, **before.get(name, {})}
            self._state[name] = {**state, "failed": None}
            run = LoggedRun(folder, folder / LOGGED, config, resumed, self._state[name]["kept"])
            self._opened.append(logger)
            try:
                logger.begin(run)
            except Exception as error:
                raise ValueError(f"log_to: {name} cannot start: {_line(error)}") from error
        self._save()

    def epochs_of(self, arm: str, seed: int, samples: int) -> Callable[[Mapping[str, Any]], None]:
        """Takes the history's entries of an arm, also those that were logged before."""
        key = f"{arm}-seed{seed}"

        def tell(entry: Mapping[str, Any]) -> None:
            epoch, values = entry["epoch"], {"loss": entry["loss"], "train_s": entry["train_s"]}
            if entry["train_s"] > 0:
                values["samples_per_s"] = samples / entry["train_s"]
            values = _finite({**values, **_under("valid", entry["valid"])})
            for name in list(self._loggers):
                state = self._state[name]
                if epoch > state["epochs"].get(key, 0) and self._tell(
                    name, f"epoch {epoch} of {key}", lambda log: log.epoch(arm, seed, epoch, values)
                ):
                    state["epochs"][key] = epoch
            self._save()

        return tell

    def arm_done(self, arm: str, seed: int, samples: int, entry: Mapping[str, Any]) -> None:
        """Tells of an arm that is trained, with its epochs where they were not told."""
        tell, key = self.epochs_of(arm, seed, samples), f"{arm}-seed{seed}"
        for epoch in entry["history"]:
            tell(epoch)
        names = ("best_epoch", "epochs", "steps", "parameters", "peak_memory_mb", "aggregation_radius")
        values = {name: entry[name] for name in names}
        values = _finite({**values, **_under("valid", entry["valid"]), **_under("test", entry["test"])})
        for name in list(self._loggers):
            if key not in self._state[name]["done"] and self._tell(
                name, f"the end of {key}", lambda log: log.arm_done(arm, seed, values)
            ):
                self._state[name]["done"].append(key)
        self._save()

    def end(self, result: Mapping[str, Any]) -> None:
        """Tells of the result."""
        for name in list(self._loggers):
            self._tell(name, "the result", lambda log: log.end(result))

    def close(self, finished: bool) -> None:
        """Closes every logger that was started."""
        for logger in self._opened:
            try:
                logger.close(finished)
            except Exception as error:
                warnings.warn(f"log_to: {type(logger).__name__} cannot close: {_line(error)}", RunWarning, stacklevel=2)
        self._opened = []

    @property
    def summary(self) -> dict[str, str | None]:
        """Of each logger, why it failed, or None."""
        return {name: state["failed"] for name, state in self._state.items()}

    def _tell(self, name: str, what: str, call: Callable[[RunLogger], None]) -> bool:
        """Whether the logger took it; one that did not is told no more."""
        try:
            call(self._loggers[name])
            return True
        except Exception as error:
            why = f"{what}: {_line(error)}"
            self._state[name]["failed"] = why
            del self._loggers[name]
            warnings.warn(
                f"log_to: {name} failed at {why}; the run goes on without it, and its result is in {self._folder}",
                RunWarning,
                stacklevel=3,
            )
            return False

    def _save(self) -> None:
        if self._folder is not None:
            (self._folder / LOGGED).mkdir(exist_ok=True)
            write_recorded_json(self._folder, self._folder / LOGGED / STATE, self._state)


def _under(part: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics by path; those of seen items are a mapping of their own."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        found |= _under(f"{part}/{name}", value) if isinstance(value, Mapping) else {f"{part}/{name}": value}
    return found


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers; a metric may be undefined."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
