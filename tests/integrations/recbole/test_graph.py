"""The graph of RecBole's training events: RecBole's ids, RecBole's split, nothing of validation or test."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from resemb_ext.graph import InterestGraph
from tests.integrations.conftest import framework

framework("recbole", __file__)

from resemb_ext.integrations.recbole import item_graph  # noqa: E402
from tests.integrations.recbole import sample  # noqa: E402

KEEP_ALL = {"weighting": "count", "top_k": None, "self_weight": 0.0}


def counts(graph: InterestGraph, tokens: np.ndarray) -> Counter:
    """Weights of the edges between items, under their names in the file."""
    matrix = graph.to_scipy().tocoo()
    edges = zip(matrix.row, matrix.col, matrix.data, strict=True)
    return Counter({(tokens[i], tokens[j]): int(w) for i, j, w in edges if i != j and w})


def pairs(histories: list[list[str]], window: int) -> Counter:
    """Pairs of different items at most ``window`` apart, counted both ways."""
    found: Counter = Counter()
    for items in histories:
        for at, item in enumerate(items):
            for other in items[at + 1 : at + 1 + window]:
                if item != other:
                    found.update([(item, other), (other, item)])
    return found


def ml_100k() -> pd.DataFrame:
    """The events of users with at most 25, as the file has them."""
    events = pd.read_csv(sample.SAMPLES / "ml-100k" / "ml-100k.inter", sep="\t", dtype=str)
    events.columns = [name.split(":")[0] for name in events.columns]
    events["timestamp"] = events["timestamp"].astype(float)
    return events[events.groupby("user_id")["item_id"].transform("size") <= 25]


def histories(events: pd.DataFrame) -> list[list[str]]:
    return [list(items) for _, items in events.groupby("user_id")["item_id"]]


def test_sequential_events_are_all_but_the_last_two_of_each_user(tmp_path: Path) -> None:
    data = sample.prepare("SASRec", tmp_path)
    graph = item_graph(data.train, window=3, **KEEP_ALL)
    events = ml_100k()
    span = events["timestamp"].max() - events["timestamp"].min()
    events["timestamp"] = ((events["timestamp"] - events["timestamp"].min()) / span).astype(np.float32)
    events = events.sort_values(["user_id", "timestamp"], kind="stable")
    kept = events[events.groupby("user_id").cumcount(ascending=False) >= 2]
    assert graph.num_items == data.dataset.item_num
    assert graph.meta["events"] == len(kept) > 1000
    assert counts(graph, data.dataset.field2id_token["item_id"]) == pairs(histories(kept), 3)
    assert graph.indptr[1] == 0, "padding has neighbours"


def test_shuffled_events_are_those_of_the_training_part(tmp_path: Path) -> None:
    data = sample.prepare("BPR", tmp_path)
    graph = item_graph(data.train, window=100, **KEEP_ALL)
    tokens, users = data.dataset.field2id_token["item_id"], data.dataset.field2id_token["user_id"]
    held = set()
    for part in (data.valid, data.test):
        feat = part.dataset.inter_feat
        held |= set(zip(users[feat["user_id"].numpy()], tokens[feat["item_id"].numpy()], strict=True))
    events = ml_100k()
    kept = events[[row not in held for row in zip(events["user_id"], events["item_id"], strict=True)]]
    assert 0 < graph.meta["events"] == len(kept) < len(events)
    assert counts(graph, tokens) == pairs(histories(kept), 100)


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_held_out_events_do_not_change_the_graph(model: str, tmp_path: Path) -> None:
    """Two logs differ only in the events that the split holds out; item ids are the same in both."""
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", 1000.0 * t) for u in range(8) for t, i in enumerate(rng.permutation(12)[:6])]
    first = pd.DataFrame(rows, columns=["user_id:token", "item_id:token", "timestamp:float"])
    last = first.groupby("user_id:token").cumcount(ascending=False) < 2
    other = first.copy()
    other.loc[last, "item_id:token"] = [f"i{i}" for i in rng.integers(0, 12, last.sum())]
    order = np.argsort(last.to_numpy(), kind="stable")  # held-out rows last: items are numbered as they come
    graphs = []
    for name, events in (("one", first), ("two", other)):
        options = sample.atomic(tmp_path, name, events.iloc[order])
        split = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
        data = sample.prepare(model, tmp_path, **options, eval_args=split)
        graphs.append((item_graph(data.train), list(data.dataset.field2id_token["item_id"])))
    assert not first.equals(other)
    assert graphs[0][1] == graphs[1][1]
    assert graphs[0][0].hash == graphs[1][0].hash


def test_equal_rounded_times_do_not_let_held_out_events_in(tmp_path: Path) -> None:
    """All events within 128 s: a cut by time would take all or none; rows decide, in the order of the file."""
    rows = [("u", item, 1.5e9 + second) for item, second in zip("edcba", range(5), strict=True)][::-1]
    events = pd.DataFrame(rows, columns=["user_id:token", "item_id:token", "timestamp:float"])
    data = sample.prepare("SASRec", tmp_path, **sample.atomic(tmp_path, "ties", events))
    assert len(set(data.train.dataset.inter_feat["timestamp"].tolist())) == 1
    tokens = data.dataset.field2id_token["item_id"]
    assert [tokens[i] for i in data.test.dataset.inter_feat["item_id"]] == ["e"], "the last row, not the last event"
    assert counts(item_graph(data.train, window=1, **KEEP_ALL), tokens) == pairs([["a", "b", "c"]], 1)


def test_events_with_label_0_are_left_out(tmp_path: Path) -> None:
    rows = [("u", f"i{at}", float(at), at % 3 > 0) for at in range(30)]
    events = pd.DataFrame(rows, columns=["user_id:token", "item_id:token", "timestamp:float", "label:float"])
    events["label:float"] = events["label:float"].astype(float)
    options = sample.atomic(tmp_path, "labelled", events)
    whole = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "mode": "labeled"}
    data = sample.prepare("DeepFM", tmp_path, **options, eval_args=whole)
    tokens = data.dataset.field2id_token["item_id"]
    expected = pairs([[f"i{at}" for at in range(24) if at % 3]], 2)
    assert counts(item_graph(data.train, window=2, **KEEP_ALL), tokens) == expected


def test_label_of_the_first_event_counts_in_sequential_data(tmp_path: Path) -> None:
    rows = [("u", f"i{at}", float(at), float(at > 0)) for at in range(6)]
    events = pd.DataFrame(rows, columns=["user_id:token", "item_id:token", "timestamp:float", "label:float"])
    data = sample.prepare("SASRec", tmp_path, **sample.atomic(tmp_path, "labelled", events))
    tokens = data.dataset.field2id_token["item_id"]
    expected = pairs([["i1", "i2", "i3"]], 3)
    assert counts(item_graph(data.train, window=3, **KEEP_ALL), tokens) == expected


def benchmark_files(folder: Path, rows: list[tuple[str, str, str]]) -> dict[str, Any]:
    """A ready-made split: histories and targets, without times."""
    table = pd.DataFrame(rows, columns=["user_id:token", "item_id_list:token_seq", "item_id:token"])
    options = sample.atomic(folder, "ready", table.iloc[:0])
    for part in ("train", "valid", "test"):
        table.to_csv(folder / "ready" / f"ready.{part}.inter", sep="\t", index=False)
    more = {"benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"]}
    return options | more


def test_ready_made_histories_go_on_from_the_first(tmp_path: Path) -> None:
    rows = [("u", "a b", "c"), ("v", "d", "a"), ("u", "a b c", "d"), ("v", "d a", "b")]
    data = sample.prepare("SASRec", tmp_path, **benchmark_files(tmp_path, rows))
    tokens = data.dataset.field2id_token["item_id"]
    expected = pairs([["a", "b", "c", "d"], ["d", "a", "b"]], 1)
    assert counts(item_graph(data.train, window=1, **KEEP_ALL), tokens) == expected


def test_ready_made_histories_that_do_not_go_on_are_refused(tmp_path: Path) -> None:
    data = sample.prepare("SASRec", tmp_path, **benchmark_files(tmp_path, [("u", "a b c", "d"), ("u", "a b", "c")]))
    with pytest.raises(ValueError, match="row 1 has a history that does not end with the target of the row before"):
        item_graph(data.train)


def test_category_by_name_of_a_token_field(tmp_path: Path) -> None:
    data = sample.prepare("DIN", tmp_path)
    graph = item_graph(data.train, category="release_year", category_edges=2)
    assert graph.num_edges > item_graph(data.train).num_edges
    years = data.dataset.item_feat["release_year"].numpy()
    same = item_graph(data.train, category=np.where(years == 0, -1, years), category_edges=2)
    assert graph.hash == same.hash
    with pytest.raises(ValueError, match=r"category: found 'class'; expected a token field of the items: release_year"):
        item_graph(data.train, category="class", category_edges=2)


def test_other_parts_and_whole_data_sets_are_refused(tmp_path: Path) -> None:
    for model in ("SASRec", "DIN"):
        data = sample.prepare(model, tmp_path)
        for loader in (data.valid, data.test):
            with pytest.raises(ValueError, match=r"train_data: found a \w+EvalDataLoader, which holds validation or"):
                item_graph(loader)
        with pytest.raises(TypeError, match="found a SequentialDataset, which does not tell training events from"):
            item_graph(data.dataset)
    with pytest.raises(TypeError, match="train_data: found a list; expected the first data loader"):
        item_graph([1, 2])


def test_shuffled_rows_without_times_are_refused(tmp_path: Path) -> None:
    data = sample.prepare("BPR", tmp_path, load_col={"inter": ["user_id", "item_id"]})
    with pytest.raises(ValueError, match=r"its rows are shuffled \(eval_args.order is RO\) and have no times"):
        item_graph(data.train)


def test_gaps_that_float32_times_cannot_show_are_refused(tmp_path: Path) -> None:
    data = sample.prepare("SASRec", tmp_path, normalize_all=False)
    with pytest.raises(
        ValueError, match=r"max_gap: found 60; RecBole keeps 'timestamp' as float32, here in steps of 64"
    ):
        item_graph(data.train, max_gap=60)
    assert item_graph(data.train, max_gap=3600).num_edges < item_graph(data.train).num_edges
    data = sample.prepare("SASRec", tmp_path)
    with pytest.raises(ValueError, match="session_gap: RecBole has normalised 'timestamp'"):
        item_graph(data.train, session_gap=3600)
