"""Subclasses of nn.Embedding and nn.EmbeddingBag keep what they do."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resemb_ext as rx
from resemb_ext.nn import combined
from tests.replace.models import DIM, ROWS, refused, ring

pytestmark = pytest.mark.usefixtures("one_thread")


class Named(nn.Embedding):
    """Nothing but a name and a method, as libraries tell item tables apart."""

    def rows(self) -> int:
        return self.num_embeddings


class Scaled(nn.Embedding):
    """A parameter and a mask of its own, and other arguments."""

    def __init__(self, field: str, factor: float) -> None:
        super().__init__(ROWS, DIM, padding_idx=0)
        self.field = field
        self.factor = nn.Parameter(torch.tensor(factor))
        self.register_buffer("mask", torch.ones(DIM))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(super().forward(ids) * self.factor) * self.mask


class Functional(nn.Embedding):
    """Looks its weight up by the function."""

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight, self.padding_idx) * 2


class Offset(nn.EmbeddingBag):
    """Pools ids that start at 1."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Any = None) -> Tensor:
        return super().forward(input - 1, offsets, per_sample_weights)


def make(kind: type) -> nn.Module:
    if kind is Scaled:
        return Scaled("item_id", 3.0)
    return kind(ROWS, DIM, padding_idx=0)


@pytest.mark.parametrize("kind", [Named, Scaled, Functional, Offset])
def test_subclasses(kind: type) -> None:
    ids = torch.tensor([[1, 4, 11], [3, 1, 2]])
    model = nn.Sequential(make(kind))
    table: Any = model[0]
    plain = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    held = len(optimizer.param_groups[0]["params"])
    report = rx.replace_embeddings(model, {"0": ring()}, optimizer=optimizer)
    assert model[0] is table and type(table) is combined(kind) and isinstance(table, kind)
    assert f"0: {kind.__name__} -> Res{kind.__name__}, 12 rows" in str(report)
    torch.testing.assert_close(model(ids), plain(ids))
    assert len(optimizer.param_groups[0]["params"]) == held + 1 == len(list(model.parameters()))
    assert {id(p) for p in model.parameters()} == {id(p) for p in optimizer.param_groups[0]["params"]}
    if kind is Scaled:
        assert table.field == "item_id" and [name for name, _ in table.named_buffers()] == ["mask"]
        assert [name for name, _ in table.named_parameters()][:3] == ["central", "residual", "factor"]
    if kind is Named:
        assert table.rows() == ROWS

    before = table.central.detach().clone()
    (model(ids) ** 3).sum().backward()
    optimizer.step()
    assert not torch.equal(table.central, before)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    shown = model(ids)
    for again in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        torch.testing.assert_close(again(ids), shown)
        assert type(again[0]) is type(table)

    rx.restore_embeddings(model, optimizer=optimizer)
    assert type(table) is kind
    assert vars(table).keys() == vars(plain[0]).keys()
    assert [name for name, _ in table.named_parameters()] == [name for name, _ in plain[0].named_parameters()]
    torch.testing.assert_close(model(ids), shown)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    plain.load_state_dict(model.state_dict())


class Computed(nn.Embedding):
    """Its weight is computed."""


class Slots(nn.Embedding):
    """Python does not let its objects change their class."""

    __slots__ = ("extra",)


class Clash(nn.Embedding):
    """A method of a name that ResEmbedding has another meaning for."""

    def materialize(self) -> None: ...


@pytest.mark.parametrize("kind", [Computed, Slots, Clash])
def test_subclasses_that_cannot_are_named(kind: type) -> None:
    model = nn.ModuleDict({"item": nn.Embedding(ROWS, DIM)})
    model["item"] = kind(ROWS, DIM, padding_idx=0)
    if kind is Computed:
        kind.weight = property(lambda self: self._parameters["weight"])  # type: ignore[attr-defined]
    refused(TypeError, f"item: .*{kind.__name__}", model, {"item": ring()})


def test_an_attribute_of_the_subclass_that_is_in_the_way() -> None:
    model = nn.ModuleDict({"item": Named(ROWS, DIM, padding_idx=0)})
    model["item"].graph = "mine"  # type: ignore[assignment]
    refused((TypeError, ValueError), "item: .*graph", model, {"item": ring()})  # type: ignore[arg-type]
