"""Old parameters in plain attributes of a model, such as the lists of parameters that a library regularises."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

from .swap import Swap
from .walk import Place, attributes, contents, is_plain_object

_PENALTIES = ("weight", "central", "residual")  # of attention nobody has asked to shrink a_src, a_dst and b


class Holders:
    """Finds and mends places in plain attributes that hold the old parameters of some changes.

    In a sequence the new parameters take the old one's place; a tuple with one parameter, as ("item.weight", p),
    becomes a tuple for each of them. In a mapping each gets a key that ends with its name.

    Attributes:
        mended, left: by the number of a change, paths of what has been (or would be) changed, and of what cannot be.
    """

    def __init__(self, found: list[Place], swaps: list[Swap]) -> None:
        self._swaps = swaps
        self._old = {id(p): (number, name) for number, swap in enumerate(swaps) for name, p in swap.old.items()}
        self._memory = {
            _memory(p): number
            for number, swap in enumerate(swaps)
            for name, p in swap.old.items()
            if name in _PENALTIES and _memory(p)
        }
        self.mended: list[list[str]] = [[] for _ in swaps]
        self.left: list[list[str]] = [[] for _ in swaps]
        self._apply = False
        self._seen: set[int] = set()
        self._modules = list({id(module): (path, module) for path, module in reversed(found)}.values())[::-1]
        self._walk()

    def apply(self) -> None:
        """Changes what can be changed."""
        if any(self.mended):
            self._apply = True
            self._seen.clear()
            self._walk()

    def _walk(self) -> None:
        for path, module in self._modules:
            for name, where, value in list(attributes(module, path)):
                self._set(vars(module), name, self._visit(value, where), value)

    def _set(self, holder: Any, key: Any, new: Any, old: Any) -> None:
        if self._apply and new is not old:
            holder[key] = new

    def _visit(self, value: Any, path: str) -> Any:
        """What takes the place of a value: itself, changed inside, or another one where it cannot be changed."""
        if isinstance(value, Tensor):
            self._leave(value, path)
            return value
        if isinstance(value, (str, bytes, int, float, type(None))) or contents(value) is None:
            return value
        if isinstance(value, tuple):
            if self._alone(value) is not None:
                self._leave(value[self._alone(value)], path)  # type: ignore[index]
                return value
            return self._sequence(value, path)
        if id(value) in self._seen:
            return value
        self._seen.add(id(value))
        if isinstance(value, frozenset):
            return self._sequence(value, path)
        if isinstance(value, (list, deque, set)):
            parts = self._sequence(value, path)
            if self._apply and parts is not value:
                value.clear()
                getattr(value, "update" if isinstance(value, set) else "extend")(parts)
        elif isinstance(value, Mapping):
            self._mapping(value, path)
        elif is_plain_object(value):
            for name, part in list(vars(value).items()):
                self._set(vars(value), name, self._visit(part, f"{path}.{name}"), part)
        return value

    def _sequence(self, value: Any, path: str) -> Any:
        """The value itself, or one of its kind with other parts."""
        steps = contents(value) or []
        parts: list[Any] = []
        for step, part in steps:
            parts += self._parts(part, path + step)
        if len(parts) == len(steps) and all(new is old for new, (_, old) in zip(parts, steps, strict=True)):
            return value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            if len(parts) == len(steps):
                return type(value)(*parts)
            for _, part in steps:
                self._leave(part, path, mended=True)
            return value
        return parts if isinstance(value, deque) else type(value)(parts)

    def _parts(self, part: Any, path: str) -> list[Any]:
        """What takes the place of one part of a sequence."""
        if id(part) in self._old and isinstance(part, Tensor):
            return [new for _, new in self._news(part, path)]
        place = self._alone(part) if isinstance(part, tuple) else None
        if place is None:
            return [self._visit(part, path)]
        old = self._old[id(part[place])][1]
        copies = []
        for name, new in self._news(part[place], path):
            items = [_renamed(item, old, name) for item in part]
            items[place] = new
            copies.append(type(part)(*items) if hasattr(part, "_fields") else tuple(items))
        return copies

    def _alone(self, value: tuple) -> int | None:
        """The place of an old parameter that is the one tensor of a tuple of several parts."""
        tensors = [index for index, part in enumerate(value) if isinstance(part, Tensor)]
        if len(value) > 1 and len(tensors) == 1 and id(value[tensors[0]]) in self._old:
            return None if any(contents(part) is not None for part in value) else tensors[0]
        return None

    def _mapping(self, value: Mapping, path: str) -> None:
        changed: dict[Any, Any] = {}
        for key, part in value.items():
            where = f"{path}[{key!r}]"
            if not (isinstance(part, Tensor) and id(part) in self._old):
                changed[key] = self._visit(part, where)
                continue
            old = self._old[id(part)][1]
            if isinstance(key, str) and isinstance(value, MutableMapping):
                changed.update({_renamed(key, old, name, always=True): new for name, new in self._news(part, where)})
            else:
                self._leave(part, where)
                changed[key] = part
        same = len(changed) == len(value) and all(k in changed and changed[k] is v for k, v in value.items())
        if self._apply and not same and isinstance(value, MutableMapping):
            value.clear()
            value.update(changed)

    def _news(self, old: Tensor, path: str) -> list[tuple[str, nn.Parameter]]:
        """The new parameters that stand for an old one; all of them for the leading one, none for the others."""
        number, name = self._old[id(old)]
        if not self._apply:
            self.mended[number].append(path)
        swap = self._swaps[number]
        if name != next(iter(swap.old)):
            return []
        return [(own, new) for own, new in swap.new.items() if own in _PENALTIES]

    def _leave(self, value: Any, path: str, mended: bool = False) -> None:
        if self._apply or not isinstance(value, Tensor):
            return
        known = self._old.get(id(value))
        number = known[0] if known else self._memory.get(_memory(value))
        if number is None:
            return
        self.left[number].append(path)
        if mended:
            self.mended[number] = [place for place in self.mended[number] if not place.startswith(path)]


def _memory(tensor: Tensor) -> int:
    """Where a tensor's numbers lie; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, or without storage
        return 0


def _renamed(item: Any, old: str, new: str, always: bool = False) -> Any:
    """A parameter's name with its last part changed; anything else as it is."""
    if not isinstance(item, str):
        return item
    if item == old or item.endswith("." + old):
        return item[: len(item) - len(old)] + new
    return f"{item}.{new}" if always else item
