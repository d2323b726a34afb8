"""Numbers of a batch, lists of neighbours and deals, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.distributed import Deal
from resemb_ext.distributed.lists import dealt, whole
from resemb_ext.distributed.requests import Slots
from resemb_ext.testing.strategies import examples
from tests.distributed.worlds import graph


@given(items=st.integers(1, 60), ranks=st.integers(1, 5), data=st.data())
@examples(100)
def test_numbers(items: int, ranks: int, data: st.DataObject) -> None:
    slots = Slots(items, torch.device("cpu"))
    slots.of.random_(0, 1000)  # what an earlier batch has left
    some = st.sets(st.integers(0, items - 1)).map(sorted)
    ids, neighbors = data.draw(some), data.draw(some)
    deal = Deal(items, ranks, 0)
    found = slots.number(torch.tensor(ids, dtype=torch.int64), torch.tensor(neighbors, dtype=torch.int64), deal)
    expected = sorted({*ids, *neighbors}, key=lambda i: (i % ranks, i not in ids, i))
    assert found.items.tolist() == expected
    assert [expected[n] for n in found.looked_up.tolist()] == sorted(ids, key=lambda i: (i % ranks, i))
    numbers = range(len(expected)) if found.neighbors is None else found.neighbors.tolist()
    assert [expected[n] for n in numbers] == [i for i in expected if i in neighbors]
    assert [int(slots.of[i]) for i in expected] == list(range(len(expected)))


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
    all_rows = whole(linked, link, torch.device("cpu"))
    for rank in range(ranks):
        deal = Deal(linked.num_items, ranks, rank)
        own = dealt(linked, link, deal, torch.device("cpu"))
        places = torch.tensor([0, deal.count - 1, 2])
        for graph_, rows in ((own, places), (all_rows, deal.rows()[places])):
            found = graph_.lists(rows)
            at = 0
            for row, length in zip(deal.rows()[places].tolist(), found.lengths.tolist(), strict=True):
                edges = slice(linked.indptr[row], linked.indptr[row + 1])
                assert found.neighbors[at : at + length].tolist() == linked.neighbors[edges].tolist()
                weights = torch.from_numpy(linked.weights[edges].copy())
                expected = weights.double().log().float() if link == "attention" else weights
                assert torch.equal(found.weights[at : at + length], expected)
                at += length
            assert at == len(found.neighbors)
