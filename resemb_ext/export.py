"""The public names of ``resemb_ext.serving.export``, under their short path."""

from resemb_ext.serving.export import ScoringModule, export_run, fold, write_export

__all__ = ["ScoringModule", "export_run", "fold", "write_export"]
