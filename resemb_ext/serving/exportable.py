"""Which models can be exported: those that need a target and a history of items, and their categories."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from resemb_ext.models import CTRModel
from resemb_ext.nn import ResEmbeddingBase

PADDING = 0  # of item numbers, the one that is no event


def refuse_fields(model: CTRModel, *, has_categories: bool) -> None:
    """Refuses a model that needs more than a target and a history of items, with their categories.

    Raises:
        ValueError: the fields are named; or the item embedding has another padding than 0.
    """
    missing = [
        name
        for name, needed in (
            ("user", model.user_embedding is not None),
            ("context", len(model.context_embeddings) > 0),
            ("dense", model.dense > 0),
            ("category", model.category_embedding is not None and not has_categories),
        )
        if needed
    ]
    if missing:
        raise ValueError(
            f"model: cannot be exported, since it takes {', '.join(missing)}; an export scores "
            "a target and a history of items, with their categories where those are known"
        )
    if model.padding_idx != PADDING:
        raise ValueError(
            f"model: its item embedding must have padding_idx {PADDING} to be exported, found {model.padding_idx}"
        )


def refuse_not_finite(model: nn.Module) -> None:
    """Raises ValueError where a weight of a model is NaN or infinite; it is named."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise ValueError(f"model: {name} holds values that are not finite")


def fold(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which every ``ResEmbedding`` or bag is the plain table that it amounts to."""
    memo = {id(m): m.to_plain() for m in model.modules() if isinstance(m, ResEmbeddingBase)}
    return copy.deepcopy(model, memo)  # type: ignore[arg-type]
