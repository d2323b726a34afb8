"""Study ``quantised``: served tables of fewer bits. A model, a log and a seed is a piece."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from resemb_ext import metrics
from resemb_ext.data import Samples
from resemb_ext.nn import ResEmbedding
from resemb_ext.serving.lite.rows import decode, encode, row_bytes
from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.study.compare.protocol import SETTINGS
from resemb_ext.study.harness.pieces import Piece, Source
from resemb_ext.train import RunConfig, fit, predict
from resemb_ext.train.building import PADDING, make_model

from .protocol import DTYPES, MODELS, OPTIONS, SEEDS

QUICK: Mapping[str, Any] = {"epochs": 2, "patience": 1}


def pieces(sources: Sequence[Source], *, quick: bool) -> list[Piece]:
    """Every model and log with the first seed, then with the next."""
    seeds, models = (SEEDS[:1], MODELS[:1]) if quick else (SEEDS, MODELS)
    return [_piece(source, model, seed, quick) for seed in seeds for model in models for source in sources]


def _piece(source: Source, model: str, seed: int, quick: bool) -> Piece:
    setting = SETTINGS[source.setting or next(iter(SETTINGS))]
    options = {
        **OPTIONS,
        **(QUICK if quick else {}),
        "model": model,
        "split": setting.split,
        "max_history": setting.max_history,
        "eval_negatives": setting.eval_negatives,
    }
    asked = {"log": source.name, "options": options, "train_rows": setting.train_rows}
    work = partial(_trained, source, options, setting.train_rows, seed)
    return Piece(f"{model}-{source.name}-{seed}", work, asked, [seed], source)


def _trained(source: Source, options: Mapping[str, Any], train_rows: int | None, seed: int) -> dict[str, Any]:
    dataset = Dataset(source, RunConfig(**{**options, "category": source.log.num_categories > 0}), train_rows)
    return measured(dataset, seed)


def measured(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Test gAUC of one training with its item table in every dtype."""
    config, log = dataset.config, dataset.log
    model = make_model(
        config, "res", seed, num_items=log.num_items, num_categories=log.num_categories, graph=dataset.graph
    )
    done = fit(model, dataset.train(seed), dataset.valid, config=config.fit_config(), seed=seed, progress=False)
    table = model.item_embedding
    assert isinstance(table, ResEmbedding)
    vectors = table.materialize().detach()
    gauc = {"float32": _gauc(_with_table(model, vectors), dataset.test, config)}
    for dtype in DTYPES:
        rows = decode(encode(vectors.numpy(), dtype), dtype, vectors.shape[1])
        gauc[dtype] = _gauc(_with_table(model, torch.from_numpy(rows)), dataset.test, config)
    sizes = {dtype: row_bytes(dtype, vectors.shape[1]) for dtype in ("float32", *DTYPES)}
    return {
        "seed": seed,
        "gauc": gauc,
        "row_bytes": sizes,
        "best_epoch": done.best_epoch,
        "test_rows": len(dataset.test),
    }


def _with_table(model: nn.Module, table: torch.Tensor) -> nn.Module:
    ready = copy.deepcopy(model)
    ready.item_embedding = nn.Embedding.from_pretrained(table, padding_idx=PADDING)
    return ready


def _gauc(model: nn.Module, samples: Samples, config: RunConfig) -> float:
    return metrics.gauc(samples.label, predict(model, samples, batch_size=config.eval_batch_size), samples.user)
