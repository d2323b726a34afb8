"""Reading logs: every format gives the same log; columns, sessions, filters."""

from __future__ import annotations

import bz2
import gzip
import json
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.data import DataWarning, read_log
from resemb_ext.data.sessions import number_sessions, sessions_by_gap

ROWS = [  # user, item, time, category, label
    ("ann", 10, 300, "tea", 1),
    ("ann", 11, 100, "tea", 0),
    ("bob", 10, 200, "tea", 1),
    ("bob", 2**60, 250, "", 1),
    ("eve", 12, 100, "jam", 0),
]
NAMES = ["user_id", "item_id", "timestamp", "category", "label"]


def frame():
    return pd.DataFrame(ROWS, columns=NAMES)


def write_text(path, delimiter, names=NAMES, rows=ROWS):
    lines = [delimiter.join(names)] if names else []
    lines += [delimiter.join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


TYPED = ["user_id:token", "item_id:token", "timestamp:float", "category:token", "label:float"]


def as_csv(folder):
    return write_text(folder / "log.csv", ",")


def as_tsv(folder):
    return write_text(folder / "log.tsv", "\t")


def as_txt(folder):
    return write_text(folder / "log.txt", ";")


def as_data(folder):
    return write_text(folder / "log.data", "\t")


def as_parts(folder):
    (folder / "log").mkdir()
    for k in range(2):
        frame()[2 * k : 5 * k or 2].to_parquet(folder / "log" / f"part-{k}.parquet")
    return folder / "log"


def as_inter(folder):
    return write_text(folder / "log.inter", "\t", TYPED)


def as_parquet(folder):
    frame().to_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def as_json(folder):
    frame().to_json(folder / "log.jsonl", orient="records", lines=True)
    return folder / "log.jsonl"


def as_gzip(folder):
    path = folder / "log.csv.gz"
    path.write_bytes(gzip.compress(as_csv(folder).read_bytes()))
    return path


def as_bzip2(folder):
    path = folder / "log.csv.bz2"
    path.write_bytes(bz2.compress(as_csv(folder).read_bytes()))
    return path


def as_zstd(folder):
    path = folder / "log.csv.zst"
    with pa.output_stream(path, compression="zstd") as file:
        file.write(as_csv(folder).read_bytes())
    return path


def as_frame(folder):
    return frame()


def as_table(folder):
    return pa.Table.from_pandas(frame())


def as_mapping(folder):
    return {name: frame()[name].to_numpy() for name in NAMES}


SOURCES = {
    ".csv": as_csv,
    ".tsv": as_tsv,
    ".txt": as_txt,
    ".data": as_data,
    "parts": as_parts,
    ".inter": as_inter,
    ".parquet": as_parquet,
    ".jsonl": as_json,
    ".gz": as_gzip,
    ".bz2": as_bzip2,
    ".zst": as_zstd,
    "DataFrame": as_frame,
    "Table": as_table,
    "mapping": as_mapping,
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_log(tmp_path, source):
    log = read_log(SOURCES[source](tmp_path))
    assert log.content_hash == read_log(frame()).content_hash
    assert log.users.decode(log.user).tolist() == ["ann", "ann", "bob", "bob", "eve"]
    assert log.items.decode(log.item).tolist() == [11, 10, 10, 2**60, 12]
    assert log.time.tolist() == [100, 300, 200, 250, 100]
    assert log.label.tolist() == [0, 1, 1, 1, 0]
    assert log.categories.values.tolist() == ["jam", "tea"]
    assert log.category.tolist() == [2, 2, 2, 0, 1]
    assert not log.was_sorted and log.session is None
    assert log.guessed == ("user", "item", "time", "category", "label")
    assert log.name == "log"


def test_movielens(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text("1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n")
    log = read_log(path)
    assert log.user.tolist() == [0, 0, 1]
    assert log.items.decode(log.item).tolist() == [1193, 661, 1193]
    assert log.time.tolist() == [978300760, 978302109, 978298413]
    assert log.columns == {"user": "user_id", "item": "item_id", "time": "timestamp"}


def test_leading_zeros_and_quotes_survive(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('uid,item,ts\n007,"a,b",1\n7,"two\nlines",2\n')
    with pytest.warns(DataWarning, match="1 row takes several lines, by line ends in quoted values; .* lines 3 to 4"):
        log = read_log(path)
    assert log.users.values.tolist() == ["007", "7"]
    assert log.items.decode(log.item).tolist() == ["a,b", "two\nlines"]


def test_integers_that_went_through_floats(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,ts\n1.0,{2**60},1\n2,12.,2\n")
    log = read_log(path)
    assert log.users.values.tolist() == [1, 2] and log.items.values.tolist() == [12, 2**60]
    path.write_text(f"user,item,ts\n1,{10**30},1\n2,12,2\n")
    assert read_log(path).items.values.tolist() == [str(10**30), "12"]
    path.write_text(f"user,item,ts\n1,{2**60},1\n2,12.50,2\n")
    with pytest.raises(ValueError, match=r"line 3, column 'item': fractional item id \('12.50'\)"):
        read_log(path)


def test_a_quote_is_a_letter_in_inter_files(tmp_path):
    path = tmp_path / "log.inter"
    path.write_text('user_id:token\titem_id:token\ttimestamp:float\n"a\tx\t1\nb\ty\t2\n')
    assert read_log(path).users.values.tolist() == ['"a', "b"]


def test_files_without_a_header_line(tmp_path):
    path = write_text(tmp_path / "log.csv", ",", None)
    with pytest.raises(ValueError, match="first line looks like data: name the columns with head"):
        read_log(path)
    assert read_log(path, header=NAMES).content_hash == read_log(frame()).content_hash
    with pytest.raises(ValueError, match="line 1 has 5 columns, expected 3: user_id,item_id,timest"):
        read_log(path, header=NAMES[:3])
    with pytest.raises(ValueError, match=r"header: log.parquet names its columns itself"):
        read_log(as_parquet(tmp_path), header=NAMES)
    with pytest.raises(ValueError, match="header is for text files"):
        read_log(frame(), header=NAMES)


def test_a_header_given_twice_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"line 1 holds names itself \(.*user_id.*\); leave header"):
        read_log(as_csv(tmp_path), header=NAMES)
    with pytest.raises(ValueError, match=r"line 1 holds names itself \(.*timestamp.*\)"):
        read_log(as_csv(tmp_path), header=["a", "b", "c", "d", "e"], user="a", item="b", time="c")


def test_blank_lines_and_marks_before_the_header(tmp_path):
    path = tmp_path / "log.csv"
    for start in ("\n\n", "\ufeff", "\r\n"):
        path.write_text(f"{start}user,item,ts,x,x\n1,2,3,4,5\n\n1,3,4,,\n")
        log = read_log(path)
        assert len(log) == 2 and log.items.values.tolist() == [2, 3]
        path.write_text(f"{start}user,item,ts,x,x\n1,2,3,4,5\n\n1,,4,,\n")
        at = 6 if start == "\n\n" else 4 if start == "\ufeff" else 5
        with pytest.raises(ValueError, match=f"line {at}, column 'item'"):
            read_log(path)


def test_columns_are_named_or_guessed(tmp_path):
    table = frame().rename(columns={"user_id": "UserID", "timestamp": "seen-at", "label": "bought"})
    with pytest.raises(
        ValueError,
        match=r"cannot guess the time column: pass time=<column name>.*"
        r"the data has the columns: UserID, item_id, seen-at, category, bought",
    ):
        read_log(table)
    log = read_log(table, time="seen-at", category=False)
    assert log.columns == {"user": "UserID", "item": "item_id", "time": "seen-at"}
    assert log.columns_line == "user 'UserID' (guessed), item 'item_id' (guessed), time 'seen-at'"
    assert log.label is None and log.category is None
    assert read_log(table, time="seen-at", label="bought").label.tolist() == [0, 1, 1, 1, 0]
    with pytest.raises(ValueError, match=r"no column 'nope' \(given as the item column\); the data"):
        read_log(table, item="nope")
    with pytest.raises(ValueError, match="one column cannot feed two fields"):
        read_log(table, time="item_id", item="item_id")


def test_session_columns():
    table = frame().assign(session=["s2", "s1", "s1", "s1", "s1"])
    log = read_log(table)
    # A session belongs to one user; sessions are numbered as they begin.
    assert log.session.tolist() == [0, 1, 2, 2, 3] and log.num_sessions == 4
    assert log.columns["session"] == "session" and "session" in log.guessed
    assert log.summary()["sessions"] == 4
    assert log.content_hash != read_log(table, session=False).content_hash
    assert log.subset(log.label == 1).session.tolist() == [1, 2, 2]
    with pytest.raises(ValueError, match="exclude each other"):
        read_log(table, session="session", session_gap=3)


def test_sessions_without_users_are_the_users():
    table = frame().rename(columns={"user_id": "session_id"})
    log = read_log(table)
    assert log.columns["user"] == "session_id" and "session" not in log.columns


def test_session_gap():
    log = read_log(frame(), session_gap=60)
    assert log.session.tolist() == [0, 1, 2, 2, 3]
    assert read_log(frame(), session_gap=49).session.tolist() == [0, 1, 2, 3, 4]
    assert read_log(frame(), session_gap=50).session.tolist() == [0, 1, 2, 2, 3]
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match="session_gap must be a finite number >= 0"):
            read_log(frame(), session_gap=bad)


events = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=40)


@given(events, st.integers(0, 6))
def test_sessions_by_gap_match_a_loop(rows, gap):
    rows.sort()
    expected, number, before = [], -1, None
    for user, time in rows:
        if before is None or before[0] != user or time - before[1] > gap:
            number += 1
        expected.append(number)
        before = (user, time)
    user, time = np.array(rows, dtype=np.int64).T
    assert sessions_by_gap(user, time, gap).tolist() == expected


@given(events)
def test_numbered_sessions_match_a_dict(rows):
    rows.sort(key=lambda row: row[0])
    user, key = np.array(rows, dtype=np.int64).T
    seen: dict = {}
    expected = [seen.setdefault(row, len(seen)) for row in rows]
    assert number_sessions(user, key).tolist() == expected


def test_rows_are_filtered(tmp_path):
    table = frame().assign(behavior=["pv", "buy", "pv", "cart", "pv"], ok=[True, True, True, 0, 0])
    table["ok"] = table.ok.astype(bool)
    assert len(read_log(table, where={"behavior": "pv"})) == 3
    assert len(read_log(table, where={"behavior": ["pv", "buy"], "ok": True})) == 3
    assert len(read_log(table, where={"item_id": 10})) == 2
    path = tmp_path / "log.csv"
    table.to_csv(path, index=False)
    same = read_log(table, where={"behavior": "pv"})
    assert read_log(path, where={"behavior": "pv"}).content_hash == same.content_hash
    with pytest.raises(ValueError, match="no row of 'log' has behavior = look; it holds pv, buy, c"):
        read_log(path, where={"behavior": "look"})
    with pytest.raises(ValueError, match=r"no column 'size' \(given in where\)"):
        read_log(path, where={"size": 1})
    table["item_id"] = [1.0, 2.0, 3.0, 4.0, -0.5]
    with pytest.raises(ValueError, match=r"'item_id', row 4: fractional item id \(-0.5\)"):
        read_log(table, where={"behavior": "pv"})
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"log.csv, line 6, column 'item_id': fractional item id"):
        read_log(path, where={"behavior": "pv"})


def test_json_types_are_those_of_the_first_line(tmp_path):
    path = tmp_path / "reviews_5.json"
    rows = [
        {"reviewerID": "A1", "asin": "B2", "unixReviewTime": 5, "helpful": [0, 1]},
        {"asin": "B1", "reviewerID": "A1", "unixReviewTime": 4, "summary": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_log(path)
    assert log.items.decode(log.item).tolist() == ["B1", "B2"]
    assert log.columns["user"] == "reviewerID"


@pytest.mark.full
def test_real_logs_are_the_same_in_every_format(shared_data, tmp_path):
    table = pd.read_parquet(shared_data("ml-100k.parquet"))[["user_id", "item_id", "timestamp"]]
    expected = read_log(table).content_hash
    table.to_csv(tmp_path / "a.csv", index=False)
    lines = table.assign(r=3)[["user_id", "item_id", "r", "timestamp"]].astype(str)
    (tmp_path / "ratings.dat").write_text("\n".join(lines.agg("::".join, axis=1)))
    table.rename(
        columns={"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
    ).to_csv(tmp_path / "a.inter", sep="\t", index=False)
    for name in ("a.csv", "ratings.dat", "a.inter"):
        assert read_log(tmp_path / name).content_hash == expected


@pytest.mark.parametrize(
    "category",
    [[0.5, 1, 2, 3, 4], [True] * 5, [["a"]] * 5, ["a", 1, 2, 3, 4]],
    ids=["fractions", "booleans", "lists", "mixed"],
)
def test_a_guessed_category_stops_nothing(tmp_path, category):
    table = frame().assign(category=category)
    sources = [table]
    table.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    sources.append(tmp_path / "log.jsonl")
    for source in sources:
        with pytest.warns(DataWarning, match=r"category: .* -> guessed, so it is left out"):
            log = read_log(source)
        assert log.category is None and "category" not in log.columns and len(log) == 5
        with pytest.raises((ValueError, TypeError)):
            read_log(source, category="category")


def test_labels_that_are_ratings_name_the_way_out(tmp_path):
    path = tmp_path / "log.csv"
    for values in ([4, 5, 1, 1, 1], [4.5, 5, 1, 1, 1], ["good"] * 5):
        table = frame().assign(label=values)
        table.to_csv(path, index=False)
        for source in (table, path):
            for named in (None, "label"):
                with pytest.raises((ValueError, TypeError), match=r"label=False \(--label-column -\) leaves it out"):
                    read_log(source, label=named)
            assert read_log(source, label=False).label is None


def test_polars_frames(tmp_path):
    polars = pytest.importorskip("polars")
    table = frame().assign(kind=["a", "b", "a", "b", "a"])
    expected = read_log(table, where={"kind": "a"}).content_hash
    eager = polars.DataFrame(table.to_dict(orient="list"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (eager, eager.lazy(), eager.with_columns(polars.col("kind").cast(polars.Categorical)).lazy()):
            assert read_log(source, where={"kind": "a"}).content_hash == expected
