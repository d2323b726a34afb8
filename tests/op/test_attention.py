"""The attention link: the operators against the reference in float64 and against numbers made by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from resemb_ext import _loader, functional, reference
from resemb_ext.testing.attention import LEAVES
from resemb_ext.testing.attention import AttentionProblem as Problem
from resemb_ext.testing.attention import check_attention as check
from resemb_ext.testing.attention import make_attention as make
from resemb_ext.testing.attention import solve_attention as solve
from resemb_ext.testing.strategies import attention_problems as problems
from resemb_ext.testing.strategies import examples


@examples(80)
@given(problems(), st.booleans(), st.integers(0, 2**31), st.sampled_from([1, 2, 3]))
def test_any_problem(isa: str, problem: Problem, sparse: bool, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    check(problem, seed, sparse=sparse)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_graph_without_edges(isa: str, sparse: bool) -> None:
    """The gradients of a_src, a_dst and b are 0, not what their memory held."""
    problem = make(num_items=4, dim=6, positions=9, neighbors=2, heads=2)
    empty = dataclasses.replace(
        problem,
        indptr=torch.zeros_like(problem.indptr),
        neighbors=problem.neighbors[:0],
        log_weights=problem.log_weights[:0],
    )
    check(empty, sparse=sparse)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_long_sums(isa: str, heads: int, sparse: bool) -> None:
    """Rows, and items in many rows, longer than a chunk of 256 edges; items longer than 256 chunks."""
    check(
        make(num_items=900, dim=9, heads=heads, positions=900, neighbors=350, exponent=0.0, dtype=torch.float64),
        sparse=sparse,
    )
    check(
        make(num_items=70_000, dim=3, heads=heads, positions=70_000, neighbors=1, exponent=2.5, dtype=torch.float64),
        sparse=sparse,
    )


@pytest.mark.operators("attention_embedding", "attention_embedding_backward", "attention_embedding_backward_rows")
def test_out_dtype(isa: str) -> None:
    for bags in (None, 7):
        check(make(bags=bags, dim=33), out_dtype=torch.bfloat16)
        check(make(bags=bags, dim=33, dtype=torch.bfloat16), out_dtype=torch.float32, sparse=True)


# --- by hand ---------------------------------------------------------------------------------------

# Item 0 is padding; item 1 has 1 and 2; item 2 has itself; item 3 has nothing.
INDPTR = torch.tensor([0, 0, 2, 3, 3])
NEIGHBORS = torch.tensor([1, 2, 2])
CENTRAL = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [5.0, 6.0]])
RESIDUAL = torch.tensor([[9.0, 9.0], [0.5, 0.0], [0.0, 0.0], [-1.0, 1.0]])
LOG_WEIGHTS = torch.tensor([1.0, 3.0, 7.0]).log()
A_SRC, A_DST, B = torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([2.0])
ARGS = (CENTRAL, RESIDUAL, INDPTR, NEIGHBORS, LOG_WEIGHTS, A_SRC, A_DST, B)


@pytest.mark.parametrize("functions", [functional, reference], ids=["operator", "reference"])
def test_by_hand(functions) -> None:
    # Item 1: own score -2; with 1: -2 + 1 = -1, LeakyReLU -0.2, + 2 log 1; with 2: -2 + 2 = 0, + 2 log 3.
    first, second = math.exp(-0.2), 9.0
    share = first / (first + second)
    one = [share + 0.5, 2 * (1 - share)]
    table = torch.tensor([[0.0, 0.0], one, [0.0, 2.0], [-1.0, 1.0]])
    ids = torch.tensor([[1, 0], [2, 3]])
    out = functions.attention_embedding(ids, *ARGS, padding_idx=0)
    torch.testing.assert_close(out, table[ids])
    bags = functions.attention_embedding_bag(
        torch.tensor([1, 0, 2, 3]), torch.tensor([0, 3]), *ARGS, mode="mean", padding_idx=0
    )
    torch.testing.assert_close(bags, torch.stack([(table[1] + table[2]) / 2, table[3]]))


def test_gradients_by_hand() -> None:
    leaves = [t.clone().requires_grad_() for t in (A_SRC, A_DST, B)]
    out = functional.attention_embedding(torch.tensor([1]), *ARGS[:5], *leaves)
    out.backward(torch.tensor([[1.0, 0.0]]))
    # out[0] = share + 0.5; d share / d (difference of the scores) = share (1 - share). LeakyReLU's slope is
    # 0.2 for both edges: below zero and at zero.
    share = math.exp(-0.2) / (math.exp(-0.2) + 9)
    d = share * (1 - share)
    torch.testing.assert_close(leaves[0].grad, torch.zeros(2))  # both edges share the row's own score
    torch.testing.assert_close(leaves[1].grad, 0.2 * d * (CENTRAL[1] - CENTRAL[2]))
    torch.testing.assert_close(leaves[2].grad, torch.tensor([-d * math.log(3)]))


def test_zero_scores_give_the_average_link() -> None:
    p = make(heads=2)
    zero, one = torch.zeros(6), torch.ones(2)
    found = dataclasses.replace(p, a_src=zero, a_dst=zero, b=one).call(functional)
    weights = p.log_weights.exp()
    row = torch.repeat_interleave(torch.arange(40), p.indptr.diff())
    sums = torch.zeros(40).index_add(0, row, weights)
    expected = functional.res_embedding(p.ids, p.central, p.residual, p.indptr, p.neighbors, weights / sums[row])
    torch.testing.assert_close(found, expected)


# --- autograd --------------------------------------------------------------------------------------


class _Densify(torch.autograd.Function):
    """Identity whose backward makes a sparse gradient dense: gradcheck takes no sparse ones."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.to_dense() if grad.is_sparse else grad


