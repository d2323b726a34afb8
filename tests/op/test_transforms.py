"""torch.func and forward-mode AD through every public operator, against the reference and nn.Embedding in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, func, nn
from torch.autograd import forward_ad

from resemb_ext import InterestGraph, ResEmbedding, functional, optim, reference
from resemb_ext.testing import make_problem
from resemb_ext.testing.attention import make_attention

CASES = [(None, "sum", False), (3, "sum", False), (3, "mean", False), (3, "sum", True), (3, "mean", True)]
LINEAR = ("central", "residual", "weights", "per_sample_weights")
ATTENTION = ("central", "residual", "a_src", "a_dst", "b", "samples")

Function = Callable[..., Tensor]


def linear(functions: Any, case: tuple, **options: Any) -> tuple[Function, tuple[Tensor, ...]]:
    """A lookup or bag as a function of the tensors that have gradients, and those."""
    bags, mode, samples = case
    problem = make_problem(
        num_items=6,
        dim=3,
        positions=8,
        neighbors=2,
        vary=True,
        padding_idx=1,
        padding_share=0.2,
        bags=bags,
        mode=mode,
        sample_weights=samples,
        dtype=torch.float64,
        weights_dtype=torch.float64,
    )
    names = [n for n in LINEAR if getattr(problem, n) is not None]

    def run(*leaves: Tensor) -> Tensor:
        return problem.with_tensors(**dict(zip(names, leaves, strict=True))).call(functions, **options)

    return run, tuple(getattr(problem, n) for n in names)


def attention(functions: Any, case: tuple, **options: Any) -> tuple[Function, tuple[Tensor, ...]]:
    bags, mode, samples = case
    problem = make_attention(
        num_items=6, dim=4, heads=2, positions=8, bags=bags, mode=mode, samples=samples, dtype=torch.float64, seed=3
    )
    names = [n for n in ATTENTION if getattr(problem, n) is not None]

    def run(*leaves: Tensor) -> Tensor:
        return dataclasses.replace(problem, **dict(zip(names, leaves, strict=True))).call(functions, **options)

    return run, tuple(getattr(problem, n) for n in names)


def tangents_of(leaves: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in leaves)


def all_arguments(leaves: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(leaves)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_jvp(case: tuple) -> None:
    (ours, leaves), (theirs, _) = linear(functional, case), linear(reference, case)
    found, expected = (func.jvp(f, leaves, tangents_of(leaves)) for f in (ours, theirs))
    assert expected[1].abs().max() > 0.1
    torch.testing.assert_close(found, expected)
    for i in range(len(leaves)):  # each alone

        def alone(f: Function, i: int = i) -> Function:
            return lambda x: f(*leaves[:i], x, *leaves[i + 1 :])

        one, tangent = leaves[i : i + 1], tangents_of(leaves)[i : i + 1]
        torch.testing.assert_close(func.jvp(alone(ours), one, tangent), func.jvp(alone(theirs), one, tangent))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("required", [False, True])
def test_dual_numbers(case: tuple, required: bool) -> None:
    tangents = []
    for functions in (functional, reference):
        f, leaves = linear(functions, case)
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(x.clone().requires_grad_(required), t)
                for x, t in zip(leaves, tangents_of(leaves), strict=True)
            ]
            out = f(*duals)
            assert out.requires_grad == required
            tangents.append(forward_ad.unpack_dual(out).tangent)
    torch.testing.assert_close(*tangents)
    assert tangents[0].abs().max() > 0.1


TRANSFORMS = {
    "jacfwd": lambda f, n: func.jacfwd(f, n),
    "jacrev": lambda f, n: func.jacrev(f, n),
    "grad": lambda f, n: func.grad(lambda *x: f(*x).square().sum(), n),
    "hessian": lambda f, n: func.hessian(lambda *x: f(*x).square().sum(), n),
    "jacrev of jacrev": lambda f, n: func.jacrev(func.jacrev(lambda *x: f(*x).square().sum(), n), n),
    "jacrev of jacfwd": lambda f, n: func.jacrev(func.jacfwd(lambda *x: f(*x).square().sum(), n), n),
}


@pytest.mark.one_in(4)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_transforms(case: tuple, transform: str) -> None:
    results = []
    for functions in (functional, reference):
        f, leaves = linear(functions, case)
        results.append(TRANSFORMS[transform](f, all_arguments(leaves))(*leaves))
    torch.testing.assert_close(*results)


@pytest.mark.full
@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
def test_gradcheck_in_forward_mode(case: tuple) -> None:
    f, leaves = linear(functional, case)
    leaves = tuple(x.clone().requires_grad_() for x in leaves)
    assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, leaves, check_fwd_over_rev=True)


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("transform", ["grad", "jacrev"])
def test_first_derivatives_of_attention(case: tuple, transform: str) -> None:
    results = []
    for functions in (functional, reference):
        f, leaves = attention(functions, case)
        results.append(TRANSFORMS[transform](f, all_arguments(leaves))(*leaves))
    torch.testing.assert_close(*results)


NESTED = {
    "jvp": (lambda f, x: func.jvp(f, x, x), "forward-mode derivatives .* of the attention link are not defined"),
    "jacfwd": (lambda f, x: func.jacfwd(f)(*x), "forward-mode derivatives .* of the attention link are not defined"),
    "grad of grad": (
        lambda f, x: func.grad(lambda y: func.grad(lambda z: f(z, *x[1:]).square().sum())(y).sum())(x[0]),
        "double backward through the attention link is not defined",
    ),
    "jacfwd of grad": (
        lambda f, x: func.jacfwd(func.grad(lambda z: f(z, *x[1:]).square().sum()))(x[0]),
        "attention link",
    ),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("bags", [None, 3])
@pytest.mark.parametrize("name", NESTED)
def test_what_the_attention_link_refuses(name: str, bags: int | None) -> None:
    f, leaves = attention(functional, (bags, "sum", False))
    run, message = NESTED[name]
    with pytest.raises(RuntimeError, match=message):
        run(f, leaves)


def test_dual_numbers_through_attention_are_refused() -> None:
    f, leaves = attention(functional, CASES[0])
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="of the attention link are not defined"):
        f(forward_ad.make_dual(leaves[0], leaves[0]), *leaves[1:])


def test_forward_mode_inside_forward_mode_is_refused() -> None:
    f, leaves = linear(functional, CASES[0])
    with pytest.raises(RuntimeError, match=r"jacfwd of jacfwd\) is not defined; make one of them jacrev"):
        func.jacfwd(func.jacfwd(lambda c: f(c, *leaves[1:])))(leaves[0])


H, D = 9, 4
IDS = torch.tensor([[3, 0, 5], [5, 5, 1]])


def module(link: str = "average", **options: Any) -> ResEmbedding:
    items = np.arange(1, H)
    indptr = np.concatenate([[0, 0], np.arange(1, H)])
    graph = InterestGraph.from_csr(indptr, np.roll(items, 1), np.full(H - 1, 2.0))
    return ResEmbedding(graph, D, link, padding_idx=0, dtype=torch.float64, **options)


def called(emb: nn.Module, parameters: dict[str, Tensor], ids: Tensor) -> Tensor:
    return func.functional_call(emb, parameters, (ids,)).square().sum()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("link", ["average", "attention"])
def test_grad_of_a_module(link: str, sparse: bool) -> None:
    emb = module(link, sparse=sparse)
    parameters = {k: v.detach() for k, v in emb.named_parameters()}
    found = func.grad(lambda p: called(emb, p, IDS))(parameters)
    called(emb, dict(emb.named_parameters()), IDS).backward()
    for name, parameter in emb.named_parameters():
        assert found[name].is_sparse == parameter.grad.is_sparse
        torch.testing.assert_close(found[name].to_dense(), parameter.grad.to_dense())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_per_sample_gradients_as_nn_embedding() -> None:
    """Over an empty graph under link="given", E = R: R's gradients are those of a plain table."""
    graph = InterestGraph.from_csr(np.zeros(H + 1, np.int64), np.zeros(0, np.int64))
    emb = ResEmbedding(graph, D, "given", padding_idx=0, dtype=torch.float64)
    plain = emb.to_embedding(freeze=False)
    found, expected = (
        func.vmap(func.grad(lambda p, ids, m=m: called(m, p, ids)), (None, 0))(
            {k: v.detach() for k, v in m.named_parameters()}, IDS
        )
        for m in (emb, plain)
    )
    torch.testing.assert_close(found["residual"], expected["weight"])
    assert found["residual"].shape == (2, H, D) and not found["central"].any()


