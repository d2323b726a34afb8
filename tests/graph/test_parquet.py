"""Graphs of Parquet files: the same as of arrays, in any memory, and nothing left behind."""

import datetime
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time as clock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.data import IdMap
from resemb_ext.graph import streamed
from resemb_ext.testing.strategies import examples
from tests.processes import cpu_seconds


def events(n=30_000, items=900, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": rng.integers(-200, 200, n),
            "item_id": np.minimum(rng.zipf(1.3, n), items - 1),
            "timestamp": rng.integers(0, n // 2, n),
        }
    )


def of_arrays(frame, **options):
    columns = (frame[name].to_numpy() for name in ("user_id", "item_id", "timestamp"))
    return InterestGraph.from_events(*columns, **options)


@pytest.fixture
def spill(tmp_path):
    """A folder that a build must leave as it found it."""
    folder = tmp_path / "spill"
    folder.mkdir()
    yield folder
    assert os.listdir(folder) == []


OPTIONS = (
    {},
    {"weighting": "cosine", "decay": 0.5, "window": 6, "top_k": None},
    {"weighting": "ppmi", "max_gap": 30, "directed": True},
    {"weighting": "jaccard", "session_gap": 40, "damping": 0.2, "min_count": 2, "max_gap": 100},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("memory", [10**9, 300_000, 60_000, 1])
def test_equals_arrays_whatever_the_memory(tmp_path, spill, options, memory):
    frame = events(30_000 if memory > 1 else 500, 900 if memory > 1 else 40)
    frame.to_parquet(tmp_path / "log.parquet")
    graph = InterestGraph.from_parquet(
        tmp_path / "log.parquet", memory=memory, spill_dir=spill, batch_rows=777, threads=2, padding_idx=0, **options
    )
    same = of_arrays(frame, padding_idx=0, **options)
    assert graph.hash == same.hash and graph.meta == same.meta


@examples(60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 9)), max_size=40),
    st.integers(1, 4),
    st.sampled_from([None, 2]),
    st.integers(1, 400),
)
def test_any_order_window_and_memory(tmp_path_factory, rows, window, gap, memory):
    path = tmp_path_factory.mktemp("any") / "log.parquet"
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"], dtype=np.int64)
    frame.to_parquet(path)
    options = {"num_items": 7, "window": window, "max_gap": gap, "weighting": "ppmi"}
    graph = InterestGraph.from_parquet(path, memory=memory, batch_rows=7, **options)
    assert graph.hash == of_arrays(frame, **options).hash


@pytest.mark.parametrize("users", [1, 3, 9_000])
@pytest.mark.parametrize("step", [1, 1 << 32, -(1 << 50)])
def test_any_number_and_spelling_of_users(tmp_path, users, step):
    rng = np.random.default_rng(users)
    frame = events(20_000, 50).assign(user_id=rng.integers(0, users, 20_000) * step)
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "log.parquet")
    whole = of_arrays(frame, window=4, session_gap=300)
    for memory in (1 << 30, 100_000):
        graph = InterestGraph.from_parquet(
            tmp_path / "log.parquet", memory=memory, batch_rows=999, window=4, session_gap=300
        )
        assert graph.hash == whole.hash


