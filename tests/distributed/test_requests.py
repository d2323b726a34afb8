"""Numbers of a batch, lists of neighbours and deals, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.distributed import Deal
from resemb_ext.distributed.lists import Lists, dealt, whole
from resemb_ext.distributed.requests import Slots, by_owner, counts_of
from resemb_ext.testing.strategies import examples
from tests.distributed.worlds import graph


@given(items=st.integers(1, 60), ranks=st.integers(1, 5), data=st.data())
@examples(100)
def test_numbers(items: int, ranks: int, data: st.DataObject) -> None:
    slots = Slots(items)
    slots.of[:] = np.random.default_rng(0).integers(-9, 1000, items)  # what an earlier batch has left
    item = st.integers(0, items - 1)
    ids, neighbors = data.draw(st.sets(item).map(sorted)), data.draw(st.lists(item))
    deal = Deal(items, ranks, 0)
    owned = by_owner(np.array(ids, np.int64), deal)
    assert owned.tolist() == sorted(ids, key=lambda i: (i % ranks, i))
    numbers = np.array(neighbors, np.int32)
    empty = np.empty(0, np.float32)
    found = slots.number(owned, Lists(empty, numbers, empty), deal)
    first = dict(zip(reversed(neighbors), reversed(range(len(neighbors))), strict=True))
    expected = sorted({*ids, *neighbors}, key=lambda i: (i % ranks, i not in ids, i if i in ids else first[i]))
    assert found.items.tolist() == expected
    assert [expected[n] for n in found.looked_up] == owned.tolist()
    assert found.neighbors.tolist() == [i for i in expected if i in neighbors]
    assert (found.read is None) == (len(found.neighbors) == len(expected))
    assert [expected[n] for n in numbers] == neighbors
    assert [int(slots.of[i]) for i in expected] == list(range(len(expected)))
    assert counts_of([found.items, owned], deal).sum(0).tolist() == [len(expected), len(ids)]


@given(items=st.integers(1, 60), ranks=st.integers(1, 5), data=st.data())
@examples(60)
def test_numbers_apart(items: int, ranks: int, data: st.DataObject) -> None:
    slots = Slots(items)
    slots.of[:] = np.random.default_rng(0).integers(-9, 1000, items)
    item = st.integers(0, items - 1)
    ids, neighbors = data.draw(st.sets(item).map(sorted)), data.draw(st.lists(item))
    deal = Deal(items, ranks, 0)
    owned = by_owner(np.array(ids, np.int64), deal)
    numbers, empty = np.array(neighbors, np.int32), np.empty(0, np.float32)
    found = slots.number(owned, Lists(empty, numbers, empty), deal, apart=True)
    first = dict(zip(reversed(neighbors), reversed(range(len(neighbors))), strict=True))
    assert found.neighbors.tolist() == sorted(first, key=lambda i: (i % ranks, first[i]))
    assert [found.items[n] for n in numbers] == neighbors and found.read is None and found.rows is None
    assert slots.of[owned].tolist() == found.looked_up.tolist() == list(range(len(ids)))
    assert found.height == max(len(ids), len(first))


@pytest.mark.parametrize("bad", [-1, 5])
def test_items_that_are_not_there(bad: int) -> None:
    empty = np.empty(0, np.float32)
    lists = Lists(empty, np.array([0, bad], np.int32), empty)
    with pytest.raises(IndexError, match=r"outside \[0, H\)"):
        Slots(5).number(np.array([1]), lists, Deal(5, 2, 0))
    with pytest.raises(IndexError, match="a row is not in the graph"):
        whole(graph(5), "given").lists(np.array([bad]))


@pytest.mark.parametrize("ranks", [1, 2, 3, 50])
def test_a_deal_gives_each_row_one_owner(ranks: int) -> None:
    table = torch.arange(41)
    parts = [Deal(41, ranks, rank) for rank in range(ranks)]
    for deal in parts:
        assert deal.rows().tolist() == deal.own(table).tolist() and deal.count == len(deal.rows())
        assert (deal.owner(deal.rows()) == deal.rank).all()
        assert deal.place(deal.rows()).tolist() == list(range(deal.count))
    assert sorted(torch.cat([deal.rows() for deal in parts]).tolist()) == table.tolist()


def test_popular_items_are_spread() -> None:
    """With ids by popularity, ranges would give nearly all to rank 0."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(np.minimum(rng.zipf(1.5, 20_000) - 1, 999))
    unique = torch.unique(ids)
    load = torch.bincount(Deal(1000, 4, 0).owner(unique), minlength=4)
    of_ranges = torch.bincount(unique // 250, minlength=4)
    assert load.max() <= 1.2 * load.min() and of_ranges.max() > 1.5 * of_ranges.min()


@pytest.mark.parametrize("link", ["average", "attention"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_lists(link: str, ranks: int) -> None:
    linked = graph().with_link(link)
    all_rows = whole(linked, link)
    for rank in range(ranks):
        deal = Deal(linked.num_items, ranks, rank)
        own = dealt(linked, link, deal)
        places = np.array([0, deal.count - 1, 2])
        for graph_, rows in ((own, places), (all_rows, deal.rows().numpy()[places])):
            found = graph_.lists(rows)
            at = 0
            for row, length in zip(deal.rows()[places].tolist(), found.lengths.tolist(), strict=True):
                edges = slice(linked.indptr[row], linked.indptr[row + 1])
                assert found.neighbors[at : at + length].tolist() == linked.neighbors[edges].tolist()
                weights = torch.from_numpy(linked.weights[edges].copy())
                expected = weights.double().log().float() if link == "attention" else weights
                assert torch.equal(torch.from_numpy(found.weights[at : at + length]), expected)
                at += length
            assert at == len(found.neighbors)


@pytest.mark.operators("empty_rows")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_room(dtype: torch.dtype) -> None:
    like = torch.zeros(2, 3)
    for rows, dim in ((0, 4), (5, 0), (3, 2), (2000, 70)):
        room = torch.ops.resemb_ext.empty_rows(like, rows, dim, dtype)
        assert room.shape == (rows, dim) and room.dtype == dtype and room.is_contiguous() and not room.requires_grad
        room.fill_(1)
    with pytest.raises(ValueError, match="rows, dim: expected sizes of at least 0"):
        torch.ops.resemb_ext.empty_rows(like, -1, 2, dtype)
