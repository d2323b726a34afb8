"""What docs/moving.md says of PyTorch itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import resemb_ext as rx

ROWS = 6


@pytest.fixture
def graph() -> rx.InterestGraph:
    """A ring over the rows 1 to 5; row 0 has no neighbours."""
    ring = np.r_[np.arange(2, ROWS), 1]
    return rx.InterestGraph.from_csr(np.r_[0, 0, np.arange(1, ROWS)], ring, np.ones(ROWS - 1))


@pytest.mark.moving("PyTorch", "padding row")
def test_padding_row(graph: rx.InterestGraph) -> None:
    assert not nn.Embedding(ROWS, 2, padding_idx=0).weight[0].any()
    plain = nn.Embedding.from_pretrained(torch.ones(ROWS, 2), padding_idx=0)
    assert plain(torch.tensor(0)).tolist() == [1.0, 1.0]
    with pytest.warns(UserWarning, match="padding"):
        assert rx.ResEmbedding.from_embedding(plain, graph)(torch.tensor(0)).tolist() == [0.0, 0.0]
    kept = rx.ResEmbedding.from_embedding(plain, graph, padding_idx=None)
    torch.testing.assert_close(kept(torch.tensor(0)), torch.ones(2))


@pytest.mark.moving("PyTorch", "mean of bags with weights")
def test_mean_of_bags_with_weights(graph: rx.InterestGraph) -> None:
    plain = nn.EmbeddingBag.from_pretrained(torch.arange(6.0)[:, None], mode="mean")
    ids, offsets, weights = torch.tensor([2, 4]), torch.tensor([0]), torch.tensor([1.0, 3.0])
    with pytest.raises(NotImplementedError, match="per_sample_weights"):
        plain(ids, offsets, weights)
    for divisor, wanted in (("weights", 14 / 4), ("count", 14 / 2)):
        ours = rx.ResEmbeddingBag.from_embedding_bag(plain, graph, mean_divisor=divisor)
        assert ours(ids, offsets, weights).item() == pytest.approx(wanted)


@pytest.mark.moving("PyTorch", '`mode="max"` of bags')
def test_max_of_bags(graph: rx.InterestGraph) -> None:
    plain = nn.EmbeddingBag.from_pretrained(torch.arange(6.0)[:, None], mode="max")
    assert plain(torch.tensor([[2, 4]])).item() == 4
    with pytest.raises(ValueError, match="max"):
        rx.ResEmbeddingBag.from_embedding_bag(plain, graph)


@pytest.mark.moving("PyTorch", "id out of range")
def test_id_out_of_range(graph: rx.InterestGraph) -> None:
    for table in (nn.Embedding(ROWS, 2), rx.ResEmbedding(graph, 2)):
        for bad in (-1, ROWS):
            with pytest.raises(IndexError):
                table(torch.tensor([bad]))


@pytest.mark.moving("PyTorch", "clipping of sparse gradients")
def test_clipping_of_sparse_gradients(graph: rx.InterestGraph) -> None:
    for table in (nn.Embedding(ROWS, 2, sparse=True), rx.ResEmbedding(graph, 2, sparse=True)):
        table(torch.tensor([1, 2])).sum().backward()
        with pytest.raises((NotImplementedError, RuntimeError), match="SparseCPU"):
            nn.utils.clip_grad_norm_(table.parameters(), 0.1)
        rx.optim.clip_grad_norm_(table.parameters(), 0.1)
        squares = sum(p.grad.coalesce().values().square().sum() for p in table.parameters())
        assert float(squares) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.moving("PyTorch", "`SparseAdam` and eps")
def test_eps_of_sparse_adam() -> None:
    """The first step is lr g / (g + eps): SparseAdam's eps grows by 1 / sqrt(1 - beta2) = 31.6."""
    steps = []
    for kind in (torch.optim.SparseAdam, rx.optim.Adam):
        table = nn.Embedding.from_pretrained(torch.zeros(2, 1), freeze=False, sparse=True)
        optimizer = kind(table.parameters(), lr=1.0, eps=1e-2)
        table(torch.tensor([1])).sum().backward()
        optimizer.step()
        steps.append(-table.weight[1].item())
    assert steps == pytest.approx([1 / (1 + 1e-2 / np.sqrt(1e-3)), 1 / 1.01], rel=1e-4)


@pytest.mark.moving("PyTorch", "`weight_decay` on sparse gradients")
def test_weight_decay_on_sparse_gradients() -> None:
    moved = nn.Embedding.from_pretrained(torch.ones(3, 1), freeze=False, sparse=True)
    moved(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="weight_decay"):
        torch.optim.Adagrad(moved.parameters(), weight_decay=0.1).step()
    rx.optim.SGD(moved.parameters(), lr=0.5, weight_decay=0.1).step()
    assert moved.weight.flatten().tolist() == pytest.approx([1, 1 - 0.5 * 1.1, 1])


@pytest.mark.moving("PyTorch", "state_dict")
def test_state_dict(graph: rx.InterestGraph) -> None:
    plain, ours = nn.Embedding(ROWS, 2), rx.ResEmbedding(graph, 2)
    assert [*plain.state_dict()] == ["weight"] and [*ours.state_dict()] == ["central", "residual", "_extra_state"]
    ours.load_state_dict(plain.state_dict())
    torch.testing.assert_close(ours.materialize(), plain.weight.detach())
