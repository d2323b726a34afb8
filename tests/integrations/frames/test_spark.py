"""Data frames of Spark, in one local process."""

import pytest

from resemb_ext import InterestGraph
from resemb_ext.data import read_log
from tests.integrations.conftest import framework
from tests.integrations.frames.events import NAMES, check_graph, check_log, events

pyspark = framework("pyspark", __file__)
pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas")


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    from pyspark.sql import SparkSession

    options = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.driver.memory": "600m",
        "spark.sql.session.timeZone": "Asia/Tokyo",  # must not move times
        "spark.local.dir": str(tmp_path_factory.mktemp("spark")),
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    builder = SparkSession.builder.master("local[1]")
    for name, value in options.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def sample(spark, tmp_path_factory):
    """The events as pandas and as Spark have them; two files make two partitions."""
    folder = tmp_path_factory.mktemp("events")
    frame = events(1_000)
    frame["stamp"] = frame["stamp"].dt.tz_localize("UTC")
    frame[:600].to_parquet(folder / "a.parquet")
    frame[600:].to_parquet(folder / "b.parquet")
    return frame, spark.read.parquet(str(folder / "a.parquet"), str(folder / "b.parquet"))


def test_graphs_and_logs(sample):
    frame, source = sample
    assert dict(source.dtypes)["stamp"] == "timestamp"
    check_graph(source, frame)
    check_log(source, frame)


def test_times_sums_and_columns_that_are_not_asked_for(sample):
    from pyspark.sql import functions as F

    frame, source = sample
    changed = source.select(
        F.col("who").cast("decimal(38,0)").alias("who"),
        F.col("what").cast("decimal(20,0)").alias("what"),
        F.col("when").alias("a.when"),
        "sku",
        "stamp",
        F.raise_error(F.lit("computed")).alias("other"),
    )
    for more in ({}, {"memory": 30_000}):
        graph = InterestGraph.from_dataframe(changed, **{**NAMES, "time": "a.when"}, window=2, num_items=61, **more)
        assert graph.hash == InterestGraph.from_dataframe(frame, **NAMES, window=2, num_items=61).hash
    check_log(changed, frame)
    dated = InterestGraph.from_dataframe(source, **{**NAMES, "time": "stamp"}, num_items=61)
    same = InterestGraph.from_dataframe(frame, **{**NAMES, "time": "stamp"}, num_items=61)
    assert dated.hash == same.hash and dated.meta["time_unit"] == same.meta["time_unit"] == "<M8[us]"
    local = source.withColumn(
        "stamp", F.convert_timezone(F.lit("Asia/Tokyo"), F.lit("UTC"), F.col("stamp").cast("timestamp_ntz"))
    )
    assert dict(local.dtypes)["stamp"] == "timestamp_ntz"
    check_log(local, frame)


def test_errors(sample):
    from pyspark.sql import functions as F

    _, source = sample
    with pytest.raises(ValueError, match=r"no column 'x' \(the user\), found who, what"):
        InterestGraph.from_dataframe(source, user="x")
    spoilt = source.withColumn("what", F.when(F.col("what") > 1, F.col("what")))
    with pytest.raises(ValueError, match=r"column 'what', row .*: null, expected a item"):
        InterestGraph.from_dataframe(spoilt, **NAMES)
    twice = source.select("who", "what", "what", "when")
    with pytest.raises(ValueError, match="the data have 2 columns 'what', expected one; rename them"):
        InterestGraph.from_dataframe(twice, **NAMES)
    with pytest.raises(ValueError, match="column name 'what' occurs more than once"):
        read_log(twice, **NAMES)
