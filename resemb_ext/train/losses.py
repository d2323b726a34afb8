"""The loss of a batch, or of a rank's share of one."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from resemb_ext.distributed.whole import inner
from resemb_ext.models import TorchBatch
from resemb_ext.models.layers import Dice

from .ranks import ALONE, Ranks


def training_loss(
    model: nn.Module, batch: TorchBatch, rows: int | None = None, ranks: Ranks = ALONE
) -> tuple[Tensor, float]:
    """The loss to go backward from, and the logloss within it; NaN where either is not finite.

    Args:
        model: takes the batch to logits.
        batch: all of it, or this rank's share.
        rows: of the whole batch, where it is shared.
        ranks: that share it. The loss is then such that the mean of its gradients over ranks is that of the whole
            batch's mean, and the logloss this rank's part of that mean.

    Raises:
        ValueError: a shared batch, and a model with an auxiliary loss.
    """
    assert batch.label is not None
    logits = model(batch)
    if ranks.alone:
        loss = F.binary_cross_entropy_with_logits(logits, batch.label)
    else:
        assert rows is not None
        loss = F.binary_cross_entropy_with_logits(logits, batch.label, reduction="sum") / rows
    value = loss.item()
    auxiliary = getattr(inner(model), "auxiliary_loss", None)
    extra = None if auxiliary is None else auxiliary()
    if extra is not None:
        if not ranks.alone:
            raise ValueError(
                f"model: {type(inner(model)).__name__} has an auxiliary loss, a mean over pairs of a whole batch, which "
                "ranks do not share; expected none (of DIEN: auxiliary_weight=0)"
            )
        if not math.isfinite(extra.item()) and math.isfinite(value):
            value = math.nan
        loss = loss + extra
    return loss if ranks.alone else loss * ranks.count, value


def check_shareable(model: nn.Module) -> None:
    """Refuses a model whose results for a sample depend on others of the batch, of which a rank has a share.

    Raises:
        ValueError: it has such a layer, which is named.
    """
    for name, module in inner(model).named_modules():
        if isinstance(module, (Dice, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            raise ValueError(
                f"{name or 'model'}: {type(module).__name__} takes means over the whole batch, of which a rank has a share; "
                "expected another layer, or one process"
            )
