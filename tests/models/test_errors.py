"""Bad options, tables and batches of models are named."""

from dataclasses import replace

import pytest
import torch

from resemb_ext.models import DIEN, DIN, DNN, FM, MODELS, PNN, DeepFM, TorchBatch, WideDeep
from resemb_ext.testing.models import DIM, ITEMS, CustomTable, make_batch, pad, plain_table


@pytest.mark.parametrize("cls", [DNN, DIN, WideDeep, DeepFM, PNN, DIEN])
def test_bad_options_are_named(cls):
    with pytest.raises(ValueError, match="activation"):
        cls(plain_table(), activation="swish")
    with pytest.raises(ValueError, match="dropout"):
        cls(plain_table(), dropout=1.0)
    with pytest.raises(ValueError, match="hidden"):
        cls(plain_table(), hidden=(0,))
    with pytest.raises(ValueError, match="dense"):
        cls(plain_table(), dense=-1)
    with pytest.raises(TypeError, match=r"item_embedding must be .* embedding_dim"):
        cls(torch.nn.Identity())
    with pytest.raises(TypeError, match=r"context_embeddings\[1\] must be .* embedding_dim"):
        cls(plain_table(), context_embeddings=[plain_table(), torch.nn.Identity()])


def test_bad_options_of_single_models_are_named():
    with pytest.raises(ValueError, match="product must be one of"):
        PNN(plain_table(), product="cross")
    with pytest.raises(ValueError, match="auxiliary_weight"):
        DIEN(plain_table(), auxiliary_weight=-1)
    with pytest.raises(ValueError, match="pooling"):
        DNN(plain_table(), pooling="max")
    wide = torch.nn.Embedding(9, DIM + 1)
    for cls in (FM, DeepFM, PNN):
        with pytest.raises(ValueError, match="user_embedding must have the embedding_dim"):
            cls(plain_table(), user_embedding=wide)
    unsized = CustomTable()
    del unsized.num_embeddings
    for cls in (FM, DeepFM, WideDeep):
        with pytest.raises(TypeError, match="item_embedding must have an integer num_embeddings"):
            cls(unsized)


def test_bad_batches_are_named():
    batch = make_batch()
    with pytest.raises(ValueError, match="offsets must have one entry per sample"):
        TorchBatch(batch.target, batch.history, batch.offsets[:-1])
    with pytest.raises(ValueError, match="offsets must come with"):
        TorchBatch(batch.target, batch.history)
    with pytest.raises(ValueError, match="offsets must come with"):
        TorchBatch(batch.target, batch.history.view(1, -1), batch.offsets)
    with pytest.raises(ValueError, match="history must have one entry per sample"):
        TorchBatch(batch.target, batch.history.view(1, -1))
    with pytest.raises(ValueError, match="label must have shape"):
        TorchBatch(batch.target, batch.history, batch.offsets, label=batch.label[:2])
    with pytest.raises(ValueError, match="target must be one-dimensional"):
        TorchBatch(batch.target.view(1, -1), batch.history, batch.offsets)
    with pytest.raises(ValueError, match="context must have shape"):
        replace(batch, context=batch.user)
    with pytest.raises(ValueError, match="dense must have shape"):
        replace(batch, dense=batch.dense[:3])
    with pytest.raises(TypeError, match="has no target"):
        TorchBatch.of(object())


def test_padded_histories_need_a_padding_idx():
    table = torch.nn.Embedding(ITEMS, DIM)
    for cls in MODELS.values():
        with pytest.raises(ValueError, match="padding_idx"):
            cls(table)(pad(make_batch()))


def test_dice_refuses_to_train_on_padded_histories():
    for cls in (DIN, DIEN):
        model = cls(plain_table(), activation="dice")
        with pytest.raises(ValueError, match="Dice cannot train on padded"):
            model(pad(make_batch()))
        model.eval()(pad(make_batch()))
