"""Link weights in 16 bits: float16 with round to nearest, where every weight fits."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import blocks, file

_LEAST = 2.0**-24  # the smallest float16 above 0
_MOST = 65504.0


def weights_dtype(value: Any) -> np.dtype:
    """A dtype of weights, given as NumPy or torch have it, or by its name.

    Raises:
        ValueError: neither float32 nor float16.
    """
    name = str(value).removeprefix("torch.")
    try:
        dtype = np.dtype(value if isinstance(value, type) else name)
    except TypeError:
        dtype = np.dtype(object)
    if dtype not in (np.float32, np.float16):
        raise ValueError(f"weights_dtype: found {value!r}; expected float32 or float16")
    return dtype


def rounded(
    arrays: dict[str, np.ndarray], link: str, values: Iterator[tuple[slice, np.ndarray]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Weights in float16, and what meta data tell of them.

    Args:
        arrays: indptr, neighbors and degree of the graph.
        link: its link, which enters the hash.
        values: blocks of the edges in order, with their weights in float32.

    Returns:
        weights: float16 [E].
        rounded: dtype, and the hash that the graph has with weights in float32.

    Raises:
        ValueError: a weight that would become infinite, or 0 without being 0.
    """
    indptr, neighbors = arrays["indptr"], arrays["neighbors"]
    out = np.empty(len(neighbors), np.float16)

    def exact() -> Iterator[np.ndarray]:
        for span, weights in values:
            with np.errstate(over="ignore", under="ignore"):
                out[span] = weights
            wrong = np.isinf(out[span]) | ((out[span] == 0) & (weights != 0))
            if wrong.any():
                at = int(np.argmax(wrong))
                _refuse(indptr, neighbors, span.start + at, float(weights[at]))
            yield weights

    total = file.content_hash({**arrays, "weights": file.Parts(np.dtype("<f4"), len(neighbors), exact())}, link)
    return out, {"dtype": "float16", "hash": total}


def _refuse(indptr: np.ndarray, neighbors: np.ndarray, edge: int, weight: float) -> None:
    row = int(np.searchsorted(indptr, edge, side="right")) - 1
    raise ValueError(
        f"weights: row {row} holds {weight} for item {neighbors[edge]}; expected 0 or a number in [{_LEAST:.1e}, "
        f'{_MOST:.0f}], which float16 can hold: keep weights_dtype="float32", or scale the weights'
    )


def slices(indptr: np.ndarray, weights: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of weights, in float32."""
    for _, span in blocks.of_rows(indptr):
        yield span, weights[span].astype(np.float32, copy=False)
