"""FuxiCTR 2.3: interest graphs of its training data, and Res-embeddings in its models.

Ids are those of FuxiCTR's feature map: index 0 pads, and the last index stands for items out of the vocabulary. Both
rows stay in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resemb_ext.graph import InterestGraph

from . import histories
from .training_files import Columns

try:
    from fuxictr.features import FeatureMap
except ImportError as error:
    raise ImportError(f'FuxiCTR cannot be imported ({error}); pip install "resemb_ext[fuxictr]"') from error

from .fuxictr_dataset import write_dataset
from .fuxictr_fields import Field, item_field
from .fuxictr_model import replace_embeddings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from resemb_ext.graph.options import BuildOptions


__all__ = ["item_graph", "replace_embeddings", "write_dataset"]


def item_graph(
    feature_map: FeatureMap,
    data: Any,
    *,
    item: str | None = None,
    history: str | Sequence[str] | None = None,
    user: str | None = None,
    time: str | None = None,
    threads: int | None = None,
    **options: Unpack[BuildOptions],
) -> InterestGraph:
    """The interest graph of FuxiCTR's training data, over the ids of its feature map.

    With history columns, events are those that the histories tell of, and the item itself of rows with label 1, which
    comes right behind its history. Every event counts once, although the histories of a user's rows repeat each
    other: this needs ``user``. Without it, every history counts that is not the beginning of another one, as if each
    were a user's. Histories that FuxiCTR has cut to their oldest events (``padding: post``, its default) do not reach
    up to the item of their row, which is then left out where the history is full.

    Without history columns, events are the rows with label 1 of each user, by ``time`` or as they stand.

    Padding is no event, nor is an item out of the vocabulary: that row is one for many items.

    Args:
        feature_map: with the fields and their vocabularies.
        data: the training part, in ids: the path of a Parquet or npz file, or of a folder of them, as FuxiCTR's
            ``train_data``; or a mapping of arrays, a data frame or an Arrow table with these columns.
        item: the item field. None: the one whose table a sequence field shares (``share_embedding``).
        history: columns of histories, oldest event first, or () for none. None: the sequence fields that share the
            item's table.
        user: column of users.
        time: column of times, which sorts the rows of a user; None: shorter histories first, and rows as they stand.
        threads, **options: as of ``InterestGraph.from_events``; gaps need ``time``, and rows without histories.

    Returns:
        A graph of as many items as the field's ``vocab_size``, with raw weights; row 0, padding, is empty.

    Raises:
        TypeError: no feature map, or data of another kind.
        FileNotFoundError: no such file.
        ValueError: a file of validation or test data, or a folder that holds one; files of other columns; labels
            besides 0 and 1; an unknown or ambiguous field, a missing column, no event, and as ``from_events``.
        IndexError: an item outside the vocabulary's rows.
    """
    field = item_field(feature_map, item)
    columns = Columns(data, feature_map.labels)
    names = field.sequences if history is None else (history,) if isinstance(history, str) else tuple(history)
    users = None if user is None else columns.ids(user)
    times = None if time is None else columns.flat(time)
    positive = columns.positive()
    if names:
        gaps = sorted({"max_gap", "session_gap"} & options.keys())
        if gaps:
            raise ValueError(f"{gaps[0]}: the events of a history have no times; give history=() and user")
        target = columns.ids(field.name) * positive if field.name in columns.names else None
        parts = [_told(columns.matrix(name), target, users, times) for name in names]
        sequence, items = (np.concatenate(arrays) for arrays in zip(*histories.apart(parts), strict=True))
        event_times = None
    else:
        if users is None:
            raise ValueError("user: found None, and no history column; expected the column of users, or history=")
        sequence, items = users[positive], columns.ids(field.name)[positive]
        event_times = None if times is None else times[positive]
    kept = (items != histories.PADDING) & (items != field.oov)
    if not kept.any():
        raise ValueError(f"data: no event of {field.name!r} among {len(positive)} rows; expected label 1 or histories")
    _check_range(items, field)
    return InterestGraph.from_events(
        sequence[kept],
        items[kept],
        None if event_times is None else event_times[kept],
        num_items=field.rows,
        padding_idx=histories.PADDING,
        threads=threads,
        **options,
    )


def _told(
    history: np.ndarray, target: np.ndarray | None, users: np.ndarray | None, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Events of one history column."""
    if target is not None and histories.cut_end(history) == "newest":
        full = (history != histories.PADDING).all(axis=1)
        target = np.where(full, histories.PADDING, target)
    return histories.events(history, target, users, times)


def _check_range(items: np.ndarray, field: Field) -> None:
    bad = items[(items < 0) | (items >= field.rows)]
    if len(bad):
        raise IndexError(f"{field.name}: found the id {bad[0]}; expected 0 to {field.rows - 1}, the field's vocab_size")
