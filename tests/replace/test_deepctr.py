"""A model of DeepCTR-Torch, which keeps lists of its tables to regularise and its optimizer as attributes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resemb_ext as rx
from tests.replace.models import ring

inputs = pytest.importorskip("deepctr_torch.inputs")
models = pytest.importorskip("deepctr_torch.models")

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 40


def built() -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    columns = [inputs.SparseFeat("user", 30, embedding_dim=4), inputs.SparseFeat("item", ROWS, embedding_dim=4)]
    model = models.DeepFM(columns, columns, dnn_hidden_units=(8,), l2_reg_embedding=0.5, device="cpu", seed=1)
    model.compile("adam", "binary_crossentropy")
    draw = np.random.default_rng(0)
    rows = {"user": draw.integers(0, 30, 64), "item": draw.integers(0, ROWS, 64)}
    return model, rows, (rows["item"] % 3 == 0).astype(np.float32)


def test_the_optimizer_among_the_attributes_is_named() -> None:
    model, _, _ = built()
    with pytest.warns(UserWarning, match="Adam, the attribute optim, holds the weight of embedding_dict.item"):
        rx.replace_embeddings(model, {"embedding_dict.item": ring(ROWS, padding=False)})


def test_the_penalty_moves_to_the_new_tables() -> None:
    model, rows, label = built()
    plain = copy.deepcopy(model)
    before = plain.get_regularization_loss()
    report = rx.replace_embeddings(
        model, {"embedding_dict.item": ring(ROWS, padding=False)}, optimizer=model.optim, start="smoothed"
    )
    item = model.embedding_dict["item"]
    assert all(place.startswith("regularization_weight[") for place in report.tables[0].mended)
    assert report.tables[0].mended and not report.tables[0].left
    old = plain.embedding_dict["item"].weight.square().sum()
    new = item.central.square().sum() + item.residual.square().sum()
    torch.testing.assert_close(model.get_regularization_loss(), before + 0.5 * (new - old))
    tables = [item.central.detach().clone(), item.residual.detach().clone()]
    model.fit(rows, label, batch_size=16, epochs=1, verbose=0)
    assert not any(torch.equal(a, b) for a, b in zip(tables, (item.central, item.residual), strict=True))

    rx.restore_embeddings(model, optimizer=model.optim)
    assert type(item) is nn.Embedding
    model.fit(rows, label, batch_size=16, epochs=1, verbose=0)
    assert model.predict(rows).shape == (64, 1)


def test_the_same_scores() -> None:
    model, rows, _ = built()
    before = model.predict(rows)
    rx.replace_embeddings(model, {"embedding_dict.item": ring(ROWS, padding=False)}, optimizer=model.optim)
    np.testing.assert_allclose(model.predict(rows), before, atol=1e-6)
