"""Text files as people have them: quotes, delimiters, blanks, encodings, nulls, long lines, spelled numbers."""

from __future__ import annotations

import contextlib
import gzip
import resource
import time
import warnings
import weakref

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, delimited, read_log, validate
from resemb_ext.data.layout import layout_of
from resemb_ext.data.lines import CHUNK, LINE_LIMIT, LineStream

ARTISTS = ['"Heroes', "Air", "Beck", '"Low" Band', "Can"]


def plays(artists, delimiter="\t"):
    rows = [
        ["user", "timestamp", "item", "artist"],
        *([f"u{k % 2}", str(k), f"i{k}", a] for k, a in enumerate(artists)),
    ]
    return "".join(delimiter.join(row) + "\n" for row in rows)


def items_of(log):
    return log.items.decode(log.item).tolist()


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_log(*args, **options)


@pytest.mark.parametrize(("suffix", "delimiter"), [("tsv", "\t"), ("csv", ","), ("csv", ";"), ("txt", "|")])
def test_a_stray_quote_takes_no_line_away(tmp_path, suffix, delimiter):
    path = tmp_path / f"plays.{suffix}"
    path.write_text(plays(ARTISTS, delimiter))
    assert len(quietly(path)) == 5
    # As an id, a value keeps its quotes unless they enclose all of it.
    log = quietly(path, item="artist")
    assert set(log.items.values) == {'"Heroes', "Air", "Beck", '"Low" Band', "Can"}


def test_quotes_that_enclose_a_value_are_none_of_it(tmp_path):
    path = tmp_path / "plays.tsv"
    path.write_text(plays(['"Air"', '"say ""no"""', '""""', '"', "Air"]))
    assert items_of(quietly(path, item="artist")) == ["Air", '"', "Air", 'say "no"', '"']
    path.write_text(plays(['"Air\tBand"', "Can"]))  # such a line has too many values unless quotes group
    assert quietly(path, item="artist").items.values.tolist() == ["Air\tBand", "Can"]


def test_rows_of_several_lines_are_said(tmp_path):
    path = tmp_path / "plays.csv"
    path.write_text(plays(['"two\nlines"', '"a, b"', '"x\n\ny"'], ","))
    with pytest.warns(DataWarning, match="2 rows take several lines, .* the first is in lines 2 to 3"):
        log = read_log(path, item="artist")
    assert set(log.items.values) == {"two\nlines", "a, b", "x\n\ny"}
    assert any(finding.name == "quotes" for finding in validate(log).findings)
    path.write_text(plays(['"two\nlines"'], ",").replace("artist", "category").replace("two", "1.5"))
    with pytest.warns(DataWarning):
        log = read_log(path)
    assert len(log.findings) == len(set(log.findings))


def test_quotes_that_may_or_may_not_group_lines_are_said(tmp_path):
    # '"Heroes' to '12"' could be one value with line ends, of a row with the right number of values.
    text = plays(['"Heroes', "Air", "Beck", 'Single 12"', "Can"])
    path = tmp_path / "plays.tsv"
    path.write_text(text)
    with pytest.warns(
        DataWarning, match="a quote in line 2 may open a value that ends in line 5 -> each line is a row"
    ):
        assert len(read_log(path)) == 5
    path = tmp_path / "plays.csv"
    path.write_text(text.replace("\t", ","))
    with pytest.warns(DataWarning, match="1 row takes several lines, .* lines 2 to 5 -> such lines are one row"):
        assert len(read_log(path)) == 2


def test_stray_quotes_beside_grouping_ones_are_refused(tmp_path):
    path = tmp_path / "plays.csv"
    path.write_text(plays(['"Heroes', "Air", '"Low" Band', '"a, b"'], ","))
    with pytest.raises(ValueError, match=r"a quote in line 2 opens a value that goes on to line 4, but .* take it out"):
        read_log(path)
    path.write_text(plays(['"Heroes', "Air", '"a, b"'], ","))
    with pytest.raises(ValueError, match="lines 2 to 4, one quoted value among them: expected 4 columns, found 5"):
        read_log(path)


