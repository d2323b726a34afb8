"""Bundles: what they hold, that they score without torch, and that they take new versions."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.cli import main
from resemb_ext.serving import SavedModel, export_bundle
from resemb_ext.serving import bundle as bundle_module
from resemb_ext.serving.grow import grow_run
from resemb_ext.serving.lite import decode, read_snapshot
from resemb_ext.serving.lite.bundle import Bundle, BundleError, padded_histories, read_about
from resemb_ext.serving.lite.command import main as command
from resemb_ext.serving.lite.command import read_rows
from resemb_ext.serving.publish import publish_rows
from resemb_ext.testing.strategies import examples
from resemb_ext.train import run
from tests.serving.conftest import LONGEST
from tests.serving.runtimes import needs_onnx

pytestmark = needs_onnx

#: How far logits of quantised tables may lie from the model's, in standard deviations of its logits.
FAR = {"float32": 1e-4, "float16": 0.02, "int8": 0.1, "int4": 1.0}


def some_rows(saved, count=40, seed=0):
    """Numbers of targets and histories, and raw ids of the same; unseen ids among them."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, LONGEST + 3, count)
    lengths[:2] = 0
    target, history = draw.integers(1, saved.items.size, count), draw.integers(1, saved.items.size, lengths.sum())
    names = np.append(saved.items.values, "nobody's")
    raw = [part.tolist() for part in np.split(names[history - 1], np.cumsum(lengths)[:-1])]
    return (target, history, lengths), (names[target - 1].tolist(), raw)


def test_a_float32_bundle_scores_as_the_model_does(bundle, saved):
    numbers, raw = some_rows(saved)
    expected, opened = saved.score(*numbers), Bundle.open(bundle)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(opened.score_numbers(*numbers), expected, rtol=1e-5, atol=1e-5)
    found = opened.score(*raw)
    np.testing.assert_allclose(found.logit, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-expected.astype(np.float64))), rtol=1e-4)
    kept = [history[-LONGEST:] for history in raw[1]]
    assert found.unseen == sum(raw_id == "nobody's" for ids in ([raw[0]], kept) for one in ids for raw_id in one)
    assert found.version == opened.version == 0
    opened.verify()
    assert opened.score([], []).logit.shape == (0,)


@pytest.mark.parametrize("runtime", ["onnx", pytest.param("torch", marks=pytest.mark.full)])
def test_numbers_that_the_table_lacks_are_the_unseen_item(bundle, saved, runtime):
    opened, oov = Bundle.open(bundle, runtime=runtime), saved.items.oov
    lengths = np.array([2, 0, 1])
    expected = opened.score_numbers(np.array([oov, 3, 3]), np.array([5, oov, oov]), lengths)
    for bad in (-1, oov + 1, 2**31, 2**62, -(2**63)):
        found = opened.score_numbers(np.array([bad, 3, 3]), np.array([5, bad, bad]), lengths)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.full
@pytest.mark.parametrize("table", ["float16", "int8", "int4"])
def test_quantised_tables_score_as_the_model_with_their_rows(trained, bundle, saved, tmp_path, monkeypatch, table):
    """Beside the program of the float32 bundle: making it takes longest, and it is the same for every table."""

    def copy(module, longest, folder):
        for file in bundle.glob("model.*"):
            shutil.copy(file, folder)

    monkeypatch.setattr(bundle_module, "_write_model", copy)
    place = export_bundle(trained, tmp_path / "served", table=table, arm="res", seed=0)
    numbers, _ = some_rows(saved, 300)
    found, expected = Bundle.open(place).score_numbers(*numbers), saved.score(*numbers)
    assert np.abs(found - expected).max() <= FAR[table] * expected.std()
    snapshot = read_snapshot(place / "items.table")
    import torch

    with torch.no_grad():
        plain = torch.nn.Embedding.from_pretrained(
            torch.from_numpy(decode(snapshot.gather(np.arange(snapshot.rows)), table, snapshot.header.dim)),
            padding_idx=0,
        )
        model = saved.model
        kept, model.item_embedding = model.item_embedding, plain
        try:
            np.testing.assert_allclose(found, saved.score(*numbers), rtol=1e-4, atol=1e-5)
        finally:
            model.item_embedding = kept
    about = read_about(place)
    assert about["table"]["dtype"] == table and about["agreement"]["largest_difference"] > 0


