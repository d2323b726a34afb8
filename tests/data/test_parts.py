"""Folders of parts, and columns as warehouses export them."""

from __future__ import annotations

import decimal
import gzip
import uuid
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, is_ready_made, read_log
from tests.data.reading import items_of

ROWS = {"user_id": [1, 1], "item_id": [2, 3], "timestamp": [1, 2]}


def part(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**ROWS, **columns}), path)


def test_a_folder_as_spark_writes_it(tmp_path):
    folder = tmp_path / "log.parquet"
    part(folder / "part-00001.snappy.parquet", user_id=[2, 2])
    part(folder / "part-00000.snappy.parquet")
    for name in ("_SUCCESS", "._SUCCESS.crc", ".part-00000.snappy.parquet.crc"):
        (folder / name).write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = read_log(folder)
    assert log.users.decode(log.user).tolist() == [1, 1, 2, 2] and log.name == "log"
    assert items_of(log) == [2, 3, 2, 3]
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "x.csv").write_text("not,a,log\n")
    with pytest.warns(DataWarning, match=r"1 files are no parts by their names: _temporary/x.csv -> left out"):
        assert read_log(folder).content_hash == log.content_hash
    (folder / "part-2.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot read '.*part-2.parquet'"):
        read_log(folder)


def test_keys_of_folders_are_columns(tmp_path):
    for day, kind in (("2019-10-01", "a%2Fb"), ("2019-10-02", "__HIVE_DEFAULT_PARTITION__")):
        path = tmp_path / "log" / f"day={day}" / f"kind={kind}" / "p.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"user": [1], "item": [int(day[-1])]}), path)
    log = read_log(tmp_path / "log", time="day", category="kind")
    assert log.time.tolist() == [1569888000, 1569974400]
    assert log.category.tolist() == [1, 0] and log.categories.values.tolist() == ["a/b"]
    for k in range(11):
        part(tmp_path / "numbers" / f"hour={k}" / "p.parquet")
    assert set(read_log(tmp_path / "numbers", user="hour").users.values) == set(range(11))


def test_parts_may_differ_in_columns_and_widths(tmp_path):
    folder = tmp_path / "log"
    part(folder / "0.parquet", category=["a", "b"], item_id=pa.array([2, 3], pa.int32()))
    part(folder / "1.parquet", item_id=pa.array([4.0, 5.0]), user_id=pa.array([7, 2**40], pa.uint64()))
    with pytest.warns(DataWarning, match="1 of 2 parts have no column 'category', the first is 1.parquet with user_id"):
        log = read_log(folder)
    assert items_of(log) == [2, 3, 4, 5] and log.category.tolist() == [1, 2, 0, 0]
    part(folder / "2.parquet", item_id=[2**60, 1])
    with pytest.raises(
        ValueError, match=r"column 'item_id' is int32 in 0.parquet and double in 1.parquet; write it wit"
    ):
        read_log(folder)
    part(folder / "2.parquet", item_id=["x", "y"])
    with pytest.raises(ValueError, match="column 'item_id' is"):
        read_log(folder)
    part(folder / "2.parquet", label=[1, 0])
    with pytest.raises(ValueError, match=r"0.parquet, row 0, column 'label': null label"):
        read_log(folder)


def test_text_and_json_parts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "part-0.csv").write_text("user;item;time\n1;2;3\n")
    (tmp_path / "a" / "part-2.csv").write_bytes(b"")  # Spark writes such for parts without rows
    (tmp_path / "a" / "sub").mkdir()
    (tmp_path / "a" / "sub" / "part-1.csv").write_text("time,user,item\n4,1,3\n5,1,\n")
    with pytest.raises(ValueError, match=r"sub/part-1.csv, line 3, column 'item': null item id"):
        read_log(tmp_path / "a")
    with pytest.warns(DataWarning, match="1 of 3 rows are not whole"):
        assert items_of(read_log(tmp_path / "a", drop_null=True)) == [2, 3]
    (tmp_path / "b" / "0.jsonl").write_text('{"user": 1, "item": 2, "time": 3}\n')
    (tmp_path / "b" / "1.jsonl").write_text('{"user": 1, "item": 3, "time": 3.5}\n')
    (tmp_path / "b" / "README.md").write_text("words")
    with pytest.warns(DataWarning, match="1 files are no parts by their names: README.md -> left out"):
        assert read_log(tmp_path / "b").time.tolist() == [3, 3.5]
    (tmp_path / "b" / "2.csv").write_text("user,item,time\n1,2,3\n")
    with pytest.raises(ValueError, match=r"several kinds of files \(.*2.csv.*\); name one of them"):
        read_log(tmp_path / "b")


def test_a_part_that_lacks_a_column_that_logs_need(tmp_path):
    """Of other names, or without a header, or of something else: it is named, rather than its rows called null."""
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id,timestamp\n1,2,3\n")
    for name, text in (
        ("b.csv", "uid,sku,ts\n1,7,1\n"),
        ("b.csv", "1,7,1\n1,8,2\n"),
        ("movies.csv", "item_id,x\n7,1\n"),
    ):
        other = tmp_path / name
        other.write_text(text)
        shown = text.split("\n")[0].replace(",", ", ")
        fault = f"no column 'user_id', the first is {name} with {shown}"
        with pytest.raises(
            ValueError, match=rf"{name}, line 2, column 'user_id': null .*; 1 of 2 parts have {fault}; "
        ):
            read_log(tmp_path)
        with pytest.warns(DataWarning) as caught:
            assert items_of(read_log(tmp_path, drop_null=True)) == [2]
        assert any(fault in str(warning.message) for warning in caught)
        other.unlink()


