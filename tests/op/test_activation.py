"""DIN's attention unit in one operator, against the reference in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from resemb_ext import reference
from resemb_ext._registration_activation import local_activation
from resemb_ext.testing.strategies import examples

OPERATORS = torch.ops.resemb_ext
DIFFERENTIABLE = (0, 1, 4, 5, 6, 7, 8, 9)


def inputs(lengths: list[int], dim: int, hidden: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list:
    """Arguments without ``pool``; numbers lie off PReLU's kink."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64).to(dtype)

    samples = len(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    layer = [normal(samples, hidden), normal(hidden, dim), normal(hidden, dim), normal(hidden), normal(hidden)]
    return [normal(sum(lengths), dim), normal(samples, dim), None, offsets, *layer, normal(1)]


def leaves(arguments: list) -> list:
    return [a.clone().requires_grad_() if i in DIFFERENTIABLE else a for i, a in enumerate(arguments)]


def gradients(function, arguments: list, pool: bool) -> list[Tensor]:
    arguments = leaves(arguments)
    scores, pooled = function(*arguments, pool)
    loss = (scores * torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype)).sum() + pooled.square().sum()
    return list(torch.autograd.grad(loss, [arguments[i] for i in DIFFERENTIABLE]))


SIZES = [([3, 0, 5], 8, 8), ([1], 3, 5), ([0, 130, 64, 65, 2], 32, 36), ([0, 0], 4, 3), ([7, 70], 20, 41), ([4], 72, 1)]


@pytest.mark.operators("local_activation", "local_activation_backward")
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("lengths", "dim", "hidden"), SIZES)
def test_equals_the_reference_in_float64(isa, lengths, dim, hidden, pool) -> None:
    arguments = inputs(lengths, dim, hidden)
    for own, expected in zip(
        local_activation(*arguments, pool), reference.local_activation(*arguments, pool), strict=True
    ):
        torch.testing.assert_close(own, expected, rtol=1e-11, atol=1e-11)
    own, expected = (gradients(f, arguments, pool) for f in (local_activation, reference.local_activation))
    for mine, wanted in zip(own, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


@examples(30)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=40), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_float32_is_as_exact_as_its_rounding(lengths, dim, hidden, pool) -> None:
    arguments = inputs(lengths, dim, hidden)
    single = [a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]
    for own, expected in zip(
        local_activation(*single, pool), reference.local_activation(*arguments, pool), strict=True
    ):
        scale = 1e-5 * max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        assert own.dtype == torch.float32
        torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=10 * scale)


def test_samples_may_share_keys() -> None:
    keys, query, _, _, *rest = inputs([6, 0, 4], 5, 3)
    starts, offsets = torch.tensor([2, 0, 2]), torch.tensor([0, 4, 4, 10])
    arguments = (keys, query, starts, offsets, *rest)
    for own, expected in zip(
        local_activation(*arguments, True), reference.local_activation(*arguments, True), strict=True
    ):
        torch.testing.assert_close(own, expected)
    with pytest.raises(RuntimeError, match="share keys"):
        local_activation(keys.requires_grad_(), *arguments[1:], True)


def test_the_same_bits_on_any_number_of_threads() -> None:
    arguments = inputs([i % 90 for i in range(300)], 12, 9, torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([*local_activation(*arguments, True), *gradients(local_activation, arguments, True)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("pool", [False, True])
def test_gradcheck(pool) -> None:
    arguments = leaves(inputs([2, 0, 3], 3, 4))

    def run(*given: Tensor) -> Tensor | tuple[Tensor, ...]:
        scores, pooled = local_activation(*given, pool)
        return (scores, pooled) if pool else scores

    assert gradcheck(run, arguments)
    assert gradgradcheck(run, arguments)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("made", ["one from another", "the same twice"])
def test_gradients_of_inputs_that_depend_on_each_other(made, pool) -> None:
    keys, query, _, offsets, by_query, w_key, _, slope, _, bias = inputs([2, 0, 3], 3, 4)
    roots = [t.requires_grad_() for t in (keys, query, w_key, slope)]

    def run(function, create_graph: bool) -> tuple[Tensor, ...]:
        if made == "one from another":
            own = (keys, query, None, offsets, query @ w_key.t(), w_key, w_key * 2, slope, slope.sin(), bias)
        else:
            own = (keys, query, None, offsets, by_query, w_key, w_key, slope, slope, bias)
        scores, pooled = function(*own, pool)
        loss = scores.square().sum() + pooled.square().sum()
        first = torch.autograd.grad(loss, roots, create_graph=create_graph)
        if not create_graph:
            return first
        return *first, *torch.autograd.grad(sum(g.square().sum() for g in first), roots)

    for create_graph in (False, True):
        for mine, wanted in zip(
            run(local_activation, create_graph), run(reference.local_activation, create_graph), strict=True
        ):
            torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", [False, True])
def test_opcheck(pool) -> None:
    arguments = inputs([2, 0, 3], 3, 4)
    torch.library.opcheck(OPERATORS.local_activation.default, (*leaves(arguments), pool))
    scores, pooled = local_activation(*arguments, pool)
    keys, query, _, *rest = arguments
    upstream = (torch.randn_like(scores), torch.randn_like(pooled) if pool else None)
    torch.library.opcheck(OPERATORS.local_activation_backward.default, (*upstream, scores, keys, query, *rest))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(5, 2, dtype=torch.float64), r"w_key: shape \[4, 3\] does not fit; expected \[H, D\]"),
        (0, torch.zeros(5, 3, dtype=torch.float16), "keys: expected dtype float32 or float64"),
        (1, torch.zeros(3, 3), "query: expected dtype float64, found float32"),
        (3, torch.tensor([0, 2, 1, 5]), "offsets: fall from 2 to 1 at 2"),
        (3, torch.tensor([0, 2, 2, 6]), "sample 2 has 4 positions from 2 on, but keys have 5 rows"),
        (3, torch.tensor([0, 2, 5]), r"offsets: shape \[3\] does not fit"),
        (3, torch.tensor([1, 2, 2, 5]), "offsets: start at 1; expected 0"),
        (7, torch.zeros(3, dtype=torch.float64), r"slope: shape \[3\] does not fit; expected \[4\]"),
    ],
)
def test_errors(place, value, message) -> None:
    arguments = inputs([2, 0, 3], 3, 4)
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        local_activation(*arguments, True)
