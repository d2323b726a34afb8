"""What replace_embeddings refuses, by name; and that a refused call changes nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import resemb_ext as rx
from tests.replace.models import DIM, ROWS, Model, identities, refused, ring

pytestmark = pytest.mark.usefixtures("one_thread")


def test_keys_that_mean_nothing() -> None:
    model = Model()
    model.more = nn.ModuleDict({"item": nn.Embedding(5, 1)})
    known = r"its tables are tables.item \[12, 4\], tables.user \[15, 4\], more.item \[5, 1\]"
    refused(ValueError, "'item' is ambiguous, it is the end of tables.item, more.item", model, {"item": ring()})
    refused(ValueError, r"no module 'itme' \(did you mean 'item'\?\); " + known, model, {"itme": ring()})
    refused(ValueError, "'out' is a Linear; expected an nn.Embedding", model, {"out": ring()})
    refused(ValueError, "is not in the model", model, {nn.Embedding(2, 2): ring()})
    refused(ValueError, "takes none", model, {lambda name, module: False: ring()})
    refused(ValueError, "meant by two keys", model, {"tables.item": ring(), model.tables["item"]: ring()})
    refused(TypeError, "found the key 3", model, {3: ring()})
    refused(TypeError, "found list; expected a mapping", model, [ring()])
    refused(ValueError, "empty mapping", model, {})
    refused(ValueError, "start: found 'warm'", model, {"tables.item": ring()}, start="warm")
    with pytest.raises(TypeError, match="model: found dict"):
        rx.replace_embeddings({}, {"item": ring()})  # type: ignore[arg-type]


def test_graphs_that_do_not_fit() -> None:
    model = Model()
    refused(ValueError, "tables.item: the graph has 11 items; expected 12.*shift", model, {"item": ring(11)})
    refused(ValueError, "tables.item: .*padding", model, {"item": ring(padding=False)})
    refused(TypeError, "tables.item: graph: found int", model, {"item": 3})
    refused(ValueError, "tables.item: .*tuple of 1", model, {"item": (np.arange(3),)})
    refused(ValueError, "tables.item: .*found the columns a", model, {"item": {"a": [1]}})
    refused(IndexError, "tables.item: .*12", model, {"item": ([1, 1], [3, 12])})
    refused(ValueError, "tables.item: .*unknown|tables.item: link", model, {"item": ring()}, link="nearest")
    refused(ValueError, "tables.item: padding_idx", model, {"item": ring()}, padding_idx=99)
    refused(TypeError, "tables.item: .*depth", model, {"item": ring()}, depth=2)


def tied(where: str) -> nn.Module:
    model = Model()
    if where == "module":
        model.scores = nn.Linear(DIM, ROWS, bias=False)
        model.scores.weight = model.tables["item"].weight
    elif where == "memory":
        model.scores = nn.Linear(DIM, ROWS, bias=False)
        model.scores.weight = nn.Parameter(model.tables["item"].weight.data)
    elif where == "list":
        model.penalised = nn.ParameterList([model.tables["item"].weight])
    else:
        model.more = nn.Embedding(ROWS, DIM)
        model.more.weight = model.tables["item"].weight
    return model


@pytest.mark.parametrize(
    "where, name, remedy",
    [
        ("module", "scores.weight", "read the embedding's weight"),
        ("memory", "scores.weight", "read the embedding's weight"),
        ("table", "more.weight", "name that one in this call too"),
        ("list", "penalised.0", "keep a plain list"),
    ],
)
def test_tied_weights_are_refused(where: str, name: str, remedy: str) -> None:
    refused(ValueError, f"tables.item: its weight is tied to {name}.*{remedy}", tied(where), {"tables.item": ring()})


def odd(kind: str) -> nn.Module:
    model = Model()
    item = model.tables["item"]
    if kind == "max_norm":
        item.max_norm = 1.0
    elif kind == "frequency":
        item.scale_grad_by_freq = True
    elif kind == "parametrized":
        nn.utils.parametrize.register_parametrization(item, "weight", nn.Identity())
    elif kind == "pruned":
        nn.utils.prune.random_unstructured(item, "weight", 0.5)
    elif kind == "lazy":
        item.weight = nn.UninitializedParameter()
    elif kind == "integers":
        item.weight = nn.Parameter(torch.ones(ROWS, DIM, dtype=torch.int8), requires_grad=False)
    elif kind == "complex":
        item.to(torch.complex64)
    elif kind == "own weight":
        item.__class__ = type("Subclass", (nn.Embedding,), {"weight": None})
    elif kind == "replaced":
        rx.replace_embeddings(model, {"item": ring()})
    return model


@pytest.mark.parametrize(
    "kind, message",
    [
        ("max_norm", "max_norm=1.0; not supported"),
        ("frequency", "scale_grad_by_freq=True; not supported"),
        ("parametrized", "its weight is parametrized"),
        ("pruned", "no parameter of Embedding"),
        ("lazy", "is a UninitializedParameter"),
        ("integers", "torch.int8; expected"),
        ("complex", "torch.complex64; expected"),
        ("own weight", "Subclass"),
        ("replaced", "is a ResEmbedding already; .*restore_embeddings"),
    ],
)
def test_what_cannot_be_replaced_is_named(kind: str, message: str) -> None:
    refused((ValueError, TypeError), f"tables.item: .*{message}", odd(kind), {"item": ring()})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["graph", "central", "attention"])
def test_attributes_that_are_in_the_way_are_named(name: str) -> None:
    model = Model()
    model.tables["item"].register_buffer(name, torch.ones(1))
    refused(
        ValueError, f"tables.item: has attributes of its own that ResEmbedding needs, {name}", model, {"item": ring()}
    )


def test_a_wrapped_model_is_refused() -> None:
    class FSDPModule(nn.Module):
        """Named as the class that torch mixes into sharded modules."""

    model = Model()
    model.out.__class__ = type("FSDPLinear", (FSDPModule, nn.Linear), {})
    refused(ValueError, "out: found FSDPLinear.*before wrapping", model, {"item": ring()})


def test_the_second_table_at_fault_leaves_the_first() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    refused(ValueError, "tables.user", model, {"item": ring(), "user": ring()}, optimizer=optimizer)


def test_a_warning_as_error_leaves_the_model() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = identities(model, optimizer)
        with pytest.raises(UserWarning, match=r"Adam holds the weight of tables\.item"):
            rx.replace_embeddings(model, {"item": ring()})
        assert identities(model, optimizer) == before
