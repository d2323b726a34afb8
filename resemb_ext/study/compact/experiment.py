"""Study ``compact``: what Adam's state in fewer bytes costs in gAUC.

The trade trains with every form of the moments in plain PyTorch; a form and a dtype of the tables is a piece. Then the
package's own kernels train with float32 and with compact tables and state; a form, a log and a seed is a piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.study.compare.protocol import SETTINGS
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.train import RunConfig

from .equal import train_form
from .plain_adam import BLOCK, FORMS
from .protocol import COMPACT, FIRST_SEEDS, NEXT, OPTIONS, SEEDS, TRADE_SEEDS
from .trade import Cell, train_cell

#: Cells of the trade, those that a choice needs most first.
TRADE = [
    Cell("float32", "float32"),
    Cell("int8_rowwise", "bfloat16"),
    Cell("bfloat16_rowwise", "bfloat16"),
    Cell("rowwise", "float32"),
    Cell("bfloat16", "bfloat16"),
    Cell("dynamic8_rowwise", "bfloat16"),
    Cell("dynamic8", "bfloat16"),
    Cell("float32", "bfloat16"),
    Cell("int8_rowwise", "float32"),
    Cell("bfloat16", "float32"),
    Cell("dynamic8_random", "bfloat16"),
    Cell("rowwise", "bfloat16"),
    Cell("bfloat16_rowwise", "float32"),
    Cell("dynamic8_rowwise", "float32"),
    Cell("dynamic8", "float32"),
    Cell("dynamic8_random", "float32"),
]
#: What the kernels train with, by name.
TRAINED: dict[str, dict[str, Any]] = {
    "float32": {"table_dtype": "float32", "state": "float32", "in_backward": True},
    "compact": {"table_dtype": "bfloat16", "state": COMPACT, "in_backward": True},
    "next": {"table_dtype": "bfloat16", "state": NEXT, "in_backward": True},
}
QUICK: Mapping[str, Any] = {"epochs": 2, "patience": 1}
QUICK_CELLS = 3
QUICK_SEEDS = 2


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """The trade on the first log; then every log with few seeds, with more, and in the next larger form."""
    datasets = [dataset_of(source, quick) for source in sources]
    cells, trade_seeds = (TRADE[:QUICK_CELLS], TRADE_SEEDS[:1]) if quick else (TRADE, TRADE_SEEDS)
    plan = [trade_piece(cell, datasets[0], trade_seeds) for cell in cells]
    first = QUICK_SEEDS if quick else FIRST_SEEDS
    rounds: list[tuple[tuple[str, ...], Sequence[int]]] = [(("float32", "compact"), SEEDS[:first])]
    if not quick:
        rounds += [(("float32", "compact"), SEEDS[first:]), (("next",), SEEDS)]
    for names, seeds in rounds:
        plan += [form_piece(name, dataset, seed) for dataset in datasets for seed in seeds for name in names]
    return plan


def dataset_of(source: Source, quick: bool) -> Dataset:
    """A log set up as the comparison does it, with the options of this study."""
    setting = SETTINGS[source.setting or next(iter(SETTINGS))]
    options = {
        **OPTIONS,
        **(QUICK if quick else {}),
        "split": setting.split,
        "max_history": setting.max_history,
        "eval_negatives": setting.eval_negatives,
        "category": source.log.num_categories > 0,
    }
    return Dataset(source, RunConfig(**options), setting.train_rows)


def own_options(dataset: Dataset) -> dict[str, Any]:
    """The options of a log's runs, and its training rows."""
    names = (*OPTIONS, "split", "max_history", "eval_negatives")
    return {
        "log": dataset.source.name,
        "options": {name: getattr(dataset.config, name) for name in names},
        "train_rows": dataset.train_rows,
    }


def trade_piece(cell: Cell, dataset: Dataset, seeds: Sequence[int]) -> Piece:
    """The piece of a cell of the trade."""
    config = {**own_options(dataset), "cell": asdict(cell), "form": FORMS[cell.form].title, "block": BLOCK}
    work = partial(train_cell, cell, dataset, dataset.config, seeds)
    return Piece(f"trade-{cell.form}-{cell.table_dtype}", work, config, seeds, dataset.source)


def form_piece(name: str, dataset: Dataset, seed: int) -> Piece:
    """The piece of a form of ``TRAINED``, a log and a seed."""
    form = TRAINED[name]
    config = {**own_options(dataset), "trained": name, "form": form}
    return Piece(
        f"{name}-{dataset.source.name}-{seed}", partial(train_form, dataset, form, seed), config, [seed], dataset.source
    )
