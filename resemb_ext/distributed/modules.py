"""Embeddings whose tables lie dealt over the ranks of a group."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from resemb_ext._bags import Bags, bag_sums, flat_ids, nest, pooled_bags
from resemb_ext._ownership import ShardedTables, untraced
from resemb_ext._registration import accumulator, look_up
from resemb_ext._registration_attention import attend
from resemb_ext.nn import ResEmbeddingBase
from resemb_ext.nn.attention import AttentionLink

from .batch import Batch, Source
from .state import ShardState


class ShardedLookup(ShardState, ShardedTables):
    """What all share: ids in, vectors or bags out, on every rank at the same time.

    Every rank of the group must look up as often as the others, in the same order; a rank may bring no ids at all.

    Attributes:
        num_embeddings: H, rows over all ranks. Tables are this rank's part of them; see ``rx.distributed.tables``.
        embedding_dim, padding_idx, sparse: as in nn.Embedding.
    """

    embedding_dim: int
    out_dtype: torch.dtype | None

    def __init__(self, plain: Any, source: Source, tables: dict[str, Tensor]) -> None:
        super().__init__()
        self._source = source
        self.num_embeddings = source.deal.items
        self.embedding_dim = plain.embedding_dim
        self.padding_idx = source.padding_idx
        self.sparse = plain.sparse
        self.out_dtype = getattr(plain, "out_dtype", None)
        for name, table in tables.items():
            setattr(self, name, nn.Parameter(table, requires_grad=getattr(plain, name).requires_grad))
        self.train(plain.training)
        self._announce(source.wire.group)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: its rows lie with the ranks of a process group; it cannot be copied or pickled. "
            "Save its state_dict, or rx.distributed.tables(model)"
        )

    def _operate(self, batch: Batch, bags: Bags, pooled: bool) -> Tensor:
        """The operator on the tables of a batch."""
        tables = batch.tables
        central = tables[0] if len(tables) > 1 else tables[0].detach()
        bounds, samples = (bags.bounds, bags.sample_weights) if pooled else (None, None)
        dtype = self.out_dtype or self._tables()[0].dtype
        local = (batch.ids, central, tables[-1], batch.indptr, batch.neighbors, batch.weights)
        link: AttentionLink | None = getattr(self, "attention", None)
        if link is None:
            return look_up(*local, bounds, samples, batch.padding, bags.mean, dtype, True)[0]
        precise = accumulator(central.dtype)
        learned = (part.to(precise) for part in (link.a_src, link.a_dst, link.b))
        seed = link.draw_seed(central.device)
        dropout = 0.0 if seed is None else link.dropout
        return attend(*local, *learned, seed, bounds, samples, batch.padding, bags.mean, dropout, dtype, True)[0]

    def _batch(self, positions: Any) -> tuple[Bags, Batch]:
        bags, batch = self._source.batch(positions, self._tables(), self.sparse, self._before_read)
        if self.after_lookup is not None:
            self.after_lookup(batch.tables[-1], *self._tables())
        return bags, batch

    @untraced
    def _look_up(self, ids: Tensor) -> Tensor:
        def positions() -> Bags:
            flat = flat_ids(ids)
            return Bags(flat, flat, None, False, False)

        bags, batch = self._batch(positions)
        found = self._operate(batch, bags, pooled=False)
        if self._source.keep_padding and self.padding_idx is not None and batch.padding < len(batch.tables[-1]) - 1:
            kept = batch.tables[-1][batch.padding].detach().to(found.dtype)
            found = torch.where((bags.ids == self.padding_idx).unsqueeze(1), kept, found)
        return nest(found, ids) if ids.is_nested else found.reshape(*ids.shape, self.embedding_dim)

    @untraced
    def _pool(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        mode: str,
        per_sample_weights: Tensor | None,
        include_last_offset: bool,
        mean_divisor: str,
    ) -> Tensor:
        padding = -1 if self.padding_idx is None else self.padding_idx
        dtype = self._tables()[0].dtype

        def positions() -> Bags:
            bags = pooled_bags(
                ids, offsets, mode, per_sample_weights, include_last_offset, mean_divisor, padding, dtype
            )
            _check_bounds(bags)
            return bags

        bags, batch = self._batch(positions)
        found = self._operate(batch, bags, pooled=True)
        return found[:-1] if bags.rest else found

    def extra_repr(self) -> str:
        deal = self._source.deal
        text = f"{self.num_embeddings}, {self.embedding_dim}, rank {deal.rank} of {deal.ranks} with {deal.count} rows"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return text + (", sparse=True" if self.sparse else "")


class ShardedResEmbedding(ShardedLookup):
    """A ``ResEmbedding`` whose rows lie dealt over ranks: looks up, pools, and is trained as one in one process.

    Attributes:
        central, residual: nn.Parameter, this rank's rows of C and R.
        link: as of ``ResEmbedding``.
        attention: AttentionLink, or None with other links; the same on all ranks.
    """

    central: nn.Parameter
    residual: nn.Parameter
    parameter_groups = ResEmbeddingBase.parameter_groups

    def __init__(self, plain: ResEmbeddingBase, source: Source, tables: dict[str, Tensor]) -> None:
        super().__init__(plain, source, tables)
        self.link = plain.link
        self.graph_hash = plain.graph.hash
        self.keep_padding = plain.keep_padding
        self.attention = plain.attention

    def forward(self, input: Tensor) -> Tensor:
        """Looks up ids (int64 or int32, any shape): ``[*input.shape, D]``. See ``functional.res_embedding``.

        Raises:
            IndexError, TypeError, ValueError: this rank's ids do not fit.
            RankError: another rank's do not, ranks look up different tables, or a rank is gone or took no part before
                the timeout; it names the rank.
        """
        return self._look_up(input)

    def bag(
        self,
        ids: Tensor,
        offsets: Tensor | None = None,
        mode: str = "mean",
        per_sample_weights: Tensor | None = None,
        include_last_offset: bool = False,
        mean_divisor: str = "weights",
    ) -> Tensor:
        """Pools jagged bags of ids: [B, D]. See ``functional.res_embedding_bag``; raises as ``forward``."""
        return self._pool(ids, offsets, mode, per_sample_weights, include_last_offset, mean_divisor)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, link={self.link!r}"


class ShardedResEmbeddingBag(ShardedResEmbedding):
    """A ``ResEmbeddingBag`` whose rows lie dealt over ranks.

    Attributes:
        mode, include_last_offset, mean_divisor: as of ``ResEmbeddingBag``. Others are those of ``ShardedResEmbedding``.
    """

    def __init__(self, plain: Any, source: Source, tables: dict[str, Tensor]) -> None:
        super().__init__(plain, source, tables)
        self.mode = plain.mode
        self.include_last_offset = plain.include_last_offset
        self.mean_divisor = plain.mean_divisor

    def forward(  # type: ignore[override]
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Pools bags of ids: [B, D]. See ``ResEmbeddingBag``; raises as ``ShardedResEmbedding``."""
        ends = self.include_last_offset and input.dim() != 2
        return self._pool(input, offsets, self.mode, per_sample_weights, ends, self.mean_divisor)


