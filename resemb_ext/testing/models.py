"""Tables and batches that models are tested on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from resemb_ext.graph import InterestGraph
from resemb_ext.models import TorchBatch
from resemb_ext.nn import ResEmbedding

#: Rows of the tables of items, categories, users and both context fields; dense columns; size of vectors.
ITEMS, CATEGORIES, USERS, CONTEXT, DENSE, DIM = 40, 6, 15, (4, 3), 2, 8


def plain_table(num_embeddings: int = ITEMS) -> torch.nn.Module:
    """``nn.Embedding`` [num_embeddings, DIM] whose row 0 is padding."""
    return torch.nn.Embedding(num_embeddings, DIM, padding_idx=0)


def res_table() -> torch.nn.Module:
    """A Res-embedding [ITEMS, DIM] over a ring of the items."""
    # A ring over items 1..: each row has itself and its two neighbours.
    rows: list[list[int]] = [[]] + [
        sorted({i, 1 + i % (ITEMS - 1), 1 + (i - 2) % (ITEMS - 1)}) for i in range(1, ITEMS)
    ]
    indptr = np.cumsum([0] + [len(row) for row in rows])
    graph = InterestGraph.from_csr(indptr, np.concatenate(rows).astype(np.int32))
    return ResEmbedding(graph, DIM, padding_idx=0)


class CustomTable(torch.nn.Module):
    """An embedding module that is neither: only callable, with its sizes and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim, self.num_embeddings, self.padding_idx = DIM, ITEMS, 0
        self.table = torch.nn.Parameter(torch.randn(ITEMS, DIM))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids] * (ids != 0).unsqueeze(-1)


def make_batch(samples: int = 12, longest: int = 7, seed: int = 0) -> TorchBatch:
    """A drawn batch of all fields with jagged histories of 0 to ``longest`` events, one of them empty."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (samples,), generator=draw)
    lengths[samples // 2] = 0
    total = int(lengths.sum())

    def ids(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(1, high, shape, generator=draw)

    return TorchBatch(
        target=ids(ITEMS, samples),
        history=ids(ITEMS, total),
        offsets=lengths.cumsum(0) - lengths,
        label=torch.arange(samples).remainder(2).float(),
        target_category=ids(CATEGORIES, samples),
        history_category=ids(CATEGORIES, total),
        user=ids(USERS, samples),
        context=torch.stack([ids(high, samples) for high in CONTEXT], dim=1),
        dense=torch.randn(samples, DENSE, generator=draw),
    )


def take(batch: TorchBatch, samples: list[int]) -> TorchBatch:
    """The given samples of a batch of all fields with jagged histories, which are copied."""
    assert batch.offsets is not None and batch.history_category is not None
    lengths, index = batch.lengths(), torch.tensor(samples)
    pieces = [torch.arange(int(batch.offsets[i]), int(batch.offsets[i] + lengths[i])) for i in samples]
    positions = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)
    of_samples = ("target", "label", "target_category", "user", "context", "dense")
    return TorchBatch(
        history=batch.history[positions],
        offsets=lengths[index].cumsum(0) - lengths[index],
        history_category=batch.history_category[positions],
        **{name: getattr(batch, name)[index] for name in of_samples},
    )


def pad(batch: TorchBatch, length: int = 9, before: int = 1) -> TorchBatch:
    """The same batch with padded histories: ``before`` padding ids, the history, more of them."""
    assert batch.offsets is not None and batch.history_category is not None
    starts, lengths = batch.offsets.tolist(), batch.lengths().tolist()

    def spread(values: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(batch.histories, length, dtype=torch.int64)
        for row, (start, size) in enumerate(zip(starts, lengths, strict=True)):
            out[row, before : before + size] = values[start : start + size]
        return out

    return replace(batch, history=spread(batch.history), history_category=spread(batch.history_category), offsets=None)
