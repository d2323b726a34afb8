"""Serving a trained model: scoring files with a saved run, exports that need no resemb_ext, tables, nearest items."""

from .bundle import export_bundle
from .export import ScoringModule, export_run, write_export
from .exportable import fold
from .exported import ExportedModel, load_export
from .grow import GrownRun, grow_run
from .guard import GuardedEmbedding, in_table
from .saved import SavedModel
from .scoring import Scored, score_file
from .table import Table

__all__ = [
    "ExportedModel",
    "GrownRun",
    "GuardedEmbedding",
    "SavedModel",
    "Scored",
    "ScoringModule",
    "Table",
    "export_bundle",
    "export_run",
    "fold",
    "grow_run",
    "in_table",
    "load_export",
    "score_file",
    "write_export",
]
