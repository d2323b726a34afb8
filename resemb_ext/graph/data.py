"""What an interest graph holds: CSR arrays, the link of their weights, meta data and kept counts."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .counts import KeptCounts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ARRAYS = ("indptr", "neighbors", "weights", "degree")


@dataclass(frozen=True, eq=False, repr=False)
class GraphData:
    """The content of an ``InterestGraph``, which documents the attributes. The arrays are read-only."""

    indptr: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray
    degree: np.ndarray
    link: str = "raw"
    meta: dict[str, Any] = field(default_factory=dict)
    counts: KeptCounts | None = None

    def __post_init__(self) -> None:
        for name in ARRAYS:
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of pickles, whose arrays may be written."""
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def num_items(self) -> int:
        """H, the number of rows."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """E, the number of stored entries, rows' own entries included."""
        return len(self.neighbors)

    def arrays(self) -> dict[str, np.ndarray]:
        """The four arrays by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    def to_scipy(self) -> "csr_array":
        """The stored rows as a SciPy CSR array, float32 [H, H]; degree and meta do not go along.

        Its indices are int32 where H and E fit, as scikit-learn needs them, else int64. ``implicit`` takes
        no CSR array: give it ``scipy.sparse.csr_matrix(graph.to_scipy())``.
        """
        from scipy.sparse import csr_array

        dtype = np.int32 if max(self.num_items, self.num_edges) <= checks.INT32_MAX else np.int64
        arrays = (self.weights.astype(np.float32), self.neighbors.astype(dtype), self.indptr.astype(dtype))
        return csr_array(arrays, shape=(self.num_items, self.num_items))
