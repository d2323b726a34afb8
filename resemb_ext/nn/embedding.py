"""ResEmbedding: a drop-in for nn.Embedding whose rows share an item-interest graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from resemb_ext.graph import InterestGraph

from .base import ResEmbeddingBase

if TYPE_CHECKING:
    from typing_extensions import Self


class ResEmbedding(ResEmbeddingBase, nn.Embedding):
    """E[i] = sum_{j in N(i)} w_ij C[j] + R[i]: a central basis C over a graph and a small residual R.

    A drop-in for ``nn.Embedding`` (Zhou et al. 2019, arXiv 1906.10304). C ~ N(0, s^2) and
    R ~ N(0, (residual_scale s)^2) with s = init_std.

    Args:
        graph: the interest graph over H items, raw weights (``InterestGraph``).
        embedding_dim: D, the size of a vector.
        link: what w is: "average" (row-normalised, the row itself among its neighbours), "gcn"
            (D^-1/2 (Z + S) D^-1/2, S the self weights), "attention" (learned: softmax over the row of a
            score of both items' C, with the weights as prior; it starts as "average") or "given" (the
            graph's weights untouched).
        padding_idx: item whose vector is zero and gets no gradient; negative counts from H. Only its
            own row may point at it.
        residual_scale: standard deviation of R over that of C.
        init_std: s; 1 as in nn.Embedding.
        match_std: rescale C and R so that the standard deviation over all entries of E is init_std.
        sparse: gradients of C and R as COO tensors of the touched rows.
        hops: of the link "gcn", see ``InterestGraph.with_link``.
        out_dtype: dtype of the output; default that of the tables.
        heads: of link="attention", each with D / heads columns.
        edge_dropout: of link="attention": share of the edges left out of every lookup in training, by a
            seed drawn from torch's generator.
        keep_padding: the padding row may hold a vector, as in nn.Embedding: lookups give it, without a gradient, and
            R's row keeps it. It starts as zero. Else padding is a zero vector, whatever is written.
        weights_dtype: of the link weights: torch.float32 or torch.float16; None means as the graph has them. In
            float16 an edge takes 6 bytes in place of 8, and E moves by at most
            ``sum_j max(2**-11 w_ij, 2**-25) |C[j]|``; see docs/graph.md. Checkpoints go from one to the other.
        graph_device: where the graph lies: None beside the tables, wherever they go; "pinned" in pinned host
            memory, where a CUDA device reads it, for graphs larger than the device's memory. Every lookup and
            every backward then reads its touched rows over the bus, 16 bytes a row and 8 an edge (6 in
            float16); see docs/gpu.md. Keep the module until what it has queued is done (``torch.cuda.synchronize()``):
            the memory is free for others as soon as it is gone.
        save_graph: keep the graph in the state_dict, not only its hash; see ``graph_from_state``.
        dtype, device: of the tables. Link weights keep their dtype whatever the tables become.

    Attributes:
        central, residual: nn.Parameter, [H, D].
        graph: InterestGraph with the link's weights; with link="attention" the weights z of the prior. On the CPU
            lookups read its arrays: it lies in memory once, shared with the graph given as far as the link leaves it.
        attention: AttentionLink, or None with other links.
        num_embeddings, embedding_dim, padding_idx, sparse: as in nn.Embedding.

    Raises:
        TypeError: ``graph`` is no InterestGraph.
        ValueError: an unknown link, a padding_idx or size out of range, a graph that points at
            padding, weights of 0 under link="attention", heads or edge_dropout with another link, a weight that
            float16 does not hold,
            graph_device="pinned" without CUDA, or max_norm or scale_grad_by_freq, which have no meaning.

    Example:
        >>> graph = InterestGraph.from_csr([0, 0, 1, 2], [2, 1], [3.0, 3.0])
        >>> emb = ResEmbedding(graph, 8, padding_idx=0)
        >>> emb(torch.tensor([[1, 2], [2, 0]])).shape
        torch.Size([2, 2, 8])
    """

    _plain_class = nn.Embedding
    _from_plain_name = "from_embedding"
    _shows_padding = True
    _own_forward = "_look_up"

    if TYPE_CHECKING:  # calls of nn.Module give Any

        def __call__(self, input: Tensor) -> Tensor: ...

    def forward(self, input: Tensor) -> Tensor:
        """Looks up ids (int64 or int32, any shape): ``[*input.shape, D]``. See ``functional.res_embedding``."""
        if isinstance(input, fx.Proxy):
            return self._forward_node(input.tracer, input)
        return self._look_up(input)

    @classmethod
    def from_embedding(
        cls, embedding: nn.Embedding, graph: InterestGraph, *, exact: bool = True, **options: Any
    ) -> Self:
        """A ResEmbedding that starts from a plain embedding's table T.

        A subclass K of nn.Embedding gives a module of ``combined(K)``, which keeps K's forward and shares what else
        the embedding holds: other parameters, modules and attributes.

        Args:
            embedding: nn.Embedding of H rows; its padding_idx, sparse, dtype, device, requires_grad (for all
                parameters of the ResEmbedding) and training are taken over.
            graph: interest graph over the same H items.
            exact: C = T and R = T - W T, so that E = T to rounding; else R = 0, so that E = W T is T
                smoothed over the graph. Rounding is that of R in the tables' dtype: of half a unit in its last
                place, ``|R| / 256`` at most in bfloat16 and ``|R| / 2048`` in float16, and that of the output beside it.
            **options: of the constructor. ``keep_padding=True`` keeps the vector of a padding row that is not zero;
                ``padding_idx=None`` makes it an item like others.

        Raises:
            TypeError: no nn.Embedding, or of a class that cannot be combined.
            ValueError: the graph has another number of items, or the embedding uses max_norm or
                scale_grad_by_freq.
        Warns:
            UserWarning: the padding row of T is not zero, and its vector is lost.
        """
        if not isinstance(embedding, nn.Embedding):
            raise TypeError(
                f"embedding: found {type(embedding).__name__}; expected nn.Embedding. "
                "ResEmbeddingBag.from_embedding_bag takes an nn.EmbeddingBag"
            )
        return cls._from_plain(embedding, graph, exact, options)

    def to_embedding(self, freeze: bool = True) -> nn.Embedding:
        """A plain nn.Embedding with the same vectors, to serve; of ``out_dtype``, where that is given.

        Args:
            freeze: its weight takes no gradient.
        """
        return nn.Embedding.from_pretrained(
            self._plain_table(), freeze=freeze, padding_idx=self.padding_idx, sparse=self.sparse
        ).train(self.training)

    to_plain = to_embedding
