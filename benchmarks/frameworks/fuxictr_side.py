"""FuxiCTR's side: DIN of its layers, its loader for npz files, its training step (which clips gradients)."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block
from fuxictr.pytorch.models import BaseModel

from benchmarks.frameworks.settings import ATTENTION, DIM, HIDDEN, LR, PADDING


class DIN(BaseModel):
    """As in FuxiCTR's model zoo, for one target and its history."""

    def __init__(self, feature_map: FeatureMap, **kwargs: Any) -> None:
        super().__init__(feature_map, **kwargs)
        self.embedding_layer = FeatureEmbeddingDict(feature_map, DIM)
        self.attention = DIN_Attention(DIM, attention_units=[ATTENTION], hidden_activations="ReLU")
        self.dnn = MLP_Block(
            input_dim=feature_map.sum_emb_out_dim(),
            output_dim=1,
            hidden_units=[HIDDEN],
            hidden_activations="ReLU",
            output_activation=self.output_activation,
        )
        self.compile("adam", "binary_crossentropy", LR)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        features = self.get_inputs(inputs)
        vectors = self.embedding_layer(features)
        mask = features["history"].long() != PADDING
        vectors["history"] = self.attention(vectors["item"], vectors["history"], mask)
        return {"y_pred": self.dnn(self.embedding_layer.dict2tensor(vectors, flatten_emb=True))}


class FuxiSide:
    def __init__(self, folder: Path, batch_size: int) -> None:
        given = np.load(folder / "train.npz")
        rows = int(given["num_items"])
        feature_map = FeatureMap("benchmark", str(folder))
        common = {"source": "", "padding_idx": PADDING, "vocab_size": rows}
        feature_map.features["item"] = {"type": "categorical", **common}
        feature_map.features["history"] = {
            "type": "sequence",
            **common,
            "share_embedding": "item",
            "max_len": given["history"].shape[1],
            "feature_encoder": None,
        }
        feature_map.labels = ["label"]
        feature_map.num_fields = feature_map.get_num_fields()
        feature_map.total_features = rows
        feature_map.default_emb_dim = DIM
        feature_map.set_column_index()
        self._scratch = tempfile.TemporaryDirectory()
        self.model = DIN(feature_map, metrics=["AUC"], model_root=self._scratch.name, verbose=0, model_id="din")
        self.model._max_gradient_norm = 10.0  # fit's default
        self.loader, _ = RankDataLoader(
            feature_map,
            stage="train",
            train_data=str(folder / "train.npz"),
            batch_size=batch_size,
            shuffle=True,
            data_format="npz",
        )

    def warm(self, steps: int) -> None:
        self.model.train()
        for batch in islice(self.loader, steps):
            self.model.train_step(batch)

    def read(self) -> int:
        return sum(1 for _ in self.loader)

    def train(self) -> float:
        # As train_epoch, whose evaluation at the end is left out.
        losses = [self.model.train_step(batch).item() for batch in self.loader]
        return sum(losses) / len(losses)


def make(side: str, folder: Path, batch_size: int) -> FuxiSide:
    return FuxiSide(folder, batch_size)
