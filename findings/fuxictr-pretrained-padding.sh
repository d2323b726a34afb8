#!/usr/bin/env bash
# FuxiCTR 2.3.10 (Python 3.11, torch 2.13.0 CPU): a pretrained embedding that is trained on (freeze_emb: False,
# pretrain_usage: init) and pools a history with MaskedAveragePooling, the default.
#
# Expected: row 0 pads, so it is zero, as the comment beside it says; the mean of a history of one event is the vector of
#           that event, whatever max_len is.
# Seen: row 0 is drawn from N(0, 1e-4): the code asks `if padding_idx`, which is false for 0. The pooling takes vectors
#       whose sum is not 0 for events, so it counts the padding: the mean of one event in a history of 6 is a sixth of its
#       vector. Frozen tables, and those that are not pretrained, are right.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "fuxictr==2.3.10" "torch==2.13.0" "polars==2.1.0" "ray==2.60.0" "numpy<3"
cd "$place"
venv/bin/python - <<'PY'
import json

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbeddingDict

vocabulary = {"__PAD__": 0, **{str(item): item for item in range(1, 9)}, "__OOV__": 9}
with open("feature_vocab.json", "w") as file:
    json.dump({"item": vocabulary, "history": vocabulary}, file)
np.savez("vectors.npz", key=np.array([str(item) for item in range(1, 9)]), value=np.ones((8, 4), np.float32))


def pooled(freeze):
    feature_map = FeatureMap("made", ".")
    common = {"source": "", "padding_idx": 0, "vocab_size": 10, "oov_idx": 9}
    table = {"pretrained_emb": "vectors.npz", "pretrain_dim": 4, "pretrain_usage": "init", "freeze_emb": freeze}
    feature_map.features["item"] = {"type": "categorical", **common, **table}
    history = {"share_embedding": "item", "max_len": 6, "feature_encoder": "layers.MaskedAveragePooling()"}
    feature_map.features["history"] = {"type": "sequence", **common, **table, **history}
    layer = FeatureEmbeddingDict(feature_map, 4)
    row = layer.embedding_layers["item"].pretrain_embedding.weight[0].detach()
    mean = layer({"history": torch.tensor([[3, 0, 0, 0, 0, 0]])})["history"][0].detach()
    return row.abs().max().item(), mean.mean().item()


for freeze in (True, False):
    print(f"freeze_emb={freeze}: largest entry of row 0 %.6f, mean of a history of one event %.4f (its vector: 1)" % pooled(freeze))
assert pooled(True) == (0.0, 1.0), "frozen tables have changed"
row, mean = pooled(False)
assert 0 < row < 1e-3 and abs(mean - 1 / 6) < 1e-3, "the behaviour has changed"
PY
