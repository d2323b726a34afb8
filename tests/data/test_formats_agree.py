"""The same rows, written in every format in any way that the format has, read as the same log."""

from __future__ import annotations

import csv
import gzip
import io
import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resemb_ext.data import DataWarning, delimited, json_lines, read_log
from resemb_ext.data import lines as lines_of_files
from resemb_ext.testing.strategies import examples

NAMES = ["user_id", "item_id", "timestamp", "category", "label"]
LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
# What parsers stumble over: quotes, delimiters, blanks, line ends, words for nulls, numbers, escapes.
ODD = st.sampled_from(
    ["NA", "null", "nan", "None", '"', '""', "'", '"a"', 'a"', '"a', "\\", "\\n", " a", "a ", "#", "é☃"]
)
ODD_NUMBERS = st.sampled_from(["1.5", "1e5", "007", "-0", "+1", "0x1F", "1_000", "inf", "true", "2019-10-01", "1,5"])
GROUPED = st.sampled_from(["a,b", "a;b", "a\tb", "a|b", "a,,b", '",', '"\t"', "a::b", ","])
BROKEN = st.sampled_from(["a\nb", "a\r\nb", "\n", '"\n"', "a,\nb", "\r", 'x"\r\n"y', "a\n\n"])
WORDS = st.text(LETTERS.filter(lambda c: c not in "\r\n"), min_size=1, max_size=4) | ODD | ODD_NUMBERS | GROUPED
INTEGERS = st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53 + 1, -1, 10**15])

# Bytes read at a time: files are as a rule longer than what is read at once.
CHUNKS = st.sampled_from([1 << 20, 13, 40, 5])


@st.composite
def logs(draw, words):
    count = draw(st.integers(1, 6))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    def ids():
        if draw(st.booleans()):
            return column(draw(st.sampled_from([INTEGERS, st.integers(0, 2**64 - 1)])))
        # One word keeps the column of a text file text.
        return [*column(words)[1:], "word"]

    times = column(st.integers(-(2**62), 2**62)) if draw(st.booleans()) else column(st.floats(-(2.0**53), 2.0**53))
    category = [value or None for value in column(words | st.none())]
    category[-1] = "word"
    return {
        "user_id": ids(),
        "item_id": ids(),
        "timestamp": times,
        "category": category,
        "label": column(st.integers(0, 1)),
    }


def rows_of(log):
    return [list(row) for row in zip(*log.values(), strict=True)]


def as_text(log, delimiter, quoting=csv.QUOTE_MINIMAL, end="\n"):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([NAMES, *(["" if value is None else value for value in row] for row in rows_of(log))])
    return out.getvalue()


def types_of(log):
    wide = {name for name in ("user_id", "item_id") if any(isinstance(v, int) and v >= 2**63 for v in log[name])}
    return {name: pa.array(values, pa.uint64() if name in wide else None) for name, values in log.items()}


def by_kind(folder, log, lines):
    """A log in every format; formats without rows of several lines are left out where ``lines``."""
    text = {}
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC):
        # Python's writer quotes a carriage return only where lines end with one.
        text[f"{quoting}.csv"] = as_text(log, ",", quoting, "\r\n" if lines else "\n")
        text[f"semicolon{quoting}.csv"] = as_text(log, ";", quoting, "\r\n")
        if not lines:
            text[f"{quoting}.tsv"] = as_text(log, "\t", quoting)
            text[f"bar{quoting}.txt"] = as_text(log, "|", quoting, "\r\n")
    objects = [dict(zip(NAMES, row, strict=True)) for row in rows_of(log)]
    text["all.jsonl"] = "".join(json.dumps(row) + "\n" for row in objects)
    given = [{name: value for name, value in row.items() if value is not None} for row in objects]
    text["some.json"] = "\n".join(json.dumps(row, ensure_ascii=False) for row in given)
    for name, content in text.items():
        (folder / name).write_text(content, newline="", encoding="utf-8")
        yield folder / name
    (folder / "wide.csv").write_bytes(text["0.csv"].encode("utf-16"))
    (folder / "small.csv.gz").write_bytes(gzip.compress(text["0.csv"].encode("utf-8-sig")))
    yield from (folder / "wide.csv", folder / "small.csv.gz")
    table = pa.table(types_of(log))
    pq.write_table(table, folder / "log.parquet")
    yield folder / "log.parquet"
    parts = folder / "parts"
    parts.mkdir()
    for k in range(len(table)):
        pq.write_table(table.slice(k, 1), parts / f"part-{k}.parquet")
    yield parts
    yield table
    yield log
    yield table.to_pandas() if not any(column.null_count for column in table.columns) else table


