"""TorchRec 1.8: interest graphs of KeyedJaggedTensors, Res-embeddings in unsharded collections, and a collection of them
that TorchRec shards.

Ids are those of the tables, from 0 on: TorchRec has no padding, as its features are jagged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from resemb_ext.graph import InterestGraph
from resemb_ext.replace import Replacement
from resemb_ext.replace import replace_embeddings as _replace

from . import histories

try:
    from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
except (ImportError, OSError) as error:  # OSError: a fbgemm that was built for another torch
    raise ImportError(
        f'TorchRec cannot be imported ({error}); pip install "resemb_ext[torchrec]", see docs/integrations/torchrec.md'
    ) from error

from .torchrec_collection import ResEmbeddingCollection, row_wise_plan

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from resemb_ext.graph.options import BuildOptions

__all__ = ["ResEmbeddingCollection", "item_graph", "replace_embeddings", "row_wise_plan"]


def item_graph(
    features: KeyedJaggedTensor | Iterable[KeyedJaggedTensor],
    num_items: int,
    *,
    history: str,
    item: str | None = None,
    labels: Any = None,
    user: str | None = None,
    threads: int | None = None,
    **options: Unpack[BuildOptions],
) -> InterestGraph:
    """The interest graph of training samples in TorchRec's form.

    Events are those that the histories tell of, and the item of samples with label 1, which comes right behind its
    history. Samples of one user repeat each other; with ``user``, every event counts once: of a user's samples, shorter
    histories first, only what goes beyond the sample before is new. Without it, every history that is not the beginning
    of another one counts, as if each were a user's.

    Args:
        features: of the training samples, or batches of them; never of validation or test data.
        num_items: rows of the table.
        history: key of the histories, oldest event first.
        item, labels: key of the sample's item, one id a sample, and labels [N], 0 or 1, of all samples in order. Both or
            none.
        user: key of the users, one id a sample.
        threads, **options: as of ``InterestGraph.from_events``, without gaps, as histories have no times.

    Returns:
        A graph of ``num_items`` items with raw weights.

    Raises:
        TypeError: no KeyedJaggedTensor.
        ValueError: an unknown key, several ids a sample, other labels, gaps, no event.
        IndexError: an item outside the table.
    """
    gaps = sorted({"max_gap", "session_gap"} & options.keys())
    if gaps:
        raise ValueError(f"{gaps[0]}: the events of a history have no times")
    if (item is None) != (labels is None):
        raise ValueError(f"{'item' if item is None else 'labels'}: found None; expected both item and labels, or none")
    batches = [features] if isinstance(features, KeyedJaggedTensor) else list(features)
    wrong = [batch for batch in batches if not isinstance(batch, KeyedJaggedTensor)]
    if wrong or not batches:
        found = type(wrong[0]).__name__ if wrong else "no batch"
        raise TypeError(f"features: found {found}; expected a KeyedJaggedTensor, or several")
    values, lengths = _jagged(batches, history)
    # 0 pads in the matrix, while it is an item here.
    matrix = np.full((len(lengths), max(lengths.max(initial=0), 1)), histories.PADDING, dtype=np.int64)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = values + 1
    target = None if item is None else (_one_each(batches, item) + 1) * _positive(labels, len(lengths))
    users = None if user is None else _one_each(batches, user)
    sequence, items = histories.events(matrix, target, users)
    if not len(items):
        raise ValueError(f"features: no event of {history!r} among {len(lengths)} samples")
    bad = items[(items < 1) | (items > num_items)]
    if len(bad):
        raise IndexError(f"{history}: found the id {bad[0] - 1}; expected 0 to {num_items - 1}")
    return InterestGraph.from_events(sequence, items - 1, num_items=num_items, threads=threads, **options)


def _jagged(batches: list[KeyedJaggedTensor], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a key [P], and how many each sample has [N]."""
    for batch in batches:
        names = batch.keys()
        if key not in names:
            raise ValueError(f"features: no key {key!r}; found {', '.join(names)}")
    parts = [batch[key] for batch in batches]
    values = torch.cat([part.values() for part in parts]).cpu().numpy().astype(np.int64)
    return values, torch.cat([part.lengths() for part in parts]).cpu().numpy().astype(np.int64)


