"""Cross-fitting of the graph: batches of a fold of users use the graph built without that fold.

With one graph, a training row's own user helped to draw the edges between its history and its target,
which no test row's user did to the same degree. With F folds, users fall in F parts by chance, a
training batch holds rows of one part, and its lookups go over the graph that the other parts give.
Evaluation and the checkpoints use the graph of all training events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from resemb_ext.data import Log, Samples, Split
from resemb_ext.graph import InterestGraph
from resemb_ext.models import TorchBatch
from resemb_ext.nn import ResEmbedding
from resemb_ext.optim import RowSparseOptimizer

_STREAM = 5  # beside those of the samples


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Folds of users, and the graph without each.

    Attributes:
        fold: int64 [users], the fold of each user.
        graphs: one for each fold, of the training events of all other folds' users; none where no
            arm needs them.
    """

    fold: np.ndarray
    graphs: tuple[InterestGraph, ...]

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    @classmethod
    def of(cls, split: Split, folds: int, build: Callable[[Log], InterestGraph] | None) -> CrossFit:
        """Deals the users into folds of equal size, the same for every seed and model.

        Args:
            split: its ``train`` gives the events.
            folds: F >= 2.
            build: a graph of a log; None leaves the graphs out.

        Raises:
            ValueError: fewer users than folds.
        """
        users = split.log.num_users
        if users < folds:
            raise ValueError(f"cross_fit: {folds} folds need as many users, the log has {users}")
        fold = np.random.default_rng([_STREAM, folds]).permutation(users) % folds
        of_event = fold[split.train.user]
        graphs = []
        for number in range(folds) if build is not None else ():
            others = split.train.subset(
                np.flatnonzero(of_event != number), name=f"{split.train.name}, fold {number} left out"
            )
            if not len(others):
                raise ValueError(f"cross_fit: fold {number} holds all training events")
            assert build is not None
            graphs.append(build(others))
        return cls(fold, tuple(graphs))

    def summary(self) -> dict[str, Any]:
        """Folds, their users, and their graphs, for reports."""
        return {
            "folds": self.folds,
            "users": np.bincount(self.fold).tolist(),
            "graphs": [graph.hash for graph in self.graphs],
            "entries": [graph.num_edges for graph in self.graphs],
        }


class FoldTables:
    """The Res-embeddings of a model over each fold's graph, with the model's own parameters.

    Args:
        model: the model that is trained.
        others: like it, one for each fold, over that fold's graph; their own weights are let go. Empty
            where the model has no graph: its batches come by folds all the same, so that arms see the
            same batches.
        fold: int64 [users], see ``CrossFit``.
    """

    def __init__(self, model: nn.Module, others: Iterable[nn.Module], fold: np.ndarray) -> None:
        self.fold = fold
        self._model = model
        self._own = {n: m for n, m in model.named_modules() if isinstance(m, ResEmbedding)}
        self._of_fold = [
            {name: _share(other.get_submodule(name), own) for name, own in self._own.items()} for other in others
        ]

    def attach(self, optimizer: Any) -> None:
        """Lets the folds' lookups ask for decay that an optimizer left pending."""
        if isinstance(optimizer, RowSparseOptimizer):
            for tables in self._of_fold:
                for table in tables.values():
                    optimizer.attach(table)

    @contextmanager
    def using(self, number: int) -> Iterator[None]:
        """Inside, the model looks up over the graph without fold ``number``."""
        if not self._of_fold:
            yield
            return
        self._put(self._of_fold[number])
        try:
            yield
        finally:
            self._put(self._own)

    def _put(self, tables: dict[str, ResEmbedding]) -> None:
        for name, table in tables.items():
            parent, _, leaf = name.rpartition(".")
            setattr(self._model.get_submodule(parent), leaf, table)

    def num_batches(self, samples: Samples, batch_size: int) -> int:
        """Batches of one epoch."""
        return int(sum(-(-rows // batch_size) for rows in np.bincount(self.fold[samples.user])))

    def batches(
        self, samples: Samples, batch_size: int, *, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, TorchBatch]]:
        """Fold and batch, in an order that is a function of (seed, epoch), from ``start`` on.

        Rows are shuffled, dealt to their user's fold and cut into batches, which are shuffled.
        """
        order = samples.order(seed, epoch)
        of_row = self.fold[samples.user[order]]
        pieces = []
        for number in range(int(self.fold.max()) + 1):
            rows = order[of_row == number]
            pieces += [(number, rows[low : low + batch_size]) for low in range(0, len(rows), batch_size)]
        rng = np.random.default_rng([_STREAM, seed, epoch])
        for place in rng.permutation(len(pieces))[start:]:
            number, rows = pieces[place]
            yield number, TorchBatch.of(samples.batch(rows))


def _share(table: nn.Module, own: ResEmbedding) -> ResEmbedding:
    """``table`` with the parameters of ``own``."""
    assert isinstance(table, ResEmbedding)
    for name, parameter in own.named_parameters():
        parent, _, leaf = name.rpartition(".")
        setattr(table.get_submodule(parent), leaf, parameter)
    return table
