"""The batch that every model takes: targets, and jagged histories as values + offsets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

_OPTIONAL = ("label", "target_category", "history_category", "history_row")


@dataclass(frozen=True)
class TorchBatch:
    """One batch of B samples with N jagged histories of P positions in all.

    Attributes:
        target: int64 [B], id of the item to score.
        history: int64 [P], ids of all histories one after another.
        offsets: int64 [N], where each history starts in ``history`` (as ``nn.EmbeddingBag``
            without the last offset).
        label: float32 [B], 0 or 1; None where only scores are wanted.
        target_category: int64 [B] or None.
        history_category: int64 [P] or None.
        history_row: int64 [B], which history belongs to each sample; None means N = B and
            sample b has history b. Evaluation candidates of one event share their history.
    """

    target: Tensor
    history: Tensor
    offsets: Tensor
    label: Tensor | None = None
    target_category: Tensor | None = None
    history_category: Tensor | None = None
    history_row: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("target", "history", "offsets"):
            value = getattr(self, name)
            if value.dim() != 1:
                raise ValueError(f"{name} must be one-dimensional, found shape {list(value.shape)}")
        rows = self.target.numel()
        if self.history_row is None and self.offsets.numel() != rows:
            raise ValueError(
                f"offsets must have one entry per sample ({rows}), found {self.offsets.numel()}"
            )
        for name, size in (
            ("label", rows),
            ("history_row", rows),
            ("target_category", rows),
            ("history_category", self.history.numel()),
        ):
            value = getattr(self, name)
            if value is not None and list(value.shape) != [size]:
                raise ValueError(f"{name} must have shape [{size}], found {list(value.shape)}")

    def __len__(self) -> int:
        return self.target.numel()

    @classmethod
    def of(cls, batch: Any, device: torch.device | str | None = None) -> TorchBatch:
        """Converts anything with the same attribute names (``rx.data.Batch``) to tensors.

        Args:
            batch: a TorchBatch, or an object whose attributes are NumPy arrays or tensors.
            device: where the tensors go; None leaves them where they are.

        Raises:
            TypeError: an attribute that every batch needs is missing.
        """
        if isinstance(batch, cls):
            return batch if device is None else batch.to(device)
        values: dict[str, Tensor | None] = {}
        for field in fields(cls):
            value = getattr(batch, field.name, None)
            if value is None:
                if field.name not in _OPTIONAL:
                    raise TypeError(
                        f"batch must have target, history and offsets; {type(batch).__name__} "
                        f"has no {field.name}"
                    )
                values[field.name] = None
                continue
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            values[field.name] = tensor if device is None else tensor.to(device)
        return cls(**values)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> TorchBatch:
        """The same batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            f.name: None if (v := getattr(self, f.name)) is None else v.to(device)
            for f in fields(self)
        }
        return TorchBatch(**moved)

    def lengths(self) -> Tensor:
        """Positions in each history: int64 [N]."""
        end = self.offsets.new_full((1,), self.history.numel())
        return torch.diff(self.offsets, append=end)
