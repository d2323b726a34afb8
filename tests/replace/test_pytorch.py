"""After ``replace_embeddings``: PyTorch's own compilers, wrappers, checkpoints and averages, as docs/integrations/pytorch.md says."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import resemb_ext as rx
from tests.docs.pages import DOCS, run_page
from tests.integrations.trainers.sample import CTR, graph, loss_of, samples
from tests.processes import on_ranks

pytestmark = pytest.mark.usefixtures("one_thread")
B = 24


KINDS = ("ddp", "fsdp2", "fsdp2, tables too")


def swapped(kind: str = "") -> CTR:
    """Sparse, but where the tables are sharded."""
    model = CTR().double()
    rx.replace_embeddings(model, {"item": graph()}, sparse=kind != "fsdp2, tables too")
    return model


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return rx.optim.like(torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.8))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range, average: bool = False) -> None:
    """Steps on batches of 24, or on this rank's part of them."""
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    history, target, label = samples()[:]
    for number in numbers:
        first = number * B + rank * B // world
        part = slice(first, first + B // world)
        optimizer.zero_grad()
        loss_of(model, history[part], target[part], label[part].double()).backward()
        if average:
            rx.optim.average_gradients(model)
        optimizer.step()


def numbers_of(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}
    return {name: p.full_tensor() if hasattr(p, "full_tensor") else p.clone() for name, p in found.items()}


@pytest.mark.parametrize("when", ["before", "after"])
def test_compile(when: str) -> None:
    plain, model = swapped(), CTR().double()
    compiled = torch.compile(model, backend="eager") if when == "before" else model
    rx.replace_embeddings(model, {"item": graph()}, sparse=True)
    compiled = torch.compile(model, backend="eager") if when == "after" else compiled
    for one in (plain, compiled):
        steps(one, optimizer_of(one), range(3))
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.full
@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    model = swapped()
    steps(model, optimizer_of(model), range(2))
    history, target, _ = samples()[:B]
    expected = model.eval()(history, target)
    sizes = ({0: torch.export.Dim("batch")},) * 2
    program = torch.export.export(model, (history, target), dynamic_shapes=sizes, strict=strict)
    torch.testing.assert_close(program.module()(history[:5], target[:5]), expected[:5])
    assert "resemb_ext" in program.graph_module.code
    rx.restore_embeddings(model)
    program = torch.export.export(model, (history, target), dynamic_shapes=sizes, strict=strict)
    torch.testing.assert_close(program.module()(history, target), expected)
    assert "resemb_ext" not in program.graph_module.code  # loads without this package


def _wrapped(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model: nn.Module = swapped(kind)
    if kind == "fsdp2, tables too":
        fully_shard(model)
    elif kind == "ddp":
        model = DistributedDataParallel(model)
    elif kind == "fsdp2":
        fully_shard(model, ignored_params=set(model.item.parameters()))  # type: ignore[union-attr, arg-type]
    return model, optimizer_of(model)


def _two_ways(folder: str) -> dict[str, dict[str, Tensor]]:
    found = {}
    for kind in KINDS:
        model, optimizer = _wrapped(kind)
        steps(model, optimizer, range(2), average=kind == "fsdp2")
        states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        dcp.save(states, checkpoint_id=f"{folder}/{kind}")
        model, optimizer = _wrapped(kind)
        _load(model, optimizer, f"{folder}/{kind}")
        steps(model, optimizer, range(2, 4), average=kind == "fsdp2")
        found[kind] = numbers_of(model)
    return found


def _load(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str | Path) -> None:
    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.load(states, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=states["model"], optim_state_dict=states["optimizer"])


@pytest.mark.full
def test_ddp_fsdp2_and_their_checkpoints_are_as_one_process(tmp_path: Path) -> None:
    """Two steps on two ranks, saved, loaded into fresh models there and in one process, and two more."""
    ranks = on_ranks(2, tmp_path, _two_ways, str(tmp_path))
    for kind in KINDS:
        alone, resumed = swapped(kind), swapped(kind)
        steps(alone, optimizer_of(alone), range(4))
        optimizer = optimizer_of(resumed)
        _load(resumed, optimizer, tmp_path / kind)
        steps(resumed, optimizer, range(2, 4))
        for name, expected in numbers_of(alone).items():
            torch.testing.assert_close(numbers_of(resumed)[name], expected, rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(ranks[0][kind][name], expected, rtol=1e-9, atol=1e-10)
            assert torch.equal(ranks[0][kind][name], ranks[1][kind][name])


@pytest.mark.parametrize("how", ["AveragedModel", "by hand, parameters", "by hand, state_dict"])
@pytest.mark.parametrize("decay", ["touched", "global"])
def test_averages(how: str, decay: str) -> None:
    """Against an average of models whose whole tables decay at every step."""
    model, dense = swapped(), swapped()
    optimizer = rx.optim.SGD(model.parameters(), lr=0.3, weight_decay=0.1, decoupled_weight_decay=True, decay=decay)
    optimizer.attach(model)
    if decay == "global":
        optimizer.register_step_post_hook(lambda *_: optimizer.catch_up())
    other = rx.optim.SGD(dense.parameters(), lr=0.3, weight_decay=0.1, decoupled_weight_decay=True)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.6))
    kept = copy.deepcopy(model)
    expected = {name: p.detach().clone() for name, p in dense.named_parameters()}
    for number in range(3):
        steps(model, optimizer, range(number, number + 1))
        if decay == "global":  # rows that the step does not touch
            before = {name: p.detach().clone() for name, p in dense.named_parameters() if name.startswith("item")}
        steps(dense, other, range(number, number + 1))
        if decay == "global":
            with torch.no_grad():
                for name, start in before.items():
                    still = (dense.get_parameter(name) == start).all(1)
                    dense.get_parameter(name)[still] *= 1 - 0.3 * 0.1
        for name, p in dense.named_parameters():
            expected[name] = (
                0.6 * expected[name] + 0.4 * p.detach() if number or how != "AveragedModel" else p.detach().clone()
            )
        with torch.no_grad():
            if how == "AveragedModel":
                averaged.update_parameters(model)
            elif how == "by hand, parameters":
                for a, p in zip(kept.parameters(), model.parameters(), strict=True):
                    a.lerp_(p, 0.4)
            else:
                for name, value in kept.state_dict().items():
                    value.lerp_(model.state_dict()[name], 0.4)
    found = averaged.module if how == "AveragedModel" else kept
    for name, value in expected.items():
        torch.testing.assert_close(found.get_parameter(name), value)
    history, target, _ = samples()[:B]
    rx.restore_embeddings(found)
    assert found(history, target).shape == (B,)


@pytest.mark.full
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    history, target, label = samples()[:B]
    names = {"model": CTR(), "graph": graph(), "history": history, "target": target, "label": label}
    left = run_page(DOCS / "integrations" / "pytorch.md", names)
    assert type(left["model"].item) is nn.Embedding
