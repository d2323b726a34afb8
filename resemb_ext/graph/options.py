"""What a graph is built by: the options, their checks, and how the C++ builder takes them."""

import datetime
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict

import numpy as np

from . import checks

WEIGHTINGS = ("count", "cosine", "jaccard", "ppmi")
_UNIT = 1 << 16  # masses of decayed pairs are whole multiples of 1 / _UNIT
_LARGEST = 2**63 - 1


class BuildOptions(TypedDict, total=False):
    """Options of ``InterestGraph.from_events``, which documents them."""

    window: int
    max_gap: float | datetime.timedelta | np.timedelta64 | None
    session_gap: float | datetime.timedelta | np.timedelta64 | None
    decay: str | float | None
    min_count: int
    weighting: str
    damping: float
    category: Any
    category_edges: int
    category_weight: float
    top_k: int | None
    self_weight: str | float
    directed: bool


@dataclass(frozen=True)
class Options:
    """Checked options; ``of`` makes them, ``meta`` and ``of_meta`` take them to a file and back."""

    window: int = 3
    max_gap: float | None = None
    session_gap: float | None = None
    decay: str | float | None = None
    min_count: int = 1
    weighting: str = "count"
    damping: float = 0.0
    category_edges: int = 0
    category_weight: float = 1.0
    top_k: int | None = 10
    self_weight: str | float = "max"
    directed: bool = False

    @classmethod
    def of(cls, given: dict[str, Any], time_unit: str | None, has_time: bool) -> "Options":
        """Checks the options; ``category`` is checked where the items are known.

        Raises:
            TypeError, ValueError: naming the option, what was found and what is expected.
        """
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known | {"category"}:
                raise TypeError(f"unexpected option {name!r}, expected one of {', '.join(sorted(known))}")
        chosen = {name: value for name, value in given.items() if name in known}
        options = cls(**chosen)
        weighting = options.weighting
        if weighting not in WEIGHTINGS:
            wanted = ", ".join(f'"{name}"' for name in WEIGHTINGS)
            raise ValueError(f"weighting is {weighting!r}, expected one of {wanted}")
        if not isinstance(options.directed, (bool, np.bool_)):
            raise TypeError(f"directed is {options.directed!r}, expected True or False")
        own = checks.self_weight_option(options.self_weight)
        top_k = options.top_k
        checked = cls(
            window=checks.whole_number("window", options.window, 1),
            max_gap=_time_limit("max_gap", options.max_gap, time_unit, has_time),
            session_gap=_time_limit("session_gap", options.session_gap, time_unit, has_time),
            decay=_decay(options.decay),
            min_count=checks.whole_number("min_count", options.min_count, 1),
            weighting=weighting,
            damping=_real("damping", options.damping, 0, 16),
            category_edges=checks.whole_number("category_edges", options.category_edges, 0),
            category_weight=_real("category_weight", options.category_weight, 0, 1e30),
            top_k=None if top_k is None else checks.whole_number("top_k", top_k, 0),
            self_weight="max" if own is None else own,
            directed=bool(options.directed),
        )
        if checked.category_edges and given.get("category") is None:
            raise ValueError(
                f"category_edges is {checked.category_edges} but category is None; give the category of every item"
            )
        return checked

    def meta(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def of_meta(cls, meta: dict[str, Any]) -> "Options":
        """From a graph's meta data; options that an older file lacks have their defaults."""
        return cls(**{f.name: meta[f.name] for f in fields(cls) if f.name in meta})

    def native(
        self, *, num_items: int, events: int, padding: int | None, category: np.ndarray | None
    ) -> dict[str, Any]:
        """The options as ``_builder`` takes them."""
        window, mass = max(min(self.window, events), 1), None
        if self.decay is not None:
            mass = masses(self.decay, window)
            window = max(len(mass), 1)
            mass = mass if len(mass) else np.zeros(1, np.int64)
        unit = 1 if mass is None else _UNIT
        least = 1 if self.decay is None else _least_mass(self.decay, self.window)
        return {
            "num_items": num_items,
            "padding": -1 if padding is None else padding,
            "window": window,
            "mass": mass,
            "unit": unit,
            "min_mass": min(self.min_count * least, _LARGEST),
            "top_k": num_items if self.top_k is None else min(self.top_k, num_items),
            "weighting": self.weighting,
            "damping": self.damping,
            "directed": self.directed,
            "self_weight": None if self.self_weight == "max" else self.self_weight,
            **_limits("gap", self.max_gap),
            **_limits("session", self.session_gap),
            "category_edges": min(self.category_edges, num_items),
            "category_weight": self.category_weight,
            "category": category if self.category_edges else None,
        }


def masses(decay: str | float, window: int) -> np.ndarray:
    """int64: what pairs at distance 1, 2, ... count, in 1 / _UNIT, up to the last that is not 0."""
    # 1 / g rounds to 0 beyond 2 * _UNIT.
    distance = np.arange(1, 1 + (min(window, 2 * _UNIT) if decay == "inverse" else window))
    mass = np.array([_mass(decay, g) for g in distance.tolist()], np.int64)
    return mass[: int(np.count_nonzero(mass))]


def _mass(decay: str | float, distance: int) -> int:
    share = 1 / distance if decay == "inverse" else float(decay) ** (distance - 1)
    return math.floor(_UNIT * share + 0.5)


def _least_mass(decay: str | float, window: int) -> int:
    """The mass at the largest distance within the window whose mass is not 0."""
    low, high = 1, window  # the mass falls with the distance and is _UNIT at 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _mass(decay, middle) else (low, middle - 1)
    return _mass(decay, low)


def categories(values: Any, num_items: int) -> np.ndarray | None:
    """``category`` as int64 [H]."""
    if values is None:
        return None
    array = checks.integers("category", values)
    if len(array) != num_items:
        raise ValueError(f"category has {len(array)} entries, expected {num_items}, one for every item")
    return array


def _limits(name: str, limit: float | None) -> dict[str, float]:
    if limit is None:
        return {f"int_{name}": -1, f"float_{name}": -1.0}
    return {f"int_{name}": int(min(math.floor(limit), _LARGEST)), f"float_{name}": float(limit)}


def _real(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}, expected a number")
    if not low <= float(value) <= high:
        raise ValueError(f"{name} is {value}, expected a number in [{low:g}, {high:g}]")
    return float(value)


def _decay(value: Any) -> str | float | None:
    if value is None or value == "inverse":
        return value
    wanted = 'expected None, "inverse" or a number in (0, 1)'
    if isinstance(value, (str, bool)) or not isinstance(value, (float, int, np.number)):
        raise ValueError(f"decay is {value!r}, {wanted}")
    if not 0 < float(value) < 1:
        raise ValueError(f"decay is {value}, {wanted}")
    return float(value)


def _time_limit(name: str, value: Any, unit: str | None, has_time: bool) -> float | None:
    if value is None:
        return None
    if not has_time:
        raise ValueError(f"{name} is {value!r} but the events have no time")
    if isinstance(value, (datetime.timedelta, np.timedelta64)):
        if unit is None:
            raise TypeError(f"{name} is {value!r}, expected a number as times are numbers")
        tick: Any = np.datetime_data(unit)
        value = float(np.timedelta64(value) / np.timedelta64(1, tick))
    return _real(name, value, 0, 9e18)
