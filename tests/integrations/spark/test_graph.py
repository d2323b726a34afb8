"""Graphs by Spark against the C++ builder: the same bits."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.testing.graphs import same_arrays
from resemb_ext.testing.strategies import examples
from tests.graph import test_builder as builder
from tests.integrations.conftest import framework

framework("pyspark", __file__)

NAMES = {"user": "user_id", "item": "item_id", "time": "timestamp"}


def write(path, user, item, time=None, **more):
    columns = {"user_id": pa.array(user, pa.int64()), "item_id": pa.array(item, pa.int64())}
    if time is not None:
        columns["timestamp"] = pa.array(np.asarray(time))
    table = pa.table({**columns, **{name: pa.array(values) for name, values in more.items()}})
    pq.write_table(table, path, row_group_size=1_000)
    return path


def check(rows, user, item, time, **options):
    """The rows are those of the arrays, and their meta data but for what Spark cannot know."""
    found, ours = rx.InterestGraph.from_rows(rows), rx.InterestGraph.from_events(user, item, time, **options)
    assert same_arrays(found, ours) and found.hash == ours.hash
    unknown = {"event_digest": None, "event_hash": None}
    known = {name: found.meta[name] for name in ours.meta}
    assert known == {**ours.meta, **unknown}
    return found


@pytest.fixture
def count(tmp_path):
    """Numbers of folders that are not there yet."""
    numbers = iter(range(10_000))
    return lambda: tmp_path / f"rows-{next(numbers)}"


@examples(40)
@given(st.data())
def test_every_option_gives_the_bits_of_the_builder(spark, count, data):
    user, item, time, num_items = data.draw(builder.logs())
    chosen = data.draw(builder.options(num_items, time is not None))
    chosen = {name: value for name, value in chosen.items() if not name.startswith("category")}
    chosen["window"] = min(chosen["window"], 9)
    split = data.draw(st.sampled_from([None, 1, 3, 8])) if time is not None else None
    folder = count()
    path = write(folder.with_suffix(".parquet"), user, item, time)
    names = {**NAMES, "time": None if time is None else "timestamp"}
    parts = data.draw(st.sampled_from([1, 3, 64]))
    rows = rx.spark.interest_graph(
        path, folder, **names, num_items=num_items, split_user_events=split, parts=parts, **chosen
    )
    assert rows.parts == parts
    check(rows, user, item, time, num_items=num_items, **chosen)


def log(events=20_000, items=2_000, users=300, seed=0):
    """Popular and rare items, a heavy user with a tenth of the events, many events of one time."""
    rng = np.random.default_rng(seed)
    item = np.minimum(rng.zipf(1.3, events), items - 1)
    user = np.where(rng.random(events) < 0.1, -7, rng.integers(0, users, events))
    return user, item, rng.integers(0, events // 4, events)


WIDE = {
    "counts": {"window": 5, "top_k": 20},
    "gaps": {"max_gap": 400, "session_gap": 150, "decay": "inverse", "min_count": 2},
    "cosine": {"weighting": "cosine", "damping": 0.3, "self_weight": 0.7},
    "jaccard": {"weighting": "jaccard", "directed": True, "window": 2},
    "ppmi": {"weighting": "ppmi", "decay": 0.5, "top_k": None, "min_count": 2},
}


@pytest.mark.parametrize("name", WIDE)
def test_larger_logs(spark, tmp_path, name):
    columns = log()
    rows = rx.spark.interest_graph(write(tmp_path / "log.parquet", *columns), tmp_path / "rows", parts=4, **WIDE[name])
    check(rows, *columns, **WIDE[name])


@pytest.mark.parametrize("more", [{}, {"session_gap": 20, "max_gap": 60, "decay": "inverse", "directed": True}])
def test_splitting_heavy_users_changes_nothing(spark, tmp_path, more, monkeypatch):
    from resemb_ext.integrations import spark_histories

    pieces = []
    real = spark_histories._pieces
    monkeypatch.setattr(spark_histories, "_pieces", lambda *a: pieces.append(real(*a)) or pieces[-1])
    columns = log(6_000)
    path = write(tmp_path / "log.parquet", *columns)
    rows = rx.spark.interest_graph(path, tmp_path / "rows", window=4, split_user_events=50, parts=2, **more)
    check(rows, *columns, window=4, **more)
    heavy = pieces[0].where("heavy").groupBy("user", "piece").count().toArrow()
    assert len(set(heavy["user"].to_pylist())) == 1 and len(heavy) > 8 and max(heavy["count"].to_pylist()) < 120


def test_a_cap_keeps_the_latest_events(spark, tmp_path):
    user, item, time = log(6_000)
    path = write(tmp_path / "log.parquet", user, item, time)
    rows = rx.spark.interest_graph(path, tmp_path / "rows", max_user_events=25, weighting="cosine", parts=2)
    frame = pd.DataFrame({"user": user, "item": item, "time": time}).sort_values(["user", "time"], kind="stable")
    late = frame.groupby("user").tail(25).sort_index()
    kept = [late[name].to_numpy() for name in ("user", "item", "time")]
    ours = check(rows, *kept, weighting="cosine", num_items=rows.num_items)
    assert ours.meta["spark"]["max_user_events"] == 25 and ours.meta["events"] == len(late) < 6_000


def test_rows_of_several_files_follow_each_other(spark, tmp_path):
    user, item, _ = log(3_000)
    paths = [
        write(tmp_path / f"{name}.parquet", user[s], item[s])
        for name, s in (("b", slice(2_000)), ("a", slice(2_000, None)))
    ]
    rows = rx.spark.interest_graph(paths, tmp_path / "rows", time=None, parts=1)
    check(rows, user, item, None)
    (tmp_path / "in[1]").mkdir()  # a name that Hadoop would take for a pattern
    for name, path in zip("xy", paths, strict=True):
        path.rename(tmp_path / "in[1]" / f"{name}.parquet")
    rows = rx.spark.interest_graph(tmp_path / "in[1]", tmp_path / "again", time=None, parts=1)
    check(rows, user, item, None)


def test_frames_have_no_order_but_that_of_a_column_or_of_items(spark, tmp_path):
    user, item, time = log(3_000)
    place = np.random.default_rng(1).permutation(len(user))
    path = write(tmp_path / "log.parquet", user, item, time, place=place)
    frame = spark.read.parquet(str(path)).repartition(3)
    rows = rx.spark.interest_graph(frame, tmp_path / "by_item", parts=1)
    by_item = np.argsort(item, kind="stable")
    check(rows, user[by_item], item[by_item], time[by_item])
    rows = rx.spark.interest_graph(frame, tmp_path / "by_place", order="place", parts=1)
    by_place = np.argsort(place)
    check(rows, user[by_place], item[by_place], time[by_place])
    rows = rx.spark.interest_graph(frame, tmp_path / "untimed", time=None, order="place", parts=1)
    check(rows, user[by_place], item[by_place], None)


@pytest.mark.parametrize("kind", ["timestamp_ntz", "timestamp", "date"])
def test_dates(spark, tmp_path, kind):
    """Also before 1970, and over hours that clocks skip or repeat in the session's time zone."""
    user, item, time = log(2_000)
    seconds = (time - 250) * 86_400 * 30 // 7
    stamps = seconds.astype("M8[s]").astype("M8[D]" if kind == "date" else "M8[us]")
    path = write(tmp_path / "log.parquet", user, item, stamps)
    frame = spark.read.parquet(str(path))
    if kind == "timestamp":
        table = pq.read_table(path)
        table = table.set_column(2, "timestamp", table["timestamp"].cast(pa.timestamp("us", "UTC")))
        pq.write_table(table, path)
        frame = spark.read.parquet(str(path))
    assert dict(frame.dtypes)["timestamp"] == kind
    gaps = {"max_gap": np.timedelta64(40, "D"), "session_gap": np.timedelta64(1_000, "h")}
    before = np.datetime64("1971-06-01T12")
    rows = rx.spark.interest_graph(path, tmp_path / "rows", before=before, parts=1, num_items=2_000, **gaps)
    use = stamps < before
    check(rows, user[use], item[use], stamps[use], num_items=2_000, **gaps)
    assert 0 < use.sum() < len(use)


