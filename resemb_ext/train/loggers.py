"""What a run tells its loggers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run at its start.

    Attributes:
        folder: the run folder.
        place: a folder within it for what the logger writes; made when it is used.
        config: the options, JSON-able.
        resumed: whether the run goes on after a stop.
        kept: what the logger wants to find again when the run goes on; JSON-able, the logger's to change.
    """

    folder: Path
    place: Path
    config: Mapping[str, Any]
    resumed: bool
    kept: dict[str, Any] = field(default_factory=dict)


class RunLogger:
    """Is told what happens in a run. A logger of your own overrides what it needs.

    Each call comes once, also where a run was stopped and resumed: an epoch that a process could save
    but not log any more is told by the next one. (One that was logged in the instant before a process
    was killed may come twice.) An exception of ``begin`` ends the run before training. After one of a
    later call the run goes on without the logger, with a warning, and the result says so.
    """

    def begin(self, run: LoggedRun) -> None:
        """Before training, also of a resumed run."""

    def epoch(self, arm: str, seed: int, epoch: int, values: Mapping[str, float]) -> None:
        """After an epoch of an arm ("plain" or "res") and seed.

        Args:
            arm, seed: whose.
            epoch: from 1.
            values: "loss", "train_s", "samples_per_s" and validation metrics such as "valid/gauc"; finite
                numbers only.
        """

    def arm_done(self, arm: str, seed: int, values: Mapping[str, float]) -> None:
        """After the training of an arm and seed.

        Args:
            arm, seed: whose.
            values: "best_epoch", "epochs", "steps", "parameters", "peak_memory_mb", "aggregation_radius",
                metrics of the best epoch ("valid/gauc", "test/gauc", ...); finite numbers only.
        """

    def end(self, result: Mapping[str, Any]) -> None:
        """After the last arm, with what ``result.json`` holds."""

    def close(self, finished: bool) -> None:
        """At the end of the process's part of the run, however it ends; ``finished`` says whether to its end."""
