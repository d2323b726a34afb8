"""Study ``gain``: forms of Res-embedding against the cheap alternatives.

An arm on a log, split and model has a piece ``tune-ARM``. A finalist (base, cheap, best) has ``finalist-ROLE``, which
chooses the arm and goes on with its search. ``seeds-NAME`` trains an arm or a finalist and scores test, ``minus-ONE-OTHER``
is a difference of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from resemb_ext.study.compare.experiment import OPTIONS, dataset_of
from resemb_ext.study.compare.training import BUCKETS, ORDER_SEED, RESIDUAL, TUNE_SEED, take_contrast, users_file
from resemb_ext.study.compare.variants import Group
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.study.methods import item2vec
from resemb_ext.study.methods.laplacian import PENALTY_ROWS
from resemb_ext.train.config import SMOOTHING_STRENGTHS

from .arms import ARMS, ROLES, Cell, Logs, arms_of, candidates
from .protocol import CATEGORY_SHARE, CATEGORY_TOP_K, COARSE, KEEP, RUNGS, SETTINGS, WIDE
from .training import Scale, finalist, train_seeds, trials_file, tune

FULL = Scale()
QUICK = Scale(trials=2, more_trials=3, seeds=(1, 2), epochs=2, draws=200)
QUICK_ARMS = ("plain", "plain-smooth", "swap-smooth", "res-smooth")


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """All pieces: what the comparisons need first, of every log; then the arms' test scores."""
    first: list[Piece] = []
    then: list[Piece] = []
    for source in sources:
        for part in SETTINGS[source.setting or next(iter(SETTINGS))]:
            logs = Logs(dataset_of(source, part.setting))
            category = source.log.num_categories > 0
            for model in part.models[:1] if quick else part.models:
                scale = QUICK if quick else replace(FULL, trials=part.trials[0], more_trials=part.trials[1])
                group = Group(f"{source.name}-{part.name}", model, category)
                names = arms_of(category=category, dense=part.dense or model != "dnn")
                if quick:
                    names = [name for name in names if name in QUICK_ARMS]
                first += finalist_pieces(group, names, logs, scale)
                if model == "dnn" and not part.dense:
                    then += arm_pieces(group, names, logs, scale)
    return first + then


def finalist_pieces(group: Group, names: Sequence[str], logs: Logs, scale: Scale) -> list[Piece]:
    """The searches of all arms, the finalists, and their differences."""
    plan = [_tune_piece(Cell(group, name), logs, scale) for name in names]
    for role in ROLES:
        cell = Cell(group, role)
        needs = [f"tune-{cell.beside(name).key}" for name in candidates(role, list(names))]
        work = partial(finalist, cell, tuple(names), logs, scale)
        asked = {**_asked(cell, logs, scale), "trials": scale.more_trials}
        search = f"finalist-{cell.key}"
        plan.append(
            Piece(search, work, asked, [TUNE_SEED], logs.dataset.source, needs=needs, checkpoint=trials_file(cell))
        )
        plan.append(_seeds_piece(cell, search, logs, scale))
    pairs = (("best", "cheap"), ("best", "base"), ("cheap", "base"))
    return plan + [_contrast_piece(Cell(group, one), other, logs, scale) for one, other in pairs]


def arm_pieces(group: Group, names: Sequence[str], logs: Logs, scale: Scale) -> list[Piece]:
    """Test scores of all arms after the common search, and their differences to plain: exploratory."""
    plan = []
    for name in names:
        cell = Cell(group, name)
        plan.append(_seeds_piece(cell, f"tune-{cell.key}", logs, scale))
    return plan + [_contrast_piece(Cell(group, name), "plain", logs, scale) for name in names if name != "plain"]


def _asked(cell: Cell, logs: Logs, scale: Scale) -> dict[str, Any]:
    """What the pieces of a cell depend on."""
    config = logs.dataset.config
    options = {
        name: getattr(config, name) for name in (*OPTIONS, "split", "max_history", "eval_negatives", "eval_seed")
    }
    return {
        "row": {**asdict(cell.group), "name": cell.name},
        "options": {**options, "link": config.link, "epochs": scale.epochs},
        "residual_l2_over_l2": RESIDUAL,
        "graphs": {"wide": WIDE, "category_share": CATEGORY_SHARE, "category_top_k": CATEGORY_TOP_K},
        "strengths": {"search": (0.0, *COARSE), "seeds": SMOOTHING_STRENGTHS},
        "item2vec": item2vec.OPTIONS,
        "penalty_rows": PENALTY_ROWS,
        "halving": {"rungs": RUNGS, "keep": KEEP},
        "patience": scale.tune_patience,
        "order_seed": ORDER_SEED,
    }


def _tune_piece(cell: Cell, logs: Logs, scale: Scale) -> Piece:
    arm = ARMS[cell.name]
    asked = {
        **_asked(cell, logs, scale),
        "arm": asdict(arm),
        "trials": scale.trials,
        "factors": [asdict(factor) for factor in arm.factors],
    }
    work = partial(tune, cell, logs, scale)
    return Piece(f"tune-{cell.key}", work, asked, [TUNE_SEED], logs.dataset.source, checkpoint=trials_file(cell))


def _seeds_piece(cell: Cell, search: str, logs: Logs, scale: Scale) -> Piece:
    asked = {**_asked(cell, logs, scale), "patience": scale.patience, "buckets": BUCKETS}
    work = partial(train_seeds, cell, search, logs, scale)
    source = logs.dataset.source
    return Piece(f"seeds-{cell.key}", work, asked, scale.seeds, source, needs=[search], files=[users_file(cell)])


def _contrast_piece(one: Cell, other: str, logs: Logs, scale: Scale) -> Piece:
    beside = one.beside(other)
    return Piece(
        contrast_key(one, other),
        partial(take_contrast, one, beside, scale),
        {"one": one.key, "other": beside.key, "draws": scale.draws},
        scale.seeds,
        logs.dataset.source,
        needs=[f"seeds-{one.key}", f"seeds-{beside.key}"],
    )


def contrast_key(one: Cell, other: str) -> str:
    """The key of a difference's piece."""
    return f"minus-{one.key}-{other}"
