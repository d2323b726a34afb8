"""RecBole 1.2.1: interest graphs of its training data, and Res-embeddings in its models.

Ids are RecBole's internal ones: the items of its map ``dataset.field2token_id`` from 1 on, and 0 for padding.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding
from resemb_ext.replace import Replacement, restore_embeddings
from resemb_ext.replace import replace_embeddings as replace_tables

try:
    from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader
    from recbole.utils import FeatureType
    from thop.profile import register_hooks
except ImportError as error:
    raise ImportError(f'RecBole cannot be imported ({error}); pip install "resemb_ext[recbole]"') from error

from .recbole_tables import item_tables

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from resemb_ext.graph.options import BuildOptions

__all__ = ["item_graph", "plain_checkpoint", "replace_embeddings"]

_PADDING = 0
_GAPS = ("max_gap", "session_gap")


class _Events(NamedTuple):
    """Events of training data, each user's in their order: int64 users and items, float32 times or None."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None


def item_graph(train_data: Any, *, threads: int | None = None, **options: Unpack[BuildOptions]) -> InterestGraph:
    """The interest graph of RecBole's training events, over its item ids.

    Events are those of the training part of RecBole's own split, whatever its kind; events of the other parts do
    not enter, not even where their times are equal. Of sequential data that part holds a user's targets and,
    of the first target, the history. Where the data have labels, events with label 0 are left out.

    RecBole keeps times as float32: epoch seconds are rounded to multiples of 128 s. Events whose rounded times are
    equal keep RecBole's order of rows: that of the atomic file for sequential data, a shuffled one where
    ``eval_args.order`` is "RO".

    Args:
        train_data: the first data loader of ``recbole.data.data_preparation``.
        threads, **options: as of ``InterestGraph.from_events``. Gaps are in the unit of the times that RecBole
            holds; ``category`` may also be the name of a token field of the items.

    Returns:
        A graph of ``dataset.item_num`` items with raw weights; row 0, padding, is empty.

    Raises:
        TypeError: ``train_data`` is a data set, which does not tell its training events, or no data loader.
        ValueError: a data loader of validation or test data; events without times in shuffled order; histories
            that do not go on from row to row; a gap that RecBole's times cannot show; an unknown category field;
            and as ``from_events``.
    """
    dataset = _training_set(train_data)
    events = _events(dataset)
    _check_gaps(dataset, events, options)
    if isinstance(options.get("category"), str):
        options["category"] = _category(dataset, options["category"])
    return InterestGraph.from_events(
        *events, num_items=dataset.item_num, padding_idx=_PADDING, threads=threads, **options
    )


def replace_embeddings(
    model: nn.Module,
    train_data: Any,
    graph: InterestGraph | None = None,
    *,
    tables: Sequence[str] | None = None,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None = None,
    start: str = "exact",
    sparse: bool | None = None,
    **options: Any,
) -> Replacement:
    """Turns the item tables of a RecBole model into Res-embeddings, in place.

    Call it between the model and its trainer, or later with ``optimizer=trainer.optimizer``. Tables of several
    fields, as in DIN and DeepFM, get the graph at the rows of the items; their other rows are plain ones.

    RecBole initialises padding rows as any other, and trains them where the table gives the output weights. Where
    the padding row is not zero the new table keeps it, as a row like others (``padding_idx=None``).

    A module that RecBole would pickle beside the state of the model (``other_parameter_name``), and that holds a
    replaced table, is taken from that list: on resuming, RecBole puts the pickled copy into the model, whose
    parameters its optimizer does not step. The state has the same numbers.

    Args:
        model: of ``get_model``, not yet wrapped in DistributedDataParallel.
        train_data: the first data loader of ``recbole.data.data_preparation``.
        graph: over RecBole's item ids, of ``item_num`` items; None: ``item_graph(train_data)``.
        tables: dotted paths of tables, or their last names; None: every table of item vectors. First-order
            weights of items, as in FM and DeepFM, are replaced only by name.
        optimizer, start, sparse, **options: as of ``resemb_ext.replace_embeddings``.

    Returns:
        What was replaced; printed, a short text.

    Raises:
        TypeError, ValueError: no training data (see ``item_graph``), a graph over another number of items, tables
            that are not found, and as ``resemb_ext.replace_embeddings``. The model is then as before.
    """
    dataset = _training_set(train_data)
    found = item_tables(model, dataset.iid_field, dataset.item_num, tables)
    if graph is None:
        graph = item_graph(train_data)
    elif not isinstance(graph, InterestGraph):
        raise TypeError(f"graph: found {type(graph).__name__}; expected an InterestGraph over RecBole's item ids")
    elif graph.num_items != dataset.item_num:
        raise ValueError(
            f"graph: found {graph.num_items} items; expected {dataset.item_num}: RecBole's, with padding as item 0"
        )
    if any(_padding_is_read(table.module) for table in found):
        options = {"padding_idx": None, **options}
    graphs: dict[Any, InterestGraph] = {
        table.module: graph.shift(table.offset, table.module.num_embeddings) for table in found
    }
    report = replace_tables(model, graphs, optimizer=optimizer, start=start, sparse=sparse, **options)
    register_hooks[ResEmbedding] = _count_operations
    return _without_pickled_tables(model, report)


