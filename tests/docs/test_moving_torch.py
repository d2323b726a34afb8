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
