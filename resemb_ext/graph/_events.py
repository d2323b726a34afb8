"""From arrays of events to the C++ builder: checks, defaults, progress."""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from . import _checks

try:
    from . import _builder  # type: ignore[attr-defined]
except ImportError as error:
    raise ImportError(
        "resemb_ext.graph._builder is not built for this Python; install the package"
        " (`pip install .`, or `pip install -e .` to work in the checkout)"
    ) from error

Call = Callable[[int, int], object]
Progress = Call | bool | None

# Inferring more rows than this from few events would allocate gigabytes for raw, unmapped ids.
SPARSE_IDS = 10**8


class Built(NamedTuple):
    """What the builder hands back, and the meta data of the graph."""

    indptr: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray
    degree: np.ndarray
    meta: dict[str, Any]


def build(
    user: Any,
    item: Any,
    time: Any,
    *,
    num_items: int | None,
    window: int,
    top_k: int | None,
    min_count: int,
    weighting: str,
    self_weight: str | float,
    directed: bool,
    padding_idx: int | None,
    threads: int | None,
    progress: Progress,
    event_hash: str | None = None,
) -> Built:
    """The arrays and meta data of `InterestGraph.from_events`, which documents the arguments."""
    users, items = _checks.integers("user", user), _checks.integers("item", item)
    times = None if time is None else _times(time)
    for name, array in (("user", users), ("time", times)):
        if array is not None and len(array) != len(items):
            raise ValueError(f"{name} has {len(array)} entries, expected {len(items)}, as item has")
    num_items = _num_items(num_items, items, padding_idx)
    padding = _checks.padding_option(padding_idx, num_items)
    window = _checks.whole_number("window", window, 1)
    keep = num_items if top_k is None else _checks.whole_number("top_k", top_k, 0)
    min_count = _checks.whole_number("min_count", min_count, 1)
    if weighting not in ("count", "cosine"):
        raise ValueError(f'weighting is {weighting!r}, expected "count" or "cosine"')
    own = _checks.self_weight_option(self_weight)
    if not isinstance(directed, (bool, np.bool_)):
        raise TypeError(f"directed is {directed!r}, expected True or False")
    workers = _threads(threads)
    with _progress_call(progress) as report:
        arrays = _builder.build(
            users,
            items,
            times,
            num_items=num_items,
            window=min(window, max(len(items), 1)),
            top_k=min(keep, num_items),
            min_count=min(min_count, 2**63 - 1),
            cosine=weighting == "cosine",
            self_weight=own,
            directed=bool(directed),
            padding=-1 if padding is None else padding,
            threads=workers,
            progress=report,
        )
    indptr, neighbors, weights, degree = arrays
    options = {
        "num_items": num_items,
        "window": window,
        "top_k": None if top_k is None else keep,
        "min_count": min_count,
        "weighting": weighting,
        "self_weight": "max" if own is None else own,
        "directed": bool(directed),
        "padding_idx": padding,
    }
    meta = {
        "version": 1,
        "source": "events",
        "options": options,
        "events": len(items),
        "time_cut": None if times is None or not len(times) else times.max().item(),
        "event_hash": event_hash or hash_events(users, items, times),
    }
    neighbors = neighbors.astype(_checks.neighbor_dtype(num_items), copy=False)
    return Built(indptr, neighbors, weights, degree, meta)


def hash_events(user: np.ndarray, item: np.ndarray, time: np.ndarray | None) -> str:
    """Hex sha256 of the events as given: their number, then user, item and time."""
    digest = hashlib.sha256(f"resemb-events-1:{len(item)}:{time is not None}".encode())
    for array in (user, item, time):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _num_items(num_items: int | None, items: np.ndarray, padding_idx: int | None) -> int:
    if num_items is not None:
        return _checks.whole_number("num_items", num_items, 1, 2**62)
    if not len(items):
        raise ValueError("num_items is None and there are no events; give num_items")
    largest = int(items.max())
    if padding_idx is not None:
        largest = max(largest, _checks.whole_number("padding_idx", padding_idx, 0))
    if largest >= max(SPARSE_IDS, 100 * len(items)):
        raise ValueError(
            f"item[{int(items.argmax())}] is {largest}, far beyond the {len(items)} events; map ids"
            " to 0..n-1 (resemb_ext.data.read_log does) or give num_items"
        )
    return max(largest + 1, 1)


def _times(time: Any) -> np.ndarray:
    """int64 or float64 times; dates become their int64 ticks."""
    array = _checks.vector("time", time)
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        if missing.any():
            raise ValueError(f"time[{int(np.argmax(missing))}] is NaT, expected a time")
        return np.ascontiguousarray(array).view(np.int64)
    if array.size == 0 or array.dtype.kind in "iu":
        return _checks.integers("time", array)
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype=np.float64)
    raise TypeError(f"time has dtype {array.dtype}, expected integers, floats or datetime64")


def _threads(threads: int | None) -> int:
    if threads is not None:
        return _checks.whole_number("threads", threads, 1, 4096)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Bar:
    """A tqdm bar as a progress callback; silent where stderr is no terminal."""

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm

        self.bar = tqdm(desc="graph", total=1, unit=" steps", unit_scale=True, disable=None)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)


def _progress_call(progress: Progress) -> AbstractContextManager[Call | None]:
    if progress is None or progress is False:
        return nullcontext(None)
    if progress is True:
        return _Bar()
    if not callable(progress):
        raise TypeError(f"progress is {progress!r}, expected a callable(done, total), True or None")
    return nullcontext(progress)
