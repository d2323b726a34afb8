"""resemb predict: a saved run scores files of (history, target) rows."""

import functools
import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.serving import SavedModel, batches, score_file
from resemb_ext.testing.strategies import examples
from resemb_ext.train.prepare import prepare
from tests.serving.conftest import SMALL


@functools.cache
def rows_of(folder):
    """The test rows of a run as raw (history, target) rows, with the logits it wrote."""
    prepared = prepare(rx.train.saved_config(folder))
    samples, items = prepared.test, prepared.log.items
    # Whole histories: cutting them to max_history is the scorer's job.
    first = prepared.log.user_start[samples.user]
    history = [items.decode(samples.history_items[a:b]).tolist() for a, b in zip(first, samples.end, strict=True)]
    scores = pd.read_parquet(folder / "test_scores.parquet")
    return pa.table(
        {"row": np.arange(len(samples)), "history": history, "target": items.decode(samples.target)}
    ), scores


def joined(table, separator="^"):
    text = [separator.join(map(str, row)) for row in table["history"].to_pylist()]
    return table.set_column(1, "history", pa.array(text))


@pytest.mark.parametrize("arm", ["plain", "res"])
@pytest.mark.parametrize("kind", ["text", "integers"])
def test_scores_are_those_of_the_run(runs, tmp_path, monkeypatch, kind, arm):
    monkeypatch.setattr(batches, "BATCH_ROWS", 1000)  # several batches
    done = runs[kind]
    table, scores = rows_of(done.folder)
    assert max(map(len, table["history"].to_pylist())) > SMALL["max_history"]
    saved = SavedModel.load(done.folder, arm, 0)
    pq.write_table(table, tmp_path / "rows.parquet")
    pa.csv.write_csv(joined(table, "|"), tmp_path / "rows.csv")
    expected = scores[f"{arm}_seed0"].to_numpy()
    for source in ("rows.parquet", "rows.csv"):
        for out in ("out.parquet", "out.csv"):
            counts = score_file(saved, tmp_path / source, tmp_path / out, separator="|")
            read = pd.read_parquet if out.endswith("parquet") else pd.read_csv
            found = read(tmp_path / out)
            assert list(found) == ["row", "history", "target", "logit", "probability"]
            assert found.row.astype(int).tolist() == list(range(len(expected)))
            np.testing.assert_allclose(found.logit, expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-expected)), rtol=1e-4)
            assert counts.rows == len(expected) and counts.target.unknown == 0


@pytest.mark.parametrize("column", ["history", "target"])
@pytest.mark.parametrize("lists", [True, False], ids=["lists", "text"])
def test_a_bad_row_of_a_later_batch_has_its_number_in_the_file(runs, tmp_path, monkeypatch, column, lists):
    monkeypatch.setattr(batches, "BATCH_ROWS", 4)
    done = runs["text"]
    items = rx.data.IdMap.from_dict(json.loads((done.folder / "id_maps.json").read_text())["items"])
    one, other = items.values[:2].tolist()
    bad = {"history": [one, None, other] if lists else f"{one}^^{other}", "target": None}
    rows = {"history": [[one, other] if lists else f"{one}^{other}"] * 10, "target": [one] * 10}
    rows[column][6] = bad[column]
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=f"column '{column}', row 6: "):
        score_file(SavedModel.load(done.folder, "res", 0), tmp_path / "rows.parquet", tmp_path / "out.csv")


