"""Models by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from .dien import DIEN
from .din import DIN
from .dnn import DNN
from .fields import CTRModel
from .fm import FM, DeepFM
from .pnn import PNN
from .wide_deep import WideDeep

#: Models by the name that the command line and configurations use.
MODELS: Mapping[str, type[CTRModel]] = MappingProxyType(
    {
        "dnn": DNN,
        "din": DIN,
        "fm": FM,
        "wide_deep": WideDeep,
        "deepfm": DeepFM,
        "pnn": PNN,
        "dien": DIEN,
    }
)


def make_model(name: str, item_embedding: nn.Module, **options: Any) -> CTRModel:
    """The model called ``name``, with those of ``options`` that it has.

    One set of options serves every model: each takes what its constructor names (an FM has no
    hidden layers, only DIN and DIEN have attention).

    Args:
        name: a key of :data:`MODELS`.
        item_embedding: any module from ids to vectors.
        options: by the names of the constructors' arguments.

    Raises:
        ValueError: the name is unknown, or no model has an option of that name.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, found {name!r}")
    known = {option for cls in MODELS.values() for option in _options(cls)}
    for option in options:
        if option not in known:
            raise ValueError(f"{option}: no model has such an option")
    accepted = _options(MODELS[name])
    return MODELS[name](item_embedding, **{k: v for k, v in options.items() if k in accepted})


def _options(cls: type[CTRModel]) -> set[str]:
    return set(inspect.signature(cls).parameters) - {"item_embedding"}
