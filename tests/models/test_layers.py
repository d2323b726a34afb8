"""Pooling, Dice and DIN's attention against slow, literal versions of their formulas."""

import pytest
import torch

from resemb_ext.models import DIN, Dice, TorchBatch, embedding_bag
from resemb_ext.models.din import LocalActivation
from resemb_ext.models.histories import Histories, Jagged
from resemb_ext.models.pooling import segment_ids


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("kind", ["embedding", "callable"])
def test_bag_equals_a_loop(mode, kind):
    table = torch.nn.Embedding(9, 3, padding_idx=0)
    ids = torch.tensor([1, 2, 0, 5, 5, 0, 0, 8])
    offsets = torch.tensor([0, 3, 3, 5, 7])
    module = table
    if kind == "callable":
        module = torch.nn.Sequential(table)
        module.padding_idx = 0
    got = embedding_bag(module, ids, offsets, mode)
    bags = [[1, 2], [], [5, 5], [], [8]]
    for row, bag in enumerate(bags):
        vectors = table.weight[bag]
        expected = vectors.sum(0) if mode == "sum" else vectors.sum(0) / max(len(bag), 1)
        torch.testing.assert_close(got[row], expected)


def test_bag_refuses_other_modes():
    with pytest.raises(ValueError, match="mode"):
        embedding_bag(torch.nn.Embedding(3, 2), torch.tensor([1]), torch.tensor([0]), "max")


def test_segment_ids():
    assert segment_ids(torch.tensor([0, 2, 2, 5]), 6).tolist() == [0, 0, 2, 2, 2, 3]
    assert segment_ids(torch.tensor([0, 0]), 0).tolist() == []


def test_dice_follows_the_formula():
    torch.manual_seed(0)
    dice, values = Dice(4), torch.randn(50, 4) * 3 + 1
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.0, 0.1, 0.5, 1.0]))
    p = torch.sigmoid((values - values.mean(0)) / (values.var(0, correction=0) + 1e-8).sqrt())
    torch.testing.assert_close(dice(values), p * values + (1 - p) * dice.alpha * values)
    torch.testing.assert_close(dice.running_mean, 0.1 * values.mean(0))


def test_dice_takes_one_row_and_none():
    dice = Dice(3)
    assert torch.isfinite(dice(torch.randn(1, 3))).all()
    before = dice.running_mean.clone()
    assert dice(torch.empty(0, 3)).shape == (0, 3)
    assert torch.equal(dice.running_mean, before)


def test_attention_equals_the_concatenated_form():
    torch.manual_seed(0)
    unit = LocalActivation(5, (7, 4), "prelu")
    query, keys, row = torch.randn(3, 5), torch.randn(6, 5), torch.tensor([0, 0, 1, 2, 2, 2])
    q = query[row]
    literal = torch.cat([q, keys, q - keys, q * keys], dim=1)
    expected = unit.rest(unit.activation(unit.first(literal)))
    pairs = Jagged(row, 3)
    got = unit(query, keys, Histories(pairs, pairs, None, None))
    torch.testing.assert_close(got, expected)


def test_din_equals_a_loop_over_rows():
    torch.manual_seed(0)
    table = torch.nn.Embedding(20, 6, padding_idx=0)
    for softmax in (False, True):
        din = DIN(table, softmax=softmax).eval()
        histories, targets = [[3, 4, 5], [], [9, 9]], [1, 2, 3]
        rows = []
        for history, target in zip(histories, targets, strict=True):
            query = table.weight[target]
            interest = torch.zeros(6)
            if history:
                keys = table.weight[history]
                pairs = Jagged(torch.zeros(len(history), dtype=int), 1)
                weight = din.attention(query[None], keys, Histories(pairs, pairs, None, None))
                weight = weight.softmax(0) if softmax else weight
                interest = weight @ keys
            rows.append(din.mlp(torch.cat([interest, query])[None]))
        batch = TorchBatch(torch.tensor(targets), torch.tensor([3, 4, 5, 9, 9]), torch.tensor([0, 3, 3]))
        torch.testing.assert_close(din(batch), torch.cat(rows))


def test_din_looks_up_each_table_once():
    calls = []

    class Counting(torch.nn.Embedding):
        def forward(self, ids):
            calls.append(ids.tolist())
            return super().forward(ids)

    din = DIN(Counting(9, 2), category_embedding=Counting(4, 2))
    batch = TorchBatch(
        target=torch.tensor([7]),
        history=torch.tensor([5, 6]),
        offsets=torch.tensor([0]),
        target_category=torch.tensor([3]),
        history_category=torch.tensor([1, 2]),
    )
    din(batch)
    assert calls == [[5, 6, 7], [1, 2, 3]]
