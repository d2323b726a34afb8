"""From plain tables to ResEmbedding and back: modules, and checkpoints."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from resemb_ext._ownership import set_replaced
from resemb_ext.graph import InterestGraph

from .combining import take_over
from .whole_table import WholeTable

if TYPE_CHECKING:
    from typing_extensions import Self


_draws: ContextVar[bool] = ContextVar("draws", default=True)


def draws() -> bool:
    """Whether a new module draws its tables; not where they are about to be copied from a plain one."""
    return _draws.get()


class PlainTables(WholeTable):
    """The part of an embedding over a graph that starts from plain tables, and becomes one."""

    sparse: bool
    out_dtype: torch.dtype | None
    # The class of torch.nn whose place it takes, and the method that starts from such a module.
    _plain_class: ClassVar[type[nn.Embedding | nn.EmbeddingBag]]
    _from_plain_name: ClassVar[str]

    @classmethod
    def _from_plain(
        cls, plain: nn.Embedding | nn.EmbeddingBag, graph: InterestGraph, exact: bool, options: dict[str, Any]
    ) -> Self:
        """A module that starts from the table of a plain one; see ``ResEmbedding.from_embedding``."""
        table = plain.weight.detach()
        if graph.num_items != table.shape[0]:
            raise ValueError(f"graph: {graph.num_items} items; expected {table.shape[0]}, the embedding's rows")
        settings: dict[str, Any] = {
            "padding_idx": plain.padding_idx,
            "sparse": plain.sparse,
            "max_norm": plain.max_norm,
            "scale_grad_by_freq": plain.scale_grad_by_freq,
            "dtype": table.dtype,
            "device": table.device,
        }
        # Drawing numbers that are overwritten would take half of the time, and move the random state.
        drawn = _draws.set(False)
        try:
            module = cls(graph, table.shape[1], **{**settings, **options})
        finally:
            _draws.reset(drawn)
        central, residual = module._tables_of(table, "embedding")
        with torch.no_grad():
            module.central.copy_(central)
            module.residual.copy_(residual)
            if not exact:
                module.residual.zero_()
                if module.keep_padding and module.padding_idx is not None:
                    module.residual[module.padding_idx] = residual[module.padding_idx]
        module.requires_grad_(plain.weight.requires_grad)
        for replaced in plain.parameters(recurse=False):
            set_replaced(replaced, module)
        if type(plain) is not cls._plain_class:
            take_over(module, plain)
        return module.train(plain.training)

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> Self:
        """Not defined: a table alone has no graph.

        Raises:
            TypeError: always; it names the way that takes a graph.
        """
        plain = cls._plain_class.__name__
        raise TypeError(
            f"{cls.__name__}.from_pretrained: a table alone does not define one; use "
            f"{cls.__name__}.{cls._from_plain_name}(nn.{plain}.from_pretrained(table), graph)"
        )

    def to_plain(self, freeze: bool = True) -> nn.Embedding | nn.EmbeddingBag:
        """The plain module with the same vectors: nn.Embedding or nn.EmbeddingBag.

        Args:
            freeze: its weight takes no gradient.
        """
        raise NotImplementedError

    @torch.no_grad()
    def _plain_table(self) -> Tensor:
        """The vectors as lookups give them, in ``out_dtype``."""
        if self.out_dtype in (None, self.central.dtype):
            return self.materialize()
        self._before_read(None)
        out = torch.empty_like(self.central, dtype=self.out_dtype, requires_grad=False)
        for rows in self._blocks():
            out[rows.start : rows.stop] = self._rows(rows, out_dtype=self.out_dtype)
        return out

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
