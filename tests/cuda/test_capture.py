"""Whole training steps captured once and replayed: counts advance, learning rates are followed, nothing waits.

On a device that is a CUDA graph. Under emulation (tests/cuda/test_emulated.py, RESEMB_EMULATED=1) every operator
of a step is recorded and called again on the same tensors, which shows that no number passes by the host.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import resemb_ext as rx
from resemb_ext import _C
from resemb_ext.optim import capture as optim_capture
from resemb_ext.testing import make_problem

pytestmark = pytest.mark.cuda

EMULATED = os.environ.get("RESEMB_EMULATED") == "1"
DEVICE = "cpu" if EMULATED else "cuda"
H, D, P = (300, 12, 400) if EMULATED else (5000, 64, 30_000)
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (rx.optim.SGD, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "momentum": (rx.optim.SGD, {"momentum": 0.9}),
    "adagrad": (rx.optim.Adagrad, {"lr_decay": 0.1}),
    "rowwise": (rx.optim.RowwiseAdagrad, {}),
    "adam": (rx.optim.Adam, {"weight_decay": 0.01}),
    "adam by row": (rx.optim.Adam, {"bias_correction": "row"}),
    "adamw": (rx.optim.AdamW, {"stochastic_rounding": True}),
    "adam, bfloat16 state": (rx.optim.Adam, {"state": "bfloat16"}),
    "adam by row, int8 state": (rx.optim.Adam, {"state": "int8_rowwise", "bias_correction": "row"}),
}
WAITS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "rows_ascend",
    "coalesce_rows",
    "res_embedding_backward_rows",
    "attention_embedding_backward_rows",
}


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim_capture, "DEVICES", (DEVICE,))


class Recorder(TorchDispatchMode):
    """Records operators with the very tensors they saw; fails where the host would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        assert name not in WAITS, f"{name} waits for the device"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.data.copy_(new)


def capture(step: Callable[[], Any], changed: Callable[[], list[Tensor]]) -> Callable[[], None]:
    """What repeats a step that has been made before; ``changed`` are tensors that it changes in place."""
    if EMULATED:
        before = [t.detach().clone() for t in changed()]
        recorder = Recorder()
        with recorder:
            step()
        for tensor, value in zip(changed(), before, strict=True):
            tensor.data.copy_(value)
        return recorder.replay
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return graph.replay


def embedding(dtype: torch.dtype = torch.float32, **options: Any) -> rx.ResEmbedding:
    p = make_problem(num_items=H, dim=1, positions=1, neighbors=8, seed=1)
    graph = rx.InterestGraph.from_csr(p.indptr.numpy(), p.neighbors.numpy(), p.weights.numpy())
    torch.manual_seed(0)
    return rx.ResEmbedding(graph, D, dtype=dtype, **options).to(DEVICE)


def batches(count: int) -> Iterator[Tensor]:
    for seed in range(count):
        ids = make_problem(num_items=H, dim=1, positions=P, neighbors=1, seed=seed).ids
        yield ids.to(DEVICE)


