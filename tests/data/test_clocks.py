"""What times are is found out and said: units, whole days, dates in digits, the finer of two columns."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, read_log, validate
from resemb_ext.data.clocks import date_digits

START = 1_600_000_000


def frame(times, **more):
    rows = len(times)
    return pd.DataFrame({"user": np.arange(rows) % 2, "item": np.arange(rows), "time": times, **more})


def warned(source, **options):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        log = read_log(source, **options)
    return log, [str(one.message) for one in seen if issubclass(one.category, DataWarning)]


def test_the_finer_column_is_guessed(tmp_path):
    """The columns of KuaiRand's logs."""
    path = tmp_path / "kuai.csv"
    path.write_text(
        "user_id,item_id,date,hourmin,time_ms,is_click\n0,10,20220430,2359,1651334399000,1\n"
        "0,11,20220501,1,1651334460000,1\n0,12,20220501,0,1651334400000,1\n"
    )
    log, seen = warned(path)
    assert log.columns["time"] == "time_ms" and not seen
    assert log.items.decode(log.item).tolist() == [10, 12, 11]
    log, seen = warned(path, time="date")
    assert "time 'date' (whole days in digits)" in log.columns_line
    assert len(seen) == 1 and "--time-column, perhaps 'time_ms'" in seen[0] and "such as 20220501" in seen[0]


@pytest.mark.parametrize("times", [[86_400 * day for day in (18_000, 18_001, 18_001)], ["2020-01-01"] * 3])
def test_whole_days_are_said(times):
    log, seen = warned(frame(times).rename(columns={"time": "date"}))
    assert "time 'date' (guessed, whole days)" in log.columns_line and not seen
    assert [f.level for f in validate(log).findings if f.name == "whole days"] == ["note"]


def test_a_time_of_day_beside_a_date_is_said():
    dates = ["2020-01-02", "2020-01-01", "2020-01-03"]
    for times in ([2359, 1, 30], [86399, 0, 5], [235959, 1, 3]):
        said = warned(frame(times, date=dates))[1]
        assert len(said) == 1 and "days are mixed up" in said[0] and "perhaps 'date'" in said[0]
        assert not warned(frame(times))[1]
    assert not warned(frame([START, START + 1, START + 2], date=dates))[1]
    with pytest.raises(ValueError, match="the column was guessed: time= or --time-column names another"):
        read_log(frame(["12:30:00", "11:00:00", "01:00:00"], date=dates))


def test_digits_of_dates():
    def digits(*times):
        return date_digits(np.array(times))

    assert digits(20220430, 19991231) == 8
    assert digits(2022043023, 1999123100) == 10
    assert digits(202204302359) == 12
    assert digits(20220430235959) == 14
    for other in (20221330, 20220432, 20220400, 18991231, 2022043024, 202204302360, 20220430235960, START, 7):
        assert digits(20220430, other) == 0 and digits(other) == 0
    assert date_digits(np.array([20220430.5])) == 0 and date_digits(np.array([20220430.0])) == 8


@pytest.mark.hypothesis
@given(st.lists(st.integers(START, START + 10**8), min_size=2, max_size=20), st.data())
def test_mixed_units_are_counted(seconds, data):
    ticks = data.draw(st.lists(st.sampled_from([1, 10**3, 10**6, 10**9]), min_size=len(seconds), max_size=len(seconds)))
    times = [second * tick for second, tick in zip(seconds, ticks, strict=True)]
    log, seen = warned(frame(times))
    mixed = [text for text in seen if "mixed units" in text]
    assert len(mixed) == (len(set(ticks)) > 1)
    for tick, name in ((1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")):
        if mixed and tick in ticks:
            assert f"{ticks.count(tick)} in {name}" in mixed[0]
    assert (validate(log).level != "note") >= bool(mixed)


def test_mixed_units_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "log.csv"
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": np.repeat(np.arange(5), 8), "item": rng.permutation(40), "time": START})
    table["time"] += np.arange(40)
    table.loc[:9, "time"] *= 1000
    table.to_csv(path, index=False)
    assert main(["data", "validate", str(path)]) == 1
    shown = capsys.readouterr()
    assert (
        "warning  mixed units: times of column 'time' look like Unix times 30 in seconds and 10 in milli" in shown.out
    )
    assert not shown.err


def test_times_that_are_missing():
    assert "times missing: 1 of 3 times of column 'time' are 0 or below" in warned(frame([0, START, START + 1]))[1][0]
    assert not warned(frame([0, 1, 2]))[1] and not warned(frame([5, START, START + 1]))[1]
    assert not warned(frame([-(10**9), START, START + 1]))[1][1:]