def test_a_part_that_is_there_packed_and_unpacked(tmp_path):
    text = "user_id,item_id,timestamp\n1,2,3\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.warns(DataWarning, match=r"packed and unpacked, such as a.csv.gz and a.csv -> both are read"):
        assert items_of(read_log(tmp_path)) == [2, 2]


def test_parts_that_are_no_log(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a folder without files of logs; it holds x.bin"):
        read_log(tmp_path / "empty")
    for name in ("train.parquet", "test.parquet"):
        part(tmp_path / "ready" / name)
        part(tmp_path / "sets" / name.replace(".", "-00000-of-00001."))
    assert is_ready_made(tmp_path / "ready") and not is_ready_made(tmp_path / "sets")
    part(tmp_path / "some" / "training" / "x.parquet")
    part(tmp_path / "some" / "val" / "x.parquet")
    for folder in ("ready", "sets", "some"):
        with pytest.raises(ValueError, match="a training and a test set, but a log is one whole; name one of them"):
            read_log(tmp_path / folder)


def test_tables_with_a_log_of_their_own(tmp_path):
    for name, kind in (("_delta_log", "Delta"), (".hoodie", "Hudi")):
        part(tmp_path / kind / "0.parquet")
        (tmp_path / kind / name).mkdir()
        with pytest.raises(ValueError, match=f"it is a {kind} table, .* export it as plain Parquet"):
            read_log(tmp_path / kind)


@pytest.mark.full
def test_a_folder_of_parts_trains(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):
        users = np.repeat(np.arange(20) + 20 * k, 8)
        items = np.concatenate([rng.permutation(40)[:8] for _ in range(20)])
        part(tmp_path / "log" / f"{k}.parquet", user_id=users, item_id=items, timestamp=np.arange(160))
    small = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--threads", "1", "--quiet", "--embedding", "plain"]
    assert main(["train", "--data", str(tmp_path / "log"), *small, "--out", str(tmp_path / "run")]) == 0
    graph = str(tmp_path / "g.npz")
    assert main(["graph", "build", "--data", str(tmp_path / "log"), "--drop-null", "--out", graph]) == 0


def test_types_of_warehouses():
    ids = pa.array([decimal.Decimal(1), decimal.Decimal(10**37)], pa.decimal128(38, 0))
    log = read_log(pa.table({**ROWS, "user_id": ids}))
    assert log.users.values.tolist() == ["1", str(10**37)]
    small = pa.array([decimal.Decimal("7.00"), decimal.Decimal("8.00")], pa.decimal128(10, 2))
    times = pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")], pa.decimal128(10, 2))
    log = read_log(
        pa.table({**ROWS, "user_id": small, "timestamp": times, "label": small.cast(pa.int64()).cast(ids.type)}),
        label=False,
    )
    assert log.users.values.tolist() == [7, 8] and log.time.tolist() == [1.5, 2.0]
    with pytest.raises(ValueError, match="'user_id', row 0: fractional user id"):
        read_log(pa.table({**ROWS, "user_id": times}))
    views = [getattr(pa, name)() for name in ("string_view", "binary_view") if hasattr(pa, name)]  # Arrow 16
    words = pa.array(["a", "b"])
    for items in (words.dictionary_encode(), *(words.cast(k) for k in (pa.large_string(), pa.binary(), *views))):
        assert items_of(read_log(pa.table({**ROWS, "item_id": items}))) == ["a", "b"]
    categories = pa.chunked_array([pa.array(["a"]).dictionary_encode(), pa.array(["b"]).dictionary_encode()])
    assert read_log(pa.table({**ROWS, "category": categories})).category.tolist() == [1, 2]


@pytest.mark.skipif(not hasattr(pa, "uuid"), reason="Arrow before 18 has no UUIDs")
def test_uuids_are_text_as_in_csv(tmp_path):
    """As DuckDB writes them into Parquet."""
    words = [f"00000000-0000-0000-0000-00000000000{k}" for k in (7, 5)]
    ids = pa.array([uuid.UUID(word).bytes for word in words] * 2, pa.uuid())
    table = pa.table({"user_id": ids, "item_id": ids.take(pa.array([1, 0, 0, 1])), "timestamp": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "log.parquet")
    for source in (table, tmp_path / "log.parquet"):
        log = read_log(source)
        assert log.users.values.tolist() == sorted(words) and items_of(log) == [words[0], words[1], words[1], words[0]]
    gap = table.set_column(0, "user_id", pa.array([None, *ids[1:].to_pylist()], pa.uuid()))
    with pytest.raises(ValueError, match="row 0: null user id"):
        read_log(gap)


def test_a_category_column_that_is_empty_is_said(tmp_path):
    for category in (pa.nulls(2), pa.array(["", None]), pa.array([float("nan")] * 2)):
        with pytest.warns(DataWarning, match="category: column 'category' is empty -> every item has none"):
            assert read_log(pa.table({**ROWS, "category": category})).category.tolist() == [0, 0]
