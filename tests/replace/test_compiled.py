"""replace_embeddings and restore_embeddings in models that are compiled."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import torch.nn.utils.prune

import resemb_ext as rx
from tests.replace.models import Model, inputs, ring

pytestmark = pytest.mark.usefixtures("one_thread")


def test_compiled_models() -> None:
    model = Model()
    compiled = torch.compile(model, backend="eager")
    compiled(*inputs())
    for _ in range(2):
        report = rx.replace_embeddings(compiled, {"tables.item": ring()})
        assert report.tables[0].path == "_orig_mod.tables.item"
        with torch.no_grad():
            model.tables["item"].central[3] += 1
        torch.testing.assert_close(compiled(*inputs()), model(*inputs()))
        model.zero_grad()
        compiled(*inputs()).backward()
        assert model.tables["item"].central.grad.any()
        rx.restore_embeddings(compiled)
        with torch.no_grad():
            model.tables["item"].weight[3] += 1
        torch.testing.assert_close(compiled(*inputs()), model(*inputs()))
    gc.collect()


@pytest.mark.full
def test_models_compiled_to_code() -> None:
    model = Model()
    compiled = torch.compile(model, fullgraph=True)
    before = compiled(*inputs())
    rx.replace_embeddings(model, {"item": ring()})
    torch.testing.assert_close(compiled(*inputs()), before)
    compiled(*inputs()).backward()
    with torch.no_grad():
        for parameter in model.tables["item"].parameters():
            parameter -= parameter.grad
    torch.testing.assert_close(compiled(*inputs()), model(*inputs()))
    rx.restore_embeddings(model)
    torch.testing.assert_close(compiled(*inputs()), model(*inputs()))


@pytest.mark.parametrize("how", ["function", "in place", "part"])
def test_other_ways_to_compile(how: str) -> None:
    model = Model()
    call: Any = model
    if how == "function":
        call = torch.compile(lambda *ids: model(*ids) * 2, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.tables["item"] = torch.compile(model.tables["item"], backend="eager")
    before = call(*inputs())
    report = rx.replace_embeddings(model, {"item": ring()})
    assert report.tables[0].path == "tables.item" + ("._orig_mod" if how == "part" else "")
    torch.testing.assert_close(call(*inputs()), before)
    with torch.no_grad():
        report.tables[0].module.central[1:] += 1
    moved = call(*inputs())
    assert not torch.allclose(moved, before)
    rx.restore_embeddings(model)
    torch.testing.assert_close(call(*inputs()), moved)
