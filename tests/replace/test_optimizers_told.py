"""What replacing tells of optimizers that were not given, of gradients and of hooks."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch

import resemb_ext as rx
from tests.replace.models import ROWS, Model, inputs, ring

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_that_was_not_given_is_warned_of() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    other = torch.optim.SGD(model.out.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="Adam holds the weight of tables.item, tables.user and was not given") as seen:
        rx.replace_embeddings(model, {"item": ring(), "user": ring(ROWS + 3, padding=False)}, optimizer=other)
    assert len(seen) == 1 and seen[0].filename == __file__
    del optimizer


def test_one_that_was_not_given_to_a_restore_is_noted_and_warns_at_its_step() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = rx.restore_embeddings(model)
    assert "  Adam, which was not given, holds its old tables" in str(report)
    model.zero_grad()
    model(*inputs()).backward()
    with pytest.warns(UserWarning, match="Adam: steps a table that has been replaced"):
        optimizer.step()


def test_one_that_is_gone_is_not_warned_of() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.cycle = optimizer  # type: ignore[attr-defined]
    gc.disable()
    del optimizer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rx.replace_embeddings(model, {"item": ring()})
    finally:
        gc.enable()


def test_a_given_one_without_the_table_is_noted() -> None:
    model = Model()
    report = rx.replace_embeddings(model, {"item": ring()}, optimizer=torch.optim.SGD(model.out.parameters(), lr=0.1))
    assert "no optimizer that was given holds it" in str(report)
    frozen = Model()
    frozen.tables.requires_grad_(False)
    report = rx.replace_embeddings(frozen, {"item": ring()}, optimizer=torch.optim.SGD(frozen.out.parameters(), lr=0.1))
    assert report.tables[0].notes == ()


def test_gradients_and_hooks_of_the_weight_are_told() -> None:
    model = Model()
    model(*inputs()).backward()
    model.tables["item"].weight.register_hook(lambda grad: grad)
    text = str(rx.replace_embeddings(model, {"item": ring()}))
    assert "the gradient that its weight had is dropped" in text and "hooks on its weight are gone" in text
