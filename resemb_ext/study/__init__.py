"""Experiments on the claims of Zhou et al. 2019 (arXiv 1906.10304): run, then reported from JSON."""

from .studies import STUDIES, run_study, tables_text, write_report

__all__ = ["STUDIES", "run_study", "tables_text", "write_report"]
