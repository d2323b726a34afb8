"""Serving a trained model: scoring files with a saved run, and exports that need no resemb_ext."""

from .export import ScoringModule, export_run, fold, write_export
from .exported import ExportedModel, load_export
from .saved import SavedModel
from .scoring import Scored, score_file

__all__ = [
    "ExportedModel",
    "SavedModel",
    "Scored",
    "ScoringModule",
    "export_run",
    "fold",
    "load_export",
    "score_file",
    "write_export",
]
