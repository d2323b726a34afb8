"""Text files as people have them: quotes, delimiters, blanks, encodings, long lines, other line ends."""

from __future__ import annotations

import contextlib
import gzip
import resource
import time
import warnings
import weakref

import pandas as pd
import pytest

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, delimited, read_log, validate
from resemb_ext.data.layout import layout_of
from resemb_ext.data.lines import CHUNK, LINE_LIMIT, LineStream
from tests.data.reading import items_of, quietly

ARTISTS = ['"Heroes', "Air", "Beck", '"Low" Band', "Can"]


def plays(artists, delimiter="\t"):
    rows = [
        ["user", "timestamp", "item", "artist"],
        *([f"u{k % 2}", str(k), f"i{k}", a] for k, a in enumerate(artists)),
    ]
    return "".join(delimiter.join(row) + "\n" for row in rows)


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
