"""E[i] = sum_{j in N(i)} w_ij C[j] + R[i] as a module, whatever class of torch.nn it stands in for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from resemb_ext import functional
from resemb_ext._bags import normalize_padding_idx
from resemb_ext._huge_pages import empty_table
from resemb_ext.graph import InterestGraph

from . import graph_tensors
from .attention import AttentionLink
from .growing import Growing
from .plain import PlainTables, draws


class ResEmbeddingBase(Growing, PlainTables):
    """What ``ResEmbedding`` and ``ResEmbeddingBag`` share: tables, graph, link, and all but ``forward``.

    Its arguments and attributes are those of ``ResEmbedding``.
    """

    embedding_dim: int
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    central: nn.Parameter
    residual: nn.Parameter

    def __init__(
        self,
        graph: InterestGraph,
        embedding_dim: int,
        link: str = "average",
        padding_idx: int | None = None,
        residual_scale: float = 0.1,
        *,
        init_std: float = 1.0,
        match_std: bool = False,
        sparse: bool = False,
        hops: int = 1,
        out_dtype: torch.dtype | None = None,
        heads: int = 1,
        edge_dropout: float = 0.0,
        keep_padding: bool = False,
        weights_dtype: torch.dtype | str | None = None,
        graph_device: str | None = None,
        save_graph: bool = False,
        max_norm: float | None = None,
        scale_grad_by_freq: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if not isinstance(graph, InterestGraph):
            raise TypeError(f"graph: found {type(graph).__name__}; expected InterestGraph")
        if max_norm is not None:
            raise ValueError("max_norm: not supported, a row is computed from two tables")
        if scale_grad_by_freq:
            raise ValueError("scale_grad_by_freq: not supported")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim: found {embedding_dim}; expected at least 1")
        for name, value in (("residual_scale", residual_scale), ("init_std", init_std)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: found {value}; expected a finite number >= 0")
        graph_tensors.check_place(graph_device)
        self.num_embeddings = graph.num_items
        self.embedding_dim = embedding_dim
        padding = normalize_padding_idx(padding_idx, graph.num_items)
        self.padding_idx = padding if padding >= 0 else None
        self.max_norm = None
        self.norm_type = 2.0
        self.scale_grad_by_freq = False
        self.sparse = sparse
        self.keep_padding = keep_padding
        self.link = link
        self.residual_scale = residual_scale
        self.init_std = init_std
        self.match_std = match_std
        self.out_dtype = out_dtype
        self.graph_device = graph_device
        self.save_graph = save_graph
        # Takes the place of the operator where an optimizer steps in backward.
        self.lookup_operator: functional.LookupOperator | None = None
        self._read_hooks = []
        self.graph = graph.with_link(link, padding_idx=self.padding_idx, hops=hops, weights_dtype=weights_dtype)
        if link != "attention" and (heads != 1 or edge_dropout != 0):
            raise ValueError(
                f"heads, edge_dropout: found {heads} and {edge_dropout} with link={link!r}; they are "
                'of link="attention"'
            )
        # Not buffers: DDP broadcasts those from rank 0 before every forward, and the graph is large.
        self._place_graph(device)
        shape = (self.num_embeddings, embedding_dim)
        self.central = nn.Parameter(empty_table(shape, dtype=dtype, device=device))
        self.residual = nn.Parameter(empty_table(shape, dtype=dtype, device=device))
        self.attention: AttentionLink | None = None
        if link == "attention":
            self.attention = AttentionLink(embedding_dim, heads, edge_dropout, dtype=dtype, device=device)
        if draws():
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws C and R anew, and sets attention to its start; the padding row becomes zero."""
        self._before_read(None)
        std = self.init_std
        if self.attention is not None:
            self.attention.reset_parameters()
        if self.match_std:
            scale = graph_tensors.start_scale(self.graph, self.attention is not None, self.residual_scale)
            std = std / scale if scale > 0 else std
        nn.init.normal_(self.central, std=std)
        nn.init.normal_(self.residual, std=std * self.residual_scale)
        self._fill_padding_idx_with_zero()

    def _fill_padding_idx_with_zero(self) -> None:
        if self.padding_idx is not None:
            with torch.no_grad():
                self.central[self.padding_idx].zero_()
                self.residual[self.padding_idx].zero_()

    def _link_call(
        self, training: bool | None = None, tables: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Callable, tuple, dict[str, Any]]:
        """The functional lookup under this link, its tensors behind ids, and the link's options.

        Args:
            training: False leaves out the dropout of edges.
            tables: in place of C and R.
        """
        central, residual = tables or (self.central, self.residual)
        tensors = (central, residual, *self._graph_beside(central))
        if self.attention is None:
            return functional.res_embedding, tensors, {}
        link = self.attention
        seed = None if training is False else link.draw_seed(self.central.device)
        options = {"seed": seed, "dropout": 0.0 if seed is None else link.dropout}
        return functional.attention_embedding, (*tensors, link.a_src, link.a_dst, link.b), options

    def _call_options(self, sparse: bool | None) -> dict[str, Any]:
        return {
            "padding_idx": self.padding_idx,
            "sparse": self.sparse if sparse is None else sparse,
            "out_dtype": self.out_dtype,
            "operator": self.lookup_operator,
        }

    def _look_up(self, ids: Tensor, sparse: bool | None = None) -> Tensor:
        self._before_read(ids)
        if self._fold is not None and self.out_dtype in (None, self.central.dtype):
            table = self._fold.table(self)
            if table is not None:
                return nn.functional.embedding(ids, table)
        look_up, tensors, options = self._link_call()
        found = look_up(ids, *tensors, **options, **self._call_options(sparse))
        return self._with_padding(found, ids, self.residual)

    def bag(
        self,
        ids: Tensor,
        offsets: Tensor | None = None,
        mode: str = "mean",
        per_sample_weights: Tensor | None = None,
        include_last_offset: bool = False,
        mean_divisor: str = "weights",
    ) -> Tensor:
        """Pools jagged bags of ids: [B, D]. See ``functional.res_embedding_bag``."""
        options = (mode, per_sample_weights, include_last_offset, mean_divisor)
        if isinstance(ids, fx.Proxy):
            return self._node(ids.tracer, "bag", ids, offsets, *options)
        return self._pool(ids, offsets, *options)

    def _pool(self, ids: Tensor, *options: Any) -> Tensor:
        offsets, mode, per_sample_weights, include_last_offset, mean_divisor = options[:5]
        sparse = options[5] if len(options) > 5 else None
        self._before_read(ids)
        _, tensors, link_options = self._link_call()
        pool: Callable = functional.res_embedding_bag
        if self.attention is not None:
            pool = functional.attention_embedding_bag
        return pool(
            ids,
            offsets,
            *tensors,
            mode=mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=include_last_offset,
            mean_divisor=mean_divisor,
            **link_options,
            **self._call_options(sparse),
        )

    def check(self) -> None:
        """Waits for the device and raises what its kernels have found wrong since the last time.

        On CUDA a lookup does not wait: bad ids and neighbours read as padding, and this or the next call
        that sees the report raises. On the CPU the lookup itself has raised.

        Raises:
            IndexError: an id or a neighbour out of range; names one.
            ValueError: offsets of bags that do not ascend from 0 to the number of ids.
        """
        if self.central.is_cuda:
            torch.cuda.synchronize(self.central.device)
            torch.ops.resemb_ext.raise_faults(self.central)

    def parameter_groups(
        self,
        central: dict[str, Any] | None = None,
        residual: dict[str, Any] | None = None,
        attention: dict[str, Any] | None = None,
        **shared: Any,
    ) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer, each with options of its own.

        Args:
            central, residual: options of that group, say {"lr": 1e-3, "weight_decay": 1e-4}.
            attention: options of a_src, a_dst and b under link="attention".
            **shared: options of all, which those override.

        Returns:
            Dicts with "name" ("central", "residual", and "attention" under that link), "params" and the
            options.

        Raises:
            ValueError: options of attention under another link.

        Example:
            >>> groups = emb.parameter_groups(residual={"weight_decay": 1e-2}, lr=1e-3)
            >>> optimizer = rx.optim.Adam(groups)
        """
        groups = [
            {"name": "central", "params": [self.central], **shared, **(central or {})},
            {"name": "residual", "params": [self.residual], **shared, **(residual or {})},
        ]
        if self.attention is not None:
            own = list(self.attention.parameters())
            groups.append({"name": "attention", "params": own, **shared, **(attention or {})})
        elif attention is not None:
            raise ValueError(f"attention: options of a group that link={self.link!r} does not have")
        return groups

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}, link={self.link!r}"
        text += f", edges={self.graph.num_edges}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}" + (", keep_padding=True" if self.keep_padding else "")
        if self.graph.weights.dtype != np.float32:
            text += f", weights_dtype={self.graph.weights.dtype}"
        text += ", graph in pinned memory" if self.graph_device else ""
        return text + (", sparse=True" if self.sparse else "")
