"""Times of every type: exact where they are whole, and in their own order where float64 rounds them."""

from __future__ import annotations

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, read_log
from resemb_ext.data.times import canonical_times
from resemb_ext.data.validation import duplicates
from resemb_ext.testing.strategies import examples

START = 1_651_334_399 * 10**9


def order_of(source, **options):
    """Items, which are numbered by their rows, in the order of the log."""
    log = read_log(source, **options)
    return log.items.decode(log.item).tolist(), int(duplicates(log).sum())


@pytest.mark.hypothesis
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=12))
@examples(30)
def test_nanoseconds_keep_their_order(tmp_path_factory, offsets):
    ticks = START + 1 + np.array(offsets, dtype=np.int64)
    rows = {"user": [0] * len(ticks), "item": list(range(len(ticks)))}
    expected = np.argsort(ticks, kind="stable").tolist()
    stamps = ticks.astype("datetime64[ns]")
    decimals = [Decimal(int(tick)) / 10**9 for tick in ticks]
    path = tmp_path_factory.mktemp("log") / "log.csv"
    ways = {
        "timestamps": stamps,
        "zoned": pd.Series(stamps).dt.tz_localize("UTC"),
        "integers": ticks,
        "unsigned": ticks.astype(np.uint64),
        "decimals": pa.array(decimals, pa.decimal128(28, 9)),
        "texts": [str(stamp) for stamp in stamps],
        "seconds as text": [f"{number:.9f}" for number in decimals],
    }
    for name, times in ways.items():
        assert order_of({**rows, "time": times}) == (expected, 0), name
        if name != "zoned":
            pd.DataFrame({**rows, "time": times}).to_csv(path, index=False)
            assert order_of(path) == (expected, 0), name
    twice = {"user": [0] * 4, "item": [5, 5, 5, 5], "time": stamps[:1].repeat(4) + np.array([0, 1, 1, 2])}
    assert order_of(twice)[1] == 1


def test_parts_of_a_log_keep_the_exact_order():
    stamps = np.array([3, 1, 2], dtype="datetime64[ns]") + np.timedelta64(START, "ns")
    log = read_log({"user": [0, 0, 0], "item": [7, 7, 7], "time": stamps})
    assert log.time.dtype == np.float64 and len(np.unique(log.time)) == 1
    assert not duplicates(log.subset(np.array([0, 2]))).any()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([1, 2**63 - 1], pa.uint64()), [1, 2**63 - 1]),
        (["1", str(2**63 - 1)], [1, 2**63 - 1]),
        (["1.0", "1.6e9"], [1.0, 1.6e9]),
        ([f"{2**60 + 1}.0", "1.0"], [2**60 + 1, 1]),
        (pa.array([Decimal(2**60 + 1), Decimal(1)], pa.decimal128(30, 2)), [2**60 + 1, 1]),
        ([f"{2**50}.000000", "1"], [2.0**50, 1.0]),
        (pa.array([Decimal("1.5"), Decimal(1)], pa.decimal128(30, 2)), [1.5, 1.0]),
        (["10", "10.5"], [10.0, 10.5]),
    ],
)
def test_one_rule_for_every_type(times, expected):
    values, exact, _ = canonical_times(times, "t")
    assert values.tolist() == expected and exact is None
    assert values.dtype == (np.float64 if any(isinstance(v, float) for v in expected) else np.int64)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([1, 2**63], pa.uint64()),
        ["1", str(2**63)],
        ["1", str(2**70)],
        [1.0, 2.0**63],
        ["1.5", "1e30"],
        pa.array([Decimal(1), Decimal(2**63)], pa.decimal128(30, 0)),
    ],
)
def test_times_beyond_int64_are_refused(times):
    with pytest.raises(ValueError, match=r"column 't', row 1: time beyond 64-bit integers; subtract a start"):
        canonical_times(times, "t")


@pytest.mark.parametrize(
    ("kind", "largest", "step"), [(np.float32, 1.6e9, "128"), (np.float64, 1.6e18, "256"), (np.float16, 4096, "4")]
)
def test_floats_that_round_times_are_said(kind, largest, step):
    rows = {"user": [0, 0], "item": [0, 1], "time": np.array([1, largest], dtype=kind)}
    with pytest.warns(DataWarning, match=f"rounds the largest to multiples of {step} -> events of equal times keep"):
        read_log(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_log({**rows, "time": np.array([1, 2000.5], dtype=kind)})
        read_log({**rows, "time": np.array([1, largest], dtype=np.int64)})


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_gaps_of_sessions_are_exact(unit):
    """A pause as long as the gap ends no session, one of a tick more does."""
    per_second = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    rng = np.random.default_rng(0)
    starts = 1_651_334_399 * per_second + rng.integers(0, per_second, 200)
    for more, sessions in ((0, 200), (1, 400)):
        times = np.stack([starts, starts + 30 * per_second + more], axis=1).ravel().astype(f"datetime64[{unit}]")
        rows = {"user": np.repeat(np.arange(200), 2), "item": np.arange(400), "time": times}
        assert read_log(rows, session_gap=30).num_sessions == sessions


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_convert_keeps_parts_of_seconds(tmp_path, unit):
    stamps = np.array([START // 10**9, START // 10**9], dtype="datetime64[s]").astype(f"datetime64[{unit}]")
    rows = {"user": [0, 0], "item": [7, 7], "time": stamps + np.array([2, 1])}
    pd.DataFrame(rows).to_parquet(tmp_path / "raw.parquet")
    arguments = ["data", "convert", str(tmp_path / "raw.parquet"), "--out", str(tmp_path / "log.parquet")]
    assert main([*arguments, "--drop-duplicates"]) == 0
    log, again = read_log(rows), read_log(tmp_path / "log.parquet")
    assert again.content_hash == log.content_hash
    assert again.exact_time.tolist() == log.exact_time.tolist() and len(set(again.exact_time.tolist())) == 2
