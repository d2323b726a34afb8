"""What a model holds: modules under all their names, registered or not, and what lies in plain attributes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_OF_TORCH = frozenset(vars(nn.Module()))
# Of objects in a module's attributes those of other packages are looked into, as deep as this.
_DEPTH = 6
_OPAQUE = re.compile(
    r"(builtins|torch|numpy|scipy|pandas|polars|pyarrow|logging|threading|_thread|weakref|resemb_ext)\b"
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
                    Place(where, value) for where, value in plain_values(module, path) if isinstance(value, nn.Module)
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
        yield from _values(value, where, seen, _DEPTH)


def _values(value: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (str, bytes, int, float, type(None))):
        return
    inside = contents(value) if depth else None
    if inside is None:
        yield path, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for step, part in inside:
        yield from _values(part, path + step, seen, depth - 1)


def contents(value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a container or of a plain object, with their steps in a path; None of anything else."""
    if isinstance(value, (Tensor, nn.Module, torch.optim.Optimizer, type)):
        return None
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [("{...}", part) for part in value]
    if is_plain_object(value):
        return [(f".{name}", part) for name, part in vars(value).items()]
    return None


def is_plain_object(value: Any) -> bool:
    """Whether a value is an object of the model's own code, which may hold modules or parameters."""
    kind = type(value)
    if isinstance(value, (Tensor, nn.Module, torch.optim.Optimizer, type)) or not hasattr(value, "__dict__"):
        return False
    return kind.__module__ == "types" or (not _OPAQUE.match(kind.__module__) and not callable(value))