@pytest.mark.full
def test_reading_numbers_imports_no_pandas(tmp_path):
    pq.write_table(pa.Table.from_pandas(events(100, 9)), tmp_path / "log.parquet")
    code = """
        import sys
        from resemb_ext import InterestGraph
        assert "pandas" not in sys.modules
        InterestGraph.from_parquet(sys.argv[1])
        print("pandas" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "log.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("column", ["user_id", "timestamp"])
@pytest.mark.parametrize("large", [1 << 31, 1 << 32, 1 << 40, -(1 << 31), -(1 << 33)])
def test_ids_and_times_that_outgrow_32_bits_on_the_way(tmp_path, column, large):
    frame = events(8_000, 50)
    later = (np.arange(8_000) > 3_000) & (frame["user_id"] % 2 == 0)  # users before and after it
    frame["user_id"] += 200
    frame.loc[later, column] += large
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "log.parquet")
    whole = of_arrays(frame, window=4, max_gap=2_000)
    for memory in (1 << 30, 200_000, 50_000):
        graph = InterestGraph.from_parquet(
            tmp_path / "log.parquet", memory=memory, batch_rows=999, window=4, max_gap=2_000
        )
        assert graph.hash == whole.hash


def test_several_files_columns_filters_and_maps(tmp_path):
    frame = events(2_000, 60)
    frame["clicked"] = np.arange(len(frame)) % 3 == 0
    frame["sku"] = "i" + frame["item_id"].astype(str)
    frame["when"] = pd.to_datetime(frame["timestamp"], unit="s")
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, part in zip(paths, (frame[:700], frame[700:]), strict=True):
        part.to_parquet(path)
    ids = IdMap.fit(frame["sku"])
    graph = InterestGraph.from_parquet(
        paths,
        item="sku",
        time="when",
        label="clicked",
        items=ids,
        window=2,
        before=datetime.datetime(1970, 1, 1, 0, 10),
        session_gap=datetime.timedelta(seconds=40),
    )
    use = frame["clicked"] & (frame["timestamp"] < 600)
    part = frame[use]
    same = InterestGraph.from_events(
        part["user_id"],
        ids.encode(part["sku"])[0],
        part["when"],
        num_items=ids.size,
        window=2,
        session_gap=datetime.timedelta(seconds=40),
    )
    assert graph.hash == same.hash and graph.meta["events"] == use.sum() > 0
    assert graph.meta["event_digest"] == same.meta["event_digest"]


@pytest.mark.parametrize("kind", ["timestamp", "date32", "date64"])
def test_dates(tmp_path, kind):
    days = np.arange("2020-01-01", "2020-01-21", dtype="M8[D]")
    user, item = np.repeat([0, 1], 10), np.arange(20) % 7
    types = {"timestamp": pa.timestamp("us"), "date32": pa.date32(), "date64": pa.date64()}
    times = pa.array(days).cast(pa.timestamp("us")).cast(types[kind])
    pq.write_table(pa.table({"user_id": user, "item_id": item, "timestamp": times}), tmp_path / "log.parquet")
    found = InterestGraph.from_parquet(
        tmp_path / "log.parquet", max_gap=np.timedelta64(36, "h"), before="2020-01-15", num_items=7
    )
    use = days < np.datetime64("2020-01-15")
    expected = InterestGraph.from_events(user[use], item[use], days[use], max_gap=np.timedelta64(36, "h"), num_items=7)
    assert found.hash == expected.hash
    assert found.hash != InterestGraph.from_events(user, item, days, num_items=7).hash
    assert found.meta["time_unit"] is not None


def test_from_dataframe():
    frame = events(3_000, 80)
    same = of_arrays(frame, window=2, top_k=4)
    named = {"user": "u", "item": "i", "time": "t"}
    columns = {"u": frame["user_id"], "i": frame["item_id"], "t": frame["timestamp"]}
    for given_, names in ((frame, {}), (pa.Table.from_pandas(frame), {}), (columns, named)):
        graph = InterestGraph.from_dataframe(given_, window=2, top_k=4, **names)
        assert graph.hash == same.hash and graph.meta == same.meta
    with pytest.raises(ValueError, match=r"no column 'x' \(the user\), found user_id, item_id"):
        InterestGraph.from_dataframe(frame, user="x")


def test_progress_reaches_its_total(tmp_path):
    events(20_000).to_parquet(tmp_path / "log.parquet")
    calls = []
    InterestGraph.from_parquet(tmp_path / "log.parquet", batch_rows=3_000, progress=lambda *call: calls.append(call))
    done = [d for d, _ in calls]
    assert done == sorted(done) and calls[-1] == (240_000, 240_000) and calls[0] == (12_000, 240_000)


DATES = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[s]")


def table(**changes):
    columns = {"user_id": [0, 0, 1], "item_id": [1, 2, 3], "timestamp": [1, 2, 3]}
    return pa.table({**columns, **changes})


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        (table(), {"user": "who"}, ValueError, r"no column 'who' \(the user\); it has user_id"),
        (table(item_id=[1, None, 3]), {}, ValueError, "'item_id', row 1: null, expected a item"),
        (table(item_id=["a", "b", "c"]), {}, TypeError, "expected integers; map other ids with"),
        (table(item_id=[1, -2, 3]), {}, IndexError, r"item\[1\] is -2"),
        (table(item_id=[1, 2, 9]), {"num_items": 4}, IndexError, r"item\[2\] is 9"),
        (table(item_id=[1, 2, 2**31]), {}, IndexError, r"item\[2\] is 2147483648"),
        (table(timestamp=[1.0, float("nan"), 2.0]), {}, ValueError, r"time\[1\] is nan"),
        (table(timestamp=["a", "b", "c"]), {}, TypeError, "rows from 0 on: time has dtype"),
        (table(), {"padding_idx": 2}, ValueError, r"item\[1\] is padding_idx = 2"),
        (table(), {"memory": 0}, ValueError, "memory is 0, expected an integer >= 1"),
        (table(), {"batch_rows": 0}, ValueError, "batch_rows is 0"),
        (table(), {"time": None, "before": 3}, ValueError, "before is 3 but time is None"),
        (table(), {"before": float("nan")}, ValueError, "before is nan, expected a finite number"),
        (table(), {"before": "2020"}, TypeError, "before is '2020', expected a number"),
        (table(timestamp=DATES), {"before": 5}, TypeError, "before is 5, expected a date"),
        (table(timestamp=DATES), {"before": "noon"}, ValueError, "before is 'noon', expected a d"),
        (table(timestamp=DATES), {"before": np.datetime64("NaT")}, ValueError, "expected a date"),
        (table(c=[0, 1, 3]), {"label": "c"}, ValueError, "'c', row 2: label is 3, expected 0 or 1"),
        (table(c=["0", "1", "1"]), {"label": "c"}, TypeError, "'c' is string, expected labels"),
        (table(), {"spill_dir": "/no/where"}, FileNotFoundError, "spill_dir: folder /no/where"),
        (b"PAR1 but not really", {}, ValueError, "cannot read"),
        (b"", {}, ValueError, "cannot read"),
        ([], {}, ValueError, "path is empty"),
        ("absent.parquet", {}, FileNotFoundError, "no file absent.parquet"),
    ],
)
def test_bad_files(tmp_path, spill, content, options, error, message):
    path = tmp_path / "log.parquet"
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path = content
    with pytest.raises(error, match=message) as caught:
        InterestGraph.from_parquet(path, **{"spill_dir": spill, **options})
    assert "\n" not in str(caught.value)


@examples(60)
@given(data=st.data())
def test_damaged_parquet_is_a_value_error_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "log.parquet"
    pq.write_table(table(), path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    try:
        InterestGraph.from_parquet(path, num_items=9)
    except (ValueError, TypeError, IndexError) as error:
        assert "\n" not in str(error)


FULL = """
    import resource, signal, sys
    from resemb_ext import InterestGraph

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        InterestGraph.from_parquet(sys.argv[1], memory=100_000, spill_dir=sys.argv[2])
    except OSError as error:
        print(error)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_an_os_error_that_names_the_folder(tmp_path, spill):
    events(20_000).to_parquet(tmp_path / "log.parquet")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), tmp_path / "log.parquet", spill],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"spilling events into folder {spill}" in done.stdout


