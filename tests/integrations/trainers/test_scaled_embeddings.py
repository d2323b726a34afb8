"""transformers: embeddings with a forward of their own, and the initialisation of its models, over a graph."""

from __future__ import annotations

import copy

import numpy as np
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("transformers", __file__)

from transformers import BartConfig, BartModel  # noqa: E402

ROWS, DIM = 9, 8
TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")


def test_bart_scales_its_words_over_a_graph() -> None:
    items = np.arange(1, ROWS)
    graph = rx.InterestGraph.from_csr(np.concatenate([[0, 0], items]), np.roll(items, 1), np.full(ROWS - 1, 2.0))
    model = BartModel(
        BartConfig(
            vocab_size=ROWS,
            d_model=DIM,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=DIM,
            decoder_ffn_dim=DIM,
            scale_embedding=True,
            pad_token_id=0,
            max_position_embeddings=16,
        )
    ).eval()
    ids = torch.tensor([[1, 2, 3]])
    expected, kind = model(input_ids=ids).last_hidden_state, type(model.shared)
    rx.replace_embeddings(model, {name: graph for name in TABLES})
    assert isinstance(model.shared, kind) and isinstance(model.shared, rx.ResEmbedding)
    assert model.shared.central is model.get_submodule(TABLES[1]).central
    torch.testing.assert_close(model(input_ids=ids).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(model)(input_ids=ids).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    model.apply(model._init_weights)
    table = model.shared.weight.detach()
    assert not table[0].any() and 0.01 < table[1:].std() < 0.04  # its init_std is 0.02
    rx.restore_embeddings(model)
    assert type(model.shared) is kind