@pytest.mark.parametrize("shift", range(-3, 4))
def test_a_line_feed_at_the_edge_of_a_block_stays(tmp_path, shift):
    """As apache/arrow#51368: a carriage return and its line feed in different blocks."""
    path = tmp_path / "log.csv"
    head = 'user,item,time,text\r\n1,"a\r\nb",1,"x, y"\r\n'
    begin = '2,"c'
    pad = CHUNK + shift - len(head) - len(begin) - len("0,z,0,\r\n")
    path.write_bytes(f'{head}0,z,0,{"." * pad}\r\n{begin}\r\nd",2,t\r\n'.encode())
    with pytest.warns(DataWarning, match="2 rows take several lines"):
        assert sorted(items_of(read_log(path))) == ["a\r\nb", "c\r\nd", "z"]


def test_long_values(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('user,item,time,text\n1,2,3,"' + "x" * 200_000 + '"\n1,,4,short\n')
    with pytest.raises(ValueError, match=r"reviews.csv, line 3, column 'item': null item id"):
        read_log(path)
    path.write_text("user,item,time,text\n1,2,3," + "x" * 3 * CHUNK + '\n1,3,4,"a, b"\n')
    assert items_of(quietly(path)) == [2, 3]
    path.write_text('user,item,time,text\n1,2,3,"' + "x,\n" * CHUNK + '"\n1,3,4,short\n')
    with pytest.warns(DataWarning, match="1 row takes several lines"):
        assert items_of(read_log(path)) == [2, 3]


@pytest.mark.full
def test_values_beyond_the_limit(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('user,item,time,text\n1,2,3,"a, b"\n1,2,3,"' + "x\n" * LINE_LIMIT + '"\n')
    with pytest.raises(
        ValueError, match="the row that begins in line 3 has a value of more than 32 MiB, or a stray quo"
    ):
        read_log(path)
    path.write_text("user,item,time,text\n1,2,3,a\n1,2,3," + "x" * 2 * LINE_LIMIT + "\n")
    with pytest.raises(ValueError, match="line 3 is longer than 32 MiB"):
        read_log(path)


@pytest.mark.parametrize("name", ["log.csv.gz", "log.jsonl.gz"])
def test_a_line_without_end_is_refused_while_it_is_read(tmp_path, name):
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(0, 4 * LINE_LIMIT, 1 << 22):
            file.write(bytes(1 << 22))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"{name}': line 1 is longer than 32 MiB"):
        read_log(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * LINE_LIMIT >> 10


LAYOUTS = {
    "semi.csv": "user_id;item_id;timestamp\na;b;3\n",
    "tab.csv": "user_id\titem_id\ttime\na\tb\t3\n",
    "bar.csv": "user_id|item_id|time\na|b|3\n",
    "blank.csv": "user_id, item_id, timestamp\na, b, 3\n",
    "blanks.csv": '"user_id" , item_id , timestamp\n "a" , b , 3\n',
    "comma.tsv": "user_id,item_id,time\na,b,3\n",
    "tab.txt": "user_id\titem_id\ttime\na\tb\t3\n",
    "comma.TXT": "user_id,item_id,time\na,b,3\n",
    "blank.txt": "user_id item_id time\na b 3\n",
    "log.data": "user_id\titem_id\ttime\na\tb\t3\n",
    "comma.dat": "user_id,item_id,time\na,b,3\n",
    "named.dat": "user_id::item_id::time\na::b::3\n",
    "doubled.txt": "user_id::item_id::time\na::b::3\n",
    "decimal.csv": "user_id;item_id;timestamp;price\na;b;3;1,50\n",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_delimiters_and_blanks_are_seen(tmp_path, name):
    path = tmp_path / name
    path.write_text(LAYOUTS[name])
    log = quietly(path)
    assert (log.users.values.tolist(), items_of(log), log.time.tolist()) == (["a"], ["b"], [3])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl"])
def test_encodings_are_seen(tmp_path, encoding, name):
    text = '{"user": 1, "item": "é☃", "time": 3}\n' if "json" in name else "user,item,time\n1,é☃,3\n"
    data = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert items_of(quietly(path)) == ["é☃"]


def test_encodings_that_are_damaged(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("user,item,time\n1,2,3\n".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"cannot read '.*log.csv'.*utf-16.*truncated"):
        read_log(path)


def test_a_delimiter_that_is_given(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("user^item^time\na^b^3\n")
    with pytest.raises(ValueError, match=r"has the columns: user\^item\^time; if .* give delimiter= \(--delimiter"):
        read_log(path)
    assert items_of(read_log(path, delimiter="^")) == ["b"]
    path.write_text("user||item||time\na||b||3\n")
    assert items_of(read_log(path, delimiter="||")) == ["b"]
    path.write_text("a\tb\t3\n")
    assert items_of(read_log(path, delimiter=r"\t", header=["user", "item", "time"])) == ["b"]
    for bad in ("", "ab", "::|", '"', "\n", "é"):
        with pytest.raises(ValueError, match="delimiter: expected one ASCII character, or twice the same"):
            read_log(path, delimiter=bad)
    with pytest.raises(ValueError, match="delimiter is for text files"):
        read_log(pd.DataFrame({"user": [1]}), delimiter=",")
    path = tmp_path / "odd.txt"
    path.write_text("1 2 3\t4\n1 2\n")
    with pytest.raises(ValueError, match=r"cannot tell what parts .* '1 2 3\\t4'; give delimiter="):
        read_log(path)
    path = tmp_path / "two.csv"
    path.write_text("user\titem\n1\t2\n")
    assert main(["data", "validate", str(path)]) == 2
    assert r"has the columns: user\titem" in capsys.readouterr().err


def test_dat_files_that_are_not_of_movielens(tmp_path):
    path = tmp_path / "clicks.dat"
    path.write_text("1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:51:10.000Z,214536500,0\n")
    with pytest.raises(ValueError, match="its first line looks like data: name the columns with header="):
        read_log(path)
    log = read_log(path, header=["session", "timestamp", "item", "category"], user="session", session=False)
    assert items_of(log) == [214536502, 214536500]
    assert log.time.tolist() == [1396867869.277, 1396867870.0]


@pytest.mark.parametrize("word", ["NA", "nan", "null", "N/A", "None", "NaN", "#N/A", "-"])
def test_only_an_empty_value_is_null(tmp_path, word):
    frame = pd.DataFrame({"user": [word, "b"], "item": ["x", word], "time": [1, 2], "category": [word, None]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_csv(tmp_path / "log.tsv", index=False, sep="\t", quoting=1)
    frame.to_parquet(tmp_path / "log.parquet")
    frame.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    mapping = pa.Table.from_pandas(frame).to_pydict()
    paths = [tmp_path / f"log.{kind}" for kind in ("csv", "tsv", "parquet", "jsonl")]
    for source in (frame, mapping, pa.table(mapping), *paths):
        log = read_log(source, name="log")
        assert log.content_hash == read_log(frame).content_hash
        assert log.users.values.tolist() == sorted([word, "b"])
        assert log.categories.values.tolist() == [word]


def test_nan_is_a_null_category_of_numbers():
    columns = {"user": [1, 1], "item": [1, 2], "time": [1, 2]}
    for values in (np.array([3.0, np.nan]), [3, None], pa.array([3.0, np.nan])):
        log = read_log(pa.table({**columns, "category": values}))
        assert log.category.tolist() == [1, 0] and log.categories.values.tolist() == [3]


def test_rows_with_nulls_are_dropped_on_demand(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text(
        "user,item,time,category,label\n1,2,3,,1\n,2,4,a,0\n1,,5,a,1\n1,4,6,a,\n1,,,a,1\n2,5,7,b,0\n2,x,8,b,2\n"
    )
    with pytest.raises(ValueError, match=r"line 3, .*null user id; drop_null=True \(--drop-null\) leaves such rows"):
        read_log(path)
    with pytest.raises(ValueError, match=r"line 8, column 'label': label must be 0 or 1 \(2\)"):
        read_log(path, drop_null=True)
    words = r"3 of 7 rows are not whole: 1 without user \('user'\), 2 without item .*, 1 without time"
    with pytest.warns(DataWarning, match=words):
        log = read_log(path, drop_null=True, label=False)
    assert items_of(log) == ["2", "4", "5", "x"]
    frame = pd.DataFrame({"user": [1, None, 2], "item": ["a", "b", ""], "time": [1, 2, 3]})
    with pytest.warns(DataWarning, match="2 of 3 rows"):
        assert items_of(read_log(frame, drop_null=True)) == ["a"]
    with pytest.raises(ValueError, match=r"'user', row 1: null user id; drop_null=True"):
        read_log(frame)
    out = tmp_path / "clean.parquet"
    options = ["--label-column", "-", "--drop-null", "--delimiter", ","]
    assert main(["data", "convert", str(path), *options, "--out", str(out)]) == 0
    assert "3 of 7 rows are not whole" in capsys.readouterr().err
    assert len(read_log(out)) == 4


def test_numbers_that_r_writes(tmp_path):
    path = tmp_path / "log.csv"

    def users(*words):
        path.write_text("user_id,item_id,timestamp\n" + "".join(f"{word},7,{k}\n" for k, word in enumerate(words)))
        return quietly(path).users.values.tolist()

    assert users("2999.0", "3e3", "3001.0") == [2999, 3000, 3001]
    assert users("1e+05", "1E5", "-2.5e1", "7") == [-25, 7, 100000]
    assert users(" 3", "4", "4 ") == [3, 4]
    assert users("2999", "3e3", "x") == ["2999", "3e3", "x"]
    assert users("007", "3e3", "12.0") == ["007", "12.0", "3e3"]
    assert users("1e400", "2") == ["1e400", "2"]
    assert users(str(2**64), "12.0") == ["12", str(2**64)]
    assert users(str(2**64 - 1), "12.0") == [12, 2**64 - 1]
    with pytest.raises(ValueError, match=r"line 3, column 'user_id': fractional user id \('1e-3'\)"):
        users("1", "1e-3")
    path.write_text("user_id,item_id,timestamp\n1.23456789012346e+18,7,1\n5,7,2\n")
    with pytest.warns(DataWarning, match="rounded ids: user ids of column 'user_id' such as '1.23456789012346e.18'"):
        assert read_log(path).users.values.tolist() == ["1.23456789012346e+18", "5"]


@pytest.mark.parametrize(
    ("word", "number", "said"),
    [
        ("1.23457e+06", 1234570, True),  # C++
        ("1.23457E+11", 123457000000, True),  # Excel
        ("1e+05", 100000, False),  # R, where 100001 is 100001
        ("1.234568E7", 12345680, False),  # Java
        ("1.234567e+06", 1234567, False),
        ("1E+00", 1, False),
    ],
)
def test_numbers_that_may_have_lost_digits_are_said(tmp_path, word, number, said):
    """Ids and times of one spelling may have been several."""
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,timestamp\n1,{word},{word}\n1,7,8\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = read_log(path)
    shown = [str(warning.message) for warning in caught]
    assert set(log.items.values) == {7, number} and set(log.time) == {8, number}
    assert [sum(f"rounded {what}" in line and word in line for line in shown) for what in ("ids", "times")] == [
        said
    ] * 2


@pytest.mark.parametrize("word", ["NULL", r"\N", "nan", "NaT", "NA", "None", " "])
@pytest.mark.parametrize("field", ["timestamp", "label"])
def test_words_for_nulls_are_no_times_or_labels(tmp_path, word, field):
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [2, 3], "timestamp": ["4", "5"], "label": ["1", "0"]})
    frame.loc[1, field] = word
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet")
    for source in (frame, tmp_path / "log.csv", tmp_path / "log.parquet"):
        with pytest.raises(ValueError, match=rf"column '{field}'.* null .*drop_null=True"):
            read_log(source)
        with pytest.warns(DataWarning, match="1 of 2 rows are not whole"):
            assert len(read_log(source, drop_null=True)) == 1


def test_blanks_around_ids_are_said(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n a,x,1\na,y,2\n")
    with pytest.warns(DataWarning, match="1 user ids of column 'user' begin or end with a blank, the first is ' a'"):
        assert read_log(path).users.values.tolist() == [" a", "a"]


@pytest.mark.parametrize(
    "word",
    [
        "2019-10-01 00:00:04 UTC",
        "2019-10-01 00:00:04.000 UTC",
        "2019-10-01 00:00:04Z",
        "2019-10-01T00:00:04Z",
        "2019-10-01T00:00:04 GMT",
        "2019-10-01T00:00:04+00:00",
        "2019-10-01 02:00:04 +0200",
        "2019-10-01 02:00:04+02",
        "2019/10/01 00:00:04",
        "1569888004",
        "1569888004.0",
        "1.569888004e9",
        " 1569888004",
    ],
)
def test_times_as_warehouses_write_them(tmp_path, word):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,time\n1,2,{word}\n")
    assert read_log(path).time.tolist() == [1569888004]
    assert read_log({"user": [1], "item": [2], "time": [word]}).time.tolist() == [1569888004]


def test_times_are_read_exactly(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,time\n1,2,{2**60 + 1}.0\n1,2,5\n")
    assert read_log(path).time.tolist() == [5, 2**60 + 1]
    path.write_text("user,item,time\n1,2,0x1F\n")
    with pytest.raises(ValueError, match="line 2, column 'time': time is neither a number nor ISO 8601"):
        read_log(path)


def test_labels_as_text(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time,label\n1,2,1,1.0\n1,2,2,0\n1,2,3,True\n1,2,4,false\n")
    assert read_log(path).label.tolist() == [1, 0, 1, 0]
    path.write_text("user,item,time,label\n1,2,1,1\n1,2,2,yes\n")
    with pytest.raises(ValueError, match=r"line 3, column 'label': label must be 0 or 1 \('yes'\)"):
        read_log(path)


def test_other_line_ends(tmp_path):
    path = tmp_path / "log.csv"
    for end in ("\r", "\r\n"):
        path.write_bytes(f"user,item,time{end}1,2,3{end}{end}1,4,5".encode().replace(b"\n", b"\n"))
        assert items_of(quietly(path)) == [2, 4]
        path.write_bytes(f"user,item,time{end}1,2,3{end}1,,5{end}".encode())
        with pytest.raises(ValueError, match=r"log.csv, line 3, column 'item'"):
            read_log(path)
    path.write_text("user,item,time\n1,a\x0cb,3\n1,,4\n")  # a form feed ends no line
    with pytest.raises(ValueError, match=r"log.csv, line 3, column 'item'"):
        read_log(path)


def test_a_header_line_alone(tmp_path):
    path = tmp_path / "log.csv"
    for rest in ("", "\n", "\n\n\n"):
        path.write_text("user,item,time" + rest)
        with pytest.raises(ValueError, match="'log' has no rows"):
            read_log(path)


def test_words_for_nulls_are_said(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n1,NA,1\n2,3,2\n")
    with pytest.warns(
        DataWarning, match="words for nulls: 1 item ids of column 'item' are words such as 'NA', all oth"
    ):
        assert read_log(path).items.values.tolist() == ["3", "NA"]
    path.write_text("user,item,time\n1,\\N,1\n2,x,2\n")
    log = quietly(path)
    assert [(f.name, f.level) for f in log.findings] == [("words for nulls", "note")]
    assert any(finding.name == "words for nulls" for finding in validate(log).findings)


def test_a_first_line_that_names_the_delimiter(tmp_path):
    path = tmp_path / "log.csv"
    for first in ("sep=;", '"sep=;"'):
        path.write_text(f"{first}\nuser;item;time\na, b;c;3\na;;4\n")
        assert items_of(read_log(path, where={"time": 3})) == ["c"]
        with pytest.raises(ValueError, match=r"log.csv, line 4, column 'item'"):
            read_log(path)
    path.write_text("sep=;\na;b;3\na;d;4\n")
    assert items_of(quietly(path, header=["user", "item", "time"])) == ["b", "d"]


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (gzip.compress(b"user,item,time\n1,2,3\n", mtime=0), r"it is compressed; its name must end in \.gz"),
        (b"PK\x03\x04x", "it is a zip file or a workbook; unpack it"),
        (b"PAR1xxxxPAR1", r"it is a Parquet file; its name must end in \.parquet"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_files_that_are_no_text(tmp_path, begin, words, suffix):
    path = tmp_path / f"log.{suffix}"
    path.write_bytes(begin)
    with pytest.raises(ValueError, match=words):
        read_log(path)


def test_arrow_lets_go_of_what_it_reads_before_reading_ends(tmp_path, monkeypatch):
    """A thread of Arrow's that holds a Python file when the interpreter ends would abort the process."""
    gone = []

    class Watched(LineStream):
        def __init__(self, *args):
            super().__init__(*args)
            weakref.finalize(self, gone.append, True)

    monkeypatch.setattr(delimited, "LineStream", Watched)
    path = tmp_path / "log.csv"
    for k, text in enumerate(["1,2,3\n" * 999, '1,"2\n3",3\n', "1,2\n"]):
        path.write_text("user_id,item_id,timestamp\n" + text)
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("ignore")
            read_log(path)
        assert len(gone) > k


def test_a_reader_that_stops_in_between_lets_go_at_once(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n" + "1,2,3\n" * 9999)
    waits = []
    for _ in range(5):  # a loaded machine may delay some
        batches = delimited.Delimited(path, layout_of(path, ".csv", None, None)).batches(10, 1 << 12)
        next(batches)
        begin = time.monotonic()
        batches.close()
        waits.append(time.monotonic() - begin)
    assert min(waits) < 0.5
