"""What every arm of a run shares: log, split, samples, graph; and the model of an arm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext import data
from resemb_ext._ownership import ShardedTables
from resemb_ext.data.splits import times_are_positions, usual_split
from resemb_ext.distributed import shard, tables
from resemb_ext.distributed.start import drawn
from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding
from resemb_ext.runtime.files import check_out

from .building import PADDING, make_model, plain_table, res_table
from .config import AUTO_SPLIT, AUTO_TABLES, LARGE_TABLE, RunConfig
from .crossfit import CrossFit, FoldTables
from .evaluate import check_metric
from .ranks import ALONE, Ranks
from .ready import read_split
from .saving import Sizes, checkpoint_sizes
from .swaps import Swaps


@dataclass(frozen=True, eq=False)
class Prepared:
    """The shared part of a run.

    Attributes:
        log, split: the events and how they are held out.
        valid, test: evaluation samples, the same for all arms and seeds.
        graph: interest graph of the training events; None where no arm, smoothing or swap needs one.
        truth: of a simulated log, else None.
        domain: int64 [H], domain of each item for the aggregation radius (negative: none), or
            None where the log has no domains.
        domain_source: where the domains come from.
        cross_fit: folds and their graphs, or None.
    """

    log: data.Log
    split: data.Split
    valid: data.Samples
    test: data.Samples
    graph: InterestGraph | None
    truth: data.SimulationTruth | None
    domain: np.ndarray | None
    domain_source: str
    cross_fit: CrossFit | None = None

    @property
    def clean_graph(self) -> bool | None:
        """Whether the graph is one of the training events alone; None without a graph."""
        if self.graph is None:
            return None
        return self.graph.meta.get("event_hash") == self.split.train.content_hash


def prepare(config: RunConfig) -> Prepared:
    """Reads or simulates the log, splits it, draws the evaluation candidates, builds the graph.

    Raises:
        FileNotFoundError: the log or the graph file is missing.
        ValueError: the log lacks what the options ask for, the metric that stops training is undefined
            on the validation samples, or the graph was built from other events than this split's
            training events.
    """
    truth = None
    ready = read_split(config)
    if ready is not None:
        log, domain, source = ready.log, ready.log.category_domain, "category"
    elif config.simulated:
        log, truth = data.simulate(null=config.data == "simulated-null", seed=config.sim_seed)
        domain = truth.domain
        source = "simulated truth" if not truth.null else "simulated labels that steer nothing"
    else:
        # A log may be a folder: what is written into it would be part of it.
        check_out(Path(config.out or "runs"), [Path(config.data)])
        log = data.read_log(
            config.data,
            user=config.user_column,
            item=config.item_column,
            time=config.time_column,
            category=config.column("category"),
            label=config.column("label"),
            session=config.column("session"),
            delimiter=config.delimiter,
            drop_null=config.drop_null,
        )
        domain, source = log.category_domain, "category"
    if config.category and log.num_categories == 0:
        raise ValueError(
            f"category: {log.name!r} has no category column; drop --category"
            + ("" if config.simulated else " or name one with --category-column")
            + "".join(f" ({finding.found})" for finding in log.findings if finding.name == "category")
        )
    split = ready or data.split(log, usual_split(log) if config.split == AUTO_SPLIT else config.split)
    valid, test = (evaluation_samples(config, split, which) for which in ("valid", "test"))
    other = "take metric auc"
    if split.how == "leave-last-out" and not times_are_positions(log):
        other += ", or split time, which leaves a user several validation rows"
    check_metric(valid, config.metric, other)
    with_res = "res" in config.arms
    graph = make_graph(config, split) if with_res or config.smoothing_strengths or config.swap else None
    folds = None
    if config.cross_fit:
        build = partial(graph_of, config) if with_res else None
        folds = CrossFit.of(split, config.cross_fit, build)
    return Prepared(log, split, valid, test, graph, truth, domain, source, folds)


def resolved(config: RunConfig, prepared: Prepared) -> RunConfig:
    """``config`` with what its "auto" stands for on this log, which a run is continued with.

    Ready-made samples have no split. Above ``LARGE_TABLE`` items only the rows of a batch are stepped, and that in
    backward, but for link weights that are learned and lookups over several graphs.
    """
    if config.split == AUTO_SPLIT and not isinstance(prepared.split, data.ReadySplit):
        config = replace(config, split=prepared.split.how)
    if config.table_optimizer != AUTO_TABLES:
        return config
    if prepared.log.num_items <= LARGE_TABLE:
        return replace(config, table_optimizer="dense")
    in_backward = config.link != "attention" and not config.cross_fit
    return replace(config, table_optimizer="lazy", in_backward=in_backward)


def graph_of(config: RunConfig, log: data.Log) -> InterestGraph:
    """The interest graph of a log's events, by the options of the run."""
    return InterestGraph.from_log(
        log,
        window=config.window,
        top_k=config.top_k,
        max_gap=config.max_gap,
        session_gap=config.session_gap,
        min_count=config.min_count,
        weighting=config.weighting,
        damping=config.damping,
        keep_counts=config.keep_counts,
        threads=config.threads,
    )


