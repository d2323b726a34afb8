"""Graphs shifted into tables of several fields."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext import InterestGraph
from resemb_ext.data import read_log
from resemb_ext.testing.graphs import rows_of, same_arrays
from resemb_ext.testing.strategies import examples

LINKS = ("raw", "average", "gcn", "given", "attention")


@st.composite
def graphs(draw):
    height = draw(st.integers(1, 6))
    entries = st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))
    cells = draw(st.dictionaries(entries, st.sampled_from([0.25, 1.0, 3.5])))
    dense = np.zeros((height, height))
    for cell, weight in cells.items():
        dense[cell] = weight
    return InterestGraph.from_scipy(sp.csr_array(dense))


places = st.tuples(st.integers(0, 5), st.integers(0, 5))


@examples(100)
@given(graphs(), places)
def test_rows_are_those_of_a_matrix_with_the_graph_as_a_block(graph, place):
    before, behind = place
    shifted = graph.shift(before, before + graph.num_items + behind)
    blocks = [sp.csr_array((before, before)), graph.to_scipy(), sp.csr_array((behind, behind))]
    expected = InterestGraph.from_scipy(sp.block_diag(blocks, format="csr"))
    assert same_arrays(shifted, expected) and shifted.link == "raw"


@examples(100)
@given(graphs(), places, st.sampled_from(LINKS[1:]))
def test_a_link_gives_shifted_rows_the_weights_it_gives_the_graph(graph, place, link):
    before, behind = place
    rows = before + graph.num_items + behind
    linked = rows_of(graph.with_link(link))
    block = {i + before: {j + before: w for j, w in row.items()} for i, row in linked.items()}
    others = {i for i in range(rows) if i not in block}
    own = {} if link == "given" else {1.0}
    assert rows_of(graph.shift(before, rows).with_link(link)) == block | {
        i: dict.fromkeys([i] if own else [], 1.0) for i in others
    }
    late = graph.with_link(link).shift(before, rows)
    assert rows_of(late) == block | {i: {} for i in others}
    assert late.link == link and rows_of(late.with_link(link))[before] == block[before]


@examples(50)
@given(graphs(), places, places, st.sampled_from(LINKS))
def test_two_shifts_are_one(graph, first, second, link):
    if link != "raw":
        graph = graph.with_link(link)
    inner = first[0] + graph.num_items + first[1]
    twice = graph.shift(first[0], inner).shift(second[0], second[0] + inner + second[1])
    once = graph.shift(first[0] + second[0], twice.num_items)
    assert same_arrays(twice, once) and twice.meta == once.meta and twice.hash == once.hash
    assert once.meta["shift"] == {"offset": first[0] + second[0], "num_items": graph.num_items}


@pytest.mark.parametrize("link", LINKS)
def test_lookups_in_a_table_of_several_fields(link):
    """Rows of the item's field read as in a table of items alone; the others have vectors of their own."""
    import torch

    user, item = np.arange(200) // 10, 1 + (np.arange(200) * 37) % 9
    graph = InterestGraph.from_events(user, item, num_items=10, padding_idx=0)
    if link == "raw":
        link = "average"
    alone = rx.ResEmbedding(graph, 4, link=link)
    table = rx.ResEmbedding(graph.shift(7, 30), 4, link=link)
    with torch.no_grad():
        table.central[7:17] = alone.central
        table.residual[7:17] = alone.residual
    ids = torch.arange(10)
    torch.testing.assert_close(table(ids + 7), alone(ids))
    others = torch.tensor([0, 6, 17, 29])
    alone_rows = table.residual[others] + (0 if link == "given" else table.central[others])
    torch.testing.assert_close(table(others), alone_rows)


def test_meta_data_ids_and_counts(tmp_path):
    log = read_log({"user_id": [1, 1, 1, 2, 2], "item_id": [3, 4, 5, 4, 5], "timestamp": range(5)})
    graph = InterestGraph.from_log(log, keep_counts=True)
    shifted = graph.shift(4, 20)
    assert {**shifted.meta, "shift": None} == {**graph.meta, "shift": None}
    assert shifted.meta["shift"] == {"offset": 4, "num_items": graph.num_items} and "shift" not in graph.meta
    assert shifted.same_items(log.items) is False and shifted.same_items(log.items, offset=4) is True
    assert graph.same_items(log.items) is True and graph.same_items(log.items, offset=4) is False
    assert graph.shift(0, 20).same_items(log.items) is True
    other = read_log({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 2]})
    assert shifted.same_items(other.items, offset=4) is False and shifted.same_items(None) is None
    with pytest.raises(ValueError, match="keeps no counts"):
        shifted.update(log)
    linked = graph.with_link("average", padding_idx=0).shift(4, 20)
    assert linked.meta["link"]["padding_idx"] == 4
    linked.save(tmp_path / "graph.npz")
    loaded = InterestGraph.load(tmp_path / "graph.npz")
    assert same_arrays(loaded, linked) and loaded.meta == linked.meta and loaded.hash == linked.hash
    assert shifted.stats()["empty_rows"] == 16  # padding of the log, and 15 rows of others


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, 9), ValueError, "offset is -1, expected an integer >= 0"),
        ((1.5, 9), TypeError, "offset is 1.5, expected an integer"),
        ((0, 2), ValueError, "rows is 2, expected at least 3: offset 0 and the 3 items of the graph"),
        ((4, 6), ValueError, "rows is 6, expected at least 7"),
        ((0, "9"), TypeError, "rows is '9', expected an integer"),
    ],
)
def test_bad_places(arguments, error, message):
    with pytest.raises(error, match=message):
        InterestGraph.from_csr([0, 1, 1, 2], [1, 0]).shift(*arguments)


def test_a_table_beyond_int32_has_int64_neighbours(monkeypatch):
    monkeypatch.setattr("resemb_ext.graph.checks.INT32_MAX", 50)
    shifted = InterestGraph.from_csr([0, 1, 1, 2], [1, 0]).shift(40, 60)
    assert shifted.neighbors.dtype == np.int64 and shifted.neighbors.tolist() == [41, 40]
