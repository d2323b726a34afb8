"""Values in text files as people have them: nulls and words for them, spelled numbers, times and labels."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, read_log, validate
from tests.data.reading import items_of, quietly


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
