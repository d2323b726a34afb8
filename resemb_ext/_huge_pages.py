"""Large tables on huge pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resemb_ext._loader import _C


def empty_table(size: Sequence[int], **options: Any) -> Tensor:
    """torch.empty, on huge pages where it lies on the CPU and the system grants them.

    A lookup reads rows at random: on pages of 4 KiB a table of some hundred megabytes costs a page walk
    for nearly every row. Linux grants the request where transparent huge pages are "madvise" or
    "always"; elsewhere, and where malloc reuses memory that was touched before, the tensor is as torch
    made it.

    Args:
        size: shape.
        **options: of torch.empty (dtype, device).
    """
    return on_huge_pages(torch.empty(size, **options))


def on_huge_pages(table: Tensor) -> Tensor:
    """The same contiguous tensor, on huge pages where it lies on the CPU and the system grants them."""
    # Fake and meta tensors, as of torch.compile and torch.device("meta"), have no memory.
    if type(table) is Tensor and table.device.type == "cpu":
        _C.advise_huge_pages(table.data_ptr(), table.nbytes)
    return table
