"""The batch that every model takes: targets, histories (jagged or padded), further fields."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TorchBatch:
    """One batch of B samples with N histories, jagged or padded.

    Jagged histories are ``history`` [P] with ``offsets`` [N]. Padded ones are ``history`` [N, L]
    without offsets, filled up anywhere with the item embedding's ``padding_idx``: they have static
    shapes, to compile or export. "As history" below is [P] or [N, L].

    Attributes:
        target: int64 [B], id of the item to score.
        history: int64 [P], ids of all histories one after another, oldest event first; or [N, L].
        offsets: int64 [N], where each history starts in ``history`` (as ``nn.EmbeddingBag``
            without the last offset); None for padded histories.
        label: float32 [B], 0 or 1; None where only scores are wanted.
        target_category: int64 [B] or None.
        history_category: int64 as history, or None.
        history_row: int64 [B], which history belongs to each sample; None means N = B and
            sample b has history b. Evaluation candidates of one event share their history.
        user: int64 [B] or None.
        context: int64 [B, C], ids of C categorical context features, or None.
        dense: float32 [B, F], F numbers per sample, or None.
        history_negative: int64 as history, for each history position an item that was not
            chosen there (for DIEN's auxiliary loss), or None.
        history_negative_category: int64 as history, the categories of those, or None.
    """

    target: Tensor
    history: Tensor
    offsets: Tensor | None = None
    label: Tensor | None = None
    target_category: Tensor | None = None
    history_category: Tensor | None = None
    history_row: Tensor | None = None
    user: Tensor | None = None
    context: Tensor | None = None
    dense: Tensor | None = None
    history_negative: Tensor | None = None
    history_negative_category: Tensor | None = None

    def __post_init__(self) -> None:
        if self.target.dim() != 1:
            raise ValueError(f"target must be one-dimensional, found shape {list(self.target.shape)}")
        if self.history.dim() not in (1, 2):
            raise ValueError(
                "history must be one-dimensional with offsets or [histories, length], found shape "
                f"{list(self.history.shape)}"
            )
        if self.padded != (self.offsets is None):
            raise ValueError(
                "offsets must come with a one-dimensional history and with no other, found "
                f"history of shape {list(self.history.shape)} and offsets "
                + ("None" if self.offsets is None else f"of shape {list(self.offsets.shape)}")
            )
        if self.offsets is not None and self.offsets.dim() != 1:
            raise ValueError(f"offsets must be one-dimensional, found shape {list(self.offsets.shape)}")
        samples = self.target.shape[0]
        if self.history_row is None and self.histories != samples:
            name = "history" if self.offsets is None else "offsets"
            raise ValueError(f"{name} must have one entry per sample ({samples}), found {self.histories}")
        events = list(self.history.shape)
        for name, shape in (
            ("label", [samples]),
            ("history_row", [samples]),
            ("target_category", [samples]),
            ("history_category", events),
            ("user", [samples]),
            ("history_negative", events),
            ("history_negative_category", events),
        ):
            value = getattr(self, name)
            if value is not None and list(value.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, found {list(value.shape)}")
        for name in ("context", "dense"):
            value = getattr(self, name)
            if value is not None and (value.dim() != 2 or value.shape[0] != samples):
                raise ValueError(f"{name} must have shape [{samples}, features], found {list(value.shape)}")

    def __len__(self) -> int:
        return self.target.shape[0]

    @property
    def padded(self) -> bool:
        """Whether histories are rows of one array, filled up with padding."""
        return self.history.dim() == 2

    @property
    def histories(self) -> int:
        """N."""
        return (self.history if self.offsets is None else self.offsets).shape[0]

    @classmethod
    def of(cls, batch: Any, device: torch.device | str | None = None) -> TorchBatch:
        """Converts anything with the same attribute names (``rx.data.Batch``) to tensors.

        Args:
            batch: a TorchBatch, or an object whose attributes are NumPy arrays or tensors.
            device: where the tensors go; None leaves them where they are.

        Raises:
            TypeError: target or history is missing.
        """
        if isinstance(batch, cls):
            return batch if device is None else batch.to(device)
        values: dict[str, Tensor | None] = {}
        for field in fields(cls):
            value = getattr(batch, field.name, None)
            if value is None:
                if field.default is MISSING:
                    raise TypeError(f"batch must have target and history; {type(batch).__name__} has no {field.name}")
                values[field.name] = None
                continue
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            values[field.name] = tensor if device is None else tensor.to(device)
        return cls(**values)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> TorchBatch:
        """The same batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            f.name: None if (v := getattr(self, f.name)) is None else v.to(device) for f in fields(self)
        }
        return TorchBatch(**moved)

    def lengths(self) -> Tensor:
        """Positions in each history, padding included: int64 [N]."""
        if self.offsets is None:
            return self.target.new_full((self.histories,), self.history.shape[1])
        end = self.offsets.new_full((1,), self.history.numel())
        return torch.diff(self.offsets, append=end)
