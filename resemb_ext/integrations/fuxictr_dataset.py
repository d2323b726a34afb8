"""Samples written as a data set of FuxiCTR."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuxictr.features import FeatureMap

from resemb_ext.data import Samples

from .histories import PADDING


def write_dataset(
    samples: Mapping[str, Samples], folder: str | os.PathLike[str], *, data_format: str = "npz", **specs: Any
) -> FeatureMap:
    """Writes samples as a data set of FuxiCTR: a file for each part, and ``feature_map.json``.

    The fields are ``user`` (meta, the group of gAUC), ``item``, ``history`` (shares the table of ``item``; oldest event
    first, padded in front, so that the newest are kept), and, where the samples have categories, ``category`` and
    ``category_history``. The label is ``label``. Ids are those of the log.

    Args:
        samples: by part, as {"train": ..., "valid": ..., "test": ...}.
        folder: of the data set, made where it is not there; its name is the ``dataset_id``.
        data_format: "npz" or "parquet".
        **specs: further entries of the sequence fields' specs, as ``feature_encoder``.

    Returns:
        The feature map, with ``group_id`` set.

    Raises:
        ValueError: another format, samples of different logs or lengths of history.
    """
    if data_format not in ("npz", "parquet"):
        raise ValueError(f"data_format: found {data_format!r}; expected 'npz' or 'parquet'")
    forms = {(s.num_items, s.max_history, s.item_category is None) for s in samples.values()}
    if len(forms) != 1:
        raise ValueError(
            f"samples: found {sorted(forms)}; expected one number of items, one max_history, for all parts"
        )
    some = next(iter(samples.values()))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    feature_map = FeatureMap(folder.name, str(folder))
    tables = {"item": ("history", some.num_items)}
    if some.item_category is not None:
        tables["category"] = ("category_history", int(some.item_category.max()) + 1)
    features: dict[str, dict[str, Any]] = {"user": {"type": "meta"}}
    for name, (history, rows) in tables.items():
        common = {"source": "", "padding_idx": PADDING, "vocab_size": rows}
        features[name] = {"type": "categorical", **common}
        features[history] = {
            "type": "sequence",
            **common,
            "share_embedding": name,
            "max_len": some.max_history,
            **specs,
        }
    feature_map.features.update(features)
    feature_map.labels = ["label"]
    feature_map.num_fields = feature_map.get_num_fields()
    feature_map.total_features = sum(rows for _, rows in tables.values())
    feature_map.set_column_index()
    feature_map.save(str(folder / "feature_map.json"))
    feature_map.group_id = "user"
    for part, rows_of in samples.items():
        _write(_arrays(rows_of), folder / f"{part}.{data_format}")
    return feature_map


def _arrays(samples: Samples) -> dict[str, np.ndarray]:
    batch = samples.batch(slice(None))
    lengths = samples.end - samples.start
    # Padded in front: the last of the columns is the newest event.
    real = np.arange(samples.max_history) >= samples.max_history - lengths[:, None]
    columns = {"user": batch.user, "item": batch.target, "label": batch.label}
    told = {"history": batch.history}
    if batch.target_category is not None and batch.history_category is not None:
        columns["category"], told["category_history"] = batch.target_category, batch.history_category
    for name, flat in told.items():
        columns[name] = np.full(real.shape, PADDING, dtype=np.int64)
        columns[name][real] = flat
    return columns


def _write(columns: dict[str, np.ndarray], path: Path) -> None:
    if path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **columns)
    else:
        pq.write_table(pa.table({name: list(c) if c.ndim > 1 else c for name, c in columns.items()}), path)