def test_sparse_gradients_under_vmap_are_refused() -> None:
    emb = module(sparse=True)
    parameters = {k: v.detach() for k, v in emb.named_parameters()}
    with pytest.raises(RuntimeError, match=r"sparse gradients under vmap .* use sparse=False"):
        func.vmap(func.grad(lambda p, ids: called(emb, p, ids)), (None, 0))(parameters, IDS)


def test_steps_in_backward_are_refused_under_transforms() -> None:
    emb = module(sparse=True)
    optimizer = optim.SGD(emb.parameters(), lr=0.1)
    optimizer.step_in_backward(emb)
    parameters = {k: v.detach() for k, v in emb.named_parameters()}
    with pytest.raises(RuntimeError, match=r"steps in backward: not under torch\.func"):
        func.grad(lambda p: called(emb, p, IDS))(parameters)


def test_the_weight_under_jvp() -> None:
    emb = module()
    parameters = {k: v.detach() for k, v in emb.named_parameters()}
    tangents = {k: torch.randn_like(v) for k, v in parameters.items()}

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item = emb

        def forward(self) -> Tensor:
            return self.item.weight.sin()

    def scores(p: dict[str, Tensor]) -> Tensor:
        return func.functional_call(Tied(), {f"item.{k}": v for k, v in p.items()}, ())

    _, found = func.jvp(scores, (parameters,), (tangents,))
    everything = torch.arange(H)
    _, expected = func.jvp(lambda p: func.functional_call(emb, p, (everything,)).sin(), (parameters,), (tangents,))
    torch.testing.assert_close(found, expected)
    assert found[1:].all()