@pytest.mark.parametrize("kind", ["text", "integers"])
def test_unknown_ids_get_the_out_of_vocabulary_row(runs, tmp_path, capsys, kind):
    done = runs[kind]
    items = rx.data.IdMap.from_dict(json.loads((done.folder / "id_maps.json").read_text())["items"])
    known = items.values[:2].tolist()
    strange = ["nobody", "?"] if kind == "text" else [10**9, 10**10]
    table = pa.table(
        {"history": [known, [known[0], strange[0]], [], None], "item_id": [known[1], strange[1], strange[0], known[0]]}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    arguments = [
        "predict",
        str(done.folder),
        str(tmp_path / "rows.parquet"),
        "--arm",
        "res",
        "--seed",
        "0",
        "--json",
        "--out",
        str(tmp_path / "out.parquet"),
    ]
    assert main(arguments) == 0
    seen = capsys.readouterr()
    assert json.loads(seen.out)["unknown_targets"] == 2
    assert json.loads((tmp_path / "out.parquet.json").read_text()) == json.loads(seen.out)
    assert "2 of 4 target ids are not in the run's log" in seen.err
    assert "1 of 4 history ids are not" in seen.err and len(seen.err.splitlines()) == 2
    logit = pd.read_parquet(tmp_path / "out.parquet").logit.to_numpy()
    saved = SavedModel.load(done.folder, "res", 0)
    a, b = items.encode(known)[0]
    by_hand = saved.score(
        np.array([b, items.oov, items.oov, a]), np.array([a, b, a, items.oov]), np.array([2, 2, 0, 0])
    )
    np.testing.assert_allclose(logit, by_hand, rtol=1e-5)
    assert main(arguments) == 0  # its own files may be replaced


@pytest.mark.parametrize("kind", ["text", "integers"])
def test_separators_of_histories_are_found(runs, tmp_path, capsys, kind):
    folder = runs[kind].folder
    saved = SavedModel.load(folder, "res", 0)
    a, b, c = saved.items.values[:3].tolist()
    rows, expected = tmp_path / "rows.csv", None
    forms = {"^": f"{a}^{b}", ",": f"{a}, {b}", " ": f"{a} {b}", "|": f"{a}|{b}", "lists in brackets": str([a, b])}
    for form, history in forms.items():
        single = f"[{a!r}]" if form.startswith("lists") else f"{a} "
        rows.write_text(f'history,target\n"{history}",{c}\n,{a}\n{single},{b}\n')
        arguments = ["predict", str(folder), str(rows), "--arm", "res", "--seed", "0", "--out", str(tmp_path / "o.csv")]
        assert main([*arguments, "--json"]) == 0
        seen = capsys.readouterr()
        assert form in json.loads(seen.out)["histories"] and not seen.err
        logits = pd.read_csv(tmp_path / "o.csv").logit.tolist()
        expected = expected or logits
        assert logits == expected
    rows.write_text(f'history,target\n"[{a}, {b}]",{c}\n{a} {b},{c}\n{a} ^ {b},{c}\n')
    assert main(arguments) == 2
    assert re.search("row [12]: .* (is no list in brackets|looks like)", capsys.readouterr().err)
    rows.write_text(f"history,target\n{a}^{b},{c}\n{a}|{b},{c}\n")
    assert main([*arguments, "--separator", "^"]) == (2 if kind == "integers" else 0)


@pytest.mark.parametrize("word", ["x", "007", "1x", str(10**30), "nan"])
def test_what_can_be_no_id_of_integers_is_refused(runs, tmp_path, word):
    saved = SavedModel.load(runs["integers"].folder, "res", 0)
    a, b, c = saved.items.values[:3].tolist()
    path = tmp_path / "rows.csv"
    for history, target, place in (
        (f"{a}^{b}^{c}^{word}", a, "column 'history', row 1"),
        (a, word, "column 'target', row 1"),
    ):
        path.write_text(f"history,target\n{a}^{b},{a}\n{history},{target}\n")
        for separator in (None, "^"):
            with pytest.raises(ValueError, match=f"{place}: '{word}' .*is no integer"):
                score_file(saved, path, tmp_path / "out.csv", separator=separator)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("kind", ["text", "integers"])
def test_missing_histories_that_are_spelled(runs, tmp_path, kind):
    saved = SavedModel.load(runs[kind].folder, "res", 0)
    a, b, c = saved.items.values[:3].tolist()
    path = tmp_path / "rows.csv"
    path.write_text(f"history,target\nnan,{a}\n,{a}\nNone,{a}\n{b} {c},{a}\n")
    with pytest.warns(
        rx.data.DataWarning, match="2 histories spell a missing value, as nan and None are -> scored as no"
    ):
        counts = score_file(saved, path, tmp_path / "out.csv")
    logits = pd.read_csv(tmp_path / "out.csv").logit
    assert logits[0] == logits[1] == logits[2] != logits[3]
    assert (counts.history.ids, counts.history.unknown) == (2, 0)


def test_unknown_words_are_no_separator(runs, tmp_path):
    saved = SavedModel.load(runs["text"].folder, "res", 0)
    a, b = saved.items.values[:2].tolist()
    path = tmp_path / "rows.csv"
    path.write_text(f"history,target\n{a}^{b}^{b}^{a}^new one,{a}\nnew1^{b}^new3,{b}\nnew 4,{a}\n")
    counts = score_file(saved, path, tmp_path / "out.csv")
    assert (counts.history.ids, counts.history.unknown, counts.histories) == (9, 4, "ids joined by '^'")
    path.write_text(f"history,target\nnew1^new2,{a}\n")
    with pytest.raises(ValueError, match=r"row 0: .*not in the run's log.*name what parts the ids with separator="):
        score_file(saved, path, tmp_path / "out.csv")
    assert score_file(saved, path, tmp_path / "out.csv", separator="^").history.unknown == 2


def test_text_ids_that_went_through_floats(runs, tmp_path):
    """As in logs: "12.0" is 12, a fraction is an error that names its row."""
    saved = SavedModel.load(runs["integers"].folder, "res", 0)
    a, b = saved.items.values[:2].tolist()
    path = tmp_path / "rows.csv"
    for spelled in ((a, b), (f"{a}.0", f"{b}.")):
        path.write_text("history,target\n{}^{},{}\n".format(*spelled, spelled[1]))
        counts = score_file(saved, path, tmp_path / f"{spelled[0]}.csv")
        assert (counts.history.unknown, counts.target.unknown) == (0, 0)
    tens = [value for value in saved.items.values.tolist() if value and value % 10 == 0]
    exponents = pa.array([f"{value // 10}e1" for value in tens])
    assert saved.encode(exponents, "c", text=True)[0].tolist() == saved.items.encode(tens)[0].tolist()
    logits = [pd.read_csv(tmp_path / f"{x}.csv").logit[0] for x in (a, f"{a}.0")]
    assert logits[0] == logits[1]
    path.write_text(f"history,target\n,{a}\n{a}^{b},1.5\n")
    with pytest.raises(ValueError, match=r"column 'target', row 1: fractional id \('1.5'\)"):
        score_file(saved, path, tmp_path / "o.csv")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_bad_id_of_a_history_names_the_row(runs, tmp_path, kind):
    saved = SavedModel.load(runs["integers"].folder, "res", 0)
    path = tmp_path / f"rows.{kind}"
    histories = [[1.0, 2.0, 3.0], [], [4.0, 5.5]]
    if kind == "csv":
        text = ["^".join(map(str, row)) for row in histories]
        path.write_text("history,target\n" + "".join(f"{row},1\n" for row in text))
    else:
        pq.write_table(pa.table({"history": histories, "target": [1, 1, 1]}), path)
    with pytest.raises(ValueError, match="column 'history', row 2: fractional id"):
        score_file(saved, path, tmp_path / "o.csv")


def test_the_best_on_validation_is_the_default(runs):
    done = runs["text"]
    best = max(done.result["runs"], key=lambda entry: entry["valid"]["gauc"])
    saved = SavedModel.load(done.folder)
    assert (saved.arm, saved.seed) == (best["embedding"], best["seed"])
    of_seed = [e for e in done.result["runs"] if e["seed"] == 1]
    best = max(of_seed, key=lambda entry: entry["valid"]["gauc"])
    assert SavedModel.load(done.folder, seed=1).arm == best["embedding"]


@examples(40)
@given(data=st.data())
def test_any_batch_of_histories_scores_as_single_rows(runs, data):
    saved = SavedModel.load(runs["integers"].folder, "res", 0)
    item = st.integers(1, saved.items.oov)
    rows = data.draw(st.lists(st.tuples(st.lists(item, max_size=8), item), min_size=1, max_size=6))
    together = saved.score(
        np.array([target for _, target in rows]),
        np.array([i for history, _ in rows for i in history], dtype=np.int64),
        np.array([len(history) for history, _ in rows]),
    )
    for (history, target), score in zip(rows, together, strict=True):
        newest = np.array(history[-5:], dtype=np.int64)
        alone = saved.score(np.array([target]), newest, np.array([len(newest)]))
        np.testing.assert_allclose(alone, score, rtol=1e-4, atol=1e-5)


def test_names_that_train_had() -> None:
    for name in ("SavedModel", "score_file"):
        with pytest.warns(DeprecationWarning, match=rf"use resemb_ext\.serving\.{name}"):
            assert getattr(rx.train, name) is getattr(rx.serving, name)
    with pytest.raises(AttributeError, match=r"resemb_ext\.train.*no attribute 'SavedModels'"):
        _ = rx.train.SavedModels


def test_rows_of_text_files_as_people_have_them(runs, tmp_path):
    """Other delimiters, encodings and blanks; rows that quotes join are said."""
    done = runs["integers"]
    saved = SavedModel.load(done.folder, "plain", 0)
    items = saved.items.values[:3].tolist()
    a, b, c = items
    path, out = tmp_path / "rows.csv", tmp_path / "out.csv"

    def logits(text, encoding="utf-8"):
        path.write_bytes(text.encode(encoding))
        counts = score_file(saved, path, out)
        assert counts.history.unknown == counts.target.unknown == 0
        return pd.read_csv(out).logit.tolist()

    expected = logits(f"history,target,title\n{a}^{b},{c},x\n{b},{a},y\n{c},{b},z\n")
    assert logits(f"history;target;title\r\n{a}^{b};{c};x\r\n{b};{a};y\r\n{c};{b};z\r\n", "utf-16") == expected
    assert logits(f"history, target, title\n{a}^{b}, {c}, x\n{b}, {a}, y\n{c}, {b}, z\n") == expected
    assert logits(f'history,target,title\n{a}^{b},{c},"Heroes\n{b},{a},"Low" Band\n"{c}",{b},z\n') == expected
    for sign in ";\t|":  # two columns, one of them with commas
        assert logits(f"history{sign}target\n{a},{b}{sign}{c}\n{b}{sign}{a}\n{c}{sign}{b}\n") == expected
    with pytest.warns(rx.data.DataWarning, match="quotes: 1 row takes several lines, .* in lines 2 to 3"):
        assert logits(f'history,target,title\n{a}^{b},{c},"x\n{b},{a},y"\n{c},{b},z\n') == expected[::2]
