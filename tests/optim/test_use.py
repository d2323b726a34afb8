"""The optimizers as torch.optim ones: groups, state, scheduling, scaling, clipping, errors."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resemb_ext import InterestGraph, ResEmbedding, optim
from resemb_ext.testing.problems import make_graph

H, D = 60, 16
ALL = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adagrad": (optim.Adagrad, {"lr": 0.1}),
    "rowwise": (optim.RowwiseAdagrad, {"lr": 0.1}),
    "adam": (optim.Adam, {"lr": 0.01, "bias_correction": "row"}),
    "adamw": (optim.AdamW, {"lr": 0.01}),
    "compact": (optim.Adam, {"lr": 0.01, "state": "compact"}),
}


def res_embedding(dtype: torch.dtype = torch.float32) -> ResEmbedding:
    torch.manual_seed(0)
    graph = InterestGraph.from_csr(*make_graph(np.random.default_rng(0), H, 4, vary=True))
    return ResEmbedding(graph, D, link="given", sparse=True, dtype=dtype)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.randint(H, (20,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(ids).float().square().sum().backward()
        optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_only_rows_of_the_batch_move() -> None:
    module = res_embedding()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = optim.Adam(module.parameters(), weight_decay=0.1)
    module(torch.tensor([5])).sum().backward()
    touched = {name: set(p.grad._indices()[0].tolist()) for name, p in module.named_parameters()}
    optimizer.step()
    for name, p in module.named_parameters():
        moved = set((p != before[name]).any(1).nonzero()[:, 0].tolist())
        assert moved == touched[name]
    assert touched["residual"] == {5}


def test_groups_of_central_and_residual() -> None:
    module = res_embedding()
    groups = module.parameter_groups(central={"lr": 0.0}, residual={"weight_decay": 0.5}, lr=0.1, eps=1e-6)
    assert [g["name"] for g in groups] == ["central", "residual"]
    central = module.central.detach().clone()
    residual = module.residual.detach().clone()
    optimizer = optim.SGD([{k: v for k, v in g.items() if k != "eps"} for g in groups], lr=9.0)
    (module(torch.tensor([3, 4])) * 0).sum().backward()
    optimizer.step()
    assert torch.equal(module.central, central)
    torch.testing.assert_close(module.residual[3:5], residual[3:5] * 0.95)
    assert torch.equal(module.residual[5:], residual[5:])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (kind, dtype)
        for kind in ALL
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
        if (kind, dtype) != ("compact", torch.float64)
    ],
)
def test_state_survives_saving(kind: str, dtype: torch.dtype) -> None:
    """Saved, loaded and continued is the same as never stopped, bit for bit, in state dtype too."""
    build, options = ALL[kind]
    whole = res_embedding(dtype)
    optimizer = build(whole.parameters(), **options)
    train(whole, optimizer, range(6))

    first = res_embedding(dtype)
    optimizer = build(first.parameters(), **options)
    train(first, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"module": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = res_embedding(dtype)
    second.load_state_dict(saved["module"])
    optimizer = build(second.parameters(), **options)
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, range(3, 6))
    assert same(whole, second)


def test_adam_continues_from_torchs_state_and_back() -> None:
    """One state for dense and sparse gradients: the names and forms are torch.optim.Adam's."""
    table = nn.Parameter(torch.randn(H, D))
    theirs = torch.optim.Adam([table], lr=0.01)
    table.grad = torch.randn(H, D)
    theirs.step()
    own = optim.Adam([table], lr=0.01)
    own.load_state_dict({"state": theirs.state_dict()["state"], "param_groups": own.state_dict()["param_groups"]})
    gradients = [torch.randn(H, D), torch.randn(H, D)]
    twin = nn.Parameter(table.detach().clone())
    reference = torch.optim.Adam([twin], lr=0.01)
    reference.load_state_dict(theirs.state_dict())
    for gradient, sparse in zip(gradients, (True, False), strict=True):
        table.grad = gradient.to_sparse(1) if sparse else gradient
        own.step()
        twin.grad = gradient
        reference.step()
    torch.testing.assert_close(table, twin, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("fused", "where"), [(True, "meta"), (False, "cpu")])
def test_a_loaded_step_count_lies_where_torch_reads_it(fused: bool, where: str) -> None:
    saved, loaded = nn.Parameter(torch.ones(3)), nn.Parameter(torch.empty(3, device="meta"))
    optimizer = optim.Adam([saved], fused=fused)
    saved.grad = torch.ones(3)
    optimizer.step()
    other = optim.Adam([loaded])
    other.load_state_dict(optimizer.state_dict())
    assert other.state[loaded]["step"].device.type == where
    assert other.state[loaded]["exp_avg"].device.type == "meta"


