"""What a model holds: modules under all their names, registered or not, and what lies in plain attributes."""

from __future__ import annotations

import re
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_OF_TORCH = frozenset(vars(nn.Module()))
ATOMS = frozenset({int, float, str, bytes, bool, type(None)})
SEQUENCES = (list, tuple, deque, set, frozenset)
# Of objects in a module's attributes those of other packages are looked into, as deep as this.
DEPTH = 6
_OPAQUE = re.compile(
    r"(builtins|torch|numpy|scipy|pandas|polars|pyarrow|duckdb|pyspark|logging|threading|_thread|weakref|resemb_ext|"
    r"lightning|lightning_fabric|pytorch_lightning|accelerate|transformers|torchmetrics)\b"
)


class Place(NamedTuple):
    """A module under one of its names."""

    path: str
    module: nn.Module


def join(path: str, name: str) -> str:
    """A dotted path."""
    return f"{path}.{name}" if path else name


def places(model: nn.Module) -> list[Place]:
    """Every module of a model under each of its names, the model itself under "".

    Modules that are not registered, as those in a plain list, have names such as "tables[0].item". One that has
    been found already is not looked into again there.
    """
    found: list[Place] = []
    seen: set[int] = set()
    waiting = deque([Place("", model)])
    while waiting:
        start = waiting.popleft()
        if id(start.module) in seen:
            found.append(start)
            continue
        inside = list(_registered(start, ()))
        found.extend(inside)
        for path, module in inside:
            if id(module) not in seen:
                seen.add(id(module))
                waiting.extend(
                    Place(where, value)
                    for where, value in plain_values(module, path)
                    if issubclass(type(value), nn.Module)
                )
    return found


def _registered(place: Place, above: tuple[int, ...]) -> Iterator[Place]:
    """As named_modules(remove_duplicate=False), which does not end where a module contains itself."""
    if id(place.module) in above:
        return
    yield place
    for name, child in place.module._modules.items():
        if child is not None:
            yield from _registered(Place(join(place.path, name), child), (*above, id(place.module)))


def attributes(module: nn.Module, path: str) -> Iterator[tuple[str, str, Any]]:
    """Name, path and value of a module's plain attributes."""
    for name, value in vars(module).items():
        if name not in _OF_TORCH:
            yield name, join(path, name), value


def plain_values(module: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """Paths and values of what is no container, in a module's plain attributes and the containers there."""
    seen: set[int] = set()
    for _, where, value in attributes(module, path):
        yield from _values(value, where, seen, DEPTH)


def _values(value: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    inside = contents(value) if depth else None
    if inside is None:
        yield path, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for key, part in inside:
        if type(part) not in ATOMS:
            yield from _values(part, path + step(value, key), seen, depth - 1)


def contents(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Keys and parts of a container of Python, or of a plain object; None of anything else.

    Mappings of other kinds may compute or fetch what they are asked for.
    """
    if type(value) in weakref.ProxyTypes:
        return None
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, SEQUENCES):
        return enumerate(value)
    return vars(value).items() if is_plain_object(value) else None


def step(value: Any, key: Any) -> str:
    """From a container's path to that of the part under a key of ``contents``."""
    if isinstance(value, dict):
        return f"[{key!r}]"
    if isinstance(value, (set, frozenset)):
        return "{...}"
    return f"[{key}]" if isinstance(value, SEQUENCES) else f".{key}"


def is_plain_object(value: Any) -> bool:
    """Whether a value is an object of the model's own code, which may hold modules or parameters."""
    kind = type(value)
    if isinstance(value, (Tensor, nn.Module, torch.optim.Optimizer, type)) or not hasattr(value, "__dict__"):
        return False
    return kind.__module__ == "types" or (not _OPAQUE.match(kind.__module__) and not callable(value))
