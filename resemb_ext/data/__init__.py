"""Behaviour logs: reading, splitting, samples, and a simulator with a known truth."""

from .arrow import BadEntry
from .findings import DataWarning, Finding
from .idmap import IdMap
from .log import Log
from .read import read_log
from .ready import ReadySplit, is_ready_made, read_ready_made
from .samples import Batch, Samples, make_eval_samples, make_train_samples
from .simulate import SimulationTruth, simulate
from .splits import Split, split
from .validation import LogReport, validate

__all__ = [
    "BadEntry",
    "Batch",
    "DataWarning",
    "Finding",
    "IdMap",
    "Log",
    "LogReport",
    "ReadySplit",
    "Samples",
    "SimulationTruth",
    "Split",
    "is_ready_made",
    "make_eval_samples",
    "make_train_samples",
    "read_log",
    "read_ready_made",
    "simulate",
    "split",
    "validate",
]