def test_schedulers_and_closures() -> None:
    module = nn.Embedding(H, D, sparse=True)
    twin = copy.deepcopy(module)
    optimizer = optim.SGD(module.parameters(), lr=0.4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    expected = torch.optim.SGD(twin.parameters(), lr=0.4)
    other = torch.optim.lr_scheduler.StepLR(expected, 1, gamma=0.5)
    ids = torch.arange(10)

    def closure(module: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        def run() -> Tensor:
            optimizer.zero_grad()
            loss = module(ids).square().sum()
            loss.backward()
            return loss

        return run

    for _ in range(3):
        loss = optimizer.step(closure(module, optimizer))
        assert loss > 0
        schedule.step()
        expected.step(closure(twin, expected))
        other.step()
    torch.testing.assert_close(module.weight, twin.weight)


def test_grad_scaler() -> None:
    """Scaled gradients are unscaled before the step, and an overflow skips it."""
    module, twin = (nn.Embedding(H, D, sparse=True) for _ in range(2))
    twin.load_state_dict(module.state_dict())
    optimizers = [optim.Adam(m.parameters(), lr=0.01) for m in (module, twin)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ids = torch.tensor([1, 1, 7])
    scaler.scale(module(ids).square().sum()).backward()
    scaler.step(optimizers[0])
    scaler.update()
    twin(ids).square().sum().backward()
    optimizers[1].step()
    torch.testing.assert_close(module.weight, twin.weight, rtol=1e-6, atol=1e-7)

    before = module.weight.detach().clone()
    module.zero_grad()
    scaler.scale(module(ids).sum() * torch.inf).backward()
    scaler.step(optimizers[0])
    scaler.update()
    assert torch.equal(module.weight, before)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("unscaled", [False, True])
def test_grad_scaler_is_refused_where_backward_steps(unscaled: bool) -> None:
    module = nn.Sequential(nn.Embedding(H, D, sparse=True), nn.Linear(D, 1))
    optimizer = optim.SGD(module.parameters(), lr=0.1)
    optimizer.step_in_backward(module)
    before = module[1].weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(module(torch.tensor([1])).sum()).backward()
    if unscaled:
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="step_in_backward: GradScaler scales the loss"):
        scaler.step(optimizer)
    assert torch.equal(module[1].weight, before)
    torch.amp.GradScaler("cpu", enabled=False).step(optimizer)
    assert not torch.equal(module[1].weight, before)


@pytest.mark.parametrize("kind", ALL)
def test_several_lookups_are_one_step_on_their_sum(kind: str) -> None:
    """Two lookups a pass, two passes a step: gradients of several sorted runs, never coalesced."""
    build, options = ALL[kind]
    module, twin = nn.Embedding(H, D, sparse=True), nn.Embedding(H, D, sparse=True)
    twin.load_state_dict(module.state_dict())
    optimizer, other = build(module.parameters(), **options), build(twin.parameters(), **options)
    for _ in range(3):
        batches = [torch.randint(H, (15,)) for _ in range(3)]
        optimizer.zero_grad()
        (module(batches[0]).square().sum() + module(batches[1]).square().sum()).backward()
        module(batches[2]).square().sum().backward()
        assert not module.weight.grad.is_coalesced()
        optimizer.step()
        other.zero_grad()
        twin(torch.cat(batches)).square().sum().backward()
        other.step()
        torch.testing.assert_close(module.weight, twin.weight, rtol=1e-5, atol=1e-6)
        twin.load_state_dict(module.state_dict())


def test_dense_gradients_beside_sparse_ones() -> None:
    embedding, linear = nn.Embedding(H, D, sparse=True), nn.Linear(D, 1)
    twin = copy.deepcopy(linear)
    ids = torch.arange(9)
    optimizer = optim.Adam([*embedding.parameters(), *linear.parameters()], lr=0.01)
    vectors = embedding.weight.detach()[ids].clone()
    linear(embedding(ids)).sum().backward()
    optimizer.step()
    expected = torch.optim.Adam(twin.parameters(), lr=0.01)
    twin(vectors).sum().backward()
    expected.step()
    assert same(linear, twin)


class TestErrors:
    @pytest.mark.parametrize(
        ("build", "options", "message"),
        [
            (optim.Adam, {"lr": float("nan")}, "lr"),
            (optim.Adam, {"weight_decay": -1.0}, "weight_decay"),
            (optim.Adam, {"decay": "all"}, "decay: found 'all'; expected 'touched' or 'global'"),
            (optim.Adam, {"bias_correction": "both"}, "bias_correction"),
            (optim.SGD, {"nesterov": True}, "esterov"),
            (optim.Adagrad, {"eps": float("inf")}, "eps"),
        ],
    )
    def test_options(self, build: Any, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build([nn.Parameter(torch.ones(2, 2))], **options)

    def test_options_of_a_group(self) -> None:
        optimizer = optim.Adam([nn.Parameter(torch.ones(2, 2))])
        for options in ({"betas": (1.0, 0.9)}, {"amsgrad": True}, {"decay": "none"}):
            with pytest.raises(ValueError, match=next(iter(options))):
                optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))], **options})

    @pytest.mark.parametrize(
        ("gradient", "error", "message"),
        [
            (lambda: torch.ones(H, D).to_sparse(2), ValueError, "2 sparse and 0 dense dimensions"),
            (lambda: _rows([3, H]), IndexError, f"id {H} at position 1"),
            (lambda: _rows([-1, 3]), IndexError, "id -1 at position 0"),
        ],
    )
    def test_gradients_that_are_no_rows_write_nothing(
        self, gradient: Any, error: type[Exception], message: str
    ) -> None:
        """Neither the bad table nor a good one before it."""
        good, bad = nn.Parameter(torch.ones(H, D)), nn.Parameter(torch.ones(H, D))
        optimizer = optim.Adam([good, bad])
        good.grad = _rows([1, 2])
        bad.grad = gradient()
        with pytest.raises(error, match=message):
            optimizer.step()
        assert torch.equal(good, torch.ones(H, D))
        assert torch.equal(bad, torch.ones(H, D))

    @pytest.mark.parametrize("refuses", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
    def test_torchs_optimizers_that_refuse_sparse_gradients_name_ours(self, refuses: Any) -> None:
        module = res_embedding()
        module(torch.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match=r"use resemb_ext\.optim"):
            refuses(module.parameters()).step()
        torch.optim.SparseAdam(module.parameters()).step()
        torch.optim.LBFGS(module.parameters()).step(lambda: torch.zeros(()))
        module.sparse = False
        module.zero_grad()
        module(torch.tensor([1])).sum().backward()
        refuses(module.parameters()).step()

    @pytest.mark.parametrize("way", ["assign", "deepcopy", "pickle"])
    @pytest.mark.parametrize("call", ["closure", "closure=", "nothing"])
    def test_they_name_ours_whatever_became_of_the_table(self, way: str, call: str) -> None:
        """Also where the closure makes the gradients, as Lightning's does."""
        module = res_embedding()
        if way == "assign":
            state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in module.state_dict().items()}
            module.load_state_dict(state, assign=True)
        else:
            module = copy.deepcopy(module) if way == "deepcopy" else pickle.loads(pickle.dumps(module))
        optimizer = torch.optim.Adam(module.parameters())

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = module(torch.tensor([1])).sum()
            loss.backward()
            return loss

        with pytest.raises(RuntimeError, match=r"use resemb_ext\.optim"):
            if call == "nothing":
                closure()
                optimizer.step()
            elif call == "closure":
                optimizer.step(closure)
            else:
                optimizer.step(closure=closure)
        module.sparse = False
        loss = closure().item()
        assert optimizer.step(closure) == loss

    def test_a_saved_table_that_a_step_changed_is_noticed(self) -> None:
        table = nn.Parameter(torch.ones(H, D))
        square = table.square()
        table.grad = _rows([1])
        optim.SGD([table]).step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            square.sum().backward()


