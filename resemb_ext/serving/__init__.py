"""Serving a trained model: scoring files with a saved run, and exports that need no resemb_ext."""

from .export import ScoringModule, export_run, fold, write_export
from .exported import ExportedModel, load_export
from .grow import GrownRun, grow_run
from .saved import SavedModel
from .scoring import Scored, score_file
from .table import Table

__all__ = [
    "ExportedModel",
    "GrownRun",
    "SavedModel",
    "Scored",
    "ScoringModule",
    "Table",
    "export_run",
    "fold",
    "grow_run",
    "load_export",
    "score_file",
    "write_export",
]
