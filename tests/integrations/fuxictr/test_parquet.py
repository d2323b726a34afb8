"""From raw Parquet to a trained model through FuxiCTR's own preprocessing and its loader on Ray."""

from __future__ import annotations

import os

import pytest

from tests.integrations.conftest import framework

framework("fuxictr", __file__)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import polars as pl  # noqa: E402
import ray  # noqa: E402
from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.preprocess import FeatureProcessor, build_dataset  # noqa: E402
from fuxictr.pytorch.dataloaders import RankDataLoader  # noqa: E402

import resemb_ext as rx  # noqa: E402
from resemb_ext.integrations import fuxictr  # noqa: E402

from . import models, sample  # noqa: E402


@pytest.fixture
def no_ray_afterwards():
    yield
    ray.shutdown()


def raw(samples: rx.data.Samples) -> pl.DataFrame:
    """Rows as a log has them: text ids, and histories of any length."""
    batch = samples.batch(slice(None))
    ends = [*batch.offsets[1:].tolist(), len(batch.history)]
    spans = zip(batch.offsets.tolist(), ends, strict=True)
    return pl.DataFrame(
        {
            "user": [f"u{user}" for user in batch.user.tolist()],
            "item": [f"i{item}" for item in batch.target.tolist()],
            "history": ["^".join(f"i{item}" for item in batch.history[a:b].tolist()) for a, b in spans],
            "label": batch.label.astype(float),
        }
    )


def test_from_raw_parquet_to_a_trained_model(tmp_path, no_ray_afterwards):
    for part, samples in sample.parts().items():
        raw(samples).write_parquet(tmp_path / f"raw_{part}.parquet")
    text = {"active": True, "dtype": "str"}
    history = {"share_embedding": "item", "max_len": sample.MAX_LEN, "padding": "pre", "feature_encoder": None}
    processor = FeatureProcessor(
        feature_cols=[
            {"name": ["user", "item"], "type": "categorical", **text},
            {"name": "history", "type": "sequence", **history, **text},
        ],
        label_col={"name": "label", "dtype": "float"},
        dataset_id="made",
        data_root=str(tmp_path),
    )
    given = {f"{part}_data": str(tmp_path / f"raw_{part}.parquet") for part in ("train", "valid", "test")}
    train, valid, test = build_dataset(processor, data_format="parquet", **given)

    feature_map = FeatureMap("made", str(tmp_path / "made"))
    feature_map.load(str(tmp_path / "made" / "feature_map.json"), {"embedding_dim": 8})
    model = models.DIN(feature_map, **sample.params(tmp_path))
    graph = fuxictr.item_graph(feature_map, train, user="user", top_k=None)
    fuxictr.replace_embeddings(model, graph, optimizer="sparse")

    # The edges are those of the log, under FuxiCTR's numbers.
    vocabulary = processor.processor_dict["item::tokenizer"].vocab
    own = {number: int(name[1:]) for name, number in vocabulary.items() if name[0] == "i"}
    wanted = rx.InterestGraph.from_log(sample.split().train, top_k=None)
    rows = range(graph.num_items)
    theirs = {(own[i], own[j]): w for i in rows if i in own for j, w in neighbours(graph, i) if j != i}
    assert theirs == {(i, j): w for i in range(wanted.num_items) for j, w in neighbours(wanted, i) if j != i}

    loaded = {"batch_size": 64, "data_format": "parquet", "num_workers": 1}
    batches = RankDataLoader(feature_map, stage="train", train_data=train, valid_data=valid, shuffle=True, **loaded)
    (tmp_path / "checkpoints" / "made").mkdir(parents=True)
    model.fit(batches[0], validation_data=batches[1], epochs=1)
    last = RankDataLoader(feature_map, stage="test", test_data=test, shuffle=False, **loaded)
    assert 0 < model.evaluate(last)["AUC"] < 1


def neighbours(graph: rx.InterestGraph, item: int) -> list[tuple[int, float]]:
    span = slice(graph.indptr[item], graph.indptr[item + 1])
    return list(zip(graph.neighbors[span].tolist(), graph.weights[span].tolist(), strict=True))
