"""Models of FuxiCTR that tests train: those of its wheel, and small ones of its layers.

With RESEMB_FUXICTR set to a checkout of FuxiCTR, those of its model zoo are trained too.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import CrossNet, FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

import resemb_ext as rx
from resemb_ext.integrations import fuxictr

from . import sample

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = os.environ.get("RESEMB_FUXICTR", "")


def loaded(path: Path) -> Any:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(f"of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be pickled
    spec.loader.exec_module(module)
    return module


DIN = loaded(ROOT / "examples" / "fuxictr_din.py").DIN


class _Small(BaseModel):
    def finish(self, learning_rate: float, kwargs: dict[str, Any]) -> None:
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()


class DeepFM(_Small):
    """With the logistic regression that FuxiCTR's factorization machine holds: tables of one column."""

    def __init__(self, feature_map: FeatureMap, embedding_dim: int = 8, learning_rate: float = 1e-3, **kwargs: Any):
        super().__init__(feature_map, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        self.fm = FactorizationMachine(feature_map)
        self.mlp = MLP_Block(feature_map.sum_emb_out_dim(), output_dim=1, hidden_units=[16], hidden_activations="ReLU")
        self.finish(learning_rate, kwargs)

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        features = self.get_inputs(inputs)
        vectors = self.embedding_layer(features)
        return {"y_pred": self.output_activation(self.fm(features, vectors) + self.mlp(vectors.flatten(1)))}


class DCN(_Small):
    def __init__(self, feature_map: FeatureMap, embedding_dim: int = 8, learning_rate: float = 1e-3, **kwargs: Any):
        super().__init__(feature_map, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        width = feature_map.sum_emb_out_dim()
        self.cross = CrossNet(width, 2)
        self.dnn = MLP_Block(width, output_dim=None, hidden_units=[16], hidden_activations="ReLU")
        self.fc = torch.nn.Linear(width + 16, 1)
        self.finish(learning_rate, kwargs)

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        vectors = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        return {"y_pred": self.output_activation(self.fc(torch.cat([self.cross(vectors), self.dnn(vectors)], dim=-1)))}


class Data(NamedTuple):
    """A data set and how FuxiCTR loads it."""

    feature_map: FeatureMap
    folder: Path
    item: str
    loader: Callable[..., Any]

    def load(self, part: str, shuffle: bool = False) -> Any:
        return self.loader(part, shuffle)

    def graph(self, **options: Any) -> rx.InterestGraph:
        if self.item == "item":
            return fuxictr.item_graph(self.feature_map, self.folder / "train.npz", user="user", **options)
        train = sample.split().train
        events = {"who": train.user, "item_id": train.item}
        return fuxictr.item_graph(self.feature_map, events, item="item_id", history=(), user="who", **options)


def pooled(folder: Path) -> Data:
    """Samples with histories that FuxiCTR's layers pool, each a row of the file."""
    return _samples(folder, {})


def sequential(folder: Path) -> Data:
    """The same, with histories that the model pools."""
    return _samples(folder, {"feature_encoder": None})


def _samples(folder: Path, specs: dict[str, Any]) -> Data:
    fmap = sample.write(folder, **({"feature_encoder": "layers.MaskedAveragePooling()"} | specs))
    fmap.default_emb_dim = 8

    def load(part: str, shuffle: bool) -> Any:
        given = {"test_data": str(folder / f"{part}.npz")}
        loader = RankDataLoader(
            fmap, stage="test", **given, batch_size=64, shuffle=False, data_format="npz", num_workers=0
        )
        if not shuffle:
            return loader
        return torch.utils.data.DataLoader(loader.dataset, 64, shuffle=True, collate_fn=loader.collate_fn)

    return Data(fmap, folder, "item", load)


def long_histories(folder: Path) -> Data:
    """The form of the wheel's model_zoo.LongCTR: histories in a file of users, items in a file of items."""
    from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

    fmap = FeatureMap(folder.name, str(folder))
    rows = sample.split().log.num_items
    fmap.features.update({name: {"type": "meta"} for name in ("user_index", "item_index", "seq_len")})
    fmap.features["item_id"] = {"type": "categorical", "source": "item", "padding_idx": 0, "vocab_size": rows}
    fmap.labels, fmap.default_emb_dim = ["label"], 8
    folder.mkdir(exist_ok=True)
    starts: dict[int, int] = {}
    for part, samples in sample.parts().items():
        for user, start in zip(samples.user.tolist(), samples.start.tolist(), strict=True):
            starts[user] = min(start, starts.get(user, start))
        columns = {"user_index": samples.user, "item_index": samples.target, "label": samples.label}
        first = [starts[user] for user in samples.user.tolist()]
        pd.DataFrame({**columns, "seq_len": samples.end - first})[samples.end > first].to_parquet(
            folder / f"{part}.parquet"
        )
    events = samples.history_items
    known = [events[starts[u] : starts[u] + 30] if u in starts else [] for u in range(max(starts) + 1)]
    pd.DataFrame({"full_item_seq": known}).to_parquet(folder / "users.parquet")
    pd.DataFrame({"item_index": range(rows), "item_id": range(rows)}).to_parquet(folder / "items.parquet")

    def load(part: str, shuffle: bool) -> Any:
        info = {"user_info": str(folder / "users.parquet"), "item_info": str(folder / "items.parquet")}
        path = str(folder / f"{part}.parquet")
        return LongCTRDataLoader(
            fmap, path, **info, batch_size=64, shuffle=shuffle, num_workers=0, max_len=sample.MAX_LEN
        )

    return Data(fmap, folder, "item_id", load)


class Case(NamedTuple):
    """A model and the data that it takes."""

    model: Callable[..., BaseModel]
    data: Callable[[Path], Data]
    options: dict[str, Any]

    def build(self, data: Data, seed: int = 0, **changes: Any) -> BaseModel:
        seed_everything(seed)
        model = self.model(data.feature_map, **sample.params(data.folder, **self.options, **changes))
        Path(model.model_dir).mkdir(parents=True, exist_ok=True)
        return model


def cases() -> dict[str, Case]:
    import model_zoo.LongCTR as zoo

    small = {"dnn_hidden_units": [16]}
    found = {
        "DIN": Case(DIN, sequential, {"hidden_units": (16,)}),
        "DeepFM": Case(DeepFM, pooled, {}),
        "DCN": Case(DCN, pooled, {}),
        "LongCTR DIN": Case(zoo.DIN, long_histories, small),
        "LongCTR DIEN": Case(zoo.DIEN, long_histories, small),
        "LongCTR DCNv2": Case(zoo.DCNv2, long_histories, {"parallel_dnn_hidden_units": [16]}),
    }
    if CHECKOUT:
        zoo_folder = Path(CHECKOUT) / "model_zoo"
        fields = {"din_target_field": "item", "din_sequence_field": "history"}
        dien = {f"dien_{name}": field for name, field in (("target_field", "item"), ("sequence_field", "history"))}
        found |= {
            "zoo DIN": Case(loaded(zoo_folder / "DIN/src/DIN.py").DIN, sequential, {**small, **fields}),
            "zoo DeepFM": Case(loaded(zoo_folder / "DeepFM/DeepFM_torch/src/DeepFM.py").DeepFM, pooled, {}),
            "zoo DCN": Case(loaded(zoo_folder / "DCN/DCN_torch/src/DCN.py").DCN, pooled, {}),
            "zoo DIEN": Case(
                loaded(zoo_folder / "DIEN/src/DIEN.py").DIEN, sequential, {**small, **dien, "dien_neg_seq_field": []}
            ),
        }
    return found
