"""DIN in FuxiCTR 2.3, plain and with a Res-embedding: three lines more.

pip install "resemb_ext[fuxictr]"
python examples/fuxictr_din.py                                     # a simulated log
python examples/fuxictr_din.py --data FuxiCTR/data/tiny_seq --item adgroup_id --history click_sequence --user userid

Without --data, samples of a simulated log are written as a data set of FuxiCTR. With it, the data set in that folder is
taken, such as tiny_seq of FuxiCTR's repository (100 rows, which is enough to see it run). Both models see the same
batches. Their last line is FuxiCTR's own evaluation on the test part.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

import resemb_ext as rx
from resemb_ext.integrations import fuxictr


class DIN(BaseModel):
    """Deep Interest Network (Zhou et al. 2018) of FuxiCTR's layers, for one target and its history."""

    def __init__(
        self,
        feature_map: FeatureMap,
        target: str = "item",
        history: str = "history",
        embedding_dim: int = 16,
        hidden_units: tuple[int, ...] = (64, 32),
        learning_rate: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, **kwargs)
        self.target, self.history = target, history
        self.embedding_layer = FeatureEmbeddingDict(feature_map, embedding_dim)
        self.attention = DIN_Attention(embedding_dim, attention_units=[32])
        self.dnn = MLP_Block(
            input_dim=feature_map.sum_emb_out_dim(),
            output_dim=1,
            hidden_units=list(hidden_units),
            output_activation=self.output_activation,
        )
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        features = self.get_inputs(inputs)
        vectors = self.embedding_layer(features)
        mask = features[self.history].long() != 0
        vectors[self.history] = self.attention(vectors[self.target], vectors[self.history], mask)
        return {"y_pred": self.dnn(self.embedding_layer.dict2tensor(vectors, flatten_emb=True))}


def simulated(folder: Path) -> None:
    """Writes a data set: users whose interest stays for a while, and few events an item."""
    log, _ = rx.data.simulate(users=1500, items=1500, domains=15, seed=0)
    split = rx.data.split(log)
    parts = {"train": rx.data.make_train_samples(split, max_history=20, negatives=1)}
    for part in ("valid", "test"):
        parts[part] = rx.data.make_eval_samples(split, part, max_history=20, negatives=4)
    fuxictr.write_dataset(parts, folder, feature_encoder=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a data set of FuxiCTR in npz")
    parser.add_argument("--item", default="item", help="item field")
    parser.add_argument("--history", default="history", help="sequence field that shares its table")
    parser.add_argument("--user", help="column of users")
    parser.add_argument("--optimizer", default="own", choices=["own", "sparse", "in backward"])
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, user = options.data, options.user
        if folder is None:
            folder, user = Path(scratch) / "simulated", "user"
            simulated(folder)
        feature_map = FeatureMap(folder.name, str(folder))
        feature_map.load(
            str(folder / "feature_map.json"),
            # DIN pools the history itself.
            {"embedding_dim": 16, "feature_specs": [{"name": options.history, "feature_encoder": None}]},
        )
        for arm in ("plain", "res"):
            seed_everything(1)
            model = DIN(
                feature_map,
                options.item,
                options.history,
                optimizer="adam",
                loss="binary_crossentropy",
                metrics=["AUC", "logloss"],
                model_id=arm,
                model_root=scratch,
                verbose=0,
            )
            Path(model.model_dir).mkdir(exist_ok=True)
            if arm == "res":
                graph = fuxictr.item_graph(feature_map, folder / "train.npz", item=options.item, user=user)
                print(fuxictr.replace_embeddings(model, {options.item: graph}, optimizer=options.optimizer))
            seed_everything(1)
            files = {f"{part}_data": str(folder / f"{part}.npz") for part in ("train", "valid", "test")}
            train, valid = RankDataLoader(feature_map, stage="train", **files, batch_size=128, data_format="npz")
            model.fit(train, validation_data=valid, epochs=options.epochs)
            test = RankDataLoader(feature_map, stage="test", **files, batch_size=128, data_format="npz", shuffle=False)
            print(arm, {name: round(float(value), 4) for name, value in model.evaluate(test).items()})


if __name__ == "__main__":
    main()