CASES = [
    {},
    {"heads": 2, "dropout": 0.3},
    {"bags": 3, "mode": "mean"},
    {"bags": 3, "mode": "mean", "samples": True, "heads": 3},
    {"bags": 3, "samples": True},
]


def small(**case) -> Problem:
    return make(num_items=5, dim=6, positions=6, neighbors=2, padding_idx=1, dtype=torch.float64, **case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("which", ["dense", "sparse", "reference"])
def test_gradcheck(case: dict, which: str) -> None:
    problem = small(**case)
    _, leaves = problem.leaves()

    def run(*tensors: Tensor) -> Tensor:
        if which == "sparse":
            tensors = tuple(_Densify.apply(t) for t in tensors)
        own = dataclasses.replace(problem, **dict(zip(leaves, tensors, strict=True)))
        if which == "reference":
            return own.call(reference)
        return own.call(functional, sparse=which == "sparse")

    assert gradcheck(run, tuple(leaves.values()))


@pytest.mark.parametrize("sparse", [False, True])
def test_double_backward_is_refused(sparse: bool) -> None:
    own, leaves = small().leaves()
    out = own.call(functional, sparse=sparse)
    (gradient,) = torch.autograd.grad(out.pow(2).sum(), leaves["a_src"], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward through the attention link"):
        torch.autograd.grad(gradient.sum(), leaves["a_dst"])


def arguments(problem: Problem, sparse: bool) -> tuple:
    p, bounds = problem, None
    if p.offsets is not None:
        bounds = torch.cat([p.offsets, torch.tensor([p.ids.shape[0]])])
    seed = torch.tensor([3]) if p.dropout else None
    mean = p.mode == "mean" and p.samples is None
    return (
        p.ids,
        p.central,
        p.residual,
        p.indptr,
        p.neighbors,
        p.log_weights,
        p.a_src,
        p.a_dst,
        p.b,
        seed,
        bounds,
        p.samples,
        1,
        mean,
        p.dropout,
        None,
        sparse,
    )


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[4]], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_opcheck_forward(case: dict, sparse: bool) -> None:
    own, _ = small(**case).leaves()
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not sparse:  # strides of .grad are compared there, which COO tensors do not have
        utilities.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(
        torch.ops.resemb_ext.attention_embedding.default, arguments(own, sparse), test_utils=utilities
    )


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=str)
@pytest.mark.parametrize("rows", [False, True])
def test_opcheck_backward(case: dict, rows: bool) -> None:
    problem = small(**case)
    inputs = arguments(problem, False)
    out, plan = torch.ops.resemb_ext.attention_embedding(*inputs)
    operators = torch.ops.resemb_ext
    operator = operators.attention_embedding_backward
    if rows:
        operator = operators.attention_embedding_backward_rows
    needs = (True, True, True, problem.samples is not None)
    torch.library.opcheck(operator.default, (torch.randn_like(out), plan, *inputs[1:12], *inputs[13:15], *needs))


@pytest.mark.parametrize("wanted", [*LEAVES, "none"])
@pytest.mark.parametrize("sparse", [False, True])
def test_requires_grad_of_each(wanted: str, sparse: bool) -> None:
    problem = make(bags=4, samples=True, heads=2)
    upstream = torch.randn(problem.call(functional).shape)
    everything = solve(problem, functional, upstream, sparse=sparse)
    own, leaves = problem.leaves()
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == wanted)
    out = own.call(functional, sparse=sparse)
    assert out.requires_grad == (wanted != "none")
    if wanted == "none":
        return
    out.backward(upstream)
    for name, leaf in leaves.items():
        assert (leaf.grad is not None) == (name == wanted)
    gradient = leaves[wanted].grad
    assert gradient.is_sparse == (sparse and wanted in ("central", "residual"))
    assert torch.equal(gradient.to_dense(), everything[wanted])


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_bits_do_not_depend_on_threads(isa: str, heads: int, dropout: float) -> None:
    problem = make(num_items=3000, dim=20, heads=heads, positions=20_000, neighbors=15, exponent=1.4, dropout=dropout)
    upstream = torch.randn(problem.ids.shape[0], 20)
    results = []
    for threads, sparse in ((1, False), (1, True), (2, True), (3, False), (5, True)):
        torch.set_num_threads(threads)
        results.append(solve(problem, functional, upstream, sparse=sparse))
    for other in results[1:]:
        assert all(torch.equal(other[n], value) for n, value in results[0].items())


