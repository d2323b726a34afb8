"""JSON lines: columns and types of all objects, numbers exactly, long values."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.json
import pytest

from resemb_ext.data import read_log
from resemb_ext.data.lines import CHUNK


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_are_those_of_all_objects(tmp_path):
    rows = [{"user": 1, "item": 10 + k, "time": k} for k in range(6)]
    for k in (1, 3, 5):
        rows[k] |= {"click": 1, "category": "a"}
    for row in rows:
        row.setdefault("click", 0)
    rows[0]["category"] = None
    rows[2]["shown"] = {"at": [1, "x"]}
    log = read_log(write(tmp_path / "log.jsonl", rows))
    assert log.label.tolist() == [0, 1, 0, 1, 0, 1] and log.category.tolist() == [0, 1, 0, 1, 0, 1]
    # A label that the first objects lack is missed there.
    for row in rows[:2]:
        del row["click"]
    with pytest.raises(
        ValueError, match=r"log.jsonl, line 1, column 'click': null label, as in 1 more rows; drop_null=True"
    ):
        read_log(write(tmp_path / "log.jsonl", rows))


def test_columns_that_come_late(tmp_path):
    rows = [{"user": 1, "item": k, "time": k, "text": "x" * (CHUNK // 8)} for k in range(30)]
    rows[29]["category"] = "late"
    log = read_log(write(tmp_path / "log.jsonl", rows))
    assert log.category.tolist() == [0] * 29 + [1]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([2**63 + 9, 2], [2, 2**63 + 9]),
        ([2**70, 2], ["1180591620717411303424", "2"]),
        ([2**60 + 1, 2.0], [2, 2**60 + 1]),
        ([2.0, 3.0], [2, 3]),
        (["a", None], ["a"]),
        (["2019-10-01T00:00:00", "x"], ["2019-10-01T00:00:00", "x"]),
        (["007", "7"], ["007", "7"]),
    ],
)
def test_ids_are_exact(tmp_path, items, expected):
    rows = [{"user": 1, "item": item, "time": k} for k, item in enumerate(items) if item is not None]
    assert read_log(write(tmp_path / "log.jsonl", rows)).items.values.tolist() == expected


def test_numbers_of_two_kinds(tmp_path):
    def times(*values):
        rows = [{"user": 1, "item": 2, "time": value} for value in values]
        return read_log(write(tmp_path / "log.jsonl", rows)).time

    assert times(10, 10.5).tolist() == [10, 10.5]
    assert times(10.5, 10).tolist() == [10, 10.5]
    found = times(2**60 + 1, 5.0)
    assert found.dtype == np.int64 and found.tolist() == [5, 2**60 + 1]
    assert times("2019-10-01 00:00:00 UTC").tolist() == [1569888000]
    with pytest.raises(ValueError, match="line 2: 'time' is '5', expected integers as in line 1"):
        times(4, "5")
    with pytest.raises(ValueError, match="line 2: 'time' is True, expected numbers as in line 1"):
        times(4.5, True)


def test_long_values_and_lines(tmp_path):
    rows = [{"user": 1, "item": k, "time": k, "text": "x" * (3 * CHUNK if k == 1 else 3)} for k in range(3)]
    assert len(read_log(write(tmp_path / "log.jsonl", rows))) == 3
    path = tmp_path / "log.json"
    path.write_text('[{"user": 1, "item": 2, "time": 3}]')
    with pytest.raises(ValueError, match="line 1: expected an object"):
        read_log(path)
    path.write_text('{"user": 1, "item": 2, "time": 3} {"user": 1, "item": 3, "time": 4}\n')
    with pytest.raises(ValueError, match="line 1: not a JSON object on one line"):
        read_log(path)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="it is empty"):
        read_log(path)


def test_text_that_is_cut_within_a_character(tmp_path):
    """Such as a title after so many UTF-16 units: no UTF-8 has it. Columns that are not read may hold it."""
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"user": 1, "item": "a", "time": 1}\n{"user": 1, "item": "b\\ud83d", "time": 2, "title": "\\ud83d"}\n'
    )
    with pytest.raises(ValueError, match=r"log.jsonl': line 2: 'item' is 'b\\ud83d', which is cut within a character"):
        read_log(path)
    path.write_text(path.read_text().replace("b\\ud83d", "b"))
    assert read_log(path).items.values.tolist() == ["a", "b"]


@pytest.mark.parametrize("line", ["3", "[1, 2]", '"text"', "  7", "\r5", "user 1"])
@pytest.mark.parametrize("first", [True, False])
def test_arrow_gets_no_line_that_begins_otherwise_than_an_object(tmp_path, monkeypatch, line, first):
    """Its JSON reader can end the process on top-level values that are no objects."""
    given = []
    read_json = pyarrow.json.read_json
    monkeypatch.setattr(
        pa.json, "read_json", lambda source, *o: given.append(source.getvalue()) or read_json(source, *o)
    )
    rows = ['{"user": 1, "item": 2, "time": 3}', line]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(rows[::-1] if first else rows) + "\n", newline="")
    with pytest.raises(ValueError, match=r"log\.jsonl.*line [123]"):
        read_log(path)
    assert not given
