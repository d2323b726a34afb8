"""How histories join their ids is found in the histories, or refused; never assumed."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.data import DataWarning, read_ready_made
from resemb_ext.testing.strategies import examples

# How a history is written, by a name for it.
FORMS = {
    "^": "^".join,
    " ": " ".join,
    "blanks": "  ".join,
    ",": ",".join,
    ", ": ", ".join,
    "|": "|".join,
    ";": ";".join,
    "tab": "\t".join,
    "#": "#".join,
    "control": "\x01".join,
    "json": json.dumps,
    "json integers": lambda words: json.dumps([int(w) if w.isdigit() and w != "007" else w for w in words]),
    "python": lambda words: str(list(words)),
    "tuple": lambda words: str(tuple(words)) if words else "",
    "numpy": lambda words: str(np.array([int(w) for w in words])) if all(w.isdigit() for w in words) else str(words),
    "scalars": lambda words: str(list(np.array(words))),
    "bare": lambda words: f"[{', '.join(words)}]",
    "list": list,
}


def write(folder, rows, form="^", kind=None):
    """A folder of train, valid and test with rows of (label, user, item, history)."""
    folder.mkdir(exist_ok=True)
    for part in ("train", "valid", "test"):
        mine = [(label, user, item, FORMS[form](history)) for label, user, item, history in rows]
        frame = pd.DataFrame(mine, columns=["label", "user_id", "item_id", "item_history"])
        if kind == "parquet" or form == "list":
            frame.to_parquet(folder / f"{part}.parquet")
        else:
            frame.to_csv(folder / f"{part}.csv", index=False)
    return folder


def rows_of(words, histories):
    """Rows whose targets are all ``words``, of both classes."""
    targets = [*words, *words][: max(len(words), 2)]
    many = -(-max(len(targets), len(histories)) // 2) * 2
    return [
        (k % 2, f"u{k % 3}", targets[k % len(targets)], histories[k % len(histories)] if histories else [])
        for k in range(many)
    ]


def decoded(split):
    samples, items = split.samples["train"], split.log.items
    return [
        [str(item) for item in items.decode(samples.history_items[low:high])]
        for low, high in zip(samples.start, samples.end, strict=True)
    ]


INTEGERS = [str(k) for k in (3, 14, 159, 26, 5)]
CODES = ["B00A", "b-1", "x_7", "007", "C.4"]
TITLES = ["Toy Story", "Heat", "Jumanji", "Casino"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", [INTEGERS, CODES], ids=["integers", "codes"])
def test_every_form_reads_alike(tmp_path, words, form):
    rng = np.random.default_rng(0)
    histories = [rng.permutation(words)[: 1 + k % len(words)].tolist() for k in range(12)] + [[]]
    rows = rows_of(words, histories)
    split = read_ready_made(write(tmp_path / "set", rows, form), max_history=9)
    assert decoded(split) == [history for *_, history in rows]
    assert len(split.log.items) == len(words)
    plain = read_ready_made(write(tmp_path / "plain", rows), max_history=9)
    assert split.hash == plain.hash
    said = {"blanks": "' '", ", ": "','", "tab": r"'\t'", "control": r"'\x01'", "list": "lists"}.get(form, repr(form))
    said = (
        "lists in brackets"
        if form in ("json", "json integers", "python", "tuple", "numpy", "scalars", "bare")
        else said
    )
    assert f"history 'item_history' ({said if 'list' in said else 'ids joined by ' + said})" in split.log.columns_line


plain_words = st.sampled_from([INTEGERS, CODES, ["a", "b", "c"], ["-5", "7", "12"]])


@pytest.mark.hypothesis
@given(plain_words, st.data())
@examples(40)
def test_forms_read_alike(tmp_path_factory, words, data):
    several = st.lists(st.sampled_from(words), min_size=2, max_size=5)
    histories = data.draw(st.lists(several, min_size=3, max_size=8))
    form = data.draw(st.sampled_from([name for name in FORMS if name != "numpy"]))
    rows = rows_of(words, histories)
    folder = write(tmp_path_factory.mktemp("set"), rows, form)
    assert decoded(read_ready_made(folder)) == [history for *_, history in rows]


def test_ids_that_hold_separators_stay_whole(tmp_path):
    histories = [["Toy Story", "Heat"], ["Jumanji", "Toy Story"], ["Casino"], ["Toy Story"]]
    split = read_ready_made(write(tmp_path / "bars", rows_of(TITLES, histories), "|"))
    assert decoded(split)[:4] == histories
    single = [["Toy Story"], ["Heat"], ["Casino"]]
    split = read_ready_made(write(tmp_path / "single", rows_of(TITLES, single), "|"))
    assert decoded(split)[:3] == single and "one id each" in split.log.columns_line
    with pytest.raises(ValueError, match="never a target; histories were read as one id each: name what parts"):
        read_ready_made(write(tmp_path / "blanks", rows_of(TITLES, histories[:2]), " "))
    # A comma that only a history has: is it one id, or two?
    towns = ["Paris", "Texas", "Rome"]
    folder = write(tmp_path / "towns", rows_of(towns, [["Rome", "Paris"], ["Paris, Texas", "Rome"], ["Texas", "Rome"]]))
    with pytest.raises(ValueError, match=r"line 3.*by '\^', but 'Paris, Texas' looks like ids joined by ','"):
        read_ready_made(folder)
    split = read_ready_made(folder, history_separator="^")
    assert decoded(split)[1] == ["Paris, Texas", "Rome"]


@pytest.mark.parametrize(
    ("words", "bad", "fault"),
    [
        (INTEGERS, "3,14", r"test.csv, line 2, column 'item_history': '3,14' in a history is no integer"),
        (INTEGERS, "007", "'007' in a history is no integer"),
        (INTEGERS, "B7", "'B7' in a history is no integer"),
        (CODES, "B00A|b-1", r"test.csv, line 2.*joined by '\^', but 'B00A\|b-1' looks like ids joined by '\|'"),
        (CODES, "['B00A', 'b-1']", "joined by '\\^', but \"\\['B00A', 'b-1'\\]\" looks like lists in brackets"),
    ],
)
def test_one_separator_over_all_parts(tmp_path, words, bad, fault):
    folder = write(tmp_path / "set", rows_of(words, [words[:2], words[1:4]]))
    frame = pd.read_csv(folder / "test.csv", dtype=str)
    frame.loc[0, "item_history"] = bad
    frame.to_csv(folder / "test.csv", index=False)
    with pytest.raises(ValueError, match=fault):
        read_ready_made(folder)


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ("3->14->159", "'3->14->159' in a history is no integer"),
        ("array([3, 14])", "is no integer"),
        ("[3 14 ... 5]", r"'\.\.\.' in a history is no integer"),
        ("[[3, 14], [5]]", "is no integer"),
        ("[3, 14, None]", "'None' in a history is no integer"),
        ("['3' '14']", "as NumPy prints them"),
        ('["3", null]', "holds None, expected ids"),
        ("{3, 14}", "is no integer"),
        ("3^^14", "empty id in a history"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, history, fault):
    folder = write(tmp_path / "set", rows_of(INTEGERS, [INTEGERS]))
    for part in ("train", "valid", "test"):
        pd.read_csv(folder / f"{part}.csv").assign(item_history=history).to_csv(folder / f"{part}.csv", index=False)
    with pytest.raises(ValueError, match=fault):
        read_ready_made(folder)


@pytest.mark.full
def test_the_command_line(tmp_path, capsys):
    folder = write(tmp_path / "set", rows_of(INTEGERS, [INTEGERS[:3]]), "|")
    command = ["train", "--data", str(folder), "--epochs", "1", "--dim", "4", "--threads", "1", "--embedding", "plain"]
    assert main([*command, "--history-separator", ",", "--out", str(tmp_path / "no")]) == 2
    assert "'3|14|159' in a history is no integer" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    for part in ("train", "valid", "test"):
        frame = pd.read_csv(folder / f"{part}.csv")
        frame.assign(cate_id=1).to_csv(folder / f"{part}.csv", index=False)
    command += ["--metric", "auc"]
    assert main([*command, "--category", "--out", str(tmp_path / "no")]) == 2
    assert "'cate_id' has no history column" in capsys.readouterr().err.splitlines()[-1]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "warning: set: category: " in said and "history 'item_history' (ids joined by '|')" in said


def test_a_separator_that_is_named(tmp_path):
    rows = rows_of(INTEGERS, [INTEGERS[:3]])
    folder = write(tmp_path / "set", rows, "|")
    with pytest.raises(ValueError, match=r"'3\|14\|159' in a history is no integer"):
        read_ready_made(folder, history_separator=",")
    with pytest.raises(ValueError, match="must not be empty"):
        read_ready_made(folder, history_separator="")
    tabs = write(tmp_path / "tabs", rows, "tab")
    for separator in (r"\t", "\t"):
        assert decoded(read_ready_made(tabs, history_separator=separator)) == [history for *_, history in rows]
    arrows = tmp_path / "arrows"
    write(arrows, rows)
    for part in ("train", "valid", "test"):
        path = arrows / f"{part}.csv"
        path.write_text(path.read_text().replace("^", "->"))
    with pytest.raises(ValueError, match="history_separator="):
        read_ready_made(arrows)
    assert decoded(read_ready_made(arrows, history_separator="->")) == [history for *_, history in rows]
    # Ids that histories alone have are kept where the user says so.
    folder = write(tmp_path / "codes", rows_of(CODES, [["new1", "new2"]]))
    with pytest.raises(ValueError, match="never a target"):
        read_ready_made(folder)
    with pytest.warns(DataWarning, match="6 of 6 ids in histories, such as 'new1', are never a target"):
        split = read_ready_made(folder, history_separator="^")
    assert decoded(split)[0] == ["new1", "new2"]


def test_option_is_for_ready_made_samples(tmp_path, capsys):
    assert main(["train", "--history-separator", "|"]) == 2
    assert "history_separator is for folders of ready-made samples" in capsys.readouterr().err


def test_lists_in_parquet(tmp_path):
    rows = rows_of(INTEGERS, [INTEGERS[:2]])
    folder = write(tmp_path / "set", rows, "list")
    for history, fault in (
        ([1.5, 2.0], "fractional id in a history"),
        ([1, None], "null id in a history"),
        (["a", ""], "empty id in a history"),
    ):
        frame = pd.read_parquet(folder / "test.parquet")
        frame["item_history"] = [history] * len(frame)
        pa.parquet.write_table(pa.Table.from_pandas(frame), folder / "test.parquet")
        with pytest.raises(ValueError, match=f"test.parquet, row 0, column 'item_history': {fault}"):
            read_ready_made(folder)
    frame["item_history"] = [[3.0, 14.0]] * len(frame)  # integers of a column that had gaps
    frame.to_parquet(folder / "test.parquet")
    assert len(read_ready_made(folder).log.items) == len(INTEGERS)


def test_a_guessed_category_stops_nothing(tmp_path):
    rows = rows_of(INTEGERS, [INTEGERS[:2]])
    folder = write(tmp_path / "set", rows)
    for change, fault in (
        ({"cate_id": 1}, "'cate_id' has no history column"),
        ({"cate_id": 0.5, "cate_history": "1^2"}, "fractional category id"),
        ({"cate_id": 1, "cate_history": "1^2^3"}, "3 entries, but 2 items in the history"),
    ):
        for part in ("train", "valid", "test"):
            frame = pd.read_csv(folder / f"{part}.csv")[["label", "user_id", "item_id", "item_history"]]
            frame.assign(**change).to_csv(folder / f"{part}.csv", index=False)
        with pytest.warns(DataWarning, match=f"category: .*{fault}.* -> guessed, so it is left out"):
            split = read_ready_made(folder)
        assert split.log.categories is None and "category" not in split.log.columns
        with pytest.raises((ValueError, TypeError), match=fault):
            read_ready_made(folder, category="cate_id")


@pytest.mark.parametrize("of_items", ["^", "list"])
@pytest.mark.parametrize("of_categories", ["|", "json", "list"])
def test_categories_may_be_joined_otherwise(tmp_path, of_items, of_categories):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = rows_of(INTEGERS, [INTEGERS[:3], INTEGERS[1:], []])
    for part in ("train", "valid", "test"):
        frame = pd.DataFrame(
            {
                "label": [row[0] for row in rows],
                "user_id": [row[1] for row in rows],
                "item_id": [row[2] for row in rows],
                "cate_id": [f"c{int(row[2]) % 3}" for row in rows],
                "item_history": [FORMS[of_items](row[3]) for row in rows],
                "cate_history": [FORMS[of_categories]([f"c{int(item) % 3}" for item in row[3]]) for row in rows],
            }
        )
        frame.to_parquet(folder / f"{part}.parquet")
    log = read_ready_made(folder, category="cate_id").log
    names = log.categories.decode(log.item_category[log.item])
    assert names.tolist() == [f"c{int(item) % 3}" for item in log.items.decode(log.item)]


def test_lists_in_json_lines(tmp_path):
    rows = rows_of(INTEGERS, [[3, 14], [159], []])
    write(tmp_path / "plain", [(*row[:3], list(map(str, row[3]))) for row in rows])
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        lines = [
            json.dumps({"label": label, "user_id": user, "item_id": int(item), "item_history": history})
            for label, user, item, history in rows
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    assert read_ready_made(folder).hash == read_ready_made(tmp_path / "plain").hash
    lines[3] = lines[3].replace('"item_history": [', '"item_history": ["a", ')
    (folder / "test.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="lists of no one type"):
        read_ready_made(folder)


def test_blanks_around_targets_are_said(tmp_path):
    folder = write(tmp_path / "set", rows_of(["a", "c", "b "], [["a", "c"]]))
    with pytest.warns(DataWarning, match="begin or end with a blank, the first is 'b '"):
        read_ready_made(folder)


@pytest.mark.parametrize("form", ["^", "list"])
def test_padding_is_said(tmp_path, form):
    padded = [["0", "0", "3"], ["0", "14", "5"], ["3", "14", "5"]]
    for name, histories, side in (
        ("front", padded, "starts"),
        ("back", [history[::-1] for history in padded], "ends"),
        ("within", [["3", "0", "5"], *padded], None),
        ("rare", [["0", *INTEGERS * 9]], None),
    ):
        folder = write(tmp_path / name, rows_of(INTEGERS, histories), form)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            read_ready_made(folder)
        said = [str(one.message) for one in seen if issubclass(one.category, DataWarning)]
        assert [f"id '0' is never a target and fills the {side} of histories" in text for text in said] == [True] * (
            side is not None
        )
    folder = write(tmp_path / "target", rows_of(["0", *INTEGERS], padded), form)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_ready_made(folder)


def test_signs_and_words_between_ids_are_no_ids(tmp_path):
    words = ["item1", "item2", "item3"]
    for name, sign, fault in (
        ("arrow", " -> ", "'->' in a history is no id; histories were read as ids joined by ' '"),
        ("word", " and ", "'and' is never a target, but 12 of 33 ids in histories"),
    ):
        folder = write(tmp_path / name, rows_of(words, [words[:2], words, words[1:]]))
        for part in ("train", "valid", "test"):
            path = folder / f"{part}.csv"
            path.write_text(path.read_text().replace("^", sign))
        with pytest.raises(ValueError, match=fault):
            read_ready_made(folder)
        assert decoded(read_ready_made(folder, history_separator=sign))[1] == words


@pytest.mark.parametrize("words", [INTEGERS, CODES], ids=["integers", "codes"])
def test_doubled_signs(tmp_path, words):
    rows = rows_of(words, [words[:2], words[1:], words[:1]])
    folder = write(tmp_path / "set", rows)
    for part in ("train", "valid", "test"):
        path = folder / f"{part}.csv"
        path.write_text(path.read_text().replace("^", "::"))
    split = read_ready_made(folder)
    assert decoded(split) == [history for *_, history in rows] and "joined by '::'" in split.log.columns_line


@pytest.mark.parametrize("words", [INTEGERS, CODES], ids=["integers", "codes"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_history_that_is_spelled(tmp_path, words, kind):
    rows = rows_of(words, [words[:3], ["None"], words[1:], ["<NA>"], words[:1]])
    folder = write(tmp_path / "set", rows, kind=kind)
    with pytest.warns(DataWarning, match="no history: 6 histories spell a missing value, as nan and None are"):
        split = read_ready_made(folder)
    assert decoded(split) == [[] if history[0] in ("None", "<NA>") else history for *_, history in rows]
    assert len(split.log.items) == len(words)
    named = rows_of([*words, "None"], [["None"], words])
    assert decoded(read_ready_made(write(tmp_path / "named", named, kind="parquet")))[0] == ["None"]
