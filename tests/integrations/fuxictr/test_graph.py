"""Interest graphs of FuxiCTR's training data."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.integrations.conftest import framework

framework("fuxictr", __file__)
import polars as pl  # noqa: E402
from fuxictr.features import FeatureMap  # noqa: E402

import resemb_ext as rx  # noqa: E402
from resemb_ext.integrations import fuxictr, histories  # noqa: E402

from . import sample  # noqa: E402


def feature_map(**features: dict) -> FeatureMap:
    made = FeatureMap("made", ".")
    made.labels = ["clk"]
    made.features.update(
        {
            "userid": {"type": "categorical", "vocab_size": 5, "source": "", "padding_idx": 0},
            "item": {"type": "categorical", "vocab_size": 10, "source": "", "padding_idx": 0},
            "clicks": {"type": "sequence", "vocab_size": 10, "share_embedding": "item", "max_len": 3, "source": ""},
            **features,
        }
    )
    return made


def pairs(sequences: list[list[int]], window: int = 3) -> Counter:
    """Pairs within a window, counted plainly."""
    count: Counter = Counter()
    for items in sequences:
        for i, first in enumerate(items):
            for second in items[i + 1 : i + 1 + window]:
                if first != second:
                    count[first, second] += 1
                    count[second, first] += 1
    return count


def edges(graph: rx.InterestGraph) -> dict[tuple[int, int], float]:
    """Raw weights between different items."""
    rows = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
    triples = zip(rows.tolist(), graph.neighbors.tolist(), graph.weights.tolist(), strict=True)
    return {(i, j): w for i, j, w in triples if i != j}


def test_the_graph_is_that_of_the_log_that_the_samples_came_from(tmp_path):
    split = sample.split()
    fmap = sample.write(tmp_path)
    graph = fuxictr.item_graph(fmap, tmp_path / "train.npz", user="user", window=3, top_k=None)
    wanted = rx.InterestGraph.from_log(split.train, window=3, top_k=None)
    assert graph.num_items == wanted.num_items == fmap.features["item"]["vocab_size"]
    assert edges(graph) == edges(wanted)


@pytest.mark.parametrize("kind", ["parquet", "folder", "without ending", "pandas", "polars", "arrow", "mapping", "npz"])
def test_data_in_every_form(tmp_path, kind):
    fmap = sample.write(tmp_path / "npz")
    sample.write(tmp_path / "data", data_format="parquet")
    path = tmp_path / "data" / "train.parquet"
    if kind == "folder":
        table = pq.read_table(path)
        (tmp_path / "parts").mkdir()
        half = table.num_rows // 2
        pq.write_table(table.slice(0, half), tmp_path / "parts" / "part_0.parquet")
        pq.write_table(table.slice(half), tmp_path / "parts" / "part_1.parquet")
    data = {
        "parquet": lambda: path,
        "folder": lambda: tmp_path / "parts",
        "without ending": lambda: str(path.with_suffix("")),
        "pandas": lambda: pd.read_parquet(path),
        "polars": lambda: pl.read_parquet(path).lazy(),
        "arrow": lambda: pq.read_table(path),
        "mapping": lambda: dict(np.load(tmp_path / "npz" / "train.npz")),
        "npz": lambda: tmp_path / "npz" / "train.npz",
    }[kind]()
    wanted = rx.InterestGraph.from_log(sample.split().train)
    assert edges(fuxictr.item_graph(fmap, data, user="user")) == edges(wanted)


def test_events_by_user_and_time_without_histories():
    data = {
        "userid": [1, 2, 1, 1, 2, 1],
        "item": [3, 4, 5, 6, 7, 8],
        "when": [5, 1, 1, 2, 2, 9],
        "clk": [1.0, 1.0, 1.0, 0.0, 1.0, 1.0],
    }
    graph = fuxictr.item_graph(feature_map(), data, history=(), user="userid", time="when", top_k=None)
    assert edges(graph) == pairs([[5, 3, 8], [4, 7]])
    gap = fuxictr.item_graph(feature_map(), data, history=(), user="userid", time="when", max_gap=4, top_k=None)
    assert edges(gap) == pairs([[5, 3], [3, 8], [4, 7]])


def test_padding_and_out_of_vocabulary_are_no_events():
    data = {"clicks": np.array([[2, 9, 3], [4, 0, 0], [0, 0, 0]]), "clk": np.zeros(3), "item": np.array([1, 1, 1])}
    graph = fuxictr.item_graph(feature_map(), data, top_k=None)
    assert graph.num_items == 10
    assert edges(graph) == pairs([[2, 3], [4]])
    assert np.diff(graph.indptr)[[0, 9]].tolist() == [0, 1]  # the last row has its own entry, as items without events


def test_a_full_history_cut_to_its_oldest_events_does_not_reach_its_target():
    behind = {"clicks": np.array([[1, 2, 3], [4, 5, 0]]), "item": np.array([7, 8]), "clk": np.ones(2)}
    assert edges(fuxictr.item_graph(feature_map(), behind, top_k=None)) == pairs([[1, 2, 3], [4, 5, 8]])
    front = {**behind, "clicks": np.array([[1, 2, 3], [0, 4, 5]])}
    assert edges(fuxictr.item_graph(feature_map(), front, top_k=None)) == pairs([[1, 2, 3, 7], [4, 5, 8]])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("width", [3, 6])
def test_each_event_of_a_user_counts_once(seed, width):
    """Rows of sliding windows and of growing histories give back the events that they were made from."""
    rng = np.random.default_rng(seed)
    sequences = [rng.permutation(np.arange(1, 60))[: rng.integers(1, 12)] for _ in range(5)]
    rows, targets, users, times = [], [], [], []
    for user, items in enumerate(sequences):
        for place in range(len(items)):
            history = items[max(place - width, 0) : place]
            for positive in (True, False):  # a negative row repeats the history
                rows.append(np.pad(history, (width - len(history), 0)))
                targets.append(items[place] if positive else 0)
                users.append(user)
                times.append(place)
    order = rng.permutation(len(rows))
    arrays = [np.array(a)[order] for a in (rows, targets, users, times)]
    sequence, item = histories.events(arrays[0], arrays[1], arrays[2], arrays[3])
    for user, items in enumerate(sequences):
        assert item[sequence == user].tolist() == items.tolist()


def test_without_users_beginnings_of_histories_are_left_out():
    rows = np.array([[1, 0, 0], [1, 2, 0], [1, 2, 3], [1, 4, 0], [1, 2, 0], [0, 0, 0]])
    sequence, item = histories.events(rows)
    got = [item[sequence == s].tolist() for s in np.unique(sequence)]
    assert got == [[1, 2, 3], [1, 4]]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"item": "nothing"}, "item: found 'nothing'; expected a field with ids, one of userid, item, clicks"),
        ({}, {"user": "who"}, "data: no column 'who'; found clicks, clk, item"),
        ({}, {"history": ()}, "user: found None, and no history column"),
        ({}, {"history": "item"}, r"item: found shape \[2\]; expected a history"),
        ({}, {"max_gap": 3}, "max_gap: the events of a history have no times"),
        ({"clicks": np.zeros((2, 3))}, {}, "no event of 'item' among 2 rows"),
        ({"clicks": np.array([[1.5, 0, 0], [2, 0, 0]])}, {}, "clicks: found float64 values that are no whole numbers"),
        ({"clicks": np.array([[1, 0, 0], [12, 0, 0]])}, {}, "item: found the id 12; expected 0 to 9"),
    ],
)
def test_what_is_wrong_is_named(change, options, words):
    data = {"clicks": np.array([[1, 2, 3], [4, 5, 0]]), "clk": np.zeros(2), "item": np.array([7, 8]), **change}
    with pytest.raises((ValueError, IndexError), match=words):
        fuxictr.item_graph(feature_map(), data, **options)


def test_fields_that_cannot_be_told_apart_are_listed():
    two = feature_map(
        cate={"type": "categorical", "vocab_size": 4},
        cates={"type": "sequence", "vocab_size": 4, "share_embedding": "cate", "max_len": 3},
    )
    with pytest.raises(ValueError, match="sequences share the tables of cate, item; name the item field"):
        fuxictr.item_graph(two, {})
    with pytest.raises(TypeError, match="feature_map: found dict; expected FuxiCTR's FeatureMap"):
        fuxictr.item_graph({}, {})


def test_held_out_files_are_refused(tmp_path):
    fmap = sample.write(tmp_path)
    for part in ("test", "valid"):
        with pytest.raises(ValueError, match="named as held-out data"):
            fuxictr.item_graph(fmap, tmp_path / f"{part}.npz")
    with pytest.raises(FileNotFoundError, match="no file"):
        fuxictr.item_graph(fmap, tmp_path / "nothing")
    (tmp_path / "train.csv").write_text("clk\n1\n")
    with pytest.raises(ValueError, match="expected Parquet or npz"):
        fuxictr.item_graph(fmap, tmp_path / "train.csv")


def test_a_written_data_set_is_read_by_fuxictr(tmp_path):
    from fuxictr.pytorch.dataloaders import RankDataLoader

    written = sample.write(tmp_path)
    read = FeatureMap(tmp_path.name, str(tmp_path))
    read.load(str(tmp_path / "feature_map.json"), {"group_id": "user"})
    assert json.loads(json.dumps(written.features)) == json.loads(json.dumps(read.features))
    files = {f"{part}_data": str(tmp_path / f"{part}.npz") for part in ("train", "valid")}
    loader, _ = RankDataLoader(read, stage="train", **files, batch_size=50, shuffle=False, data_format="npz")
    first = next(iter(loader))
    batch = rx.data.make_train_samples(sample.split(), max_history=sample.MAX_LEN, negatives=2, seed=0).batch(slice(50))
    np.testing.assert_array_equal(first["item"], batch.target)
    np.testing.assert_array_equal(first["history"][first["history"] != 0], batch.history)


def test_another_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data_format: found 'csv'"):
        sample.write(tmp_path, data_format="csv")
