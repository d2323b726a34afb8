"""torch.fx and TorchScript on models that hold a ResEmbedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from resemb_ext import InterestGraph, ResEmbedding

H, D = 9, 6
IDS, OFFSETS = torch.tensor([3, 0, 5, 5]), torch.tensor([0, 3])


class Model(nn.Module):
    def __init__(self, link: str) -> None:
        super().__init__()
        items = np.arange(1, H)
        graph = InterestGraph.from_csr(np.concatenate([[0, 0], items]), np.roll(items, 1), np.full(H - 1, 2.0))
        self.fields = nn.ModuleDict({"item": ResEmbedding(graph, D, link, 0)})

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        item = self.fields["item"]
        scores = item(ids).sum(0) @ item.weight.t()
        return item.bag(ids, offsets, mode="sum") + item(ids).sum(0) + scores @ item.materialize()


@pytest.mark.parametrize("link", ["average", "attention"])
def test_symbolic_trace(link: str) -> None:
    model = Model(link)
    traced = torch.fx.symbolic_trace(model)
    traced.graph.lint()
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["fields.item"] * 2
    results = []
    for run in (traced, torch.fx.symbolic_trace(traced), model):
        out = run(IDS, OFFSETS)
        results.append((out, *torch.autograd.grad(out.sin().sum(), [*model.parameters()])))
    torch.testing.assert_close(results[:2], [results[2]] * 2)
    for parameter in model.parameters():  # nothing was kept as a constant
        nn.init.normal_(parameter)
    torch.testing.assert_close(traced(IDS, OFFSETS), model(IDS, OFFSETS))


def test_symbolic_trace_of_the_module_alone() -> None:
    emb = Model("average").fields["item"]
    with pytest.raises(
        TypeError, match=r"torch\.fx: traces models that hold a ResEmbedding.*wrap it in nn\.Sequential"
    ):
        torch.fx.symbolic_trace(emb)
    assert torch.equal(torch.fx.symbolic_trace(nn.Sequential(emb))(IDS), emb(IDS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_is_refused_and_the_folded_model_passes() -> None:
    model = nn.Sequential(Model("average").fields["item"], nn.Linear(D, 1))
    for part in (model, model[0]):
        with pytest.raises(RuntimeError, match=r"torch\.jit\.script: does not take a ResEmbedding.*to_plain\(\)"):
            torch.jit.script(part)
    expected = model(IDS)
    model[0] = model[0].to_embedding()
    torch.testing.assert_close(torch.jit.script(model)(IDS), expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit_trace() -> None:
    model = nn.Sequential(Model("average").fields["item"])
    traced = torch.jit.trace(model, (IDS,))
    torch.testing.assert_close(traced(IDS[:2].repeat(3)), model(IDS[:2].repeat(3)))


def test_make_fx_of_the_weight() -> None:
    emb = Model("average").fields["item"]
    traced = make_fx(lambda hidden: hidden @ emb.weight.t())(torch.ones(2, D))
    hidden = torch.randn(2, D)
    torch.testing.assert_close(traced(hidden), hidden @ emb.materialize().t())