def test_paths_agree() -> None:
    problem = make(num_items=200, dim=32, positions=500, neighbors=9)
    upstream = torch.randn(500, 32)
    before, results = _loader.isa(), []
    try:
        for name in _loader.available_isas():
            _loader.select_isa(name)
            results.append(solve(problem, functional, upstream))
    finally:
        _loader.select_isa(before)
    for other in results[1:]:
        for n, value in results[0].items():
            torch.testing.assert_close(other[n], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [-3000.0, 3000.0])
def test_extreme_scores(isa: str, shift: float) -> None:
    """Scores far from zero leave alpha a softmax: it depends on their differences alone."""
    problem = make(dim=8)
    central = problem.central.clone()
    central[:, 0] = shift  # of every item alike
    a_dst = problem.a_dst.clone()
    a_dst[0] = 1.0
    moved = dataclasses.replace(problem, central=central, a_dst=a_dst)
    found, expected = moved.call(functional), moved.leaves(torch.float64)[0].call(reference)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)  # 3000 in float32


# --- dropout ---------------------------------------------------------------------------------------


def test_philox_known_answers() -> None:
    """Of Random123's kat_vectors: philox4x32-10."""

    def words(key: int, counter: int) -> list[int]:
        c = torch.tensor([counter])
        return [w.item() for w in reference.philox(torch.tensor([key]), (c, c, c, c))]

    assert words(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words(-1, 0xFFFFFFFF) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    p = dataclasses.replace(make(num_items=300, positions=300, neighbors=8), dropout=0.25)
    p = dataclasses.replace(p, ids=torch.arange(300))
    seeds = [torch.tensor([s]) for s in range(200)]
    mean = torch.stack([p.call(functional, seed=s) for s in seeds]).mean(0)
    whole = dataclasses.replace(p, dropout=0.0).call(functional)
    assert (mean - whole).abs().mean() < 0.05
    edges = torch.arange(p.neighbors.shape[0])
    rows = torch.repeat_interleave(torch.arange(300), p.indptr.diff())
    kept = torch.stack([reference.kept_edges(s, rows, edges, 5, 0.25) for s in seeds])
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.003)
    assert kept.float().mean((0, 1)).tolist() == pytest.approx([0.75] * 5, abs=0.01)


def test_dropout_is_a_function_of_the_seed() -> None:
    p = dataclasses.replace(make(), dropout=0.5)
    first, again = (p.call(functional, seed=torch.tensor([5])) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, p.call(functional, seed=torch.tensor([6])))


# --- bad input -------------------------------------------------------------------------------------


def with_entry(index: int, value: float) -> tuple:
    changed = LOG_WEIGHTS.clone()
    changed[index] = value
    return (*ARGS[:4], changed, *ARGS[5:])


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (
            with_entry(1, -math.inf),
            {},
            ValueError,
            "log_weights: the row of item 1 holds -inf for item 2; expected finite logarithms",
        ),
        (with_entry(0, math.nan), {}, ValueError, "log_weights: the row of item 1 holds"),
        ((*ARGS[:3], torch.tensor([0, 2, 2]), *ARGS[4:]), {}, ValueError, "the row of item 1 lacks the item itself"),
        (
            (*ARGS[:3], torch.tensor([1, 4, 2]), *ARGS[4:]),
            {},
            IndexError,
            "row of item 1 leaves the arrays or names an item outside",
        ),
        ((*ARGS[:5], torch.ones(3), *ARGS[6:]), {}, ValueError, r"a_src: shape \[3\] does not fit"),
        ((*ARGS[:6], torch.ones(1, 2), ARGS[7]), {}, ValueError, r"a_dst: shape \[1, 2\]"),
        ((*ARGS[:7], torch.ones(3)), {}, ValueError, r"b: shape \[3\] .* a divisor of D = 2"),
        (ARGS, {"dropout": 0.5}, ValueError, "seed: missing; dropout needs one"),
        (ARGS, {"dropout": 1.0, "seed": torch.tensor([0])}, ValueError, "dropout: found 1.0"),
        (ARGS, {"dropout": 0.5, "seed": torch.tensor([0.5])}, ValueError, "seed: expected dtype int64"),
        (ARGS, {"padding_idx": 4}, ValueError, "padding_idx: found 4"),
    ],
)
def test_messages(args: tuple, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        functional.attention_embedding(torch.tensor([1, 2]), *args, **options)


def test_log_weights_take_no_gradient() -> None:
    log_weights = LOG_WEIGHTS.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="log_weights: requires gradients"):
        functional.attention_embedding(torch.tensor([1]), *ARGS[:4], log_weights, *ARGS[5:])
