"""Interest graphs of DeepCTR-Torch's training samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("deepctr_torch", __file__)

from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat  # noqa: E402

from resemb_ext.integrations import deepctr  # noqa: E402
from tests.integrations.deepctr.sample import ITEMS, LENGTH, columns, get_feature_names, model, samples, train_log  # noqa: E402

ROWS = ITEMS + 1


def same(graph: rx.InterestGraph, other: rx.InterestGraph) -> bool:
    pairs = zip(
        (graph.indptr, graph.neighbors, graph.weights), (other.indptr, other.neighbors, other.weights), strict=True
    )
    return all(np.array_equal(one, two) for one, two in pairs)


def from_events(*sequences: list[int], **options: Any) -> rx.InterestGraph:
    users = np.repeat(np.arange(len(sequences)), [len(items) for items in sequences])
    return rx.InterestGraph.from_events(users, np.concatenate(sequences), num_items=ROWS, padding_idx=0, **options)


def inputs(*rows: tuple[int, list[int], int]) -> dict[str, np.ndarray]:
    """Input of (user, history, item)."""
    history = np.zeros((len(rows), LENGTH), dtype=np.int64)
    for place, (_, items, _) in zip(history, rows, strict=True):
        place[: len(items)] = items
    lengths = np.array([len(items) for _, items, _ in rows])
    user, item = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
    return {"user": user, "item": item, "hist_item": history, "length": lengths}


def test_it_is_the_graph_of_the_training_events() -> None:
    """Samples tell each event many times, in histories of at most LENGTH events; each counts once."""
    x, y = samples()
    events = train_log()
    wanted = rx.InterestGraph.from_events(events.user, events.item, num_items=ROWS, padding_idx=0)
    assert np.bincount(events.user).max() > LENGTH
    assert same(deepctr.item_graph(columns(), x, y, user="user"), wanted)
    shuffled = np.random.default_rng(0).permutation(len(y))
    time = np.arange(len(y))[shuffled]
    mixed = {name: values[shuffled] for name, values in x.items()}
    assert same(deepctr.item_graph(columns(), mixed, y[shuffled], user=mixed["user"], time=time), wanted)


def test_all_forms_of_input_give_the_same_graph() -> None:
    x, y = samples()
    wanted = deepctr.item_graph(columns(), x, y, user="user")
    arrays = [x[name] for name in get_feature_names(columns())]
    matrix = np.concatenate([array[:, None] if array.ndim == 1 else array for array in arrays], axis=1)
    forms = [
        arrays,
        matrix.astype(np.float32),
        torch.tensor(matrix),
        {**x, "item": x["item"][:, None].astype(np.float32)},
    ]
    for form in forms:
        assert same(deepctr.item_graph(model("DIN"), form, y[:, None], user="user"), wanted)


def test_validation_rows_do_not_enter() -> None:
    """fit(validation_split=...) holds the last rows out."""
    x, y = samples()
    rows = int(len(y) * (1.0 - 0.2))
    cut = {name: values[:rows] for name, values in x.items()}
    wanted = deepctr.item_graph(columns(), cut, y[:rows], user="user")
    assert same(deepctr.item_graph(columns(), x, y, user="user", validation_split=0.2), wanted)
    assert not same(deepctr.item_graph(columns(), x, y, user="user"), wanted)


def test_places_behind_the_length_are_no_events() -> None:
    x = inputs((1, [3, 4, 5], 6))
    x["length"][:] = 2
    assert same(deepctr.item_graph(columns(), x, np.ones(1)), from_events([3, 4, 6]))


def test_rows_with_label_0_are_no_events() -> None:
    x = inputs((1, [3, 4], 6), (1, [3, 4], 7), (2, [8, 9], 10))
    assert same(deepctr.item_graph(columns(), x, np.array([1, 0, 0]), user="user"), from_events([3, 4, 6], [8, 9]))
    assert same(deepctr.item_graph(columns(), x), from_events([3, 4], [8, 9]))


def test_users_are_needed_to_join_cut_histories() -> None:
    first, later = [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 7, 8]
    x = inputs((1, first, 7), (1, later, 9))
    y = np.ones(2)
    assert same(deepctr.item_graph(columns(), x, y, user="user"), from_events([1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert same(deepctr.item_graph(columns(), x, y), from_events([*first, 7], [*later, 9]))


def test_the_item_of_a_full_history_that_lost_its_newest_events() -> None:
    x = inputs((1, [1, 2, 3, 4, 5, 6], 9), (2, [1, 2], 3))
    graph = deepctr.item_graph(columns(), x, np.ones(2), user="user", lost="newest")
    assert same(graph, from_events([1, 2, 3, 4, 5, 6], [1, 2, 3]))


def test_negatives_of_dien_are_no_history() -> None:
    item = columns()[1]
    negatives = VarLenSparseFeat(
        SparseFeat("neg_hist_item", ROWS, 4, embedding_name="item"), LENGTH, length_name="length"
    )
    x = inputs((1, [3, 4], 6))
    x["neg_hist_item"] = np.full((1, LENGTH), 9)
    assert item.embedding_name == "item"
    assert same(deepctr.item_graph([*columns(), negatives], x, np.ones(1)), from_events([3, 4, 6]))


def test_without_histories_rows_are_events() -> None:
    """Id 0 is an item then."""
    features = [SparseFeat("user", 5, 4), SparseFeat("item", 4, 4), DenseFeat("price", 2)]
    x = {"user": np.array([1, 1, 2, 1]), "item": np.array([0, 3, 2, 1]), "price": np.zeros((4, 2))}
    graph = deepctr.item_graph(features, x, np.ones(4), item="item", user="user", time=np.array([3, 1, 2, 2]))
    wanted = rx.InterestGraph.from_events(np.array([1, 1, 1, 2]), np.array([3, 1, 0, 2]), num_items=4)
    assert same(graph, wanted)
    with pytest.raises(ValueError, match=r"item: found None, and no history shares a table; name one of user, item"):
        deepctr.item_graph(features, x, np.ones(4), user="user")
    with pytest.raises(ValueError, match="y: found None"):
        deepctr.item_graph(features, x, item="item", user="user")


def test_several_tables_with_histories_are_told_apart() -> None:
    category = SparseFeat("cate", 5, 4, embedding_name="cate")
    shared = SparseFeat("hist_cate", 5, 4, embedding_name="cate")
    features = [*columns(), category, VarLenSparseFeat(shared, LENGTH, length_name="length")]
    x = inputs((1, [3, 4], 6))
    x |= {"cate": np.array([1]), "hist_cate": np.where(x["hist_item"], 2, 0)}
    with pytest.raises(ValueError, match="share the tables of item, cate"):
        deepctr.item_graph(features, x, np.ones(1))
    assert deepctr.item_graph(features, x, np.ones(1), item="cate").num_items == 5
    with pytest.raises(ValueError, match="'hist_item' looks up in the table 'item'"):
        deepctr.item_graph(features, x, np.ones(1), item="cate", history="hist_item")


def test_bad_input_is_named() -> None:
    x, y = samples()
    with pytest.raises(TypeError, match="columns: found str"):
        deepctr.item_graph("item", x, y)
    with pytest.raises(TypeError, match="x: found int"):
        deepctr.item_graph(columns(), 3, y)
    with pytest.raises(ValueError, match=r"x: found shape \[2, 3\]; expected \[N, 9\]"):
        deepctr.item_graph(columns(), np.zeros((2, 3)), y)
    with pytest.raises(ValueError, match="x: found 2 arrays; expected 4"):
        deepctr.item_graph(columns(), [x["user"], x["item"]], y)
    with pytest.raises(ValueError, match="x: no feature 'hist_item'"):
        deepctr.item_graph(columns(), {name: x[name] for name in ("user", "item")}, y)
    with pytest.raises(ValueError, match="labels besides 0 and 1"):
        deepctr.item_graph(columns(), x, y + 1)
    for wrong in (y[:5], np.append(y, 1)):
        with pytest.raises(ValueError, match=rf"y: found shape \[{len(wrong)}\]; expected \[{len(y)}\], the rows of x"):
            deepctr.item_graph(columns(), x, wrong)
    with pytest.raises(ValueError, match=r"time: found shape \[2\]; expected .* or the name of a feature"):
        deepctr.item_graph(columns(), x, y, time=y[:2])
    with pytest.raises(ValueError, match="lost: found 'new'"):
        deepctr.item_graph(columns(), x, y, lost="new")
    with pytest.raises(ValueError, match="max_gap: the events of a history have no times"):
        deepctr.item_graph(columns(), x, y, max_gap=5)
    with pytest.raises(ValueError, match="item: found float64"):
        deepctr.item_graph(columns(), {**x, "item": x["item"] + 0.5}, y)
    with pytest.raises(IndexError, match="item: found the id 41; expected 0 to 40"):
        deepctr.item_graph(columns(), {**x, "item": np.full_like(x["item"], 41)}, y)
    with pytest.raises(ValueError, match="no event of 'item' among"):
        deepctr.item_graph(columns(), {**x, "hist_item": x["hist_item"] * 0}, y * 0)
    with pytest.raises(ValueError, match=r"validation_split: found 1\.0"):
        deepctr.item_graph(columns(), x, y, validation_split=1.0)
