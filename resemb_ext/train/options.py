"""Typed, documented options: one frozen dataclass serves the API, config files and flags."""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

# Counts and sizes are kept in 32 bits here and there, and more than that of anything fits no machine.
_MOST = 2**31 - 1


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 256 else f"an integer of {x.bit_length()} bits"


_SHORT = _Short()


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    free: bool = False,
) -> Any:
    """A dataclass field with its help text and its limits.

    Args:
        default: value where none is given.
        help: one line for ``--help`` and the documentation.
        choices: the allowed strings.
        low, high: inclusive limits of a number, or of each number of a tuple. An integer is at most
            2^31 - 1 where no other limit is given.
        above, below: exclusive limits.
        free: it does not change the result by itself, so a run that is resumed may change it; of files, what they
            hold is compared.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "free": free,
    }
    return dataclasses.field(default=default, metadata=metadata)


def shortened(value: Any) -> str:
    """``value`` for a message; long, large and deeply nested ones are cut."""
    return _SHORT.repr(value)


def free_options(cls: type) -> set[str]:
    """Names of the options that a resumed run may change."""
    return {field.name for field in dataclasses.fields(cls) if field.metadata["free"]}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)  # evaluates those of every field, so once for all of them


def type_of(cls: type, name: str) -> tuple[Any, bool, bool]:
    """Element type, whether a tuple, whether None is allowed, for a field's annotation."""
    hint = _hints(cls)[name]
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        optional = len(parts) < len(typing.get_args(hint))
        hint = parts[0]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True, optional
    return hint, False, optional


def check(instance: Any) -> None:
    """Checks every option's type and limits, converting int to float and list to tuple.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is outside its choices or limits.
    """
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        element, many, optional = type_of(type(instance), field.name)
        if value is None:
            if not optional:
                raise TypeError(f"{field.name} must be {_describe(element, many)}, found None")
            continue
        if many:
            if element is not str and isinstance(value, (int, float)):
                value = (value,)  # one number stands for a tuple of one
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise TypeError(f"{field.name} must be {_describe(element, many)}, found {shortened(value)}")
            value = tuple(_element(field.name, v, element, many) for v in value)
        else:
            value = _element(field.name, value, element, many)
        for item in value if many else (value,):
            _limits(field, item)
        object.__setattr__(instance, field.name, value)


def _describe(element: type, many: bool) -> str:
    words = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    return f"a list, each {words[element]}" if many else words[element]


def _element(name: str, value: Any, element: type, many: bool) -> Any:
    if element is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be finite, found {shortened(value)}") from None
    right = isinstance(value, element) and not (element is int and isinstance(value, bool))
    if not right:
        raise TypeError(f"{name} must be {_describe(element, many)}, found {shortened(value)}")
    return value


def _limits(field: dataclasses.Field[Any], value: Any) -> None:
    limits: Mapping[str, Any] = field.metadata
    choices = limits.get("choices")
    if choices is not None and value not in choices:
        raise ValueError(f"{field.name} must be one of {', '.join(choices)}; found {shortened(value)}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{field.name} must be finite, found {shortened(value)}")
    for key, words, wrong in (
        ("low", "at least", lambda limit: value < limit),
        ("high", "at most", lambda limit: value > limit),
        ("above", "above", lambda limit: value <= limit),
        ("below", "below", lambda limit: value >= limit),
    ):
        limit = limits.get(key)
        if key == "high" and limit is None and isinstance(value, int):
            limit = _MOST
        if limit is not None and wrong(limit):
            raise ValueError(f"{field.name} must be {words} {limit}, found {shortened(value)}")


def from_mapping(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping with every key checked to be an option of ``cls`` (``-`` reads as ``_``).

    Raises:
        ValueError: a key is unknown; the message names it, ``where`` and the nearest option.
    """
    import difflib

    names = [field.name for field in dataclasses.fields(cls)]
    known = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names)}"
            raise ValueError(f"unknown option {key!r} in {where}{hint}")
        known[name] = value
    return known
