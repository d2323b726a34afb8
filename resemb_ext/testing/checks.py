"""Checks of the operators against the reference in float64."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from resemb_ext import functional, reference

from .problems import Problem

# Largest error of an element, as a share of the sum of the absolute values of its terms: the units of
# rounding that its dtype allows, with room for a few hundred terms. One table for every test.
TOLERANCE = {torch.float64: 2e-12, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

# Largest error of one of the reference's additions, likewise.
_TWIN_ROUNDING = torch.finfo(torch.float64).eps / 2

# That of an operator's additions, and how many terms it adds one by one: kChunk of csrc/common/types.h.
_ROUNDING = torch.finfo(torch.float32).eps / 2
_CHUNK = 256

_LEAVES = ("central", "residual", "weights", "per_sample_weights")


def _leaves(problem: Problem, dtype: torch.dtype | None, absolute: bool = False) -> Problem:
    """The problem on fresh leaf tensors that require gradients, but for link weights in float16, which take none."""
    fresh = {}
    for name in _LEAVES:
        tensor = getattr(problem, name)
        if tensor is not None:
            tensor = tensor.detach().to(dtype or tensor.dtype, copy=True)
            learns = name != "weights" or problem.weights.dtype != torch.float16
            fresh[name] = (tensor.abs() if absolute else tensor).requires_grad_(learns)
    return problem.with_tensors(**fresh)


def _run(problem: Problem, functions: object, upstream: Tensor, **options: object) -> dict[str, Tensor]:
    out = problem.call(functions, **options)
    tensors = {n: getattr(problem, n) for n in _LEAVES}
    leaves = {n: t for n, t in tensors.items() if t is not None and t.requires_grad}
    gradients = torch.autograd.grad(out, list(leaves.values()), upstream.to(out.dtype))
    results = {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}
    return {n: t.to_dense() if t.is_sparse else t for n, t in results.items()}


def _mean_weights_bound(scale: Problem, upstream: Tensor) -> Tensor:
    """Size of the terms in grad c_p = (g . E_p - g . out) / sum c, whose difference may vanish."""
    assert scale.per_sample_weights is not None and scale.offsets is not None
    terms = _run(dataclasses.replace(scale, mode="sum"), reference, upstream)["per_sample_weights"]
    kept = torch.ones_like(scale.ids, dtype=torch.bool)
    if scale.padding_idx is not None:
        kept = scale.ids != scale.padding_idx % scale.central.shape[0]
    weights = scale.per_sample_weights.detach() * kept
    positions = torch.arange(len(terms), device=terms.device)
    bag = torch.searchsorted(scale.offsets, positions, right=True) - 1
    zeros = terms.new_zeros(len(scale.offsets))
    total = zeros.index_add(0, bag, weights)
    mean = zeros.index_add(0, bag, weights * terms) / total
    return ((terms + mean[bag]) / total[bag]).masked_fill(~kept, 0)


def _term_counts(exact: Problem, upstream: Tensor) -> dict[str, Tensor]:
    """How many terms each element of the results is a sum of: the reference's own results on ones."""
    tensors = {n: getattr(exact, n) for n in _LEAVES}
    ones = {n: torch.ones_like(t, requires_grad=t.requires_grad) for n, t in tensors.items() if t is not None}
    summed = dataclasses.replace(exact.with_tensors(**ones), mode="sum")  # a mean would divide
    counts = _run(summed, reference, torch.ones_like(upstream))
    if exact.mode == "mean" and "per_sample_weights" in counts and counts["out"].numel():
        # The gradient reads its bag's output as well: at most D times the largest bag's terms.
        counts["per_sample_weights"] += exact.central.shape[1] * counts["out"].max()
    return counts


def _check_rows_ascend(gradient: Tensor, name: str) -> None:
    """A sparse gradient's rows ascend strictly: what the row-sparse optimizers rely on."""
    rows = gradient._indices()[0]
    if not bool((rows[1:] > rows[:-1]).all()):
        raise AssertionError(f"gradient of {name}: rows do not ascend strictly")


def check_problem(
    problem: Problem, *, sparse: bool = False, out_dtype: torch.dtype | None = None, seed: int = 0
) -> None:
    """Output and every gradient against the reference in float64.

    n terms that are added one by one cost up to n roundings where they are alike. The reference adds all so,
    which counts beside the tolerance of float64 tables, and the operator those of a chunk: allowed on top.

    Raises:
        AssertionError: an element is off by more than TOLERANCE allows; names it.
    """
    own = _leaves(problem, None)
    exact = _leaves(problem, torch.float64)
    scale = _leaves(problem, torch.float64, absolute=True)
    shape = exact.call(reference).shape
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64).to(problem.ids.device)
    dtype = out_dtype or problem.central.dtype
    upstream = upstream.to(dtype).double()  # the same numbers for all three

    found = _run(own, functional, upstream, sparse=sparse, out_dtype=out_dtype)
    expected = _run(exact, reference, upstream)
    bound = _run(scale, reference, upstream.abs())
    if problem.mode == "mean" and problem.per_sample_weights is not None:
        bound["per_sample_weights"] = _mean_weights_bound(scale, upstream.abs())
    double = problem.central.dtype == torch.float64
    counts = _term_counts(exact, upstream) if double else None
    for name, value in found.items():
        kind = dtype if name == "out" else getattr(problem, name).dtype
        working = max((kind, problem.central.dtype), key=lambda t: TOLERANCE[t])
        error = (value.double() - expected[name]).abs()
        smallest = torch.finfo(kind).smallest_normal * torch.finfo(kind).eps  # the step of subnormals
        excess = error - TOLERANCE[working] * bound[name] - smallest
        if double or not bool((excess <= 0).all()):
            counts = counts or _term_counts(exact, upstream)
            additions = _TWIN_ROUNDING * counts[name] if double else _ROUNDING * counts[name].clamp(max=_CHUNK)
            excess -= additions * bound[name]
        if value.dtype != kind:
            raise AssertionError(f"{name}: dtype {value.dtype}; expected {kind}")
        if value.numel() and not bool((excess <= 0).all()):
            worst = int(excess.nan_to_num(nan=float("inf")).argmax())
            raise AssertionError(
                f"{name}: element {worst} of shape {tuple(value.shape)} is "
                f"{value.reshape(-1)[worst].item()}; expected {expected[name].reshape(-1)[worst].item()} "
                f"(error {error.reshape(-1)[worst].item():.3g})"
            )
    if sparse:
        out = own.call(functional, sparse=True)
        for name in ("central", "residual"):
            (gradient,) = torch.autograd.grad(out.double().sum(), getattr(own, name), retain_graph=True)
            _check_rows_ascend(gradient, name)
