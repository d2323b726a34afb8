"""Parameters in plain attributes of a model, and what takes their place."""

from __future__ import annotations

import types
from collections import OrderedDict, deque, namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import resemb_ext as rx
from resemb_ext.testing.strategies import examples
from tests.replace.models import Model, inputs, ring

pytestmark = pytest.mark.usefixtures("one_thread")

Penalty = namedtuple("Penalty", "parameter, strength")


def model_with(**attributes: Any) -> Any:
    model = Model()
    for name, value in attributes.items():
        setattr(model, name, value(model.tables["item"].weight, model.tables["user"].weight))
    return model


def test_the_lists_of_deepctr() -> None:
    """DeepCTR-Torch keeps [(weights, l1, l2)], weights a list of parameters or of (name, parameter)."""
    model = model_with(
        regularization_weight=lambda item, user: [
            ([("tables.item.weight", item), ("tables.user.weight", user)], 0.0, 0.5),
            ([user, item], 0.25, 0.0),
        ]
    )
    kept = model.regularization_weight
    report = rx.replace_embeddings(model, {"item": ring()})
    item, user = model.tables["item"], model.tables["user"].weight
    assert model.regularization_weight is kept
    named, plain = kept[0][0], kept[1][0]
    assert [name for name, _ in named] == ["tables.item.central", "tables.item.residual", "tables.user.weight"]
    assert [p for _, p in named] == [item.central, item.residual, user]
    assert all(a is b for a, b in zip(plain, [user, item.central, item.residual], strict=True))
    assert kept[0][1:] == (0.0, 0.5) and kept[1][1:] == (0.25, 0.0)
    assert report.tables[0].mended == ("regularization_weight[0][0][0]", "regularization_weight[1][0][1]")
    assert report.tables[0].left == ()
    assert "  regularization_weight[1][0][1] holds the new parameters" in str(report)

    def penalty() -> torch.Tensor:
        return sum(l2 * (w[1] if isinstance(w, tuple) else w).square().sum() for ws, _, l2 in kept for w in ws)  # type: ignore

    (penalty() + model(*inputs())).backward()
    rx.restore_embeddings(model)
    assert [name for name, _ in kept[0][0]] == ["tables.item.weight", "tables.user.weight"]
    assert kept[0][0][0][1] is item.weight and kept[1][0][1] is item.weight and len(kept[1][0]) == 2


def test_all_kinds_of_containers() -> None:
    model = model_with(
        pair=lambda item, user: (item, user),
        many=lambda item, user: {item, user},
        frozen=lambda item, user: frozenset({item}),
        queue=lambda item, user: deque([item, user], maxlen=9),
        by_name=lambda item, user: OrderedDict({"item.weight": item, "table": item, "user": user}),
        deep=lambda item, user: {"l2": [{"a": [(item, 0.5)]}]},
        penalties=lambda item, user: [Penalty(item, 0.1), Penalty(user, 0.2)],
        other=lambda item, user: types.SimpleNamespace(weights=[item], nothing=None),
    )
    many, by_name, queue = model.many, model.by_name, model.queue
    rx.replace_embeddings(model, {"item": ring()}, link="attention")
    item, user = model.tables["item"], model.tables["user"].weight
    central, residual = item.central, item.residual
    assert model.pair == (central, residual, user)
    assert model.many is many == {central, residual, user}
    assert model.frozen == frozenset({central, residual})
    assert model.queue is queue and list(queue) == [central, residual, user] and queue.maxlen == 9
    assert model.by_name is by_name and list(by_name) == [
        *("item.central", "item.residual", "table.central", "table.residual", "user")
    ]
    assert by_name["item.residual"] is residual
    assert model.deep == {"l2": [{"a": [(central, 0.5), (residual, 0.5)]}]}
    assert model.penalties == [Penalty(central, 0.1), Penalty(residual, 0.1), Penalty(user, 0.2)]
    assert model.other.weights == [central, residual]

    rx.restore_embeddings(model)
    weight = item.weight
    assert model.pair == (weight, user) and model.many == {weight, user} and model.frozen == frozenset({weight})
    assert list(queue) == [weight, user] and model.deep == {"l2": [{"a": [(weight, 0.5)]}]}
    assert model.penalties == [Penalty(weight, 0.1), Penalty(user, 0.2)]
    assert list(by_name) == ["item.weight", "table.weight", "user"]