def check(folder, log, chunk, lines=False):
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        for module in (lines_of_files, delimited, json_lines):
            patch.setattr(module, "CHUNK", chunk)
        warnings.simplefilter("ignore", DataWarning)
        expected = read_log(pa.table(types_of(log)))
        for source in by_kind(folder, log, lines):
            found = read_log(source)
            assert found.content_hash == expected.content_hash, source
            assert found.categories.values.tolist() == expected.categories.values.tolist()


@examples(60)
@given(logs(WORDS), CHUNKS)
def test_rows_of_one_line(tmp_path_factory, log, chunk):
    check(tmp_path_factory.mktemp("log"), log, chunk)


@examples(60)
@given(logs(WORDS | BROKEN), CHUNKS)
def test_rows_of_several_lines(tmp_path_factory, log, chunk):
    check(tmp_path_factory.mktemp("log"), log, chunk, lines=True)


def spellings(number):
    """Ways to write an integer."""
    mantissa, exponent = f"{number:.30e}".split("e")
    floats = [f"{number}.0", f"{number}.", f" {number}", f"{number} "]
    if abs(number) <= 2**53:
        digits = mantissa.rstrip("0").rstrip(".")
        floats += [f"{digits}e{int(exponent)}", f"{digits}E+{int(exponent):02}"]
    return st.sampled_from([str(number), *floats])


@examples(100)
@given(st.lists(INTEGERS, min_size=1, max_size=5), st.data())
def test_integers_however_they_are_spelled(tmp_path_factory, numbers, data):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    words = [data.draw(spellings(number)) for number in numbers]
    path.write_text("user,item,time\n" + "".join(f"u,{word},{k}\n" for k, word in enumerate(words)))
    log = read_log(path)
    assert log.items.decode(log.item).tolist() == numbers


@examples(100)
@given(st.lists(st.lists(WORDS | BROKEN, min_size=4, max_size=4), min_size=1, max_size=6), st.sampled_from(",\t;|"))
def test_a_file_without_quoting_loses_no_line(tmp_path_factory, rows, delimiter):
    """Values as they stand, quotes and all, in files whose writer knows no quotes."""
    clean = str.maketrans({c: "_" for c in "\r\n" + delimiter})
    lines = [[f"u{k}", *(word.translate(clean) for word in row)] for k, row in enumerate(rows)]
    path = tmp_path_factory.mktemp("log") / ("log.csv" if delimiter in ",;" else "log.tsv")
    named = [["user", "item", "time", "x", "y"], *([u, f"i{k}", str(k), x, y] for k, (u, x, y, *_) in enumerate(lines))]
    path.write_text("".join(delimiter.join(row) + "\n" for row in named), newline="", encoding="utf-8")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            log = read_log(path)
        except ValueError as error:
            assert "quote" in str(error) and "line" in str(error)
            return
    if len(log) < len(rows):
        assert any("take" in str(warning.message) and "lines" in str(warning.message) for warning in said)
    elif delimiter in "\t|":
        assert log.users.decode(log.user).tolist() == [line[0] for line in lines]


@examples(100)
@given(st.lists(st.sampled_from(["a", "", "1", "x y"]), min_size=9, max_size=9), st.sampled_from([" ", "  "]))
def test_blanks_after_delimiters_are_none_of_the_values(tmp_path_factory, words, blanks):
    assume(all(words[k] for k in (0, 3, 6)))
    table = np.array(words).reshape(3, 3)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    rows = [["user", "item", "category", "time"], *([u, f"i{i}", c, str(k)] for k, (u, i, c) in enumerate(table))]
    path.write_text("".join(f",{blanks}".join(row) + "\n" for row in rows))
    log = read_log(path)
    assert log.items.decode(log.item[np.argsort(log.time)]).tolist() == [f"i{i}" for i in table[:, 1]]
    assert log.num_categories == len({c for c in table[:, 2] if c}) + 2


@pytest.mark.full
@examples(200)
@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "txt", "dat", "inter", "jsonl", "parquet", "csv.gz"]))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("log") / f"log.{suffix}"
    for start in (b"", b"user,item,time\n", b'{"user": 1, "item": 2, "time": 3}\n', b'"user"\titem\ttime\n"a\tb\t1\n'):
        path.write_bytes(start + content)
        try:
            read_log(path)
        except (ValueError, TypeError) as error:
            assert len(str(error).splitlines()) == 1