def plain_checkpoint(source: str | os.PathLike[str], target: str | os.PathLike[str], model: nn.Module) -> None:
    """Writes a checkpoint of a replaced model as that of the plain one, with the same vectors.

    RecBole's ``load_data_and_model`` opens it, without this package. It has no state of the optimizer.

    Args:
        source: a file that RecBole's trainer has saved, as ``trainer.saved_model_file``. It is unpickled: open
            only files that you trust.
        target: the file to write; may be ``source``.
        model: the replaced model, which gives the graph; it is left as it is.

    Raises:
        RuntimeError: the state does not fit the model.
    """
    checkpoint = torch.load(source, map_location="cpu", weights_only=False)
    plain = copy.deepcopy(model).cpu()
    plain.load_state_dict(checkpoint["state_dict"])
    restore_embeddings(plain)
    checkpoint["state_dict"] = plain.state_dict()
    del checkpoint["optimizer"]
    torch.save(checkpoint, target, pickle_protocol=4)


def _padding_is_read(module: nn.Embedding) -> bool:
    """Whether an embedding gives out a padding row that is not zero."""
    return module.padding_idx is not None and bool(module.weight.detach()[module.padding_idx].any())


def _without_pickled_tables(model: Any, report: Replacement) -> Replacement:
    names = list(getattr(model, "other_parameter_name", []))
    replaced = {id(table.module) for table in report}
    pickled = {
        name: {id(part) for part in getattr(model, name).modules()} & replaced
        for name in names
        if isinstance(getattr(model, name), nn.Module)
    }
    gone = [name for name, parts in pickled.items() if parts]
    if not gone:
        return report
    model.other_parameter_name = [name for name in names if name not in gone]
    note = f"checkpoints hold {', '.join(gone)} once, in the state, and no longer pickled beside it"
    return Replacement(
        tuple(
            replace(table, notes=(*table.notes, note)) if any(id(table.module) in pickled[n] for n in gone) else table
            for table in report
        )
    )


