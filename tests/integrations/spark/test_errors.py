"""Bad input is one line, most of it before Spark runs a job; what was not finished is not left."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("pyspark", __file__)

from resemb_ext.integrations import spark_session  # noqa: E402


def write(path, **columns):
    names = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    pq.write_table(pa.table({names.get(name, name): pa.array(values) for name, values in columns.items()}), path)
    return path


@pytest.fixture
def log(tmp_path):
    return write(
        tmp_path / "log.parquet", user=[1, 1, 2], item=[1, 2, 3], time=[1, 2, 3], label=[0, 1, 1], text=["a", "b", ""]
    )


def refused(error, message, tmp_path, events, **options):
    """The line of the error; nothing is written."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message) as caught:
        rx.spark.interest_graph(events, tmp_path / "rows", **options)
    assert "\n" not in str(caught.value) and sorted(tmp_path.iterdir()) == before
    return caught.value


JOBLESS = [
    (ValueError, r"no column 'who' \(the user\), found user_id, item_id, timestamp, label, text$", {"user": "who"}),
    (ValueError, r"no column 'User_ID' \(the user\)", {"user": "User_ID"}),
    (TypeError, r"column 'text' is string, expected integers; items=rx.data.IdMap.fit", {"item": "text"}),
    (TypeError, r"column 'text' is string, expected times as numbers, timestamps or dates", {"time": "text"}),
    (TypeError, r"items is a list, expected an rx.data.IdMap", {"items": [1], "num_items": 9}),
    (TypeError, r"column 'item_id' is bigint, but items was made from text ids", {"items": rx.data.IdMap.fit(["a"])}),
    (ValueError, r"items: ids beyond 2\*\*63 - 1", {"items": rx.data.IdMap.fit(np.array([2**63], np.uint64))}),
    (
        ValueError,
        r"category_edges is 3, which Spark does not offer; InterestGraph.from_categories",
        {"category_edges": 3},
    ),
    (ValueError, r"keep_counts is True, which Spark does not offer; only graphs", {"keep_counts": True}),
    (ValueError, r"threads is 2, which Spark does not offer; master=", {"threads": 2}),
    (TypeError, r"unexpected option 'windows', expected one of", {"windows": 2}),
    (ValueError, r"window is 0, expected an integer >= 1", {"window": 0}),
    (ValueError, r"parts is 0, expected an integer in \[1, 1048576\]", {"parts": 0}),
    (ValueError, r"max_user_events is 0, expected an integer >= 1", {"max_user_events": 0}),
    (ValueError, r"split_user_events is -1, expected an integer >= 1", {"split_user_events": -1}),
    (ValueError, r"split_user_events cuts histories by time, and time is None", {"split_user_events": 9, "time": None}),
    (ValueError, r"before is 3 but time is None", {"before": 3, "time": None}),
    (ValueError, r"num_items is 0, expected an integer in \[1, 2147483646\]", {"num_items": 0}),
    (ValueError, r"padding_idx is 4, expected an integer in \[0, 2\]", {"num_items": 3, "padding_idx": 4}),
    (ValueError, r"master is 'local\[9\]', but a Spark session runs already", {"master": "local[9]"}),
    (ValueError, r"memory is 1000, but a Spark session runs already", {"memory": 1000}),
    (TypeError, r"before is '2020-01-01', expected a number as times are numbers", {"before": "2020-01-01"}),
]


@pytest.mark.parametrize(("error", "message", "options"), JOBLESS, ids=range(len(JOBLESS)))
def test_refused_before_a_job(spark, tmp_path, log, error, message, options, monkeypatch):
    frame = spark.read.parquet(str(log))

    def no_job(*_):
        raise AssertionError("a job was started")

    monkeypatch.setattr(type(frame), "first", no_job)
    monkeypatch.setattr(type(frame), "count", no_job)
    monkeypatch.setattr(type(frame), "toArrow", no_job)
    refused(error, message, tmp_path, log, **options)


def test_events_that_are_no_events(spark, tmp_path, log):
    refused(FileNotFoundError, r"events: no file .*/none.parquet", tmp_path, tmp_path / "none.parquet")
    refused(TypeError, r"events is a int, expected a Spark DataFrame, a path", tmp_path, 5)
    refused(ValueError, r"events is empty, expected at least one Parquet file", tmp_path, [])
    frame = spark.read.parquet(str(log))
    refused(ValueError, r"time is None and a DataFrame has no order of its own", tmp_path, frame, time=None)
    twice = frame.select("user_id", "item_id", "item_id", "timestamp")
    refused(ValueError, r"the events have 2 columns 'item_id', expected one; rename them", tmp_path, twice)
    other = write(tmp_path / "other.parquet", user=[1], item=[1.5], time=[1])
    refused(ValueError, r"events: the files hold columns of different types", tmp_path, [log, other])
    (tmp_path / "no.parquet").write_text("no Parquet")
    line = refused(OSError, r"Spark: ", tmp_path, tmp_path / "no.parquet")
    assert "no.parquet" in str(line)


