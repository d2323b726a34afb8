"""Meta data read from a file: what the package uses of them must be what it writes."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import checks
from .counts import KeptCounts
from .options import Options

_JSON = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "an integer", float: "a number"}


def verify(meta: dict[str, Any], num_items: int, counts: KeptCounts | None) -> None:
    """ValueError or TypeError, naming the field, where meta data are not such as a graph has."""
    options = _checked("options", meta.get("options", {}), dict)
    _each("options.", options, _OPTIONS)
    _each("", meta, _FIELDS)
    _each("link.", meta.get("link", {}), _LINK)
    if "rounded" in meta:
        _each("rounded.", {**dict.fromkeys(_ROUNDED), **meta["rounded"]}, _ROUNDED)
    if "shift" in meta:
        _each("shift.", {**dict.fromkeys(_SHIFT), **meta["shift"]}, _SHIFT)
    for field, kept in meta.get("ids", {}).items():
        if kept is not None:
            _each(f"ids.{field}.", {**dict.fromkeys(_RECORD), **_checked(f"ids.{field}", kept, dict)}, _RECORD)
    if counts is None:
        return
    for name in ("events", "event_digest", "time_cut", "time_unit"):
        if name not in meta or (meta[name] is None and name.startswith("event")):
            raise ValueError(f"meta: {name} is missing, which kept counts need")
    stored = {name: value for name, value in options.items() if name not in ("num_items", "padding_idx")}
    Options.of({**stored, "category": counts.category}, meta["time_unit"], True)
    checks.padding_option(options["padding_idx"], num_items)


def _each(place: str, values: dict[str, Any], rules: dict[str, Callable[[str, Any], Any]]) -> None:
    for name, check in rules.items():
        if name in values:
            check(place + name, values[name])


def _checked(name: str, value: Any, *kinds: type, none: bool = False) -> Any:
    fits = none if value is None else isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
    if not fits:
        expected = " or ".join([*(_JSON[kind] for kind in kinds), *(["null"] if none else [])])
        raise TypeError(f"meta: {name} is {value!r:.60}, expected {expected}")
    return value


def _is(*kinds: type, none: bool = False) -> Callable[[str, Any], Any]:
    return lambda name, value: _checked(name, value, *kinds, none=none)


def _count(none: bool = False) -> Callable[[str, Any], Any]:
    return lambda name, value: None if none and value is None else checks.whole_number(f"meta: {name}", value, 0)


def _digest(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value)):
        raise ValueError(f"meta: {name} is {value!r:.60}, expected 32 hex digits")


def _unit(name: str, value: Any) -> None:
    try:
        known = value is None or np.dtype(_checked(name, value, str)).kind == "M"
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"meta: {name} is {value!r:.60}, expected the dtype of dates or null")


def _numbers(name: str, value: Any) -> None:
    for number in _checked(name, value, list):
        _checked(name, number, int, float)


_FIELDS = {
    "events": _count(none=True),
    "time_cut": _is(int, float, none=True),
    "time_unit": _unit,
    "event_digest": _digest,
    "event_hash": _is(str, none=True),
    "sessions": _is(bool),
    "ids": _is(dict),
    "link": _is(dict),
    "shift": _is(dict),
    "rounded": _is(dict),
}
_OPTIONS = {
    "directed": _is(bool, none=True),
    "top_k": _count(none=True),
    "self_weight": lambda name, value: checks.self_weight_option(value),
}
_LINK = {"hops": _count(), "hop_top_k": _count(none=True), "kept_mass": _numbers}
_SHIFT = {"offset": _count(), "num_items": _count()}
_ROUNDED = {"dtype": _is(str), "hash": _is(str)}
_RECORD = {"count": _count(), "first": _count(), "sha256": _is(str)}
