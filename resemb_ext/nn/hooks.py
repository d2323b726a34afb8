"""Hooks on reads of a ResEmbedding's tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ReadHook = Callable[[Tensor, Callable[[], Tensor] | None], None]


class ReadHooks(nn.Module):
    """The part of ResEmbedding that tells optimizers which rows are about to be read."""

    central: nn.Parameter
    residual: nn.Parameter
    num_embeddings: int
    _indptr: Tensor
    _neighbors: Tensor
    _read_hooks: list[ReadHook]

    def register_read_hook(self, hook: ReadHook) -> None:
        """Calls a function before rows of C or R are read: for optimizers that leave work pending.

        Args:
            hook: takes the table and a function that gives the rows about to be read (int64, ascending,
                distinct), or None where all are.
        """
        self._read_hooks.append(hook)

    def _before_read(self, ids: Tensor | None) -> None:
        if not self._read_hooks:
            return

        @functools.cache
        def rows() -> Tensor:
            return torch.ops.resemb_ext.distinct_items(ids, self.num_embeddings)

        def columns() -> Tensor:
            return torch.ops.resemb_ext.distinct_neighbors(rows(), self._indptr, self._neighbors)

        for hook in self._read_hooks:
            hook(self.residual, None if ids is None else rows)
            hook(self.central, None if ids is None else columns)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._before_read(None)
        super()._save_to_state_dict(*args, **kwargs)