def _one_each(batches: list[KeyedJaggedTensor], key: str) -> np.ndarray:
    values, lengths = _jagged(batches, key)
    if (lengths != 1).any():
        raise ValueError(f"{key}: found a sample with {lengths[lengths != 1][0]} ids; expected one id a sample")
    return values


def _positive(labels: Any, rows: int) -> np.ndarray:
    found = np.asarray(labels.detach().cpu() if isinstance(labels, torch.Tensor) else labels).reshape(-1)
    if len(found) != rows or not np.isin(found, (0, 1)).all():
        raise ValueError(f"labels: found {len(found)} values; expected {rows}, each 0 or 1")
    return found == 1


def replace_embeddings(
    module: nn.Module, graphs: Mapping[str, InterestGraph], *, optimizer: Any = None, **options: Any
) -> Replacement:
    """Turns tables of unsharded collections into Res-embeddings, in place.

    A table of an ``EmbeddingBagCollection`` becomes a ``ResEmbeddingBag``, one of an ``EmbeddingCollection`` a
    ``ResEmbedding``. All features of a table share the new one. Names, KeyedTensors and configurations stay; in the
    state_dict ``NAME.weight`` becomes ``NAME.central`` and ``NAME.residual``.

    Args:
        module: a collection, or a model that holds some.
        graphs: of tables, by the name of the table or of one of its features.
        optimizer: as of ``rx.replace_embeddings``.
        **options: of ``rx.replace_embeddings``, as start and sparse, and of ``ResEmbedding``, as link.

    Returns:
        What was replaced.

    Raises:
        TypeError: no module, or no mapping.
        ValueError: a name that no table or feature has, or several; a table that an optimizer steps in backward
            (``apply_optimizer_in_backward``); no unsharded collection; and as ``rx.replace_embeddings``.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: found {type(module).__name__}; expected an nn.Module")
    if not isinstance(graphs, Mapping):
        raise TypeError(f"graphs: found {type(graphs).__name__}; expected a mapping of tables or features to graphs")
    known = _tables(module)
    if not known:
        raise ValueError(
            "module: found no EmbeddingBagCollection or EmbeddingCollection; sharded ones are replaced before sharding"
        )
    tables: dict[Any, InterestGraph] = {}
    for name, graph in graphs.items():
        table = _named(known, name)
        if table in tables:
            raise ValueError(f"graphs: {name!r} means a table that another name means too")
        if hasattr(table.weight, "_in_backward_optimizers"):
            raise ValueError(
                f"{name}: an optimizer steps its table in backward; call apply_optimizer_in_backward after the replacement"
            )
        tables[table] = graph
    return _replace(module, tables, optimizer=optimizer, **options)


def _tables(module: nn.Module) -> list[tuple[str, list[str], Any]]:
    """Of each table: its name, its features, its module."""
    found: list[tuple[str, list[str], Any]] = []
    for part in module.modules():
        if isinstance(part, EmbeddingBagCollection):
            found += [(c.name, c.feature_names, part.embedding_bags[c.name]) for c in part.embedding_bag_configs()]
        elif isinstance(part, EmbeddingCollection):
            found += [(c.name, c.feature_names, part.embeddings[c.name]) for c in part.embedding_configs()]
    return found


def _named(known: list[tuple[str, list[str], Any]], name: str) -> Any:
    """The table of that name, or else that with that feature."""
    fitting = [table for own, _, table in known if own == name] or [table for _, own, table in known if name in own]
    if len(fitting) != 1:
        listed = "; ".join(f"{own} ({', '.join(features)})" for own, features, _ in known)
        raise ValueError(f"graphs: {name!r} means {len(fitting)} tables; found the tables (features) {listed}")
    return fitting[0]
