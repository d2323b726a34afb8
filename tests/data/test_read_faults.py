"""Sources that cannot be read and lines at fault: one error that names the line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.data import read_log
from resemb_ext.testing.strategies import examples


def test_unreadable_sources(tmp_path):
    with pytest.raises(TypeError, match="source is a int, expected a path, a mapping of arrays"):
        read_log(3)
    with pytest.raises(FileNotFoundError, match="no log at"):
        read_log(tmp_path / "none.csv")
    (tmp_path / "log.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"expected a \.parquet, .*\.inter, .* or \.jsonl file"):
        read_log(tmp_path / "log.xlsx")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=r"it is a folder without files of logs; it holds \(none\)"):
        read_log(tmp_path / "folder.csv")
    with pytest.raises(ValueError, match="differ in length"):
        read_log({"user": [1, 2], "item": [1, 2], "time": [1]})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "user,item,ts\n1,2,3\n\n1,2\n", r"line 4: expected 3 columns, found 2 \('1,2'\)"),
        ("a.csv", "user,item,ts\n1,2,3\n1,2,3,4\n", "line 3: expected 3 columns, found 4"),
        ("a.tsv", "user\titem\tts\n1\t2\n", "line 2: expected 3 columns, found 2"),
        ("a.inter", "user_id\titem_id\tts\n", "expected a header such as user_id:token"),
        ("a.inter", "user_id:token\titem_id:token_seq\tts:float\n1\t2 3\t4\n", "a token_seq, exp"),
        ("a.dat", "1::2::3\n", "line 1 has 3 columns, expected 4: user_id::item_id::rating::tim"),
        ("a.dat", "1::2::3::4\n1::2::3\n", "line 2: expected 4 columns, found 3"),
        ("a.dat", "1::2::3::4\n1::2:x:3::4\n", "line 2: expected '::' between columns"),
        ("a.json", '{"user": 1, "item": 2, "ts": 3}\n{"user"\n', "line 2: not a JSON object"),
        ("a.json", '{"user": 1, "item": 2, "ts": 3}\n[1]\n', "line 2: expected an object"),
        (
            "a.json",
            '{"user": 1, "item": 2, "ts": 3}\n{"user": 1, "item": 2, "ts": "x"}\n',
            "line 2: 'ts' is 'x', expected integers as in line 1",
        ),
        ("a.json", '{"user": 1, "item": {"a": 2}, "ts": 3}\n', "line 1: 'item' is {'a': 2}, expected a number or text"),
        (
            "a.json",
            '\n{"user": 1, "item": 2, "ts": 3}\n{"user": 1, "ts": 4}\n',
            "a.json, line 3, column 'item': null item id",
        ),
        ("a.csv.gz", "plain text", "cannot read"),
        ("a.csv", 'user,item,ts\n1,2,3\nx,\n"1\n1",2,3\n1,,4\n', "line 3: expected 3"),
        ("a.csv", 'user,item,ts\n\n"1\n1",2,3\n1,,4\n', "line 5, column 'item': null item id"),
    ],
)
def test_the_line_at_fault_is_named(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_log(path)


def test_lines_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,item,ts\n1,a,3\n1,\xff\xfe,4\n")
    with pytest.raises(ValueError, match="line 3 is not UTF-8 text"):
        read_log(path)


@examples(25)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), min_size=1), st.data())
def test_any_bad_line_is_the_one_named(tmp_path_factory, rows, data):
    at = data.draw(st.integers(0, len(rows)))
    kind = data.draw(st.sampled_from(["", "1.5", "short"]))
    lines = [f"{u},{i},{t}" for u, i, t in rows]
    lines.insert(at, "1,2" if kind == "short" else f"1,{kind},3")
    path = tmp_path_factory.mktemp("bad") / "log.csv"
    path.write_text("user,item,time\n" + "\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"line {at + 2}[:,]"):
        read_log(path)
