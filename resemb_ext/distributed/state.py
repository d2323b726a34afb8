"""What a rank saves of dealt tables, and loads: its own part, or its rows of whole tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resemb_ext._ownership import ShardedTables

from .batch import Source


class ShardState(ShardedTables):
    """The part of an embedding with dealt tables that is saved and loaded.

    Its state_dict holds this rank's part of each table, and says which: H, the number of ranks, and the rank.
    ``load_state_dict`` takes that, or a state with whole tables [H, D], as one process saves them.
    """

    _source: Source

    def get_extra_state(self) -> Tensor:
        """int64 [3]: H, the number of ranks, and the rank."""
        deal = self._source.deal
        return torch.tensor([deal.items, deal.ranks, deal.rank])

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: it was compared before the tables were loaded."""

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._before_read()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._before_read()
        local_metadata, strict, missing_keys, unexpected_keys, error_msgs = args
        deal, name = self._source.deal, f"{prefix}_extra_state"
        part = state_dict.get(name)
        fits = isinstance(part, Tensor) and part.tolist() == self.get_extra_state().tolist()
        for key, table in self._parameters.items():
            value = state_dict.get(prefix + key)
            if table is None or not isinstance(value, Tensor):
                continue
            if value.shape == (deal.items, *table.shape[1:]):
                state_dict[prefix + key] = deal.own(value)
            elif value.shape == table.shape and not fits:
                error_msgs.append(
                    f"{prefix + key}: holds the rows of another rank or of another number of ranks; expected those of "
                    f"rank {deal.rank} of {deal.ranks}, or the whole table [{deal.items}, {table.shape[1]}]"
                )
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        # Files may hold the tables alone.
        missing_keys += [key for key in missing if key != name]
