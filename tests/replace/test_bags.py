"""nn.EmbeddingBag in a model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import resemb_ext as rx
from tests.replace.models import DIM, ROWS, refused, ring

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = torch.tensor([1, 4, 0, 0, 11, 2, 2])
OFFSETS = torch.tensor([0, 2, 2, 7])


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("ends", [False, True])
def test_bags_stay_and_come_back(mode: str, ends: bool) -> None:
    bag = nn.EmbeddingBag(ROWS, DIM, mode=mode, padding_idx=0, include_last_offset=ends, sparse=True)
    model = nn.ModuleDict({"tags": bag})
    plain = copy.deepcopy(bag)
    report = rx.replace_embeddings(model, {"tags": ring()})
    assert model["tags"] is bag and type(bag) is rx.ResEmbeddingBag
    assert "tags: EmbeddingBag -> ResEmbeddingBag, 12 rows" in str(report)
    torch.testing.assert_close(bag(IDS, OFFSETS), plain(IDS, OFFSETS))
    assert bag.sparse and bag.central.requires_grad
    rx.restore_embeddings(model)
    assert type(bag) is nn.EmbeddingBag and repr(bag) == repr(plain)
    assert vars(bag).keys() == vars(plain).keys()
    torch.testing.assert_close(bag(IDS, OFFSETS), plain(IDS, OFFSETS))


def test_the_largest_of_a_bag_is_refused() -> None:
    model = nn.ModuleDict({"tags": nn.EmbeddingBag(ROWS, DIM, mode="max")})
    refused(ValueError, "tags: mode='max'; expected 'sum' or 'mean'", model, {"tags": ring()})