def test_places_for_one_parameter_are_named() -> None:
    model = model_with(
        one=lambda item, user: types.SimpleNamespace(weight=item),
        pair=lambda item, user: ("item", item),
        numbered=lambda item, user: {3: item},
        memory=lambda item, user: [item.detach()],
        safe=lambda item, user: [user],
    )
    report = rx.replace_embeddings(model, {"item": ring()})
    assert report.tables[0].left == ("one.weight", "pair", "numbered[3]", "memory[0]")
    assert report.tables[0].mended == ()
    assert "  pair still holds the old weight" in str(report)


def test_loops_and_large_lists_end() -> None:
    model = Model()
    loop: list[Any] = [1, 2]
    loop.append(loop)
    model.loop, model.numbers = loop, list(range(100_000))
    model.holder = types.SimpleNamespace(model=model, again=loop)
    model.holder.self = model.holder
    model.chain = types.SimpleNamespace(next=None)
    for _ in range(5000):
        model.chain = types.SimpleNamespace(next=model.chain)
    assert rx.replace_embeddings(model, {"item": ring()}).tables[0].left == ()


def test_lists_in_modules_that_are_not_registered() -> None:
    model = Model()
    hidden = nn.Linear(1, 1)
    hidden.penalised = [model.tables["item"].weight]
    model.hidden = [hidden]
    report = rx.replace_embeddings(model, {"item": ring()})
    assert report.tables[0].mended == ("hidden[0].penalised[0]",)
    assert hidden.penalised == [model.tables["item"].central, model.tables["item"].residual]


def _leaves(draw: st.DrawFn, item: nn.Parameter, user: nn.Parameter) -> Any:
    number = st.integers(0, 3)
    return draw(number | st.just("l2") | st.none() | st.sampled_from([item, user]) | st.just(item))


def _structure(draw: st.DrawFn, item: nn.Parameter, user: nn.Parameter, depth: int) -> Any:
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return _leaves(draw, item, user)
    parts = [_structure(draw, item, user, depth - 1) for _ in range(draw(st.integers(0, 3)))]
    kind = draw(st.sampled_from([list, tuple, dict, deque, set, types.SimpleNamespace]))
    if kind is dict:
        return {f"table{number}.weight": part for number, part in enumerate(parts)}
    if kind is types.SimpleNamespace:
        return kind(**{f"part{number}": part for number, part in enumerate(parts)})
    if kind is set:
        return {part for part in parts if isinstance(part, (nn.Parameter, int))}
    return kind(parts)


def _flat(value: Any, names: dict[int, str]) -> list[Any]:
    """Every part of a structure, in order; parameters by name."""
    if isinstance(value, dict):
        return [part for key, one in value.items() for part in (key, *_flat(one, names))]
    if isinstance(value, (list, tuple, deque)):
        return [type(value), *(part for one in value for part in _flat(one, names)), "end"]
    if isinstance(value, set):
        return [set, *sorted(str(_flat(one, names)[0]) for one in value), "end"]
    if isinstance(value, types.SimpleNamespace):
        return [type(value), *_flat(vars(value), names)]
    return [names[id(value)] if isinstance(value, torch.Tensor) else value]


@examples(100)
@given(st.data())
def test_any_structure_comes_back(data: st.DataObject) -> None:
    model: Any = Model()
    item, user = model.tables["item"].weight, model.tables["user"].weight
    model.kept = [data.draw(st.composite(_structure)(item, user, 4))]
    names = {id(item): "T", id(user): "U"}
    before = _flat(model.kept, names)
    report = rx.replace_embeddings(model, {"item": ring()}).tables[0]
    changed = _flat(model.kept, names | {id(p): name for name, p in model.tables["item"].named_parameters()})
    # Each place is changed or named.
    assert len(report.mended) + len(report.left) == before.count("T")
    assert changed.count("T") == len(report.left)
    assert changed.count("central") == changed.count("residual") == len(report.mended)
    rx.restore_embeddings(model)
    assert _flat(model.kept, names | {id(model.tables["item"].weight): "T"}) == before
