"""Models over tables of 16 bits: the layers behind them stay float32."""

import copy

import pytest
import torch

from resemb_ext.models import MODELS
from resemb_ext.models.pooling import embedding_bag
from resemb_ext.testing.models import (
    CATEGORIES,
    CONTEXT,
    DENSE,
    USERS,
    CustomTable,
    make_batch,
    pad,
    plain_table,
    res_table,
)


def _build(name, item):
    return MODELS[name](
        item,
        category_embedding=plain_table(CATEGORIES),
        user_embedding=plain_table(USERS),
        context_embeddings=[plain_table(rows) for rows in CONTEXT],
        dense=DENSE,
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("item", [plain_table, res_table, CustomTable])
@pytest.mark.parametrize("padded", [False, True])
def test_scores_are_those_of_float32_tables_with_the_same_numbers(name, item, padded):
    torch.manual_seed(0)
    model = _build(name, item()).eval()
    tables = [model.item_embedding, model.category_embedding, model.user_embedding, *model.context_embeddings]
    for table in tables:
        table.to(torch.bfloat16)
    wide = copy.deepcopy(model)
    for table in [wide.item_embedding, wide.category_embedding, wide.user_embedding, *wide.context_embeddings]:
        table.float()
    batch = make_batch()
    batch = pad(batch) if padded else batch
    found, expected = model(batch), wide(batch)
    assert found.dtype == torch.float32
    # A Res-embedding without out_dtype gives bfloat16 vectors; the others lose nothing.
    limits = {"rtol": 2e-2, "atol": 2e-2} if item is res_table else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, expected, **limits)
    found.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.item_embedding.parameters())


def test_a_whole_model_in_bfloat16_stays_in_it():
    model = _build("dnn", plain_table()).to(torch.bfloat16)
    assert model.tower_dtype == torch.bfloat16
    assert model(make_batch()).dtype == torch.bfloat16


def test_a_subclass_of_embedding_pools_what_its_forward_gives():
    class Doubled(torch.nn.Embedding):
        def forward(self, input):
            return 2 * super().forward(input)

    table = Doubled(9, 4)
    ids, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 2])
    expected = 2 * torch.nn.functional.embedding_bag(ids, table.weight, offsets, mode="mean")
    torch.testing.assert_close(embedding_bag(table, ids, offsets), expected)
