"""The CUDA operators on a device: parity with the reference, bits, no waiting, capture, compile, faults."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import resemb_ext as rx
from resemb_ext import functional
from resemb_ext.testing import Problem, check_problem, make_problem
from resemb_ext.testing.strategies import DIMS, DTYPES, examples, problems

pytestmark = pytest.mark.cuda

OPTIMIZERS = {
    "sgd": lambda p: rx.optim.SGD(p, lr=0.1),
    "momentum": lambda p: rx.optim.SGD(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: rx.optim.Adagrad(p, lr=0.1),
    "rowwise": lambda p: rx.optim.RowwiseAdagrad(p, lr=0.1),
    "adam": lambda p: rx.optim.Adam(p, lr=0.01),
    "adam by row": lambda p: rx.optim.Adam(p, lr=0.01, bias_correction="row"),
    "adamw": lambda p: rx.optim.AdamW(p, lr=0.01),
    "adam, bfloat16 state": lambda p: rx.optim.Adam(p, lr=0.01, state="bfloat16"),
    "adam, int8 state": lambda p: rx.optim.Adam(p, lr=0.01, state="int8_rowwise"),
    "global decay": lambda p: rx.optim.Adam(p, lr=0.01, weight_decay=1.0, decay="global"),
}


@examples(100)
@given(problems(device="cuda"), st.booleans(), st.integers(0, 2**31))
def test_any_problem(problem: Problem, sparse: bool, seed: int) -> None:
    check_problem(problem, sparse=sparse, seed=seed)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width(dim: int, dtype: torch.dtype) -> None:
    check_problem(
        make_problem(
            num_items=60,
            dim=dim,
            positions=200,
            neighbors=6,
            vary=True,
            padding_idx=3,
            padding_share=0.2,
            dtype=dtype,
            device="cuda",
        )
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [7, 64])
def test_half_weights(dim: int, dtype: torch.dtype) -> None:
    check_problem(
        make_problem(
            num_items=60,
            dim=dim,
            positions=200,
            neighbors=7,
            vary=True,
            dtype=dtype,
            weights_dtype=torch.float16,
            device="cuda",
        )
    )


@pytest.mark.parametrize("bags", [None, 3])
@pytest.mark.parametrize(
    "sums",
    [
        {"positions": 70_000, "neighbors": 3, "id_exponent": 2.0, "neighbor_exponent": 2.0},
        {"positions": 900, "neighbors": 700, "id_exponent": 0.0, "neighbor_exponent": 0.0},
    ],
    ids=["over positions", "over edges"],
)
def test_long_sums(sums: dict, bags: int | None) -> None:
    problem = make_problem(num_items=900, dim=9, bags=bags, dtype=torch.float64, device="cuda", **sums)
    check_problem(problem)


def embedding(dtype: torch.dtype = torch.float32, sparse: bool = True) -> rx.ResEmbedding:
    p = make_problem(num_items=5000, dim=64, positions=1, neighbors=20, seed=1)
    graph = rx.InterestGraph.from_csr(p.indptr.numpy(), p.neighbors.numpy(), p.weights.numpy())
    torch.manual_seed(0)
    return rx.ResEmbedding(graph, 64, sparse=sparse, dtype=dtype).cuda()


def batches(count: int, positions: int = 30_000) -> Iterator[torch.Tensor]:
    for seed in range(count):
        yield make_problem(num_items=5000, dim=1, positions=positions, neighbors=1, seed=seed).ids.cuda()


def train(name: str, dtype: torch.dtype, in_backward: bool, device: str) -> list[torch.Tensor]:
    module = embedding(dtype).to(device)
    optimizer = OPTIMIZERS[name](module.parameters())
    if name == "global decay":
        optimizer.attach(module)
    if in_backward:
        optimizer.step_in_backward(module)
    generator = torch.Generator().manual_seed(3)
    for ids in batches(3):
        upstream = torch.randn(ids.numel(), 64, generator=generator, dtype=torch.float64)
        module(ids.to(device)).backward(upstream.to(device=device, dtype=dtype))
        if not in_backward:
            optimizer.step()
            optimizer.zero_grad()
    module.check()
    optimizer.catch_up()
    return [module.central.detach().cpu(), module.residual.detach().cpu()]


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_agrees_with_the_cpu_and_repeats(name: str, in_backward: bool) -> None:
    first, second = (train(name, torch.float32, in_backward, "cuda") for _ in range(2))
    for a, b, c in zip(first, second, train(name, torch.float32, False, "cpu"), strict=True):
        assert torch.equal(a, b), "two runs differ"
        torch.testing.assert_close(a, c, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_loaded_optimizer_goes_on(fused: bool) -> None:
    """Tables with sparse gradients beside layers whose steps are torch's own."""

    def made() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
        table, layer = embedding(sparse=True), nn.Linear(64, 1, device="cuda")
        optimizer = rx.optim.Adam([*table.parameters(), *layer.parameters()], fused=fused)
        return table, layer, optimizer

    def step(table: nn.Module, layer: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(table(ids)).square().sum().backward()
        optimizer.step()

    (ids,) = batches(1)
    whole = made()
    step(*whole)
    again = made()
    for module, saved in zip(again, whole, strict=True):
        module.load_state_dict(copy.deepcopy(saved.state_dict()))
    for run in (whole, again):
        step(*run)
    for a, b in zip(whole[:2], again[:2], strict=True):
        for one, other in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(one, other)


def test_weighted_means_repeat() -> None:
    problem = make_problem(
        num_items=500, dim=16, positions=100_000, neighbors=5, bags=7, mode="mean", sample_weights=True, device="cuda"
    )
    results = []
    for _ in range(3):
        samples = problem.per_sample_weights.clone().requires_grad_()
        out = problem.with_tensors(per_sample_weights=samples).call(functional)
        out.square().sum().backward()
        results.append([out.detach(), samples.grad])
    for again in results[1:]:
        for a, b in zip(results[0], again, strict=True):
            assert torch.equal(a, b)


def test_low_precision_in_backward_is_the_step_apart() -> None:
    apart, together = (train("adam", torch.bfloat16, how, "cuda") for how in (False, True))
    for a, b in zip(apart, together, strict=True):
        assert torch.equal(a, b)


def test_forward_and_dense_backward_do_not_wait_and_replay() -> None:
    module = embedding(sparse=False)
    inputs = list(batches(2))
    ids = inputs[0].clone()
    upstream = torch.randn(ids.numel(), 64, device="cuda")

    def step() -> torch.Tensor:
        module.central.grad = module.residual.grad = None
        out = module(ids)
        out.backward(upstream)
        return out

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.cuda.set_sync_debug_mode("error")
        try:
            out = step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        gradients = [module.central.grad, module.residual.grad]
    ids.copy_(inputs[1])
    graph.replay()
    replayed = [t.clone() for t in (out, *gradients)]
    expected = [step().detach(), module.central.grad, module.residual.grad]
    for a, b in zip(replayed, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sparse", [False, True])
def test_compiles(sparse: bool) -> None:
    module = embedding(sparse=sparse)
    compiled = torch.compile(lambda ids: module(ids).square().sum(), fullgraph=True)
    (ids,) = batches(1)
    gradients = []
    for function in (compiled, lambda ids: module(ids).square().sum()):
        module.zero_grad()
        function(ids).backward()
        gradients.append([p.grad.to_dense() for p in module.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_side_stream() -> None:
    module = embedding()
    (ids,) = batches(1)
    expected = module(ids)
    late = torch.zeros_like(ids)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # clocks; kernels on another stream would read the zeros
        late.copy_(ids)
        out = module(late)
    stream.synchronize()
    assert torch.equal(out, expected)


def test_tables_above_two_to_the_31_elements() -> None:
    num_items, dim = 17_000_000, 128
    if torch.cuda.mem_get_info()[0] < 12 * num_items * dim:
        pytest.skip(f"needs {12 * num_items * dim / 2**30:.0f} GiB of free memory")
    central, residual = (
        torch.zeros(num_items, dim, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(2)
    )
    far, last = num_items - 9, num_items - 1  # both past element 2^31
    with torch.no_grad():
        for item in (0, far, last):
            central[item] = residual[item] = float(item % 7 + 1)
    indptr = torch.zeros(num_items + 1, dtype=torch.int64, device="cuda")
    indptr[num_items:] = 1  # the last row points at far
    neighbors = torch.tensor([far], dtype=torch.int32, device="cuda")
    graph = (indptr, neighbors, torch.tensor([2.0], device="cuda"))
    ids = torch.tensor([0, far, last], device="cuda")
    optimizer = rx.optim.SGD([central, residual], lr=1.0)
    out = functional.res_embedding(ids, central, residual, *graph, sparse=True)
    own = [float(item % 7 + 1) for item in (0, far, last)]
    expected = torch.tensor([own[0], own[1], own[2] + 2 * own[1]])
    for column in (0, dim - 1):
        torch.testing.assert_close(out[:, column].detach().float().cpu(), expected)
    out.sum().backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(residual[ids, -1].float().cpu(), torch.tensor(own) - 1)
        torch.testing.assert_close(central[ids, -1].float().cpu(), torch.tensor(own) - torch.tensor([0.0, 2.0, 0.0]))


def test_a_bad_id_reads_as_padding_and_is_raised() -> None:
    module = embedding()
    out = module(torch.tensor([1, 5000, 2], device="cuda"))
    assert (out[1] == 0).all()
    with pytest.raises(IndexError, match="id 5000 at position 1"):
        module.check()
    module.check()


def test_tensors_on_the_host_are_refused_by_name() -> None:
    module = embedding()
    with pytest.raises(ValueError, match="ids: is not on a CUDA device"):
        module(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="central: is not on the device of the other tensors"):
        functional.res_embedding(
            torch.tensor([1, 2], device="cuda"),
            module.central.detach().cpu(),
            module.residual,
            module._indptr,
            module._neighbors,
            module._link_weights,
        )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_another_device() -> None:
    problem = make_problem(num_items=60, dim=8, positions=200, neighbors=6)
    on_two = make_problem(num_items=60, dim=8, positions=200, neighbors=6, device="cuda:1")
    torch.testing.assert_close(on_two.call(functional).cpu(), problem.call(functional))
    check_problem(on_two)
