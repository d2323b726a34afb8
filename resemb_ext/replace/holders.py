"""Old parameters in plain attributes of a model, such as the lists of parameters that a library regularises."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from torch import Tensor, nn

from .swap import Swap
from .walk import ATOMS, DEPTH, SEQUENCES, Place, attributes, contents, step

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
        self._old = {
            id(p): (number, name) for number, swap in reversed(list(enumerate(swaps))) for name, p in swap.old.items()
        }
        self._memory = {
            _memory(p): number
            for number, swap in enumerate(swaps)
            for name, p in swap.old.items()
            if name in _PENALTIES and _memory(p)
        }
        self.mended: list[list[str]] = [[] for _ in swaps]
        self.left: list[list[str]] = [[] for _ in swaps]
        self._apply = False
        self._depth = 0
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
        if type(value) in ATOMS or self._depth == DEPTH or contents(value) is None:
            return value
        self._depth += 1
        new = self._inside(value, path)
        self._depth -= 1
        return new

    def _inside(self, value: Any, path: str) -> Any:
        """As ``_visit``, of a container or plain object."""
        if isinstance(value, tuple):
            place = self._alone(value)
            if place is None:
                return self._sequence(value, path)
            self._leave(value[place], path)
            return value
        if id(value) in self._seen:
            return value
        self._seen.add(id(value))
        if isinstance(value, dict):
            self._mapping(value, path)
        elif isinstance(value, SEQUENCES):
            parts = self._sequence(value, path)
            if isinstance(value, frozenset):
                return parts
            if self._apply and parts is not value:
                _refill(value, parts)
        else:
            for name, part in list(vars(value).items()):
                self._set(vars(value), name, self._visit(part, path + step(value, name)), part)
        return value

    def _sequence(self, value: Any, path: str) -> Any:
        """The value itself, or one of its kind with other parts."""
        parts: list[Any] = []
        same = True
        for key, part in enumerate(value):
            news = (part,) if type(part) in ATOMS else self._parts(part, path + step(value, key))
            same = same and len(news) == 1 and news[0] is part
            parts.extend(news)
        if same:
            return value
        if type(value) in (tuple, frozenset):
            return type(value)(parts)
        if not isinstance(value, (tuple, frozenset)):
            return parts
        if isinstance(value, tuple) and hasattr(value, "_fields") and len(parts) == len(value):
            return tuple.__new__(type(value), parts)
        for part in value:
            self._leave(part, path, mended=True)
        return value

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
            copies.append(tuple.__new__(type(part), items))
        return copies

    def _alone(self, value: tuple) -> int | None:
        """The place of an old parameter that is the one tensor of a tuple of several parts."""
        tensors = [index for index, part in enumerate(value) if isinstance(part, Tensor)]
        if len(value) > 1 and len(tensors) == 1 and id(value[tensors[0]]) in self._old:
            return tensors[0] if all(type(part) in ATOMS or contents(part) is None for part in value) else None
        return None

    def _mapping(self, value: dict[Any, Any], path: str) -> None:
        changed: dict[Any, Any] = {}
        for key, part in value.items():
            if type(part) in ATOMS:
                changed[key] = part
                continue
            where = path + step(value, key)
            if not (isinstance(part, Tensor) and id(part) in self._old):
                changed[key] = self._visit(part, where)
                continue
            old = self._old[id(part)][1]
            if isinstance(key, str):
                changed.update({_renamed(key, old, name, always=True): new for name, new in self._news(part, where)})
            else:
                self._leave(part, where)
                changed[key] = part
        same = len(changed) == len(value) and all(k in changed and changed[k] is v for k, v in value.items())
        if self._apply and not same:
            kind = OrderedDict if isinstance(value, OrderedDict) else dict
            kind.clear(value)
            for key, part in changed.items():
                kind.__setitem__(value, key, part)

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


def _refill(value: Any, parts: Any) -> None:
    """Changes a container by the methods of Python's own class, which cannot fail."""
    kind: Any = next(kind for kind in (list, deque, set) if isinstance(value, kind))
    kind.clear(value)
    (set.update if kind is set else kind.extend)(value, parts)


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