STOPPED = """
    import signal, sys
    from resemb_ext import InterestGraph

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for share in (1, 40, 40):  # while reading, a third of the work; early in building; the last is killed
        seen = []

        def progress(done, total):
            if done > share * total // 100 and not seen:
                seen.append(done)
                print("at", done, flush=True)

        try:
            InterestGraph.from_parquet(
                sys.argv[1], window=2_000, memory=2_000_000, spill_dir=sys.argv[2],
                progress=progress, batch_rows=20_000,
            )
        except KeyboardInterrupt:
            print("stopped", flush=True)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_interruption_leaves_no_file(tmp_path, spill):
    # So many items that building tells of its progress on the way, and a window that leaves seconds of it to stop.
    items = np.random.default_rng(0).integers(0, 200_000, 400_000)
    events(400_000).assign(item_id=items).to_parquet(tmp_path / "log.parquet")
    command = [sys.executable, "-c", textwrap.dedent(STOPPED), tmp_path / "log.parquet", spill]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            assert child.stdout.readline().startswith("at ")
            began = cpu_seconds(child.pid)
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "stopped\n"
            assert cpu_seconds(child.pid) - began < 3
            assert os.listdir(spill) == []
        assert child.stdout.readline().startswith("at ")
        child.kill()
        assert child.communicate(timeout=600)[0] == ""
    finally:
        child.kill()
        child.wait()


def test_a_reader_that_still_works_is_waited_for():
    """As where an interrupt comes while its thread starts."""
    ended = []

    def batches():
        try:
            clock.sleep(0.2)
            yield 1
        finally:
            ended.append(True)

    reading = batches()
    thread = threading.Thread(target=next, args=(reading,))
    thread.start()
    streamed._close(reading)
    thread.join()
    assert ended == [True]


GROWTH = """
    import sys
    from resemb_ext import InterestGraph
    import pyarrow.parquet

    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10

    InterestGraph.from_events([0, 0], [1, 2])
    for batch in pyarrow.parquet.ParquetFile(sys.argv[1]).iter_batches(1 << 16):
        pass  # what Arrow's pool takes
    before = peak()
    graph = InterestGraph.from_parquet(sys.argv[1], memory=int(sys.argv[2]), batch_rows=1 << 16)
    print(graph.hash, peak() - before)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_kept(tmp_path):
    frame = events(8_000_000, 3_000)  # 96 MB of records
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "log.parquet", row_group_size=1 << 16)

    def build(memory):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(GROWTH), tmp_path / "log.parquet", str(memory)],
            capture_output=True,
            text=True,
            check=True,
        )
        digest, growth = done.stdout.split()
        return digest, int(growth)

    (small, capped), (whole, free) = build(16 << 20), build(1 << 30)
    # Batches, threads and Arrow's pool take their share in both; the cap is what lies between.
    assert whole == small
    assert capped < 150 and free > capped + 50
