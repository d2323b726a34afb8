"""Graphs and logs of tables: pandas, Arrow in all its forms, and anything with a C stream.

Other libraries are in tests/integrations/frames.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

from resemb_ext import InterestGraph
from resemb_ext.data import read_log

NAMES = {"user": "who", "item": "what", "time": "when"}


def events(rows=2_000):
    rng = np.random.default_rng(0)
    item = np.minimum(rng.zipf(1.4, rows), 60)
    return pd.DataFrame(
        {"who": rng.integers(0, 50, rows), "what": item, "when": rng.integers(0, 999, rows), "text": item.astype(str)}
    )


class Streams:
    """An object that has the protocol, and counts how often it was asked."""

    def __init__(self, table):
        self.table, self.asked = table, 0

    def __arrow_c_schema__(self):
        return self.table.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema=None):
        self.asked += 1
        return self.table.__arrow_c_stream__(requested_schema)


KINDS = {
    "mapping": lambda frame, path: {name: frame[name].tolist() for name in frame},
    "tensors": lambda frame, path: {
        name: frame[name] if name == "text" else torch.tensor(frame[name].to_numpy()) for name in frame
    },
    "pandas": lambda frame, path: frame,
    "table": lambda frame, path: pa.Table.from_pandas(frame),
    "chunks": lambda frame, path: pa.concat_tables(
        [pa.Table.from_pandas(frame[a:b]) for a, b in ((0, 7), (7, 7), (7, None))]
    ),
    "batch": lambda frame, path: pa.RecordBatch.from_pandas(frame),
    "reader": lambda frame, path: pa.Table.from_pandas(frame).to_reader(300),
    "dataset": lambda frame, path: pyarrow.dataset.dataset(path),
    "scanner": lambda frame, path: pyarrow.dataset.dataset(path).scanner(batch_size=300),
    "stream": lambda frame, path: Streams(pa.Table.from_pandas(frame)),
}


@pytest.fixture(params=KINDS)
def source(request, tmp_path):
    """Gives a frame in another form; a fresh one each time, since a reader gives its rows once."""

    def given(frame):
        frame.to_parquet(tmp_path / "log.parquet", row_group_size=700)
        return KINDS[request.param](frame, tmp_path / "log.parquet")

    return given


@pytest.mark.parametrize("options", [{}, {"memory": 20_000, "batch_rows": 301}, {"keep_counts": True}])
def test_any_table_gives_the_graph_of_its_arrays(source, options, tmp_path):
    frame = events()
    keep = {k: v for k, v in options.items() if k == "keep_counts"}
    expected = InterestGraph.from_events(frame["who"], frame["what"], frame["when"], num_items=61, **keep)
    graph = InterestGraph.from_dataframe(source(frame), **NAMES, num_items=61, **options)
    assert graph.hash == expected.hash and graph.meta == expected.meta
    assert InterestGraph.from_dataframe(source(frame), **NAMES, **options).num_items == 61


def test_any_table_gives_the_log_of_the_frame(source):
    names = {**NAMES, "item": "text"}
    expected = read_log(events(), **names, where={"what": [1, 2, 3]})
    assert read_log(source(events()), **names, where={"what": [1, 2, 3]}).content_hash == expected.content_hash


def test_any_table_updates_a_graph(source):
    first = InterestGraph.from_events([1, 1], [5, 6], [-9, -8], num_items=61, keep_counts=True)
    frame = events().rename(columns={"who": "user", "what": "item", "when": "time"})
    expected = first.update((frame["user"], frame["item"], frame["time"]))
    assert first.update(source(frame)).hash == expected.hash


def test_a_stream_is_asked_once_and_a_reader_gives_its_rows_once():
    table = pa.Table.from_pandas(events(), preserve_index=False)
    streams = Streams(table)
    read_log(streams, **NAMES)
    assert streams.asked == 1
    InterestGraph.from_dataframe(streams, **NAMES)
    assert streams.asked == 2
    reader = table.to_reader()
    read_log(reader, **NAMES)
    with pytest.raises(ValueError, match="has no rows; a log needs at least one event; a RecordBatchReader gives its"):
        read_log(reader, **NAMES)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("column", "values", "error", "message"),
    [
        ("what", pd.array([1, None, 3], "Int64"), ValueError, "column 'what', row 1: null, expected a item"),
        (
            "what",
            ["a", "b", "c"],
            TypeError,
            r"column 'what' is .*string, expected integers; rx.data.read_log\(frame\)",
        ),
        ("what", [1.0, 2.0, 3.0], TypeError, "column 'what' is double, expected integers"),
        ("when", ["a", "b", "c"], TypeError, "time has dtype"),
        ("when", pd.to_datetime(["2020-01-01", None, "2020-01-02"]), ValueError, "NaT|row 1: null, expected a time"),
        ("who", pd.array([1, 2, 3], "category"), ValueError, "gives no error"),
    ],
)
def test_columns_that_cannot_be(lazy, column, values, error, message):
    frame = pd.DataFrame({"who": [1, 1, 2], "what": [1, 2, 3], "when": [1, 2, 3]}).assign(**{column: values})
    given = pa.Table.from_pandas(frame).to_reader() if lazy else frame
    if message == "gives no error":  # integers by way of a dictionary
        assert InterestGraph.from_dataframe(given, **NAMES).meta["events"] == 3
        return
    with pytest.raises(error, match=message) as caught:
        InterestGraph.from_dataframe(given, **NAMES)
    assert "\n" not in str(caught.value)


def test_times_with_a_zone_and_decimals():
    frame = events(300)
    stamps = pd.to_datetime(frame["when"], unit="s").dt.as_unit("s")
    expected = InterestGraph.from_events(frame["who"], frame["what"], stamps, session_gap=np.timedelta64(9, "s"))
    tokyo = frame.assign(when=stamps.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"))
    for given in (tokyo, pa.Table.from_pandas(tokyo).to_reader(50)):
        found = InterestGraph.from_dataframe(given, **NAMES, session_gap=np.timedelta64(9, "s"))
        assert found.hash == expected.hash and found.meta == expected.meta
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for place, kind in ((0, pa.decimal128(38, 0)), (1, pa.decimal128(20, 0)), (2, pa.decimal128(38, 0))):
        table = table.set_column(place, table.column_names[place], table[place].cast(kind))
    whole = InterestGraph.from_events(frame["who"], frame["what"], frame["when"])
    for given in (table, table.to_reader(50)):
        assert InterestGraph.from_dataframe(given, **NAMES).meta == whole.meta
    parts = table.set_column(1, "what", pa.array(frame["what"] + 0.5).cast(pa.decimal128(20, 1)))
    for given in (parts, parts.to_reader(50)):
        with pytest.raises(ValueError, match=r"column 'what' is decimal128\(20, 1\), expected integers of 64 bits"):
            InterestGraph.from_dataframe(given, **NAMES)


def test_what_is_no_table():
    for wrong in (3, "log.parquet", [1, 2], np.zeros((3, 3)), pd.Series([1])):
        with pytest.raises(TypeError, match=f"frame is a {type(wrong).__name__}, expected a mapping of arrays"):
            InterestGraph.from_dataframe(wrong)
    twice = pa.table([[1], [2], [3], [4]], names=["who", "what", "what", "when"])
    for given in (twice, twice.to_reader()):
        with pytest.raises(ValueError, match="the data have 2 columns 'what', expected one; rename them"):
            InterestGraph.from_dataframe(given, **NAMES)
    with pytest.raises(FileNotFoundError, match="spill_dir: folder /no/where"):
        InterestGraph.from_dataframe(events(), **NAMES, spill_dir="/no/where")


def test_progress_of_a_stream_ends_at_its_total():
    calls = []
    reader = pa.Table.from_pandas(events()).to_reader(100)
    InterestGraph.from_dataframe(reader, **NAMES, progress=lambda *call: calls.append(call))
    assert calls[-1] == (24_000, 24_000) and [d for d, _ in calls] == sorted(d for d, _ in calls)