def make_graph(config: RunConfig, split: data.Split) -> InterestGraph:
    """The saved graph that the options name, or a new one from the training events.

    Raises:
        FileNotFoundError, ValueError: as ``prepare``.
    """
    if config.graph is None:
        return graph_of(config, split.train)
    if not Path(config.graph).is_file():
        raise FileNotFoundError(f"graph: no file {config.graph}")
    graph = InterestGraph.load(config.graph)
    if graph.num_items != split.log.num_items:
        raise ValueError(
            f"graph: {config.graph} has {graph.num_items} items, the log {split.log.num_items}; build it from this log"
            f" with resemb graph build --split {split.how}"
        )
    if graph.same_items(split.log.items) is False:
        raise ValueError(
            f"graph: {config.graph} numbers its items otherwise than the log {split.log.name!r}, so its rows would be"
            f" other items'; build it from this log with resemb graph build --split {split.how}"
        )
    found, needed = graph.meta.get("event_hash"), split.train.content_hash
    if found != needed and not config.allow_future_edges:
        last, cut = graph.meta.get("time_cut"), split.time_cut
        seen = (
            f"; its last event is of time {last}, training ends before {cut}"
            if last is not None and cut is not None
            else ""
        )
        raise ValueError(
            f"graph: {config.graph} was built from other events (hash {str(found)[:12]}) than this "
            f"split's training events ({needed[:12]}), so it may hold edges of held-out events{seen}; "
            f"build it with resemb graph build --split {split.how}, or take it all the same with "
            "--allow-future-edges"
        )
    return graph


def evaluation_samples(config: RunConfig, split: data.Split, which: str) -> data.Samples:
    """Samples of "valid" or "test"; the same for all arms and seeds."""
    if isinstance(split, data.ReadySplit):
        return split.samples[which]
    return data.make_eval_samples(
        split,
        which,
        max_history=config.max_history,
        negatives=config.eval_negatives,
        power=config.negative_power,
        seed=config.eval_seed,
    )


def train_samples(config: RunConfig, split: data.Split, seed: int) -> data.Samples:
    """Training samples of one seed; the same for all its arms."""
    if isinstance(split, data.ReadySplit):
        return split.samples["train"]
    return data.make_train_samples(
        split, max_history=config.max_history, negatives=config.train_negatives, power=config.negative_power, seed=seed
    )


def build_model(config: RunConfig, prepared: Prepared, arm: str, seed: int) -> nn.Module:
    """A new model with the embedding of ``arm`` ("plain" or "res"); see ``make_model``."""
    return make_model(
        config,
        arm,
        seed,
        num_items=prepared.log.num_items,
        num_categories=prepared.log.num_categories,
        graph=prepared.graph,
    )


