"""ResEmbeddingBag: a drop-in for nn.EmbeddingBag whose rows share an item-interest graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from resemb_ext._bags import check_pooling
from resemb_ext.graph import InterestGraph

from .base import ResEmbeddingBase

if TYPE_CHECKING:
    from typing_extensions import Self


class ResEmbeddingBag(ResEmbeddingBase, nn.EmbeddingBag):
    """Pools bags of E[i] = sum_{j in N(i)} w_ij C[j] + R[i] in one pass: a drop-in for ``nn.EmbeddingBag``.

    Padding counts neither in the sum nor in the mean, and an empty bag is 0, as in nn.EmbeddingBag.

    Args:
        graph: the interest graph over H items, raw weights (``InterestGraph``).
        embedding_dim: D, the size of a vector.
        mode: "sum" or "mean".
        include_last_offset: ``offsets`` ends with the end of the last bag; ids behind it are ignored. As in torch it
            does not matter to ids [B, N].
        mean_divisor: what a mean with ``per_sample_weights`` divides by: "weights", their sum in the bag, or "count",
            the bag's number of ids, as FBGEMM and TorchRec do. nn.EmbeddingBag takes these weights for sums alone.
        **options: those of ``ResEmbedding``: link, padding_idx, residual_scale, sparse, dtype, device, ...

    Attributes:
        mode, include_last_offset, mean_divisor: the arguments. Others are those of ``ResEmbedding``.

    Raises:
        TypeError, ValueError: as of ``ResEmbedding``; ValueError also for another mode ("max" is not defined) or
            mean_divisor.

    Example:
        >>> graph = InterestGraph.from_csr([0, 0, 1, 2], [2, 1], [3.0, 3.0])
        >>> bags = ResEmbeddingBag(graph, 8, "mean", padding_idx=0)
        >>> bags(torch.tensor([1, 2, 2, 0]), torch.tensor([0, 1])).shape
        torch.Size([2, 8])
    """

    _plain_class = nn.EmbeddingBag
    _from_plain_name = "from_embedding_bag"
    _shows_padding = False
    _own_forward = "_pool_bags"

    mean_divisor: str

    def __init__(
        self,
        graph: InterestGraph,
        embedding_dim: int,
        mode: str = "mean",
        *,
        include_last_offset: bool = False,
        mean_divisor: str = "weights",
        **options: Any,
    ) -> None:
        check_pooling(mode, mean_divisor)
        super().__init__(graph, embedding_dim, **options)
        self.mode = mode
        self.include_last_offset = include_last_offset
        self.mean_divisor = mean_divisor

    if TYPE_CHECKING:  # calls of nn.Module give Any

        def __call__(
            self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
        ) -> Tensor: ...

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Pools bags of ids: [B, D]. See ``functional.res_embedding_bag``.

        Args:
            input: ids, int64 or int32: [P] with offsets, or [B, N], or nested [B, ids] of layout torch.jagged.
            offsets: int64 or int32 [B], the start of each bag; [B + 1] with ``include_last_offset``.
            per_sample_weights: floating, shaped as ``input``; differentiable. For both modes.

        Raises:
            IndexError, TypeError, ValueError: as of ``functional.res_embedding_bag``.
        """
        if isinstance(input, fx.Proxy):
            return self._forward_node(input.tracer, input, offsets, per_sample_weights)
        return self._pool_bags(input, offsets, per_sample_weights)

    def _pool_bags(self, ids: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None) -> Tensor:
        ends = self.include_last_offset and ids.dim() != 2
        return self._pool(ids, offsets, self.mode, per_sample_weights, ends, self.mean_divisor)

    @classmethod
    def from_embedding_bag(
        cls, embedding_bag: nn.EmbeddingBag, graph: InterestGraph, *, exact: bool = True, **options: Any
    ) -> Self:
        """A ResEmbeddingBag that starts from a plain bag's table T; of subclasses as ``ResEmbedding.from_embedding``.

        Args:
            embedding_bag: nn.EmbeddingBag of H rows; its mode, include_last_offset, padding_idx, sparse, dtype,
                device, requires_grad (for all parameters) and training are taken over.
            graph, exact: as of ``ResEmbedding.from_embedding``.
            **options: of the constructor.

        Raises:
            TypeError: no nn.EmbeddingBag, or of a class that cannot be combined.
            ValueError: the graph has another number of items, or the bag uses max_norm, scale_grad_by_freq or
                mode="max".
        """
        if not isinstance(embedding_bag, nn.EmbeddingBag):
            raise TypeError(
                f"embedding_bag: found {type(embedding_bag).__name__}; expected nn.EmbeddingBag. "
                "ResEmbedding.from_embedding takes an nn.Embedding"
            )
        taken = {"mode": embedding_bag.mode, "include_last_offset": embedding_bag.include_last_offset}
        return cls._from_plain(embedding_bag, graph, exact, {**taken, **options})

    def to_embedding_bag(self, freeze: bool = True) -> nn.EmbeddingBag:
        """A plain nn.EmbeddingBag with the same vectors, to serve; of ``out_dtype``, where that is given.

        Args:
            freeze: its weight takes no gradient.
        """
        return nn.EmbeddingBag.from_pretrained(
            self._plain_table(),
            freeze=freeze,
            mode=self.mode,
            sparse=self.sparse,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        ).train(self.training)

    to_plain = to_embedding_bag

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, mode={self.mode!r}"
        text += ", include_last_offset=True" if self.include_last_offset else ""
        return text + (f", mean_divisor={self.mean_divisor!r}" if self.mean_divisor != "weights" else "")