class ShardedEmbedding(ShardedLookup):
    """An nn.Embedding with sparse gradients whose rows lie dealt over ranks.

    Attributes:
        weight: nn.Parameter, this rank's rows.
    """

    weight: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """Looks up ids (int64 or int32, any shape): ``[*input.shape, D]``; raises as ``ShardedResEmbedding``."""
        return self._look_up(input)


class ShardedEmbeddingBag(ShardedLookup):
    """An nn.EmbeddingBag with sparse gradients, of mode "sum" or "mean", whose rows lie dealt over ranks.

    Attributes:
        weight: nn.Parameter, this rank's rows.
        mode, include_last_offset: as in nn.EmbeddingBag.
    """

    weight: nn.Parameter

    def __init__(self, plain: nn.EmbeddingBag, source: Source, tables: dict[str, Tensor]) -> None:
        super().__init__(plain, source, tables)
        self.mode = plain.mode
        self.include_last_offset = plain.include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Pools bags of ids as nn.EmbeddingBag: [B, D]; raises as ``ShardedResEmbedding``."""
        ends = self.include_last_offset and input.dim() != 2
        return self._pool(input, offsets, self.mode, per_sample_weights, ends, "weights")


def _check_bounds(bags: Bags) -> None:
    """Raises what the operator would, before other ranks rely on this one."""
    bounds = bags.bounds
    if int(bounds[0]) != 0 or int(bounds[-1]) != len(bags.ids) or bool((bounds.diff() < 0).any()):
        bag_sums(torch.ones(len(bags.ids), device=bags.ids.device), bounds)
