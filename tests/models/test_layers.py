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
    pairs = Jagged.of_lengths(torch.tensor([2, 1, 3]))
    got = unit(query, keys, Histories(pairs, pairs))
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
                pairs = Jagged(torch.tensor([0, len(history)]))
                weight = din.attention(query[None], keys, Histories(pairs, pairs))
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


def test_one_operator_and_the_layers_agree(monkeypatch):
    """Scores, pooled histories and gradients of the CPU's operator against the layers one after another."""
    torch.manual_seed(0)
    fits = LocalActivation._fits_operator
    for activation, shared in ((a, s) for a in ("prelu", "relu") for s in (False, True)):
        table = torch.nn.Embedding(20, 6, padding_idx=0)
        din = DIN(table, attention_hidden=(7,), activation=activation)
        batch = TorchBatch(
            torch.tensor([1, 2, 3]),
            torch.tensor([3, 0, 5, 9, 9]),
            torch.tensor([0, 3, 3]),
            history_row=torch.tensor([0, 2, 2]) if shared else None,
        )
        found = []
        for operator in (True, False):
            used = []
            monkeypatch.setattr(
                LocalActivation,
                "_fits_operator",
                lambda self, *a, operator=operator, used=used: used.append(operator and fits(self, *a)) or used[-1],
            )
            with torch.no_grad():
                scores = din(batch)
            assert used[0] == operator
            used.clear()
            trained = din(batch)
            assert used[0] == (operator and not shared)
            found.append((scores, trained, *torch.autograd.grad(trained.square().sum(), [*din.parameters()])))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


def test_what_the_operator_does_not_do_goes_through_the_layers():
    keys, query = torch.randn(3, 4), torch.randn(1, 4)
    pairs = Jagged(torch.tensor([0, 3]))
    of = Histories(pairs, pairs)
    unit = LocalActivation(4, (5,), "prelu")
    assert unit._fits_operator(query, keys, of)
    assert not unit._fits_operator(query.half(), keys.half(), of)
    assert not unit._fits_operator(query.double(), keys.double(), of)
    for other in (
        LocalActivation(4, (5, 3), "prelu"),
        LocalActivation(4, (5,), "dice"),
        LocalActivation(4, (5,), "sigmoid"),
    ):
        assert not other._fits_operator(query, keys, of)
    with torch.autocast("cpu", torch.bfloat16):
        assert not unit._fits_operator(query, keys, of)
    seen = []
    handle = unit.activation.register_forward_hook(lambda *_: seen.append(1))
    unit(query, keys, of)
    handle.remove()
    assert seen
    tangent = torch.func.jvp(lambda k: unit(query, k, of), (keys,), (torch.ones_like(keys),))[1]
    assert tangent.abs().max() > 0


def test_shared_histories_train_what_is_not_frozen():
    torch.manual_seed(0)
    table = torch.nn.Embedding(20, 6, padding_idx=0)
    din = DIN(table, attention_hidden=(7,)).requires_grad_(False)
    batch = TorchBatch(
        torch.tensor([1, 2, 3]), torch.tensor([3, 5, 9, 9]), torch.tensor([0, 2]), history_row=torch.tensor([0, 1, 1])
    )
    for name, parameter in din.attention.named_parameters():
        parameter.requires_grad_(True)
        din(batch).sum().backward()
        assert parameter.grad.any(), name
        parameter.requires_grad_(False)


@pytest.mark.parametrize("part", ["activation", "rest", "rest.layers", "rest.output"])
@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook"])
def test_hooks_of_the_attention_units_layers_are_called(part, kind):
    torch.manual_seed(0)
    unit = LocalActivation(3, (5,), "prelu")
    query, keys = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    segments = Jagged(torch.tensor([0, 1, 4]))
    seen = []
    module = unit.rest.output if part == "rest.output" else unit.get_submodule(part)
    getattr(module, f"register_{kind}")(lambda *_: seen.append(kind))
    unit.pool(query, keys, Histories(segments, segments)).sum().backward()
    assert seen


def test_the_attention_units_output_needs_no_bias():
    torch.manual_seed(0)
    unit = LocalActivation(3, (5,), "prelu")
    torch.nn.init.zeros_(unit.rest.output.bias)
    query, keys, segments = torch.randn(2, 3), torch.randn(4, 3), Jagged(torch.tensor([0, 1, 4]))
    expected = unit.pool(query, keys, Histories(segments, segments))
    unit.rest.output.bias = None
    torch.testing.assert_close(unit.pool(query, keys, Histories(segments, segments)), expected)