def _count_operations(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """For RecBole's get_flops, which counts D for a looked-up row: here D for each row of the central table."""
    sizes = torch.from_numpy(np.diff(module.graph.indptr))
    module.total_ops += sizes[inputs[0].cpu()].sum().item() * output.shape[-1]


def _training_set(train_data: Any) -> Any:
    """The data set behind a training loader."""
    if isinstance(train_data, FullSortEvalDataLoader | NegSampleEvalDataLoader):
        raise ValueError(
            f"train_data: found a {type(train_data).__name__}, which holds validation or test events; expected the "
            "first data loader of data_preparation"
        )
    if hasattr(train_data, "inter_feat"):
        raise TypeError(
            f"train_data: found a {type(train_data).__name__}, which does not tell training events from others; "
            "expected the first data loader of data_preparation"
        )
    if not hasattr(train_data, "_dataset"):
        raise TypeError(
            f"train_data: found a {type(train_data).__name__}; expected the first data loader of data_preparation"
        )
    return train_data._dataset


def _events(dataset: Any) -> _Events:
    feat, config = dataset.inter_feat, dataset.config
    users, items = feat[dataset.uid_field].numpy(), feat[dataset.iid_field].numpy()
    times = _column(feat, dataset.time_field)
    labels = _column(feat, dataset.label_field)
    lengths = _column(feat, config["ITEM_LIST_LENGTH_FIELD"])
    history = _column(feat, f"{dataset.iid_field}{config['LIST_SUFFIX']}")
    if lengths is None or history is None:
        if times is None and config["benchmark_filename"] is None and config["eval_args"]["order"] == "RO":
            raise ValueError(
                f"train_data: its rows are shuffled (eval_args.order is RO) and have no times, so that no event "
                f"is near another; load the field {dataset.time_field!r} (load_col)"
            )
    else:
        first, listed = _first_histories(users, items, history, lengths)
        users = np.concatenate([np.repeat(users[first], lengths[first]), users])
        items = np.concatenate([history[first][listed], items])
        times = _with_listed(feat, config, dataset.time_field, times, first, listed)
        labels = _with_listed(feat, config, dataset.label_field, labels, first, listed)
    if labels is not None:
        use = labels > 0
        users, items, times = users[use], items[use], None if times is None else times[use]
    return _Events(users, items, times)


def _column(feat: Any, field: str | None) -> np.ndarray | None:
    return feat[field].numpy() if field is not None and field in feat else None


def _first_histories(
    users: np.ndarray, items: np.ndarray, history: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's first row, and the mask [users, L] of its history's events; rows must go on from one another."""
    order = np.argsort(users, kind="stable")
    same = users[order[1:]] == users[order[:-1]]
    rows, before = order[1:][same], order[:-1][same]
    broken = rows[history[rows, lengths[rows] - 1] != items[before]]
    if len(broken):
        raise ValueError(
            f"train_data: row {broken[0]} has a history that does not end with the target of the row before of user "
            f"{users[broken[0]]}; build the graph of the events themselves, by InterestGraph.from_events"
        )
    first = order[np.concatenate([[True], ~same])] if len(order) else order
    return first, np.arange(history.shape[1]) < lengths[first, None]


def _with_listed(
    feat: Any, config: Any, field: str | None, targets: np.ndarray | None, first: np.ndarray, listed: np.ndarray
) -> np.ndarray | None:
    """A column of the targets behind that of the first histories; None where either is missing."""
    histories = _column(feat, f"{field}{config['LIST_SUFFIX']}")
    if targets is None or histories is None:
        return None
    return np.concatenate([histories[first][listed], targets])


def _check_gaps(dataset: Any, events: _Events, options: Any) -> None:
    """Raises where rounding or normalisation of the times makes a gap another one."""
    given = {name: options[name] for name in _GAPS if options.get(name) is not None}
    if not given or events.time is None or not len(events.time):
        return
    config, field = dataset.config, dataset.time_field
    if config["normalize_all"] or field in (config["normalize_field"] or []):
        raise ValueError(
            f"{', '.join(given)}: RecBole has normalised {field!r} to 0..1, in which gaps have no unit; set "
            "normalize_all to False, or normalize_field to other fields"
        )
    step = float(np.spacing(np.abs(events.time).max()))
    for name, gap in given.items():
        if isinstance(gap, int | float) and 0 < gap < step:
            raise ValueError(
                f"{name}: found {gap}; RecBole keeps {field!r} as float32, here in steps of {step:g}; expected at "
                "least that, or smaller times, for example seconds since the first event"
            )


def _category(dataset: Any, field: str) -> np.ndarray:
    """int64 [item_num], -1 for padding and missing values, of a token field of the items."""
    names = [] if dataset.item_feat is None else list(dataset.item_feat.interaction)
    tokens = [name for name in names if dataset.field2type[name] == FeatureType.TOKEN and name != dataset.iid_field]
    if field not in tokens:
        raise ValueError(
            f"category: found {field!r}; expected a token field of the items: {', '.join(tokens) or 'none'}"
        )
    return dataset.item_feat[field].numpy() - 1
