"""A saved run with the items of new events: its graph updated, its rows grown, nothing trained.

A grown run is a run folder of one training: ``config.resolved.json``, ``graph.npz``, ``id_maps.json``, the checkpoint
``best.safetensors``, and ``grown.json``, which says what it was grown from. ``SavedModel`` reads it as any other.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext import data
from resemb_ext._growth import RowMoves
from resemb_ext.data import IdMap, Log
from resemb_ext.graph import InterestGraph
from resemb_ext.graph.update import LateEventError
from resemb_ext.models.factors import FirstOrder
from resemb_ext.nn import ResEmbedding
from resemb_ext.nn.starts import starts_of
from resemb_ext.runtime.digests import read_checked_json, write_recorded_json
from resemb_ext.runtime.files import check_out, naming, staging
from resemb_ext.train.checkpoint import BEST, load_checkpoint, save_checkpoint
from resemb_ext.train.config import RunConfig
from resemb_ext.train.folder import GRAPH, GROWN, IDS, arm_folder, saved_config, write_config
from resemb_ext.train.inputs import ids_digest
from resemb_ext.train.smoothing import with_smoothed_items

from .publish import COMPACT, Published
from .publish_run import publish_run
from .saved import SavedModel

ARM = "res"


@dataclass(frozen=True)
class GrownRun:
    """What ``grow_run`` has done.

    Attributes:
        folder: of the grown run.
        events: new ones that its graph has seen.
        new_items: items that came.
        changed: int64, ascending: rows whose vectors are others than before, new ones among them.
        rows: H of the grown table.
        published: the table's next version, or None.
    """

    folder: Path
    events: int
    new_items: int
    changed: np.ndarray
    rows: int
    published: Published | None


def grow_run(
    folder: Path | str,
    events: Path | str,
    out: Path | str | None = None,
    *,
    seed: int | None = None,
    columns: dict[str, str] | None = None,
    to: Path | str | None = None,
    dtype: str | None = None,
    tolerance: float = 0.0,
    compact: float = COMPACT,
    keep: int | None = None,
) -> GrownRun:
    """Adds the items of new events to a training of a run, and the events to its graph, without training.

    The run stays as it is; the grown one is written whole or not at all. Known rows of C and R keep their bits; their
    vectors follow the graph. See ``ResEmbedding.grow`` for where new rows start. First-order weights of new items, in
    the models that have some, start at the mean of their neighbours' likewise.

    Args:
        folder: of ``resemb train --keep-counts``, or a grown run.
        events: log file of events that the run's graph has not seen. None may come before the last event of its user
            that the graph saw, which are the training events.
        out: folder of the grown run; default that of the run, with ``-grown-N`` behind.
        seed: which training with Res-embedding; None takes the one with the best validation metric.
        columns: names of the file's columns by "user", "item", "time", "category" and "label", where they are others
            than the run's options name.
        to: file of a served table, which gets the grown vectors as its next version.
        dtype, tolerance, compact, keep: as of ``publish``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the graph keeps no counts or stays within sessions, there is no training with Res-embedding,
            the events come too early or lack the categories that the model takes, ``out`` exists. Nothing was
            written then. A table that does not take the version: the grown run is there, and the message says so.
    """
    folder, events = Path(folder), Path(events)
    place = _next_name(folder) if out is None else Path(out)
    if place.exists():
        raise ValueError(f"out: {place} exists; choose another folder")
    check_out(place, [events])
    config = saved_config(folder)
    saved = SavedModel.load(folder, ARM, seed)
    before, smoothing = saved.items, saved.smoothing
    graph = _graph(folder)
    held = read_checked_json(folder, folder / IDS)
    log = _read(events, config, held, before, columns or {})
    categories = None if held["categories"] is None else IdMap.from_dict(held["categories"])
    of_item = _item_category(events, config, held, categories, log)
    try:
        larger = graph.update(log)
    except LateEventError as late:
        raise ValueError(
            f"{events}: user {log.users.decode([late.user])[0]!r} has an event at {late.time}, before the last one that "
            f"the run's graph saw, at {late.last}; leave such events out, or train anew"
        ) from late

    moves = row_moves(before, log.items)
    changed = grow_model(saved.trained, larger, moves)
    saved = replace(saved, model=saved.trained, items=log.items)
    if smoothing is not None:
        smoothing = smoothing.grown(larger, moves)
        saved = replace(saved, model=with_smoothed_items(saved.trained, smoothing), smoothing=smoothing)
        changed = _with_neighbors(larger, changed)
    state = load_checkpoint(arm_folder(folder, ARM, saved.seed) / BEST)
    digest = ids_digest(log.items, categories, of_item)
    state |= {"model": saved.trained.state_dict(), "made_for": {**state["made_for"], "id_maps": digest}}
    ids = {**held, "users": log.users.to_dict(), "items": log.items.to_dict(), "item_category": of_item}
    if held.get("item_counts") is not None:
        ids["item_counts"] = moves.apply(torch.tensor(held["item_counts"])).numpy()
    about = {
        "format": 1,
        "grown_from": folder.resolve().name,
        "arm": ARM,
        "seed": saved.seed,
        "events": {"name": log.name, "events": len(log), "hash": log.content_hash},
        "new_items": len(log.items) - len(before),
        "items": len(log.items),
        "rows_changed": len(changed),
        "graph": larger.hash,
        "smoothing": {"strength": 0.0 if smoothing is None else smoothing.strength},
        "before": read_checked_json(folder, folder / GROWN) if (folder / GROWN).exists() else None,
    }
    target = Path(os.path.realpath(place))
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(place), staging(target) as beside:
        made = beside / target.name
        arm_folder(made, ARM, saved.seed).mkdir(parents=True)
        write_config(made, replace(config, embedding=ARM, seed=(saved.seed,), log_to=()))
        larger.save(made / GRAPH)
        write_recorded_json(made, made / IDS, ids)
        save_checkpoint(arm_folder(made, ARM, saved.seed) / BEST, state)
        write_recorded_json(made, made / GROWN, about)
        os.rename(made, target)
    published = None
    if to is not None:
        options: dict[str, Any] = {"tolerance": tolerance, "compact": compact, "keep": keep}
        try:
            # All rows are compared: the version in force may be of another run.
            published = publish_run(saved, to, run=target.name, dtype=dtype, **options)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{error}; the grown run is in {place}, and resemb publish {place} --to {to} publishes it"
            ) from error
    return GrownRun(place, len(log), len(log.items) - len(before), changed, log.items.size, published)


def row_moves(before: IdMap, items: IdMap) -> RowMoves:
    """Of the rows of an id map to those of a larger one, whose out-of-vocabulary row is the last as well."""
    return RowMoves(before.size, items.size, before.oov if len(items) > len(before) else None)


def grow_model(model: nn.Module, graph: InterestGraph, moves: RowMoves) -> np.ndarray:
    """Gives the item tables of a model the rows of new items.

    Args:
        model: its ``item_embedding`` is a ResEmbedding.
        graph: over the rows that there are then.
        moves: of the model's rows.

    Returns:
        int64, ascending: rows of the item embedding whose vectors are others than before.
    """
    table = model.item_embedding
    assert isinstance(table, ResEmbedding)
    changed = table.grow(graph, oov=moves.moved).numpy()
    for part in model.modules():
        if isinstance(part, FirstOrder):
            weight = moves.apply(part.item.weight.detach())
            starts_of(table.graph, moves.fresh, weight)
            part.item = nn.Embedding.from_pretrained(
                weight, freeze=False, padding_idx=part.item.padding_idx, sparse=part.item.sparse
            )
    return changed


def _with_neighbors(graph: InterestGraph, rows: np.ndarray) -> np.ndarray:
    """Rows, and those that have one of them as a neighbour: their smoothed vectors follow."""
    found = np.zeros(graph.num_items, bool)
    found[rows] = True
    degree = np.diff(graph.indptr)
    found[np.repeat(np.arange(graph.num_items), degree)[found[graph.neighbors]]] = True
    return np.flatnonzero(found)


def _next_name(folder: Path) -> Path:
    named = folder if folder.name not in ("", "..") else Path(os.path.abspath(folder))
    found = re.fullmatch(r"(.*)-grown-(\d+)", named.name)
    stem, number = (found[1], int(found[2]) + 1) if found else (named.name, 1)
    return named.with_name(f"{stem}-grown-{number}")


def _graph(folder: Path) -> InterestGraph:
    graph = InterestGraph.load(folder / GRAPH)
    if graph.counts is None:
        raise ValueError(
            f"{folder / GRAPH} keeps no counts of pairs, which growth needs; train with --keep-counts, or give train a "
            "--graph that keeps them"
        )
    if graph.meta.get("sessions"):
        raise ValueError(
            f"{folder / GRAPH} joins events within sessions, whose numbers new events cannot go on with; train with "
            "--session-column -"
        )
    return graph


def _read(events: Path, config: RunConfig, held: dict[str, Any], items: IdMap, columns: dict[str, str]) -> Log:
    def of_run(field: str) -> Any:
        return columns[field] if field in columns else config.column(field)

    return data.read_log(
        events,
        user=of_run("user"),
        item=of_run("item"),
        time=of_run("time"),
        category=of_run("category"),
        label=of_run("label"),
        session=False,
        delimiter=config.delimiter,
        drop_null=config.drop_null,
        users=IdMap.from_dict(held["users"]),
        items=items,
    )


def _item_category(
    events: Path, config: RunConfig, held: dict[str, Any], categories: IdMap | None, log: Log
) -> np.ndarray | None:
    """int64 [H']: known items keep theirs; new ones have what the events say, by the run's map, or 0 for none."""
    if categories is None or held["item_category"] is None:
        return None
    known = np.asarray(held["item_category"], np.int64)
    new = np.arange(len(known) - 1, log.items.oov)
    of_item = np.concatenate([known[:-1], np.zeros(len(new), np.int64), known[-1:]])
    if not len(new):
        return of_item
    if log.item_category is None or log.categories is None:
        if config.category:
            raise ValueError(
                f"{events} has no category column, which the run's model takes of its {len(new)} new items; name one with "
                "--category-column"
            )
        return of_item
    own = log.item_category[new]
    there = (own > 0) & (own < log.categories.oov)
    of_item[new[there]] = categories.encode(log.categories.decode(own[there]), name="category")[0]
    return of_item
