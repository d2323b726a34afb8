"""A log set up for the comparison: split, samples and graphs, each made once a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from resemb_ext import data
from resemb_ext.graph import InterestGraph
from resemb_ext.study.harness.pieces import Source
from resemb_ext.study.methods.heldout import some_events
from resemb_ext.study.methods.item2vec import item_vectors
from resemb_ext.train import RunConfig
from resemb_ext.train.prepare import evaluation_samples, graph_of, train_samples


@dataclass(frozen=True, eq=False)
class Dataset:
    """What all variants on one log share.

    Attributes:
        source: the log.
        config: options of split, samples and graph.
        train_rows: size of the fixed sample of training rows; None for all.
    """

    source: Source
    config: RunConfig
    train_rows: int | None = None
    _vectors: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @property
    def log(self) -> data.Log:
        return self.source.log

    @cached_property
    def split(self) -> data.Split:
        return data.split(self.log, self.config.split)

    @cached_property
    def graph(self) -> InterestGraph:
        """Interest graph of the training events alone."""
        return graph_of(self.config, self.split.train)

    @cached_property
    def valid(self) -> data.Samples:
        return evaluation_samples(self.config, self.split, "valid")

    @cached_property
    def test(self) -> data.Samples:
        return evaluation_samples(self.config, self.split, "test")

    def train(self, seed: int) -> data.Samples:
        """Training rows of a seed: all, or those of the same sample of events for every seed."""
        rows = train_samples(self.config, self.split, seed)
        return rows if self.train_rows is None else some_events(rows, self.train_rows)

    def vectors(self, dim: int, seed: int) -> np.ndarray:
        """item2vec of the training events, float32 [H, dim]."""
        key = (dim, seed)
        if key not in self._vectors:
            self._vectors[key] = item_vectors(self.split.train, dim, seed)
        return self._vectors[key]