def _rows(rows: list[int]) -> Tensor:
    return torch.sparse_coo_tensor([rows], torch.ones(len(rows), D), (H, D), check_invariants=False)


@pytest.mark.parametrize("empty", [(0, D), (H, 0)])
def test_empty_tables_and_gradients(empty: tuple[int, int]) -> None:
    table = nn.Parameter(torch.ones(empty))
    values = torch.ones(0 if empty[0] == 0 else 2, empty[1])
    table.grad = torch.sparse_coo_tensor(torch.arange(len(values))[None], values, empty)
    for build, options in ALL.values():
        build([table], **options).step()
    assert table.shape == empty


def test_capturable_needs_cuda_tables_and_touched_decay() -> None:
    module = res_embedding()
    optimizer = optim.Adam(module.parameters(), capturable=True)
    module(torch.arange(5)).sum().backward()
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises(ValueError, match="is on cpu; expected a table on CUDA"):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    with pytest.raises(ValueError, match="capturable: not with decay='global'"):
        optim.Adam(module.parameters(), capturable=True, weight_decay=0.1, decay="global")
    with pytest.raises(ValueError, match="capturable: not with decay='global'"):
        optim.SGD([{"params": list(module.parameters()), "decay": "global"}], capturable=True)


def test_groups_saved_before_capturable_load() -> None:
    module = res_embedding()
    optimizer = optim.Adam(module.parameters())
    train(module, optimizer, range(1))
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["capturable"]
    optimizer.load_state_dict(saved)
    train(module, optimizer, range(1, 2))
    assert optimizer.param_groups[0]["capturable"] is False