def upstream_of(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(P, D, generator=generator).to(DEVICE, dtype)


def state_of(module: rx.ResEmbedding, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    tables = [module.central, module.residual]
    return [*tables, *(v for t in tables for v in optimizer.state[t].values())]


def require_same(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for a, b in zip(found, expected, strict=True):
        a, b = a.detach().cpu(), b.detach().cpu()
        if EMULATED:
            assert torch.equal(a, b)
        else:  # the device may fuse a multiplication and an addition where the host does not
            kind = 2**-7 if dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(a, b, rtol=kind, atol=kind)


@pytest.mark.parametrize(("dtype", "moving_lr"), [(torch.float32, True), (torch.bfloat16, False)], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replayed_steps_in_backward_are_the_steps(name: str, moving_lr: bool, dtype: torch.dtype) -> None:
    """Replays on new ids and learning rates against ordinary steps in backward."""
    kind, options = OPTIMIZERS[name]
    upstream, inputs = upstream_of(dtype), list(batches(5))
    rates = [0.05, 0.05, 0.05, 0.02, 0.01] if moving_lr else [0.05] * 5

    plain = embedding(dtype, sparse=True)
    ordinary = kind(plain.parameters(), lr=0.05, **options)
    ordinary.step_in_backward(plain)
    for ids, rate in zip(inputs, rates, strict=True):
        ordinary.param_groups[0]["lr"] = rate
        plain(ids).backward(upstream)

    module = embedding(dtype, sparse=True)
    lr = torch.tensor(0.05, dtype=torch.float64, device=DEVICE) if moving_lr else 0.05
    optimizer = kind(module.parameters(), lr=lr, capturable=True, **options)
    optimizer.step_in_backward(module)
    ids = inputs[0].clone()

    def step() -> None:
        module(ids).backward(upstream)

    step()
    replay = capture(step, lambda: state_of(module, optimizer))
    for values, rate in zip(inputs[1:], rates[1:], strict=True):
        ids.copy_(values)
        if moving_lr:
            lr.fill_(rate)  # type: ignore[union-attr]
        replay()
    module.check()
    require_same(state_of(module, optimizer), state_of(plain, ordinary), dtype)
    assert all(int(optimizer.state[p]["step"]) == 5 for p in (module.central, module.residual))


@pytest.mark.parametrize("options", [{}, {"link": "attention"}, {"link": "attention", "heads": 4}], ids=str)
def test_replayed_gradients(options: dict[str, Any]) -> None:
    """Forward and dense backward, captured, on new ids."""
    module = embedding(**options)
    upstream, inputs = upstream_of(torch.float32), list(batches(2))
    ids = inputs[0].clone()
    parameters = list(module.parameters())

    def step() -> list[Tensor]:
        for p in parameters:
            p.grad = None
        out = module(ids)
        out.backward(upstream)
        return [out.detach(), *(p.grad for p in parameters)]  # type: ignore[list-item]

    kept: list[list[Tensor]] = []
    step()
    replay = capture(lambda: kept.append(step()), lambda: parameters)
    ids.copy_(inputs[1])
    replay()
    replayed = [t.clone() for t in kept[0]]
    for a, b in zip(replayed, step(), strict=True):
        assert torch.equal(a, b)


def test_dropout_draws_anew_in_every_replay() -> None:
    module = embedding(link="attention", edge_dropout=0.5)
    (ids,) = batches(1)
    kept: list[Tensor] = []

    def step() -> None:
        kept.append(module(ids))

    with torch.no_grad():
        step()
        replay = capture(step, lambda: [])
        out = kept[-1]
        replay()
        first = out.clone()
        replay()
    assert not torch.equal(first, out)


def test_separate_steps_outside_captures() -> None:
    """capturable=True leaves ordinary training as it is, and its state can be saved and taken up."""
    results = []
    for capturable in (False, True):
        module = embedding(sparse=True)
        optimizer = rx.optim.Adam(module.parameters(), lr=0.05, capturable=capturable)
        for turn, ids in enumerate(batches(4)):
            if turn == 2:
                saved = optimizer.state_dict()
                optimizer = rx.optim.Adam(module.parameters(), lr=0.05, capturable=capturable)
                optimizer.load_state_dict(saved)
            module(ids).backward(upstream_of(torch.float32))
            optimizer.step()
            optimizer.zero_grad()
        assert optimizer.state[module.central]["step"].device.type == (DEVICE if capturable else "cpu")
        results.append(state_of(module, optimizer))
    require_same(*results, torch.float32)


def test_a_capture_needs_capturable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = embedding(sparse=True)
    optimizer = rx.optim.Adam(module.parameters())
    optimizer.step_in_backward(module)
    (ids,) = batches(1)
    out = module(ids)
    monkeypatch.setattr(optim_capture, "capturing", lambda: True)
    with pytest.raises(RuntimeError, match="capturable=True"):
        out.backward(torch.ones_like(out))
    with pytest.raises(RuntimeError, match="capturable=True"):
        optimizer.step()


@pytest.mark.skipif(EMULATED, reason="torch's Adam captures on CUDA alone, and so do streams")
def test_dense_gradients_and_their_step() -> None:
    inputs, upstream = list(batches(4)), upstream_of(torch.float32)
    tables = []
    for captured in (False, True):
        module = embedding()
        optimizer = rx.optim.Adam(module.parameters(), lr=0.05, capturable=True)
        ids = inputs[0].clone()

        def step(module=module, optimizer=optimizer, ids=ids) -> None:
            module(ids).backward(upstream)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        step()
        run = capture(step, lambda: []) if captured else step
        for values in inputs[1:]:
            ids.copy_(values)
            run()
        tables.append([module.central, module.residual])
    require_same(*tables, torch.float32)


@pytest.mark.skipif(EMULATED, reason="nothing is captured there")
def test_sparse_gradients_are_refused_in_a_capture() -> None:
    module = embedding(sparse=True)
    (ids,) = batches(1)
    module(ids).sum().backward()
    module.zero_grad()
    with (
        pytest.raises(RuntimeError, match="inside the capture of a CUDA graph"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        module(ids).sum().backward()
    torch.cuda.synchronize()


@pytest.mark.parametrize(
    ("link", "sparse", "expected"),
    [("average", True, 1), ("average", False, 0), ("attention", True, 1), ("attention", False, 0)],
)
def test_a_backward_waits_once_with_sparse_gradients_and_else_never(link: str, sparse: bool, expected: int) -> None:
    (path,) = torch.ops.loaded_libraries if EMULATED else (_C.__file__,)
    waits = ctypes.CDLL(path).resemb_cuda_waits
    waits.restype = ctypes.c_int64
    module = embedding(link=link, sparse=sparse)
    upstream = upstream_of(torch.float32)
    for ids in [*batches(3), torch.empty(0, dtype=torch.int64, device=DEVICE)]:
        module.zero_grad()
        out = module(ids)  # the first may look for the graph's longest row
        before = waits()
        out.backward(upstream[: ids.numel()])
        assert waits() - before == expected
        assert module.central.grad.is_sparse == sparse
        before = waits()
        module(ids)
        assert waits() == before
