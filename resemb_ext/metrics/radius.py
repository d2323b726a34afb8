"""The aggregation radius: how tightly the embeddings of a domain's items lie together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_BLOCK = 8_000_000  # entries of a dense work array


@dataclass(frozen=True)
class AggregationRadius:
    """Radii of domains, against the distances between them.

    Attributes:
        mean, p95, max: of the domains' radii; a domain's radius is the mean distance of its items
            to their mean.
        separation: mean distance between the centres of two domains.
        ratio: mean / separation.
        permuted_ratio: mean of that ratio over random assignments with the same domain sizes.
        normalised: ratio / permuted_ratio, the headline: 1 means that domains say nothing about
            the embeddings, less that they are gathered.
        domains, items: how many were used.
        permutations, min_items: as given.
        domain_source: where the domains come from.
    """

    mean: float
    p95: float
    max: float
    separation: float
    ratio: float
    permuted_ratio: float
    normalised: float
    domains: int
    items: int
    permutations: int
    min_items: int
    domain_source: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


def aggregation_radius(
    embeddings: Any,
    domain: Any,
    *,
    seen: Any = None,
    min_items: int = 5,
    permutations: int = 20,
    seed: int = 0,
    domain_source: str = "given",
) -> AggregationRadius:
    """Aggregation radius of item embeddings (after Zhou et al. 2019, arXiv 1906.10304).

    Only items with a training event count, and domains with at least ``min_items`` of them. With
    fewer than two such domains the distances between domains are NaN, with none all figures are.

    Args:
        embeddings: floats [H, D].
        domain: integers [H]; negative where an item has no domain.
        seen: training events of each item [H], numbers or booleans; None counts all items.
        min_items: items that a domain must have.
        permutations: random assignments behind ``normalised``.
        seed: of the random assignments.
        domain_source: recorded in the result ("category", "simulated truth", ...).

    Raises:
        ValueError: shapes that do not fit, a NaN or infinite embedding of an item that counts, or
            a number out of range.
        TypeError: domains that are not integers.
    """
    table = np.asarray(embeddings)
    groups = np.asarray(domain)
    if table.ndim != 2:
        raise ValueError(f"embeddings must be [H, D], got shape {table.shape}")
    if groups.shape != table.shape[:1]:
        raise ValueError(f"domain must have shape {table.shape[:1]}, got {groups.shape}")
    if groups.dtype.kind not in "iu":
        raise TypeError(f"domain must be integers, got dtype {groups.dtype}")
    if min_items < 1 or permutations < 1:
        raise ValueError(f"min_items and permutations must be at least 1, got {min_items} and {permutations}")
    usable = groups >= 0
    if seen is not None:
        counts = np.asarray(seen)
        if counts.shape != groups.shape:
            raise ValueError(f"seen must have shape {groups.shape}, got {counts.shape}")
        usable &= counts > 0

    rows = np.flatnonzero(usable)
    _, code = np.unique(groups[rows], return_inverse=True)
    large = np.bincount(code)[code] >= min_items if len(rows) else np.zeros(0, dtype=bool)
    rows = rows[large]
    _, code = np.unique(groups[rows], return_inverse=True)
    points = table[rows].astype(np.float64)
    if not np.isfinite(points).all():
        bad = rows[np.flatnonzero(~np.isfinite(points).all(axis=1))[0]]
        raise ValueError(f"embedding of item {bad} is not finite")

    nan = float("nan")
    radii, separation = np.array([nan]), nan
    permuted = nan
    if len(rows):
        points -= points.mean(axis=0)
        # Sorted by domain, so that every sum is over a contiguous run.
        points = points[np.argsort(code, kind="stable")]
        first = np.concatenate(([0], np.cumsum(np.bincount(code))[:-1]))
        radii, separation = _radii(points, first)
        if len(first) > 1:
            rng = np.random.default_rng([6, seed])
            ratios = []
            for _ in range(permutations):
                other, apart = _radii(points[rng.permutation(len(points))], first)
                ratios.append(_divide(float(other.mean()), apart))
            permuted = float(np.mean(ratios))
    ratio = _divide(float(radii.mean()), separation)
    return AggregationRadius(
        mean=float(radii.mean()),
        p95=float(np.quantile(radii, 0.95)),
        max=float(radii.max()),
        separation=separation,
        ratio=ratio,
        permuted_ratio=permuted,
        normalised=_divide(ratio, permuted),
        domains=len(np.unique(code)),
        items=len(rows),
        permutations=permutations,
        min_items=min_items,
        domain_source=domain_source,
    )


def _divide(a: float, b: float) -> float:
    return a / b if b else float("nan")


def _radii(points: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, float]:
    """Radius of each run of ``points`` that starts at ``first``, and the centres' mean distance."""
    sizes = np.diff(np.append(first, len(points)))
    centres = np.add.reduceat(points, first, axis=0) / sizes[:, None]
    distance = np.linalg.norm(points - np.repeat(centres, sizes, axis=0), axis=1)
    return np.add.reduceat(distance, first) / sizes, _mean_distance(centres)


def _mean_distance(centres: np.ndarray) -> float:
    """Mean distance of two different rows; NaN for fewer than two."""
    n = len(centres)
    if n < 2:
        return float("nan")
    squares = (centres**2).sum(axis=1)
    total = 0.0
    step = max(1, _BLOCK // n)
    for low in range(0, n, step):
        block = slice(low, low + step)
        gram = squares[block, None] + squares - 2 * (centres[block] @ centres.T)
        np.fill_diagonal(gram[:, low : low + step], 0)
        total += float(np.sqrt(np.maximum(gram, 0)).sum())
    return total / (n * (n - 1))
