"""Training: one model (``fit``), or every arm and seed into a run folder (``run``)."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from .checkpoint import load_checkpoint, save_checkpoint
from .config import FitConfig, RunConfig, read_config
from .evaluate import evaluate, measure, predict
from .fitted import FitResult, TrainingDiverged
from .folder import saved_config
from .interrupt import TrainingInterrupted
from .loggers import LoggedRun, RunLogger
from .loop import fit
from .optimizer import build_optimizer, parameter_groups
from .runner import RunResult, run
from .statistics import paired_difference
from .tuning import TuneResult, tune

__all__ = [
    "FitConfig",
    "FitResult",
    "LoggedRun",
    "RunConfig",
    "RunLogger",
    "RunResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "TuneResult",
    "build_optimizer",
    "evaluate",
    "fit",
    "load_checkpoint",
    "measure",
    "paired_difference",
    "parameter_groups",
    "predict",
    "read_config",
    "run",
    "save_checkpoint",
    "saved_config",
    "tune",
]

if not TYPE_CHECKING:  # where types are checked, a wrong name is an error

    def __getattr__(name: str) -> Any:
        """The names of ``resemb_ext.serving`` that version 0.1 had here; found at run time, since serving is above."""
        if name in ("SavedModel", "score_file"):
            message = f"resemb_ext.train.{name} is deprecated; use resemb_ext.serving.{name}"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module("resemb_ext.serving"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