@pytest.mark.parametrize(
    ("error", "message", "columns", "options"),
    [
        (IndexError, r"column 'item_id' holds -4, expected ids in \[0, num_items = 2\*\*31 - 2\)$", {"item": [1, -4]}, {}),
        (IndexError, r"column 'item_id' holds 7, expected ids in \[0, num_items = 7\)$", {"item": [1, 7]}, {"num_items": 7}),
        (IndexError, r"column 'item_id' holds 4294967296, expected", {"item": [1, 2**32]}, {}),
        (ValueError, r"column 'item_id' holds padding_idx = 1 in 2 rows; drop padding", {"item": [1, 1]}, {"padding_idx": 1}),
        (ValueError, r"column 'item_id' \(the item\) has 1 nulls, expected none$", {"item": [1, None]}, {}),
        (ValueError, r"column 'user_id' \(the user\) has 1 nulls, expected none$", {"user": [1, None]}, {}),
        (ValueError, r"column 'timestamp' has 1 times that are not finite", {"time": [1.0, np.nan]}, {}),
        (ValueError, r"column 'timestamp' has 1 times that are not finite", {"time": [1.0, -np.inf]}, {"before": 5.0}),
        (ValueError, r"column 'timestamp' spans more than 2\*\*63 - 1", {"time": [-(2**62) - 1, 2**62]}, {}),
        (ValueError, r"column 'l' has 1 labels other than 0 and 1", {"l": [1, 2]}, {"label": "l"}),
        (ValueError, r"window is 500, expected at most 128 with Spark", {}, {"window": 500}),
        (ValueError, r"num_items is None and there are no events; give num_items", {}, {"before": -1}),
    ],
)  # fmt: skip
def test_refused_after_one_pass(spark, tmp_path, error, message, columns, options):
    rows = 600 if "window" in options else 2
    filled = {name: [1] * rows for name in ("user", "item", "time")}
    refused(error, message, tmp_path, write(tmp_path / "log.parquet", **{**filled, **columns}), **options)


def test_a_job_that_fails_leaves_nothing(spark, tmp_path, log):
    from pyspark.sql import functions as F

    broken = spark.read.parquet(str(log)).withColumn("order", F.raise_error(F.lit("this row is broken")))
    line = refused(OSError, r"^Spark: .*this row is broken", tmp_path, broken, order="order")
    assert line.errno is None


def test_out_that_is_there_or_cannot_be(spark, tmp_path, log):
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileExistsError, match=r"out is there already, expected a new folder: '.*taken'"):
        rx.spark.interest_graph(log, tmp_path / "taken")
    with pytest.raises(FileNotFoundError, match=r"out: folder .*/none does not exist"):
        rx.spark.interest_graph(log, tmp_path / "none" / "rows")
    with pytest.raises(ValueError, match="what://rows: "):
        rx.spark.interest_graph(log, "what://rows")


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Puts a Java of a version, or one that fails, in the place of the machine's."""

    def put(script, home=True):
        (tmp_path / "bin").mkdir(exist_ok=True)
        if script is not None:
            (tmp_path / "bin" / "java").write_text(f"#!{sys.executable}\n{script}\n")
            (tmp_path / "bin" / "java").chmod(0o755)
        if home:
            monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        else:
            monkeypatch.delenv("JAVA_HOME", raising=False)
            monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setattr(spark_session.SparkSession, "getActiveSession", lambda: None)
        monkeypatch.setattr(spark_session, "_start", lambda *_: pytest.fail("Spark was started"))

    return put


SAYS = "import sys; print('''openjdk version \"{}\" 2020-01-01\nOpenJDK Runtime''', file=sys.stderr)"


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (None, FileNotFoundError, r"^Spark needs Java 17 or later, found none {}: install it, or set JAVA_HOME to one$"),
        (SAYS.format("11.0.2"), OSError, r"^Spark needs Java 17 or later, found 11.0.2 at .*bin/java: install a newer"),
        (SAYS.format("1.8.0_292"), OSError, r"^Spark needs Java 17 or later, found 1.8.0_292 at .*bin/java"),
        ("raise SystemExit('no memory')", OSError, r"^Spark needs Java 17 or later, and .*bin/java -version fails: no memory$"),
        ("", OSError, r"bin/java -version fails: status 0$"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("home", [True, False])
def test_java_missing_or_too_old(tmp_path, log, java, script, error, message, home):
    java(script, home)
    where = rf"in JAVA_HOME, {tmp_path}" if home else "on PATH"
    refused(error, message.replace("{}", where), tmp_path, log)


@pytest.mark.parametrize("version", ["17", "17.0.15", "21-ea", "25.0.1"])
def test_java_new_enough(java, version):
    java(SAYS.format(version))
    spark_session.check_java()


def test_a_session_that_cannot_be_is_one_line(spark, monkeypatch):
    def fails(_):
        raise RuntimeError("Java gateway process exited before sending its port number.")

    monkeypatch.setattr(spark_session.SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setattr(spark_session.SparkSession.Builder, "getOrCreate", fails)
    with (
        pytest.raises(OSError, match=r"^Spark does not start with master 'spark://x:1': Java gateway process exited"),
        rx.spark.session("spark://x:1"),
    ):
        pass


def test_a_heap_that_java_does_not_have(spark):
    spark_session._check_heap(spark, 700 << 20)
    with pytest.raises(ValueError, match=r"memory is 8,589,934,592, but the Java of an earlier session .* a heap of"):
        spark_session._check_heap(spark, 8 << 30)


def test_memory_is_that_of_an_embedded_spark(tmp_path):
    with pytest.raises(
        ValueError, match=r"memory is 5, but it is that of an embedded Spark \(local\), and master is 'yarn'"
    ):
        spark_session._start(tmp_path, "yarn", 5, {})
