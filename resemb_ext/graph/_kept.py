"""Pickles of version 0.1 name the module of a graph's counts so."""

from .counts import KeptCounts

__all__ = ["KeptCounts"]