def test_labels_sessions_text_and_odd_names(spark, tmp_path):
    user, item, time = log(3_000)
    rng = np.random.default_rng(2)
    session, click = rng.integers(0, 3, 3_000), rng.random(3_000) < 0.6
    text = np.char.add("i", item.astype(str))
    odd = {"A.b": user.astype(str), "it.em": text, "`t`": time.astype(np.float64), "s": session, "l": click}
    table = pa.table({name: pa.array(values) for name, values in odd.items()})
    pq.write_table(table, tmp_path / "log.parquet")
    frame = spark.read.parquet(str(tmp_path / "log.parquet"))
    names = {"user": "A.b", "item": "it.em", "time": "`t`", "session": "s", "label": "l"}
    items = rx.spark.id_map(frame, "it.em")
    assert items == rx.data.IdMap.fit(text)
    numbers = items.encode(text)[0]
    who = user * 3 + session
    for source, folder in ((tmp_path / "log.parquet", "path"), (frame, "frame")):
        rows = rx.spark.interest_graph(
            source, tmp_path / folder, **names, items=items, padding_idx=0, before=600.5, parts=1
        )
        use = click & (time < 600.5)
        order = (
            np.arange(3_000)[use] if folder == "path" else np.flatnonzero(use)[np.argsort(numbers[use], kind="stable")]
        )
        found = rx.InterestGraph.from_rows(rows)
        ours = rx.InterestGraph.from_events(
            who[order], numbers[order], time[order].astype(float), num_items=items.size, padding_idx=0
        )
        assert same_arrays(found, ours)
        assert found.same_items(items) and found.meta["sessions"] and found.meta["events"] == use.sum()


def test_items_that_a_map_has_not_seen(spark, tmp_path):
    path = write(tmp_path / "log.parquet", [1, 1, 1], [-5, 70, 9], [1, 2, 3])
    items = rx.data.IdMap.fit([-5, 70])
    rows = rx.spark.interest_graph(path, tmp_path / "rows", items=items, window=1, parts=1)
    check(rows, [1, 1, 1], [1, 2, 3], [1, 2, 3], num_items=4, window=1)


def test_shards_read_what_spark_wrote(spark, tmp_path):
    columns = log(5_000)
    stored = rx.spark.interest_graph(write(tmp_path / "log.parquet", *columns), tmp_path / "rows", parts=6)
    graph = rx.InterestGraph.from_rows(stored)
    for rank in range(3):
        shard = stored.shard(rank, 3)
        np.testing.assert_array_equal(shard.degree, graph.degree[rank::3])
        assert shard.indptr[-1] == np.diff(graph.indptr)[rank::3].sum()


class TestRealLog:
    def test_ml_1m(self, spark, tmp_path, shared_data):
        path = shared_data("ml-1m.parquet")
        frame = pd.read_parquet(path, columns=["user_id", "item_id", "timestamp"])
        rows = rx.spark.interest_graph(path, tmp_path / "rows", parts=4)
        check(rows, *(frame[name].to_numpy() for name in frame))