def _build_on_meta(config: RunConfig, prepared: Prepared, arm: str, seed: int) -> nn.Module:
    """``build_model`` with an item table that takes no memory yet."""

    def table(config: RunConfig) -> nn.Module:
        with torch.device("meta"):
            if arm == "plain":
                return plain_table(prepared.log.num_items, config)
            assert prepared.graph is not None
            made = res_table(prepared.graph, config)
        if made.attention is not None:  # which is not dealt, and starts at constants
            made.attention.to_empty(device="cpu").reset_parameters()
        return made

    log = prepared.log
    return make_model(config, table, seed, num_items=log.num_items, num_categories=log.num_categories)


def build_dealt(config: RunConfig, prepared: Prepared, arm: str, seed: int) -> nn.Module:
    """``build_model`` dealt over ranks, all of which call this; no rank holds the whole item table on the way."""
    model = _build_on_meta(config, prepared, arm, seed)
    whole = model.get_submodule("item_embedding")
    torch.manual_seed(seed)  # item tables are drawn first in one process too
    sharded = shard(model, dense=True)
    if arm == "plain":  # drawn twice, as ``plain_table`` does
        table = next(table for table in tables(sharded) if table.name == "item_embedding.weight")
        with torch.no_grad():
            table.part.copy_(drawn(whole, "weight", table.deal, table.part.device, std=config.init_std))
    return sharded


def check_models(config: RunConfig, prepared: Prepared, ranks: Ranks = ALONE) -> dict[str, Sizes]:
    """Builds every arm's model once, so that what one refuses is said before another is trained.

    Returns:
        sizes of its checkpoints by arm.

    Raises:
        ValueError, TypeError: as the models and their tables.
    """
    options, build = config.fit_config(), build_model if ranks.alone else _build_on_meta
    return {arm: checkpoint_sizes(build(config, prepared, arm, config.seed[0]), options) for arm in config.arms}


def build_folds(config: RunConfig, prepared: Prepared, model: nn.Module, arm: str, seed: int) -> FoldTables | None:
    """The model's tables over each fold's graph, or None without cross-fitting."""
    cross = prepared.cross_fit
    if cross is None:
        return None
    others = (
        build_model(config, replace(prepared, graph=graph), arm, seed)
        for graph in (cross.graphs if arm == "res" else ())
    )
    return FoldTables(model, others, cross.fold)


def fit_parts(config: RunConfig, prepared: Prepared, model: nn.Module, arm: str, seed: int) -> dict[str, Any]:
    """The arguments ``folds``, ``swaps`` and ``redraw`` of ``fit`` for an arm."""
    swaps = None
    if config.swap:
        assert prepared.graph is not None
        swaps = Swaps(prepared.graph, config.swap, PADDING)
    return {
        "folds": build_folds(config, prepared, model, arm, seed),
        "swaps": swaps,
        "redraw": partial(build_model, config, prepared, arm) if config.fresh_embeddings else None,
    }


def item_vectors(table: nn.Module) -> np.ndarray:
    """The vectors that an embedding looks up: W C + R for Res-embedding; float32 [H, D].

    Of a table that is dealt over ranks, all of which call this, rank 0 gets them and the others [0, D].

    Raises:
        TypeError: not an ``nn.Embedding`` or ``ResEmbedding``.
    """
    if isinstance(table, ShardedTables):
        return _looked_up(table)
    if not isinstance(table, nn.Embedding):
        raise TypeError(f"table must be an nn.Embedding, found {type(table).__name__}")
    with torch.no_grad():
        vectors = table.materialize() if isinstance(table, ResEmbedding) else table.weight
    return vectors.detach().float().cpu().numpy()


@torch.no_grad()
def _looked_up(table: ShardedTables, block: int = 1 << 14) -> np.ndarray:
    """Rank 0 asks for all items, the others for none, in as many lookups."""
    items, first = table.num_embeddings, Ranks.of(table).first
    dim: int = table.embedding_dim  # type: ignore[assignment]
    vectors = np.empty((items if first else 0, dim), np.float32)
    training = table.training
    table.eval()
    for start in range(0, items, block):
        ids = torch.arange(start, min(start + block, items)) if first else torch.zeros(0, dtype=torch.int64)
        found = table(ids).float().cpu().numpy()
        vectors[start : start + len(found)] = found
    table.train(training)
    return vectors
