"""DeepCTR-Torch 0.3: interest graphs of its training samples, and Res-embeddings in its models.

Ids are those of the model's input. In a table that a ``VarLenSparseFeat`` looks up in, id 0 stands for no item. Its row
stays as it is: DIN's attention reads it at padded places, through the batch statistics of Dice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resemb_ext import optim
from resemb_ext.graph import InterestGraph
from resemb_ext.replace import Replacement
from resemb_ext.replace import replace_embeddings as _replace

from . import histories

try:
    from deepctr_torch.models.basemodel import BaseModel
except ImportError as error:
    raise ImportError(f'DeepCTR-Torch cannot be imported ({error}); pip install "resemb_ext[deepctr]"') from error

from .deepctr_samples import Features, Inputs, check_rows, features_of, item_of
from .row_sparse import check_optimizer, decay_apart, with_optimizer

if TYPE_CHECKING:
    from deepctr_torch.inputs import SparseFeat
    from typing_extensions import Unpack

    from resemb_ext.graph.options import BuildOptions

__all__ = ["item_graph", "replace_embeddings"]

_LOST = ("oldest", "newest")


def item_graph(
    columns: Any,
    x: Any,
    y: Any = None,
    *,
    item: str | None = None,
    history: str | Sequence[str] | None = None,
    user: Any = None,
    time: Any = None,
    lost: str = "oldest",
    validation_split: float = 0.0,
    threads: int | None = None,
    **options: Unpack[BuildOptions],
) -> InterestGraph:
    """The interest graph of DeepCTR-Torch's training samples, over the ids of its model input.

    Give what ``fit`` trains on: x and y of the training samples, never those of validation or test data.

    With histories, events are those that the histories tell of, and the item itself of rows with label 1, which comes
    right behind its history. The samples of a user repeat each other: a sample's history is that of an earlier one with
    some events more. Every event counts once: of a user's samples, in order, only what goes beyond the sample before
    is new. This needs ``user``. Without it, every history that is not the beginning of another one counts, as if each
    were a user's.

    Without histories, events are the items of each user's rows with label 1, by ``time`` or as they stand.

    Args:
        columns: a model, or the list of feature columns that it is made of.
        x: as ``fit`` takes it, a mapping of arrays or a list of them, or the matrix [N, W] of ``forward``.
        y: [N], labels 0 and 1. None: only histories tell of events.
        item: name of the item's ``SparseFeat``. None: the one whose table a history shares by ``embedding_name``.
        history: names of ``VarLenSparseFeat`` with the items of a user, oldest first, or () for none. None: those that
            share the item's table, without negatives (``neg_...``). Places behind ``length_name`` are left out.
        user, time: a feature's name, or an array [N]. time sorts a user's rows; None: shorter histories first, and rows
            as they stand.
        lost: which events full histories have lost: "oldest", as Keras' ``pad_sequences`` cuts, or "newest". In the
            latter case the item of a row with a full history does not stand right behind it, and is left out.
        validation_split: as in ``fit``, which holds the last rows out; they do not enter.
        threads, **options: as of ``InterestGraph.from_events``; gaps need ``time``, and rows without histories.

    Returns:
        A graph of as many items as the item's ``vocabulary_size``, with raw weights; where id 0 pads, its row is empty.

    Raises:
        TypeError: columns or x of another kind.
        ValueError: an unknown or ambiguous feature, labels besides 0 and 1, no event, and as ``from_events``.
        IndexError: an item outside the vocabulary.
    """
    features = features_of(columns)
    feature = item_of(features, item)
    inputs = Inputs(x, features, validation_split)
    if lost not in _LOST:
        raise ValueError(f"lost: found {lost!r}; expected 'oldest' or 'newest'")
    names = features.shared_by(feature) if history is None else [history] if isinstance(history, str) else list(history)
    _check_histories(names, features, feature)
    users = None if user is None else inputs.column(user, "user")
    times = None if time is None else inputs.column(time, "time")
    positive = None if y is None else inputs.positive(y)
    event_times = None
    if names:
        gaps = sorted({"max_gap", "session_gap"} & options.keys())
        if gaps:
            raise ValueError(f"{gaps[0]}: the events of a history have no times; give history=() and user")
        target = None if positive is None else inputs.ids(feature.name) * positive
        parts = [_told(inputs.history(name), target, users, times, lost) for name in names]
        sequence, items = (np.concatenate(arrays) for arrays in zip(*histories.apart(parts), strict=True))
    else:
        if users is None or positive is None:
            missing = "user" if users is None else "y"
            raise ValueError(f"{missing}: found None, and no history; expected user and y, or a history")
        sequence, items = users[positive], inputs.ids(feature.name)[positive]
        event_times = None if times is None else times[positive]
    padding = histories.PADDING if features.padded(feature) else None
    kept = np.ones(len(items), dtype=bool) if padding is None else items != padding
    if not kept.any():
        raise ValueError(f"x: no event of {feature.name!r} among {inputs.rows} rows; expected label 1 or histories")
    _check_range(items, feature)
    return InterestGraph.from_events(
        sequence[kept],
        items[kept],
        None if event_times is None else event_times[kept],
        num_items=feature.vocabulary_size,
        padding_idx=padding,
        threads=threads,
        **options,
    )


def _check_histories(names: list[str], features: Features, item: SparseFeat) -> None:
    for name in names:
        if name not in features.histories:
            listed = ", ".join(features.histories) or "none"
            raise ValueError(f"history: found {name!r}; expected a VarLenSparseFeat, one of {listed}")
        if features.histories[name].embedding_name != item.embedding_name:
            raise ValueError(
                f"history: {name!r} looks up in the table {features.histories[name].embedding_name!r}; expected one that "
                f"shares {item.embedding_name!r} with {item.name!r} (embedding_name)"
            )


def _told(
    history: np.ndarray, target: np.ndarray | None, users: np.ndarray | None, times: np.ndarray | None, lost: str
) -> tuple[np.ndarray, np.ndarray]:
    if target is not None and lost == "newest":
        target = np.where((history != histories.PADDING).all(axis=1), histories.PADDING, target)
    return histories.events(history, target, users, times)


def _check_range(items: np.ndarray, item: SparseFeat) -> None:
    bad = items[(items < 0) | (items >= item.vocabulary_size)]
    if len(bad):
        raise IndexError(f"{item.name}: found the id {bad[0]}; expected 0 to {item.vocabulary_size - 1}")


def replace_embeddings(
    model: BaseModel,
    graph: InterestGraph | Mapping[str, InterestGraph],
    *,
    item: str | None = None,
    optimizer: str = "own",
    linear: bool = False,
    **options: Any,
) -> Replacement:
    """Turns the item's table of a model of DeepCTR-Torch into a Res-embedding, before or after ``compile``.

    The optimizer of ``compile`` goes on with C and R in the table's place.

    The model's L2 penalty (``l2_reg_embedding``) then acts on C and on R, each with the same factor: l2 (|C|^2 + |R|^2)
    in place of l2 |T|^2. Padding is looked up as before, whatever vector its row has.

    Args:
        model: any model of DeepCTR-Torch.
        graph: over the item's ids; or a mapping of names of ``SparseFeat`` to graphs, for several tables.
        item: name of the item's ``SparseFeat``. None: the one whose table a history shares by ``embedding_name``.
        optimizer: "own": that of ``compile``, with dense gradients. "sparse": the one like it in ``rx.optim``, with
            gradients of the batch's rows. The tables' L2 penalty, which touches every row in each step, becomes
            ``weight_decay = 2 l2`` of these tables: it shrinks the rows of the batch, and leaves the reported loss.
            "in backward": the same, and the tables are stepped inside backward. Both need ``compile`` before.
        linear: replaces the item's table of the linear part, of dimension 1, too.
        **options: of ``rx.replace_embeddings``, as start, and of ``ResEmbedding``, as link.

    Returns:
        What was replaced.

    Raises:
        TypeError: no model of DeepCTR-Torch, or an optimizer that ``rx.optim.like`` does not know.
        ValueError: an unknown or ambiguous item or optimizer, two graphs for one table, an item without a table in the
            linear part; sparse gradients before ``compile``, with an L1 penalty, or with an L2 penalty under AdamW; and as
            ``rx.replace_embeddings``. The model is as it was.
    """
    if not isinstance(model, BaseModel):
        raise TypeError(f"model: found {type(model).__name__}; expected a model of DeepCTR-Torch")
    check_optimizer(optimizer)
    if "sparse" in options:
        raise ValueError('sparse: found in the options; say optimizer="sparse" or "own"')
    features = features_of(model)
    graphs = graph if isinstance(graph, Mapping) else {item_of(features, item).name: graph}
    if isinstance(graph, Mapping) and item is not None:
        raise ValueError(f"item: found {item!r} with a mapping of graphs, which names the items itself")
    tables: dict[Any, InterestGraph] = {}
    for name, of in graphs.items():
        feature = item_of(features, name)
        check_rows(feature.vocabulary_size, name)
        table = model.embedding_dict[feature.embedding_name]
        if table in tables:
            raise ValueError(
                f"graph: {name!r} shares a table with another name of the mapping; give each table one graph"
            )
        tables[table] = of
        if linear:
            wide = model.linear_model.embedding_dict
            if feature.embedding_name not in wide:
                raise ValueError(f"linear: the linear part has no table of {name!r}; found {', '.join(wide) or 'none'}")
            tables[wide[feature.embedding_name]] = of
    own = getattr(model, "optim", None)
    if optimizer == "own":
        return _replace(model, tables, optimizer=own, **options)
    if own is None:
        raise ValueError(f"optimizer: found {optimizer!r}, but the model has none; call compile before")
    penalties = {table: _penalty(model, table.weight) for table in tables}
    _check_penalties(optimizer, optim.like(own), penalties)
    report = _replace(model, tables, optimizer=own, **options)
    model.optim = optim.like(own)
    for table, (_, l2) in penalties.items():
        table.sparse = True
        _decay_rows(model, [table.central, table.residual], l2)
        if optimizer == "in backward":
            model.optim.step_in_backward(table)  # of the model's tables only these have sparse gradients
    return with_optimizer(report, model.optim)


def _penalty(model: BaseModel, weight: torch.Tensor) -> tuple[float, float]:
    """Factors of the penalties on a weight: of its absolute values, and of its squares."""
    found = [(l1, l2) for weights, l1, l2 in model.regularization_weight if any(part is weight for part in weights)]
    return sum(l1 for l1, _ in found), sum(l2 for _, l2 in found)


def _check_penalties(optimizer: str, ours: optim.RowSparseOptimizer, penalties: dict[Any, tuple[float, float]]) -> None:
    if any(l1 for l1, _ in penalties.values()):
        raise ValueError(f"optimizer: found {optimizer!r}, but a table has an L1 penalty, which steps on every row")
    if isinstance(ours, optim.AdamW) and any(l2 for _, l2 in penalties.values()):
        raise ValueError(
            f"optimizer: found {optimizer!r}, but AdamW decays apart from the gradient and cannot take the L2 penalty "
            "over; make the model with l2_reg_embedding=0, or compile with Adam"
        )


def _decay_rows(model: BaseModel, tables: list[torch.nn.Parameter], l2: float) -> None:
    """Moves the L2 penalty of a table's parameters into the optimizer."""
    ours = {id(part) for part in tables}
    for weights, _, _ in model.regularization_weight:
        weights[:] = [part for part in weights if id(part) not in ours]
    if l2:
        decay_apart(model.optim, tables, 2 * l2)
