"""DataFrames and LazyFrames of polars."""

import pytest

from resemb_ext import InterestGraph
from resemb_ext.data import read_log
from tests.integrations.conftest import framework
from tests.integrations.frames.events import NAMES, check_graph, check_log, events

pl = framework("polars", __file__)


@pytest.mark.parametrize("lazy", [False, True])
def test_graphs_and_logs(lazy):
    frame = events()
    source = pl.from_pandas(frame)
    source = source.lazy() if lazy else source
    check_graph(source, frame)
    check_log(source, frame)


def test_only_the_columns_that_are_needed_are_computed():
    frame = events(100)
    spoilt = pl.from_pandas(frame).lazy().with_columns(pl.col("sku").cast(pl.Int64).alias("other"))
    check_graph(spoilt, frame)
    check_log(spoilt, frame)
    with pytest.raises(pl.exceptions.InvalidOperationError, match="conversion from `str` to `i64` failed"):
        InterestGraph.from_dataframe(spoilt, **{**NAMES, "item": "other"})


def test_a_query_runs_once():
    frame, calls = events(100), []

    def counted(part):
        calls.append(len(part))
        return part

    source = pl.from_pandas(frame).lazy().map_batches(counted, schema=None)
    check_log(source, frame)
    assert calls == [100]


def test_integers_of_128_bits():
    frame = events(500)
    wide = pl.from_pandas(frame).with_columns(pl.col("who", "what", "when").cast(pl.Int128))
    for source in (wide, wide.lazy()):
        check_graph(source, frame)
        check_log(source, frame)
    beyond = wide.with_columns(pl.col("what") + 2**70)
    with pytest.raises(ValueError, match=r"column 'what' is decimal128.*, expected integers of 64 bits"):
        InterestGraph.from_dataframe(beyond.lazy(), **NAMES)
    assert read_log(beyond, **NAMES).items.values.tolist()[0] == str(2**70 + 1)


def test_categories_nulls_and_text():
    frame = events(50)
    source = pl.from_pandas(frame)
    check_log(source.with_columns(pl.col("sku").cast(pl.Categorical)).lazy(), frame)
    for lazy in (False, True):
        spoilt = source.with_columns(pl.when(pl.int_range(50) == 7).then(None).otherwise(pl.col("what")).alias("what"))
        with pytest.raises(ValueError, match="column 'what', row 7: null, expected a item"):
            InterestGraph.from_dataframe(spoilt.lazy() if lazy else spoilt, **NAMES)
        with pytest.raises(
            TypeError, match=r"column 'sku' is .*string.*, expected integers; rx.data.read_log\(frame\)"
        ):
            InterestGraph.from_dataframe(source.lazy() if lazy else source, **{**NAMES, "item": "sku"})


def test_series_in_a_mapping():
    frame = events(200)
    source = pl.from_pandas(frame)
    check_graph({name: source[name] for name in source.columns}, frame)
    check_log({name: source[name] for name in source.columns}, frame)
