"""torch.compile, torch.export, autocast, determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from resemb_ext import InterestGraph, ResEmbedding, _loader, functional
from resemb_ext.testing import Problem, make_problem
from resemb_ext.testing.problems import make_graph

# It takes seconds to import, and a C++ compiler.
INDUCTOR = pytest.param("inductor", marks=pytest.mark.full)


def module(num_items: int = 40, dim: int = 8, **options) -> ResEmbedding:
    import numpy as np

    indptr, neighbors, weights = make_graph(np.random.default_rng(0), num_items, 4)
    keep = neighbors != 0  # nobody points at padding
    row = np.repeat(np.arange(num_items), np.diff(indptr))[keep]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_items))])
    graph = InterestGraph.from_csr(indptr, neighbors[keep], weights[keep])
    return ResEmbedding(graph, dim, padding_idx=0, **options)


def net(emb: ResEmbedding, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return (emb(ids) * 2).sum(0) + emb.bag(ids, offsets, mode="mean").sum(0)


@pytest.mark.parametrize("backend", ["aot_eager", INDUCTOR])
def test_compiled_inference(backend: str) -> None:
    emb = module()
    ids, offsets = torch.randint(0, 40, (30,)), torch.tensor([0, 4, 4, 20])
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(emb, ids, offsets), net(emb, ids, offsets))


def look_up(emb: ResEmbedding, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return (emb(ids) * 2).sum(0)


def pool(emb: ResEmbedding, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return emb.bag(ids, offsets, mode="mean").sum(0)


# Two lookups of one table in one graph add two sparse gradients, which torch 2.13 cannot trace.
@pytest.mark.parametrize(
    ("backend", "function", "sparse"),
    [
        ("aot_eager", net, False),
        pytest.param("inductor", net, False, marks=pytest.mark.full),
        ("aot_eager", look_up, True),
        ("aot_eager", pool, True),
        pytest.param("inductor", pool, True, marks=pytest.mark.full),
    ],
)
def test_compiled_training(backend: str, function: Callable, sparse: bool) -> None:
    eager, other = module(sparse=sparse), module(sparse=sparse)
    other.load_state_dict(eager.state_dict())
    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=True)
    steps = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (eager, other)]
    for positions in (30, 17, 30):
        ids, offsets = torch.randint(0, 40, (positions,)), torch.tensor([0, 4, 4, 11])
        for emb, run, step in ((eager, function, steps[0]), (other, compiled, steps[1])):
            step.zero_grad()
            run(emb, ids, offsets).pow(2).sum().backward()
            assert emb.central.grad.is_sparse == sparse
            step.step()
    torch.testing.assert_close(other.central, eager.central)
    torch.testing.assert_close(other.residual, eager.residual)


def test_export_of_inference() -> None:
    emb = module().eval()
    positions = torch.export.Dim("positions", min=2)
    program = torch.export.export(emb, (torch.arange(5),), dynamic_shapes=({0: positions},), strict=False)
    ids = torch.randint(0, 40, (23,))
    torch.testing.assert_close(program.module()(ids), emb(ids))


def test_folded_module_exports_without_the_operator() -> None:
    emb = module()
    program = torch.export.export(emb.to_embedding(), (torch.arange(5),))
    assert "resemb_ext" not in str(program.graph)
    torch.testing.assert_close(program.module()(torch.arange(5)), emb(torch.arange(5)))


def test_autocast_leaves_the_tables_alone() -> None:
    emb = module()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert emb(torch.arange(3)).dtype == torch.float32
    low = module(out_dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = low(torch.arange(3)) @ torch.randn(8, 4)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert low.central.grad.dtype == torch.float32


def solve(problem: Problem, sparse: bool) -> list[torch.Tensor]:
    leaves = [t.clone().requires_grad_() for t in (problem.central, problem.residual, problem.weights)]
    own = problem.with_tensors(central=leaves[0], residual=leaves[1], weights=leaves[2])
    out = own.call(functional, sparse=sparse)
    gradients = torch.autograd.grad(out, leaves, torch.ones_like(out).cumsum(0))
    return [out.detach(), *(g.to_dense() if g.is_sparse else g for g in gradients)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("isa", _loader.available_isas())
@pytest.mark.parametrize("bags", [None, 50])
@pytest.mark.parametrize("sparse", [False, True])
def test_bits_do_not_depend_on_threads(isa: str, bags: int | None, sparse: bool) -> None:
    problem = make_problem(
        num_items=3000,
        dim=18,
        positions=40_000,
        neighbors=30,
        id_exponent=1.3,
        neighbor_exponent=1.5,
        bags=bags,
        mode="mean" if bags else "sum",
    )
    before = _loader.isa()
    _loader.select_isa(isa)
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(solve(problem, sparse))
    finally:
        _loader.select_isa(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_sparse_equals_dense_bit_for_bit() -> None:
    problem = make_problem(num_items=500, dim=24, positions=4000, neighbors=10)
    assert all(torch.equal(a, b) for a, b in zip(solve(problem, True), solve(problem, False), strict=True))


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.full
@pytest.mark.parametrize("isa", _loader.available_isas())
def test_isa_from_the_environment(isa: str) -> None:
    result = run_python("from resemb_ext import _loader; print(_loader.isa())", RESEMB_ISA=isa)
    assert result.stdout.split() == [isa]


@pytest.mark.full
def test_unknown_isa_is_an_error() -> None:
    result = run_python("from resemb_ext import _loader; _loader.isa()", RESEMB_ISA="avx9")
    assert "ValueError: RESEMB_ISA: 'avx9' does not run here; expected auto, baseline" in result.stderr


def test_memory_is_kept_bounded_and_released() -> None:
    problem = make_problem(num_items=2000, dim=64, positions=60_000, neighbors=8)
    solve(problem, True)
    freed = _loader.release_memory()
    assert 0 < freed <= 1 << 30
    assert _loader.release_memory() == 0


def test_outputs_keep_their_memory_while_alive() -> None:
    problem = make_problem(num_items=500, dim=64, positions=2000, neighbors=4)
    first = problem.call(functional)
    kept = first.clone()
    for seed in range(3):
        other = make_problem(num_items=500, dim=64, positions=2000, neighbors=4, seed=seed + 1)
        assert other.call(functional).data_ptr() != first.data_ptr()
    assert torch.equal(first, kept)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["res_embedding_backward", "res_embedding_backward_rows"])
def test_gradients_are_traced_on_the_device_of_the_ids(name: str, place: str) -> None:
    """A graph in pinned host memory beside tables on a device; torch's fakes need no device."""
    with FakeTensorMode(shape_env=ShapeEnv()):
        ids, plan = torch.empty(6, dtype=torch.int64, device=place), torch.empty(13, device=place)
        central, grad = torch.empty(5, 4, device=place), torch.empty(6, 4, device=place)
        graph = (
            torch.empty(6, dtype=torch.int64),
            torch.empty(9, dtype=torch.int32),
            torch.empty(18, dtype=torch.float64)[::2],
        )
        before = (grad, ids, plan) if name == "res_embedding_backward" else (grad, plan)
        padding = (-1,) if name == "res_embedding_backward" else ()
        for needs in ([True] * 4, [False] * 4):
            found = getattr(torch.ops.resemb_ext, name)(
                *before, central, central, *graph, None, None, *padding, False, torch.float32, *needs
            )
            assert all(t.device.type == place and t.is_contiguous() for t in found)
            assert found[2 if padding else 5].dtype == torch.float64
