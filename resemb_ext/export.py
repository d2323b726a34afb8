"""The public names of ``resemb_ext.serving`` for exports, under their short path."""

from resemb_ext.serving import ScoringModule, export_run, fold, write_export

__all__ = ["ScoringModule", "export_run", "fold", "write_export"]
