"""Input of DeepCTR-Torch's models as columns of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat, build_input_features
from deepctr_torch.models.basemodel import BaseModel

_EXACT_IN_FLOAT32 = 1 << 24


class Features(NamedTuple):
    """The feature columns of a model.

    Attributes:
        sparse: features with one id, by name.
        histories: features with several ids, by name.
        places: of each feature's name, the columns [start, end) of the input matrix.
    """

    sparse: dict[str, SparseFeat]
    histories: dict[str, VarLenSparseFeat]
    places: dict[str, tuple[int, int]]

    def shared_by(self, item: SparseFeat) -> list[str]:
        """Histories that look up in an item's table; those of negatives (DIEN's neg_hist_...) are none."""
        return [
            name
            for name, feature in self.histories.items()
            if feature.embedding_name == item.embedding_name and not name.startswith("neg_")
        ]

    def padded(self, item: SparseFeat) -> bool:
        """Whether id 0 of the table stands for no item, as in every table that a list of ids looks up in."""
        return any(feature.embedding_name == item.embedding_name for feature in self.histories.values())


def features_of(columns: Any) -> Features:
    """The features of a model, or of the feature columns that a model is made of.

    Raises:
        TypeError: something else.
    """
    if isinstance(columns, BaseModel):
        given, places = columns.dnn_feature_columns, dict(columns.feature_index)
    else:
        given = list(columns) if isinstance(columns, Sequence) and not isinstance(columns, str) else [columns]
        wrong = [part for part in given if not isinstance(part, (SparseFeat, VarLenSparseFeat, DenseFeat))]
        if wrong:
            raise TypeError(
                f"columns: found {type(wrong[0]).__name__}; expected a model of DeepCTR-Torch, or its list of SparseFeat, "
                "VarLenSparseFeat and DenseFeat"
            )
        places = dict(build_input_features(given))
    return Features(
        {part.name: part for part in given if isinstance(part, SparseFeat)},
        {part.name: part for part in given if isinstance(part, VarLenSparseFeat)},
        places,
    )


def item_of(features: Features, item: str | None) -> SparseFeat:
    """The feature of the item.

    Args:
        item: its name; None: the only one whose table a history shares.

    Raises:
        ValueError: no such feature, or none or several to choose from.
    """
    if item is None:
        shared = [name for name, feature in features.sparse.items() if features.shared_by(feature)]
        if len(shared) != 1:
            found = f"histories share the tables of {', '.join(shared)}" if shared else "no history shares a table"
            raise ValueError(f"item: found None, and {found}; name one of {', '.join(features.sparse) or 'none'}")
        item = shared[0]
    if item not in features.sparse:
        raise ValueError(f"item: found {item!r}; expected a SparseFeat, one of {', '.join(features.sparse) or 'none'}")
    return features.sparse[item]


class Inputs:
    """The input of ``fit``: a mapping of arrays, a list of arrays, or the matrix that ``forward`` takes.

    Attributes:
        rows: N, those that are used.
    """

    def __init__(self, x: Any, features: Features, validation_split: float) -> None:
        self._features = features
        self._columns = self._opened(x, features)
        lengths = {len(values) for values in self._columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"x: found arrays of {sorted(lengths)} rows; expected one number of rows")
        if not 0 <= validation_split < 1:
            raise ValueError(f"validation_split: found {validation_split}; expected 0 or more, below 1")
        rows = next(iter(lengths), 0)
        self._given = rows
        # As fit: the last rows are held out.
        self.rows = int(rows * (1.0 - validation_split)) if validation_split else rows

    def _opened(self, x: Any, features: Features) -> dict[str, np.ndarray]:
        if isinstance(x, Mapping):
            return {str(name): _array(values, str(name)) for name, values in x.items()}
        if isinstance(x, (np.ndarray, torch.Tensor)):
            matrix, width = _array(x, "x"), max(end for _, end in features.places.values())
            if matrix.ndim != 2 or matrix.shape[1] != width:
                raise ValueError(f"x: found shape {list(matrix.shape)}; expected [N, {width}], the features' widths")
            return {name: matrix[:, start:end] for name, (start, end) in features.places.items()}
        if isinstance(x, Sequence) and not isinstance(x, str):
            if len(x) != len(features.places):
                raise ValueError(f"x: found {len(x)} arrays; expected {len(features.places)}, one a feature")
            return {name: _array(values, name) for name, values in zip(features.places, x, strict=True)}
        raise TypeError(f"x: found {type(x).__name__}; expected a mapping of arrays, a list of arrays, or a matrix")

    def matrix(self, name: str) -> np.ndarray:
        """int64 [N, L], the ids of a feature.

        Raises:
            ValueError: no such column, values that are no whole numbers, or ids that a model does not read as they are.
        """
        if name not in self._columns:
            raise ValueError(f"x: no feature {name!r}; found {', '.join(self._columns)}")
        values = self._columns[name][: self.rows]
        values = values[:, None] if values.ndim == 1 else values
        whole = values.astype(np.int64) if values.dtype.kind in "iufb" else None
        if whole is None or values.ndim != 2 or (values.dtype.kind == "f" and not np.array_equal(whole, values)):
            raise ValueError(
                f"{name}: found {values.dtype} {list(values.shape)}; expected whole numbers, [N] or [N, L]"
            )
        return whole

    def ids(self, name: str) -> np.ndarray:
        """int64 [N] of a feature with one id."""
        values = self.matrix(name)
        if values.shape[1] != 1:
            raise ValueError(f"{name}: found {values.shape[1]} columns; expected one id a row")
        return values[:, 0]

    def history(self, name: str) -> np.ndarray:
        """int64 [N, L] of a feature with several ids; what the model masks is 0."""
        values, length = self.matrix(name), self._features.histories[name].length_name
        if length is None:
            return values
        return np.where(np.arange(values.shape[1]) < self.ids(length)[:, None], values, 0)

    def column(self, given: Any, name: str) -> np.ndarray:
        """[N], an array of the caller's or a feature by name."""
        if isinstance(given, str):
            return self.ids(given)
        values = _array(given, name).squeeze()
        values = values[None] if values.ndim == 0 else values
        if values.ndim != 1 or len(values) != self._given:
            what = "" if name == "y" else ", or the name of a feature"
            raise ValueError(f"{name}: found shape {list(values.shape)}; expected [{self._given}], the rows of x{what}")
        return values[: self.rows]

    def positive(self, y: Any) -> np.ndarray:
        """bool [N]: the rows with label 1.

        Raises:
            ValueError: labels other than 0 and 1.
        """
        labels = self.column(y, "y")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(
                "y: found labels besides 0 and 1; expected 1 where an event happened, as y >= 4 of ratings"
            )
        return labels == 1


def check_rows(rows: int, name: str) -> None:
    """
    Raises:
        ValueError: a table with ids that DeepCTR-Torch, which carries them as float32, does not tell apart.
    """
    if rows > _EXACT_IN_FLOAT32 + 1:
        raise ValueError(
            f"{name}: its table has {rows} rows; DeepCTR-Torch carries ids as float32, in which those above "
            f"{_EXACT_IN_FLOAT32} are rounded to others"
        )


def _array(values: Any, name: str) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype == object:
        raise ValueError(f"{name}: found lists of different lengths or other objects; expected an array of numbers")
    return array
