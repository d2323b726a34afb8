"""Options of models: those that a run has for all of them, and those that one has alone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from resemb_ext.models import MODELS

from .options import shortened

# Constructor options that the run has for all models; what else one takes goes by model_options.
SHARED = ("hidden", "attention_hidden", "activation", "dropout")
# What follows from the log and the arm.
_GIVEN = ("item_embedding", "category_embedding", "user_embedding", "context_embeddings", "dense")


def _own_options(model: str) -> dict[str, Any]:
    """Keyword options of a model's constructor that no other model shares, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(MODELS[model]).parameters.items()
        if name not in (*SHARED, *_GIVEN)
    }


def lacking_options(model: str) -> list[str]:
    """Options that the run has for all models and this one's constructor does not take."""
    parameters = inspect.signature(MODELS[model]).parameters
    return [name for name in SHARED if name not in parameters]


def parse_own_options(model: str, texts: Sequence[str]) -> dict[str, Any]:
    """Options of a model given as "NAME=VALUE", VALUE in JSON or plain text.

    Raises:
        ValueError: no "=", an option twice, or one that the model does not have.
        TypeError: a value of another type than the option's default.
    """
    known, found = _own_options(model), {}
    for text in texts:
        name, equals, written = text.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise ValueError(f"model_options must be NAME=VALUE, found {shortened(text)}")
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"model_options: {model} has no option {name!r}; its own: {listed}")
        if name in found:
            raise ValueError(f"model_options: {name} is given twice")
        try:
            value = json.loads(written)
        except (ValueError, RecursionError):
            value = written
        found[name] = _fitting(name, value, known[name])
    return found


def _fitting(name: str, value: Any, default: Any) -> Any:
    if default is None or default is inspect.Parameter.empty:
        return value
    kind = type(default)
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if type(value) is not kind:
        raise TypeError(f"model_options: {name} must be like {default!r}, found {shortened(value)}")
    return value
