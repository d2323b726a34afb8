"""Segments, jagged and padded, against loops; the recurrent unit against nn.GRU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.models import TorchBatch
from resemb_ext.models.histories import Histories, Jagged, Padded
from resemb_ext.models.recurrent import GatedUnit
from resemb_ext.testing.strategies import examples

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=6)
FORMS = ("jagged", "padded")


def segments(form: str, lengths: list[int], width: int = 3):
    """Segments of these lengths, values for their positions, and the values by segment."""
    draw = torch.Generator().manual_seed(sum(lengths) + len(lengths))
    parts = [torch.randn(n, width, generator=draw) for n in lengths]
    if form == "jagged":
        return Jagged.of_lengths(torch.tensor(lengths)), torch.cat(parts), parts
    longest = max(lengths) + 1
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    # What is not real must not matter, however large.
    values = torch.full((len(lengths), longest, width), 1e3)
    for row, part in enumerate(parts):
        values[row, : len(part)] = part
    return Padded(mask), values.reshape(-1, width), parts


def real(of, values: torch.Tensor) -> torch.Tensor:
    return values if of.mask is None else values[of.mask]


@examples(40)
@given(LENGTHS, st.sampled_from(FORMS))
def test_sum_expand_and_softmax_equal_loops(lengths, form):
    of, values, parts = segments(form, lengths)
    sums = torch.stack([part.sum(0) for part in parts])
    torch.testing.assert_close(of.sum(values), sums)
    rows = torch.arange(len(lengths)).float()
    expected = torch.cat([torch.full((n,), float(i)) for i, n in enumerate(lengths)])
    assert torch.equal(real(of, of.expand(rows)), expected)
    weights = of.softmax(values[:, 0] * 30)
    wanted = [torch.softmax(part[:, 0] * 30, 0) for part in parts]
    torch.testing.assert_close(real(of, weights), torch.cat(wanted))
    if of.mask is not None:
        assert not weights[~of.mask].any()


@examples(40)
@given(LENGTHS, st.sampled_from(FORMS))
def test_steps_hold_each_moment_and_come_back(lengths, form):
    of, values, parts = segments(form, lengths)
    steps = of.steps(values)
    assert torch.equal(of.from_steps(steps, values), values)
    sizes = [step.shape[0] for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    if form == "jagged":
        for moment, step in enumerate(steps):
            wanted = [p[moment] for p in sorted(parts, key=len, reverse=True) if len(p) > moment]
            assert torch.equal(step, torch.stack(wanted))


@examples(40)
@given(LENGTHS)
def test_last_and_followed(lengths):
    of, values, parts = segments("jagged", lengths)
    zero = torch.zeros(3)
    assert torch.equal(of.last(values), torch.stack([p[-1] if len(p) else zero for p in parts]))
    wanted = [p + 1 < n for n in lengths for p in range(n)][:-1]
    assert of.followed().tolist() == wanted
    padded, _, _ = segments("padded", lengths)
    longest = max(lengths) + 1
    wanted = [p + 1 < n for n in lengths for p in range(longest)][:-1]
    assert padded.followed().tolist() == wanted


@examples(25)
@given(LENGTHS, st.sampled_from(FORMS))
def test_the_unit_is_a_gru(lengths, form):
    of, values, parts = segments(form, lengths)
    torch.manual_seed(0)
    unit, gru = GatedUnit(3), torch.nn.GRU(3, 3, batch_first=True)
    sign = torch.ones(9)
    sign[3:6] = -1  # nn.GRU's update gate is one minus ours
    with torch.no_grad():
        gru.weight_ih_l0.copy_(unit.input.weight * sign.unsqueeze(1))
        gru.weight_hh_l0.copy_(unit.state.weight * sign.unsqueeze(1))
        gru.bias_ih_l0.copy_(unit.input.bias * sign)
        gru.bias_hh_l0.copy_(unit.state.bias * sign)
        states = unit(values, of)
        expected = [gru(part[None])[0][0] for part in parts if len(part)]
        if expected:
            torch.testing.assert_close(real(of, states), torch.cat(expected))
        last = [e[-1] for e in expected]
        ends = of.last(states)
        some = torch.tensor(lengths) > 0
        if last:
            torch.testing.assert_close(ends[some], torch.stack(last))
        assert not ends[~some].any()
        positions = values.shape[0]
        torch.testing.assert_close(unit(values, of, torch.ones(positions)), states)
        assert not unit(values, of, torch.zeros(positions)).any()


@pytest.mark.parametrize("form", FORMS)
def test_attention_gates_the_update(form):
    """h' = h + a u (n - h), step by step."""
    torch.manual_seed(0)
    of, values, parts = segments(form, [4])
    unit, attention = GatedUnit(3), torch.rand(values.shape[0])
    with torch.no_grad():
        h, expected = torch.zeros(3), []
        for x, a in zip(parts[0], attention, strict=False):
            (x_r, x_u, x_n), (h_r, h_u, h_n) = unit.input(x).chunk(3), unit.state(h).chunk(3)
            u = a * torch.sigmoid(x_u + h_u)
            h = (1 - u) * h + u * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
            expected.append(h)
        torch.testing.assert_close(real(of, unit(values, of, attention)), torch.stack(expected))


def test_gradients_of_the_unit():
    of, values, _ = segments("jagged", [3, 0, 2, 4])
    torch.manual_seed(0)
    unit = GatedUnit(3).double()
    values = values.double().requires_grad_()
    attention = torch.rand(9, dtype=torch.double, requires_grad=True)

    def ends(values, attention, *_):
        return of.last(unit(values, of, attention))

    assert torch.autograd.gradcheck(ends, (values, attention, *unit.parameters()))


def test_pairs_of_shared_histories():
    batch = TorchBatch(
        target=torch.tensor([1, 2, 3, 4]),
        history=torch.tensor([5, 0, 6, 7]),
        offsets=torch.tensor([0, 3, 3]),
        history_row=torch.tensor([2, 0, 1, 0]),
    )
    of = Histories.of(batch, padding_idx=0)
    assert of.keep(batch.history).tolist() == [5, 6, 7]
    assert of.segments.row.tolist() == [0, 0, 2]
    assert of.samples.row.tolist() == [0, 1, 1, 3, 3]
    assert of.pair(of.keep(batch.history)).tolist() == [7, 5, 6, 5, 6]
