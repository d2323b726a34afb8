"""Res-embedding for CTR models: a drop-in for nn.Embedding over an item-interest graph.

E[i] = sum_j w_ij C[j] + R[i]   (Zhou et al. 2019, arXiv 1906.10304)
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from resemb_ext import _registration as _registration
from resemb_ext import functional, optim, reference
from resemb_ext._loader import release_memory
from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding, ResEmbeddingBag, Smoothing
from resemb_ext.replace import replace_embeddings, restore_embeddings

if TYPE_CHECKING:
    from resemb_ext import data, distributed, export, metrics, models, serving, testing, train

    spark: Any  # resemb_ext.integrations.spark, by which name type checkers know it

try:
    __version__ = version("resemb_ext")
except PackageNotFoundError:  # a source tree on the path, built in place but not installed
    __version__ = "unknown"

__all__ = [
    "InterestGraph",
    "ResEmbedding",
    "ResEmbeddingBag",
    "Smoothing",
    "data",
    "distributed",
    "export",
    "functional",
    "metrics",
    "models",
    "optim",
    "reference",
    "release_memory",
    "replace_embeddings",
    "restore_embeddings",
    "serving",
    "testing",
    "train",
]

_ON_DEMAND = (
    "data",
    "distributed",
    "export",
    "metrics",
    "models",
    "serving",
    "testing",
    "train",
)  # they import pandas, matplotlib, ...


if not TYPE_CHECKING:  # where types are checked, a wrong name is an error

    def __getattr__(name: str) -> Any:
        if name in _ON_DEMAND:
            return importlib.import_module(f"resemb_ext.{name}")
        if name == "spark":  # not in __all__: pyspark is an extra
            return importlib.import_module("resemb_ext.integrations.spark")
        raise AttributeError(f"module 'resemb_ext' has no attribute '{name}'")
