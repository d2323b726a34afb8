"""Relations of DuckDB."""

import subprocess
import sys
import textwrap

import pytest

from resemb_ext import InterestGraph
from resemb_ext.data import read_log
from tests.integrations.conftest import framework
from tests.integrations.frames.events import NAMES, check_graph, check_log, events

duckdb = framework("duckdb", __file__)


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        yield connection


def test_graphs_and_logs(connection):
    frame = events()
    relation = connection.from_df(frame)
    check_graph(relation, frame)
    check_log(relation, frame)
    check_graph(relation, frame)  # a relation can be read again


def test_only_the_columns_that_are_needed_are_computed(connection):
    frame = events(100)
    relation = connection.from_df(frame).project('who, what, "when", sku, stamp, sku::INT AS "the other"')
    check_graph(relation, frame)
    check_log(relation, frame)
    with pytest.raises(duckdb.ConversionException):
        InterestGraph.from_dataframe(relation, **{**NAMES, "item": "the other"})


def test_sums_are_of_128_bits(connection):
    """pandas would get them as float64, inexact beyond 2^53."""
    frame = events(400)
    frame["who"] += 2**55
    relation = connection.from_df(frame).query(
        "t", 'SELECT who::HUGEINT AS who, what::UHUGEINT AS what, "when"::HUGEINT AS "when", sku, stamp FROM t'
    )
    assert {str(kind) for kind in relation.types} >= {"HUGEINT", "UHUGEINT"}
    check_graph(relation, frame)
    check_log(relation, frame)


def test_hashes_of_128_bits_become_text_that_is_exact(connection):
    low, high = 2**64, 2**128 - 1
    relation = connection.sql(
        f"SELECT 1 AS user_id, unnest([{low}::UHUGEINT, {high}::UHUGEINT]) AS item_id, unnest([1, 2]) AS timestamp"
    )
    assert read_log(relation).items.values.tolist() == sorted(map(str, (low, high)))
    with pytest.raises(ValueError, match=r"column 'item_id' is decimal256.*, expected integers of 64 bits"):
        InterestGraph.from_dataframe(relation)


def test_types_that_become_ids_and_times(connection):
    frame = events(300)
    relation = connection.from_df(frame).query(
        "t",
        "SELECT who, sku::ENUM('" + "','".join(sorted(set(frame["sku"]))) + "') AS sku,"
        " stamp::TIMESTAMP_NS AS stamp FROM t",
    )
    check_log(relation, frame)
    zoned = connection.from_df(frame).query("t", "SELECT who, sku, stamp AT TIME ZONE 'UTC' AS stamp FROM t")
    assert str(zoned.types[2]) == "TIMESTAMP WITH TIME ZONE"
    check_log(zoned, frame)


def test_nulls_names_and_what_is_no_relation(connection):
    relation = connection.sql("SELECT 1 AS user_id, NULL::INT AS item_id, 3 AS timestamp")
    with pytest.raises(ValueError, match="column 'item_id', row 0: null, expected a item"):
        InterestGraph.from_dataframe(relation)
    with pytest.raises(ValueError, match=r"null item id.*drop_null=True"):
        read_log(relation)
    odd = connection.sql("""SELECT 1 AS "a ""b", 2 AS item_id, 3 AS timestamp""")
    assert InterestGraph.from_dataframe(odd, user='a "b').num_items == 3
    with pytest.raises(ValueError, match=r"no column 'x' \(the user\), found a"):
        InterestGraph.from_dataframe(odd, user="x")
    with pytest.raises(
        TypeError, match=r"frame is a DuckDBPyConnection, expected a mapping of arrays, .*DuckDB relation"
    ):
        InterestGraph.from_dataframe(connection)


LARGE = """
    import resource
    import duckdb
    from resemb_ext import InterestGraph

    query = "SELECT i * 7919 % 100003 AS user_id, i * 104729 % 997 AS item_id, i AS timestamp FROM range({}) r(i)"
    InterestGraph.from_dataframe(duckdb.sql(query.format(1000)), num_items=997)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = InterestGraph.from_dataframe(duckdb.sql(query.format(10**7)), num_items=997, memory=1 << 24, batch_rows=1 << 16)
    print(graph.meta["events"], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_query_larger_than_the_memory_it_may_take():
    """10^7 rows of 24 bytes are 229 MiB."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(LARGE)], capture_output=True, text=True, check=True)
    events_, grown = map(int, done.stdout.split())
    assert events_ == 10**7 and grown < 150
