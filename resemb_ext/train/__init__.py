"""Training: one model (``fit``), or every arm and seed into a run folder (``run``)."""

from .checkpoint import load_checkpoint, save_checkpoint
from .config import FitConfig, RunConfig, read_config
from .evaluate import evaluate, measure, predict
from .folder import saved_config
from .interrupt import TrainingInterrupted
from .loop import FitResult, TrainingDiverged, fit
from .optimizer import build_optimizer, parameter_groups
from .runner import RunResult, run
from .statistics import paired_difference
from .tuning import TuneResult, tune

__all__ = [
    "FitConfig",
    "FitResult",
    "RunConfig",
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