# Scores rows in a process in which some packages cannot be imported.
ALONE = """
import importlib.abc, json, sys
blocked = {"torch", "resemb_ext", "pyarrow", "pandas", "scipy"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
from resemb_lite import Bundle
bundle = Bundle.open(sys.argv[1])
targets, histories = json.load(sys.stdin)
found = bundle.score(targets, histories)
assert not blocked & {name.split(".")[0] for name in sys.modules}
json.dump({"logit": found.logit.tolist(), "unseen": found.unseen, "version": found.version}, sys.stdout)
"""


def alone(bundle, raw):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, bundle], input=json.dumps(raw), capture_output=True, text=True, cwd=bundle.parent
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_bundle_scores_where_torch_and_the_package_cannot_be_imported(bundle, saved):
    numbers, raw = some_rows(saved)
    found = alone(bundle, raw)
    np.testing.assert_allclose(found["logit"], saved.score(*numbers), rtol=1e-5, atol=1e-5)


@pytest.mark.full
def test_its_script_scores_lines(bundle, saved, tmp_path):
    numbers, (targets, histories) = some_rows(saved)
    rows = [{"target": t, "history": h, "row": k} for k, (t, h) in enumerate(zip(targets, histories, strict=True))]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) + "\n" for row in rows))
    script = [sys.executable, bundle / "score.py", tmp_path / "rows.jsonl", "--verify", "--threads", "1"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scored = [json.loads(line) for line in done.stdout.splitlines()]
    assert [{k: row[k] for k in ("target", "history", "row")} for row in scored] == rows
    np.testing.assert_allclose([row["logit"] for row in scored], saved.score(*numbers), rtol=1e-5, atol=1e-5)
    assert "every file has the sha256 that was written" in done.stderr and "ids are not in the table" in done.stderr


def test_bad_rows_are_one_line(bundle, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    for text, words in (
        ('{"target": 3}\n', "ids: found '3' of type int, and the table's are text"),
        ('{"target": "a", "history": "b"}\n', "rows: line 1: expected an object with a target and a list"),
        ("\n{\n", "rows: line 2 is not JSON"),
    ):
        file.write_text(text)
        assert command(bundle, [str(file)]) == 2
        shown = capsys.readouterr()
        assert words in shown.err and shown.err.count("\n") == 1 and not shown.out
    assert command(bundle, [str(tmp_path / "none.jsonl")]) == 2
    with pytest.raises(SystemExit):
        command(bundle, [])
    assert "name a file to score, or --verify" in capsys.readouterr().err
    assert list(read_rows(["", '{"target": 1, "history": null}'])) == [{"target": 1, "history": None}]


def test_a_bundle_says_what_it_is(bundle, trained, saved):
    about = read_about(bundle)
    assert (about["model"], about["embedding"], about["seed"], about["max_history"]) == ("DIN", "res", 0, LONGEST)
    assert about["table"]["rows"] == saved.items.size and about["table"]["dim"] == 4
    source = about["trained_on"]
    assert (
        source["log"] == "shop.csv" and source["options"]["epochs"] == 1 and 0 < source["metrics"]["valid"]["auc"] < 1
    )
    assert source["hashes"]["data"] and source["hashes"]["graph"]
    assert str(trained.parent) not in json.dumps(about)
    held = {file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if "__pycache__" not in str(file)}
    assert held - {"resemb_lite"} == {"bundle.json", "items.table", *about["sha256"]}
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    table = read_snapshot(bundle / "items.table")
    table.verify()
    assert table.items.values == saved.items.values.tolist()


@examples(60)
@given(st.lists(st.lists(st.integers(1, 99), max_size=7), max_size=6), st.integers(1, 5))
def test_histories_are_padded_to_their_newest(histories, longest):
    flat = np.array([event for history in histories for event in history], np.int64)
    found = padded_histories(flat, np.array([len(history) for history in histories], np.int64), longest)
    expected = [history[-longest:] + [0] * (longest - len(history)) for history in histories]
    assert found.shape == (len(histories), longest) and found.tolist() == expected


def test_lengths_that_do_not_fit_are_refused():
    for lengths in ([1], [4, -1], [2, 2]):
        with pytest.raises(BundleError, match="expected numbers >= 0 that add up to 3"):
            padded_histories(np.arange(3), np.array(lengths), 4)
    with pytest.raises(BundleError, match="lengths: found 1, expected one for each of 2 targets"):
        Bundle.score_numbers(object.__new__(Bundle), np.array([1, 2]), np.array([3]), np.array([1]))


# Versions.


def test_a_new_version_is_taken_as_a_whole(copied, saved):
    opened = Bundle.open(copied)
    _, raw = some_rows(saved)
    before = opened.score(*raw)
    assert not opened.refresh()
    table = read_snapshot(copied / "items.table")
    rows = np.array([1, 5, saved.items.oov])
    publish_rows(copied / "items.table", rows, np.full((3, table.header.dim), 0.5, np.float32))
    np.testing.assert_array_equal(opened.score(*raw).logit, before.logit)
    assert opened.refresh() and opened.version == 1 and not opened.refresh()
    after = opened.score(*raw)
    assert after.version == 1 and np.abs(after.logit - before.logit).max() > 1e-3
    np.testing.assert_array_equal(after.logit, Bundle.open(copied).score(*raw).logit)


def test_items_that_are_new_in_a_version_are_scored(copied, saved):
    opened, oov = Bundle.open(copied), saved.items.oov
    targets = ["nobody's", "item-new", saved.items.values[0]]
    before = opened.score(targets, [["item-new"], [], []])
    assert before.unseen == 3
    vectors = np.stack(
        [np.full(4, 0.7, np.float32), np.zeros(4, np.float32)]
    )  # the new item, and unseen ones behind it
    publish_rows(copied / "items.table", np.array([oov, oov + 1]), vectors, new_ids=["item-new"])
    assert opened.refresh()
    after = opened.score(targets, [["item-new"], [], []])
    assert after.unseen == 1 and len(opened.items) == len(saved.items) + 1
    assert abs(after.logit[1] - before.logit[1]) > 1e-4 and after.logit[2] == before.logit[2]
    np.testing.assert_array_equal(
        after.logit, opened.score_numbers(np.array([oov + 1, oov, 1]), np.array([oov]), np.array([1, 0, 0]))
    )


@pytest.mark.full
def test_threads_see_one_version_or_another(copied, saved):
    """Each call's logits are those of the version that it names."""
    opened = Bundle.open(copied, threads=1)
    numbers, raw = some_rows(saved, 12)
    states, wrong, stop = {0: opened._state}, [], threading.Event()
    found = []

    def score():
        while not stop.is_set():
            found.append(opened.score(*raw))

    threads = [threading.Thread(target=score) for _ in range(3)]
    for thread in threads:
        thread.start()
    draw = np.random.default_rng(0)
    for _ in range(15):
        rows = np.sort(draw.choice(np.arange(1, saved.items.size), 9, replace=False))
        publish_rows(copied / "items.table", rows, draw.normal(size=(9, 4)).astype(np.float32))
        opened.refresh()
        states[opened.version] = opened._state
    stop.set()
    for thread in threads:
        thread.join()
    expected = {version: opened._score(state, *numbers) for version, state in states.items()}
    wrong = [scores.version for scores in found if not np.array_equal(scores.logit, expected[scores.version])]
    assert not wrong and len({scores.version for scores in found}) > 1


@pytest.mark.full
def test_the_command_writes_a_bundle(trained, tmp_path, capsys):
    place = tmp_path / "served"
    arguments = ["export", str(trained), "--arm", "res", "--seed", "0", "--table", "int8", "--out", str(place)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "items.table" in shown and "bundle.json" in shown and "logits of 256 random rows differ" in shown
    assert Bundle.open(place).score(["item-3"], [[]]).logit.shape == (1,)


# Of other runs.


def trained_on(place, frame, **options):
    """The folder of a small run of the res arm on a log."""
    frame.to_csv(place / "log.csv", index=False)
    small = {
        "epochs": 1,
        "batch_size": 256,
        "dim": 4,
        "hidden": (8,),
        "threads": 1,
        "progress": False,
        "eval_negatives": 2,
    }
    options = {"max_history": 2, "embedding": "res", **small, **options}
    if options["model"] == "fm":
        del options["hidden"]
    return run(data=str(place / "log.csv"), out=str(place / "run"), **options).folder


def events(first, last, items, seed):
    draw = np.random.default_rng(seed)
    item = draw.choice([*items], last - first)
    user = draw.integers(0, 50, last - first)
    return pd.DataFrame(
        {"user_id": user, "item_id": item, "timestamp": np.arange(first, last), "category": [f"c{i % 3}" for i in item]}
    )


def numbers_for(saved, count=30):
    draw = np.random.default_rng(0)
    return draw.integers(1, saved.items.size, count), draw.integers(1, saved.items.size, 2 * count), np.full(count, 2)


@pytest.mark.full
@pytest.mark.parametrize(
    "model", ["wide_deep", "pnn", *(pytest.param(m, marks=pytest.mark.slow) for m in ("fm", "dien"))]
)
def test_every_model_is_a_bundle(model, tmp_path):
    """The programs of the slow ones are those of test_beside_table.py."""
    folder = trained_on(tmp_path, events(0, 600, range(40), 0), model=model, category=model != "pnn")
    saved = SavedModel.load(folder)
    opened = Bundle.open(export_bundle(folder, table="float32"))
    rows = numbers_for(saved)
    np.testing.assert_allclose(opened.score_numbers(*rows), saved.score(*rows), rtol=1e-4, atol=1e-5)
    assert (folder / "bundle" / "weights.table").exists() == (model in ("fm", "wide_deep"))


@pytest.mark.full
def test_a_smoothed_run_is_a_bundle(tmp_path):
    folder = trained_on(tmp_path, events(0, 600, range(40), 0), model="dnn", smooth="5", embedding="plain")
    saved, place = SavedModel.load(folder), export_bundle(folder, table="float32")
    rows = numbers_for(saved)
    np.testing.assert_allclose(Bundle.open(place).score_numbers(*rows), saved.score(*rows), rtol=1e-4, atol=1e-5)
    assert "5" in json.dumps(read_about(place)["trained_on"]["smoothing"])


@pytest.mark.full
def test_a_grown_run_is_taken_as_a_version(tmp_path):
    """Its items score in the bundle as in the grown run's own model."""
    folder = trained_on(tmp_path, events(0, 900, range(40), 0), model="din", keep_counts=True)
    opened = Bundle.open(export_bundle(folder, table="float32"))
    events(1000, 1080, range(30, 50), 1).to_csv(tmp_path / "new.csv", index=False)
    done = grow_run(folder, tmp_path / "new.csv", to=folder / "bundle" / "items.table")
    assert done.new_items > 0 and opened.refresh() and opened.version == 1
    grown = SavedModel.load(done.folder)
    assert np.asarray(opened.items.values).tolist() == grown.items.values.tolist()
    rows = numbers_for(grown, 200)
    np.testing.assert_allclose(opened.score_numbers(*rows), grown.score(*rows), rtol=1e-4, atol=1e-5)
    assert opened.score([int(grown.items.values[-1])], [[]]).unseen == 0
