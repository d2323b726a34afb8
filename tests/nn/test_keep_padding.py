"""keep_padding=True: a padding row with a vector, as torch.nn has it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resemb_ext as rx
from resemb_ext import ResEmbedding, ResEmbeddingBag
from resemb_ext.nn import folded_tables

H, D, PADDING = 9, 6, 2
IDS = torch.tensor([[1, PADDING, 3], [PADDING, 8, 8]])


def make_graph() -> rx.InterestGraph:
    items = np.delete(np.arange(H), PADDING)
    degree = np.ones(H, np.int64)
    degree[PADDING] = 0
    return rx.InterestGraph.from_csr(np.concatenate([[0], np.cumsum(degree)]), np.roll(items, 1), np.full(H - 1, 2.0))


def pair(link: str = "average", **options) -> tuple[nn.Embedding, Any]:
    """A plain embedding whose padding row is not zero, and ours."""
    plain = nn.Embedding(H, D, padding_idx=PADDING, dtype=torch.float64, sparse=options.pop("sparse", False))
    nn.init.normal_(plain.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return plain, ResEmbedding.from_embedding(plain, make_graph(), link=link, keep_padding=True, **options)


@pytest.mark.parametrize("link", ["average", "gcn", "attention"])
@pytest.mark.parametrize("sparse", [False, True])
def test_it_is_read_and_takes_no_gradient(link: str, sparse: bool) -> None:
    plain, emb = pair(link, sparse=sparse)
    torch.testing.assert_close(emb(IDS), plain(IDS))
    torch.testing.assert_close(emb.weight.detach(), plain.weight.detach())
    assert emb.weight[PADDING].any() and "keep_padding=True" in repr(emb)
    (emb(IDS) ** 2).sum().backward()
    (plain(IDS) ** 2).sum().backward()
    torch.testing.assert_close(emb.residual.grad.to_dense(), plain.weight.grad.to_dense())
    assert not emb.residual.grad.to_dense()[PADDING].any() and not emb.central.grad.to_dense()[PADDING].any()
    emb.zero_grad()
    emb.weight.sum().backward()
    assert not emb.residual.grad.to_dense()[PADDING].any()


def test_training_leaves_it() -> None:
    plain, emb = pair(sparse=True)
    vector = plain.weight[PADDING].detach().clone()
    for in_backward in (False, True):
        optimizer = rx.optim.Adam(emb.parameters(), lr=0.1)
        if in_backward:
            optimizer.step_in_backward(emb)
        (emb(IDS) ** 2).sum().backward()
        optimizer.step()
        torch.testing.assert_close(emb(torch.tensor(PADDING)).detach(), vector)


def test_state_copies_and_the_way_back() -> None:
    plain, emb = pair()
    other = ResEmbedding(make_graph(), D, padding_idx=PADDING, keep_padding=True, dtype=torch.float64)
    assert not other(torch.tensor(PADDING)).any()
    other.load_state_dict(emb.state_dict())
    for one in (other, copy.deepcopy(emb), emb.to_embedding()):
        torch.testing.assert_close(one(IDS), plain(IDS))
    other.reset_parameters()
    assert not other(torch.tensor(PADDING)).any()
    other.load_state_dict(plain.state_dict())
    torch.testing.assert_close(other(IDS), plain(IDS))
    smoothed = ResEmbedding.from_embedding(plain, make_graph(), exact=False, keep_padding=True)
    torch.testing.assert_close(smoothed(torch.tensor(PADDING)), plain.weight[PADDING])
    assert smoothed.residual.any(1).nonzero().tolist() == [[PADDING]]
    with folded_tables(emb.eval()), torch.no_grad():
        torch.testing.assert_close(emb(IDS), plain(IDS))


def test_it_can_be_written() -> None:
    plain, emb = pair()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (plain, emb):
            torch.manual_seed(3)
            nn.init.normal_(module.weight)
            module.weight.data[PADDING].fill_(0.5)
            module.weight.data[PADDING, 1] = 2.0
            module.weight.data.add_(1)
    torch.testing.assert_close(emb.weight.detach(), plain.weight.detach())


def test_nested_ids_and_forward_mode() -> None:
    plain, emb = pair()
    nested = torch.nested.nested_tensor([torch.tensor([1, PADDING]), torch.tensor([PADDING])], layout=torch.jagged)
    torch.testing.assert_close(emb(nested).values(), plain(nested.values()))
    (tangent,) = torch.func.jvp(
        lambda r: torch.func.functional_call(emb, {"residual": r}, (IDS,)),
        (emb.residual.detach(),),
        (torch.ones_like(emb.residual),),
    )[1:]
    assert torch.equal(tangent[..., 0], (IDS != PADDING).double())


def test_bags_leave_it_out() -> None:
    plain = nn.EmbeddingBag(H, D, padding_idx=PADDING, mode="mean")
    nn.init.normal_(plain.weight)
    bags = ResEmbeddingBag.from_embedding_bag(plain, make_graph(), keep_padding=True)
    torch.testing.assert_close(bags(IDS), plain(IDS))
    torch.testing.assert_close(bags.weight.detach(), plain.weight.detach())


@pytest.mark.full
def test_compiled_and_exported() -> None:
    plain, emb = pair()
    torch.testing.assert_close(torch.compile(emb, fullgraph=True, backend="aot_eager")(IDS), plain(IDS))
    torch.testing.assert_close(torch.export.export(emb, (IDS,)).module()(IDS), plain(IDS))