@pytest.mark.full
@pytest.mark.parametrize("transform", ["jvp", "grad"])
def test_transforms_inside_a_compiled_function(transform: str) -> None:
    f, leaves = linear(functional, CASES[0])
    run = {
        "jvp": lambda *x: func.jvp(f, x, x)[1],
        "grad": func.grad(lambda *x: f(*x).square().sum(), all_arguments(leaves)),
    }[transform]
    torch.testing.assert_close(torch.compile(run, backend="eager")(*leaves), run(*leaves))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_other_ways_to_derivatives() -> None:
    f, leaves = linear(functional, CASES[0])
    f_of_central, c = (lambda x: f(x, *leaves[1:])), leaves[0]
    jacobian = torch.autograd.functional.jacobian(f_of_central, c)
    forward = torch.autograd.functional.jacobian(f_of_central, c, vectorize=True, strategy="forward-mode")
    torch.testing.assert_close(forward, jacobian)
    tangent = tangents_of(leaves)[0]
    out, linearized = func.linearize(f_of_central, c)
    torch.testing.assert_close(linearized(tangent), func.jvp(f_of_central, (c,), (tangent,))[1])
    torch.testing.assert_close(func.functionalize(f_of_central)(c), out)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_ensemble() -> None:
    modules = [module() for _ in range(3)]
    parameters, buffers = func.stack_module_state(modules)
    found = func.vmap(lambda p, b: func.functional_call(modules[0], (p, b), (IDS,)))(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([m(IDS) for m in modules]))
