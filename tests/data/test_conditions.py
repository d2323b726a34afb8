"""``where`` of ``read_log``: values compare by what they mean, the same in every format."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, read_log, validate
from resemb_ext.testing.strategies import examples


def ways(folder, extra):
    """The same log in every format, with columns of its own."""
    rows = len(next(iter(extra.values())))
    frame = pd.DataFrame({"user": np.arange(rows) % 2, "item": np.arange(rows), "time": np.arange(rows), **extra})
    frame.to_csv(folder / "log.csv", index=False)
    frame.to_parquet(folder / "log.parquet")
    frame.to_json(folder / "log.jsonl", orient="records", lines=True, date_format="iso", date_unit="us")
    yield from (folder / name for name in ("log.csv", "log.parquet", "log.jsonl"))
    yield frame
    yield pa.Table.from_pandas(frame)
    yield {name: frame[name].to_numpy() for name in frame}


def kept(source, where):
    return sorted(read_log(source, where=where).items.values.tolist())


RATINGS = [4.0, 4.5, 5.0, 3.0, 0.1]
DAYS = pd.to_datetime(["2017-11-25", "2017-11-26", "2017-11-25", "2018-01-01", "2017-12-03"])


@pytest.mark.parametrize(
    ("values", "wanted", "rows"),
    [
        (RATINGS, [4, 4.5, 5], [0, 1, 2]),
        (RATINGS, ["4.0", "5.00", "0.1"], [0, 2, 4]),
        ([1, 2, 3, 2, 1], ["2.0", 3], [1, 2, 3]),
        ([2**53 + 1, 2**53, 5, 6, 7], [2**53 + 1], [0]),
        ([True, False, True, False, False], True, [0, 2]),
        ([True, False, True, False, False], ["FALSE"], [1, 3, 4]),
        (DAYS, "2017-11-25", [0, 2]),
        (DAYS, [datetime.date(2018, 1, 1), np.datetime64("2017-12-03T00:00")], [3, 4]),
        (DAYS, "2017-11-26T01:00:00+01:00", [1]),
        (["007", "7", "x", "7.0", "8"], "7", [1]),
        (["pv", "buy", "pv", "PV", "pv "], ["pv", "buy"], [0, 1, 2]),
    ],
)
def test_every_format_keeps_the_same_rows(tmp_path, values, wanted, rows):
    for source in ways(tmp_path, {"kind": values}):
        assert kept(source, {"kind": wanted}) == rows


def test_floats_of_32_bits_are_their_spelling():
    rows = {"user": [0, 0], "item": [0, 1], "time": [0, 1], "kind": np.array([0.1, 4], dtype=np.float32)}
    assert kept(rows, {"kind": [0.1, "4"]}) == [0, 1]


numbers = st.integers(-3, 3) | st.sampled_from([-0.5, 0.25, 1.0, 2.5, 1e10])


@pytest.mark.hypothesis
@given(st.lists(numbers, min_size=2, max_size=6), st.lists(numbers, min_size=1, max_size=3))
@examples(30)
def test_numbers_compare_as_numbers(tmp_path_factory, values, wanted):
    rows = [place for place, value in enumerate(values) if value in wanted]
    for source in ways(tmp_path_factory.mktemp("log"), {"kind": [float(value) for value in values]}):
        for spelled in (wanted, [str(value) for value in wanted], [float(value) for value in wanted]):
            if not rows:
                with pytest.raises(ValueError, match="no row of"):
                    read_log(source, where={"kind": spelled})
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                assert kept(source, {"kind": spelled}) == rows


def test_a_value_that_no_row_has_is_named(tmp_path, capsys):
    for source in ways(tmp_path, {"kind": ["pv", "buy", "pv", "cart"], "size": [1, 2, 3, 4]}):
        with pytest.warns(DataWarning, match="no row of .* has kind = bye; it holds .*cart") as seen:
            log = read_log(source, where={"kind": ["pv", "bye"], "size": [1, 2, 3]})
        assert len(seen) == 1 and len(log) == 2
        assert [finding.name for finding in validate(log).findings if finding.level == "warning"] == ["where"]
        with pytest.raises(ValueError, match="has kind = bye or b; it holds"):
            read_log(source, where={"kind": ["bye", "b"]})
        with pytest.raises(ValueError, match=r"no row of .* meets all conditions of where together: kind, size"):
            read_log(source, where={"kind": "pv", "size": 4})
        with pytest.raises(ValueError, match="names no value for 'kind'"):
            read_log(source, where={"kind": []})
    out = tmp_path / "out.parquet"
    arguments = ["data", "convert", str(tmp_path / "log.csv"), "--where", "kind=pv,bye", "--out", str(out)]
    assert main(arguments) == 0
    error = capsys.readouterr().err.splitlines()
    assert "resemb data: warning: log: where: no row of 'log' has kind = bye; it holds" in error[0] and len(error) == 2
    main(["data", "validate", str(tmp_path / "log.csv"), "--where", "kind=pv,bye"])
    seen = capsys.readouterr()
    assert "warning  where: no row of" in seen.out and not seen.err


def test_a_field_can_be_a_condition(tmp_path):
    for source in ways(tmp_path, {"label": [0, 1, 1, 0]}):
        log = read_log(source, where={"label": [0, 1], "item": [0, 1, 2], "time": [1, 2]})
        assert log.label.tolist() == [1, 1]


def test_wanted_values_of_any_kind():
    rows = {"user": [0, 0], "item": [0, 1], "time": [0, 1]}
    for values, wanted in (
        (pa.array([b"a", b"b"]), b"b"),
        (pa.array([b"a", b"b"]), "b"),
        ([1, 2], np.array(2)),
        ([1, 2], {2}),
        ([1, 2], (value for value in [2])),
        (pa.array([2**63, 2**64 - 1], pa.uint64()), 2**64 - 1),
    ):
        assert kept({**rows, "kind": values}, {"kind": wanted}) == [1]
    with pytest.raises(TypeError, match=r"where: column 'kind' has type list.*; expected single values"):
        read_log({**rows, "kind": [[1], [2]]}, where={"kind": 1})
