"""From plain tables to ResEmbedding and back: modules, and checkpoints."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from resemb_ext._ownership import set_replaced
from resemb_ext.graph import InterestGraph

if TYPE_CHECKING:
    from typing_extensions import Self


class PlainTables(nn.Module):
    """The part of ResEmbedding that starts from plain tables, and becomes one."""

    central: nn.Parameter
    residual: nn.Parameter
    padding_idx: int | None
    sparse: bool

    def materialize(self) -> Tensor:
        """The whole table."""
        raise NotImplementedError

    def _blocks(self, tables: tuple[Tensor, Tensor]) -> Tensor:
        """W C + R, without gradients."""
        raise NotImplementedError

    @classmethod
    def from_embedding(
        cls, embedding: nn.Embedding, graph: InterestGraph, *, exact: bool = True, **options: Any
    ) -> Self:
        """A ResEmbedding that starts from a plain embedding's table T.

        Args:
            embedding: nn.Embedding of H rows; its padding_idx, sparse, dtype, device, requires_grad (for all
                parameters) and training are taken over.
            graph: interest graph over the same H items.
            exact: C = T and R = T - W T, so that E = T to rounding; else R = 0, so that E = W T is T
                smoothed over the graph.
            **options: of the constructor. ``padding_idx=None`` keeps the vector of a padding row that is not
                zero, which is then an item like others; padding itself is always a zero vector.

        Raises:
            ValueError: the graph has another number of items, or the embedding uses max_norm or
                scale_grad_by_freq.
        Warns:
            UserWarning: the padding row of T is not zero, and its vector is lost.
        """
        table = embedding.weight.detach()
        if graph.num_items != table.shape[0]:
            raise ValueError(f"graph: {graph.num_items} items; expected {table.shape[0]}, the embedding's rows")
        settings: dict[str, Any] = {
            "padding_idx": embedding.padding_idx,
            "sparse": embedding.sparse,
            "max_norm": embedding.max_norm,
            "scale_grad_by_freq": embedding.scale_grad_by_freq,
            "dtype": table.dtype,
            "device": table.device,
        }
        module = cls(graph, table.shape[1], **{**settings, **options})
        central, residual = module._tables_of(table, "embedding")
        with torch.no_grad():
            module.central.copy_(central)
            module.residual.copy_(residual if exact else torch.zeros_like(residual))
        module.requires_grad_(embedding.weight.requires_grad)
        for replaced in embedding.parameters(recurse=False):
            set_replaced(replaced, module)
        return module.train(embedding.training)

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> Self:
        """Not defined: a table alone has no graph. Use ``from_embedding``."""
        raise TypeError(
            "ResEmbedding.from_pretrained: a table alone does not define one; use "
            "ResEmbedding.from_embedding(nn.Embedding.from_pretrained(table), graph)"
        )

    def to_embedding(self, freeze: bool = True) -> nn.Embedding:
        """A plain nn.Embedding with the same vectors, to serve.

        Args:
            freeze: its weight takes no gradient.
        """
        with torch.no_grad():
            table = self.materialize()
        plain = nn.Embedding.from_pretrained(table, freeze=freeze, padding_idx=self.padding_idx, sparse=self.sparse)
        return plain.train(self.training)

    @torch.no_grad()
    def _tables_of(self, table: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """C = T and R = T - W T of a plain table T [H, D], in this module's dtype, where it lies.

        Args:
            name: of the table, for the warning that its padding row is not zero.
        """
        central = table.detach().to(self.central, copy=True)
        if self.padding_idx is not None:
            if central[self.padding_idx].any():
                warnings.warn(
                    f"{name}: row {self.padding_idx}, its padding, is not zero; padding of ResEmbedding is always a "
                    "zero vector. ResEmbedding.from_embedding(..., padding_idx=None) keeps that row",
                    stacklevel=4,  # the caller of from_embedding
                )
            central[self.padding_idx] = 0
        return central, central - self._blocks((central, torch.zeros_like(central)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._split_plain_table(state_dict, prefix, error_msgs=args[-1])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _split_plain_table(self, state_dict: dict[str, Any], prefix: str, error_msgs: list[str]) -> None:
        """A plain embedding's weight in place of C and R becomes C = T, R = T - W T; a link keeps its parameters."""
        key = f"{prefix}weight"
        table = state_dict.get(key)
        own = dict(self.named_parameters())
        if table is None or f"{prefix}central" in state_dict or f"{prefix}residual" in state_dict:
            return
        if not {"central", "residual"} <= own.keys():  # parametrized; torch names the keys that it misses
            return
        del state_dict[key]
        tables: tuple[Tensor, Tensor] = (own.pop("central"), own.pop("residual"))
        if not isinstance(table, Tensor):
            error_msgs.append(f"{key}: expected a torch.Tensor, found {type(table).__name__}.")
        elif table.shape != tables[0].shape:
            error_msgs.append(
                f"size mismatch for {key}: copying a plain table with shape {tuple(table.shape)} from checkpoint, "
                f"the shape in current model is {tuple(tables[0].shape)}."
            )
        elif tables[0].is_meta:
            error_msgs.append(f"{key}: a plain table cannot be loaded on the meta device; call to_empty before.")
        else:
            tables = self._tables_of(table, f"state_dict: {key}")
        state_dict[f"{prefix}central"], state_dict[f"{prefix}residual"] = tables
        state_dict.update({f"{prefix}{name}": value for name, value in own.items() if prefix + name not in state_dict})
