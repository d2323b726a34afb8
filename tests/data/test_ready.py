"""Ready-made samples in the RecZoo layout: reading, the graph's events, training through the CLI."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.data import DataWarning, ReadySplit, joined, read_ready_made

NAMES = ["label", "user_id", "item_id", "cate_id", "item_history", "cate_history"]
FAST = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--threads", "1", "--quiet"]


def sequences(users=40, seed=0):
    """(user, items, categories) of a simulated log."""
    log, truth = rx.data.simulate(users=users, items=60, domains=4, events_per_user=(5, 9), seed=seed)
    for user in range(users):
        items = log.item[log.user_start[user] : log.user_start[user + 1]]
        yield user, items.tolist(), truth.domain[items].tolist(), truth.domain


def rows_of(user, items, cats, domain, places, rng):
    """A positive and a negative row for each place, with the history before it."""
    for k in places:
        history = ["^".join(map(str, values[:k])) for values in (items, cats)]
        other = int(rng.choice(np.setdiff1d(np.arange(1, 61), items)))
        yield [1, f"u{user}", items[k], cats[k], *history]
        yield [0, f"u{user}", other, int(domain[other]), *history]


def write(folder, *, valid=False, kind="csv", **options):
    """AmazonElectronics_x1 in small: the last event of each user tests, the others train."""
    rng = np.random.default_rng(1)
    parts: dict = {"train": [], "test": []} | ({"valid": []} if valid else {})
    for user, items, cats, domain in sequences(**options):
        n = len(items)
        parts["train"] += rows_of(user, items, cats, domain, range(1, n - 1 - valid), rng)
        if valid:
            parts["valid"] += rows_of(user, items, cats, domain, [n - 2], rng)
        parts["test"] += rows_of(user, items, cats, domain, [n - 1], rng)
    folder.mkdir(exist_ok=True)
    frames = {}
    for part, rows in parts.items():
        frames[part] = pd.DataFrame(rows, columns=NAMES)
        if kind == "parquet":
            frames[part].to_parquet(folder / f"{part}.parquet")
        else:
            frames[part].to_csv(folder / f"{part}.csv", index=False)
    return frames


def decoded(split: ReadySplit, part: str):
    """The rows of a part in raw ids, as in its file."""
    samples, log = split.samples[part], split.log
    histories = [
        "^".join(map(str, log.items.decode(samples.history_items[low:high]).tolist()))
        for low, high in zip(samples.start, samples.end, strict=True)
    ]
    return pd.DataFrame(
        {
            "label": samples.label,
            "user_id": log.users.decode(samples.user),
            "item_id": log.items.decode(samples.target),
            "item_history": histories,
        }
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("chunk", [7, 1 << 18])
def test_every_row_comes_back(tmp_path, monkeypatch, kind, chunk):
    monkeypatch.setattr(joined, "CHUNK", chunk)
    frames = write(tmp_path / "set", valid=True, kind=kind)
    split = read_ready_made(tmp_path / "set")
    for part, frame in frames.items():
        got = decoded(split, part)
        pd.testing.assert_frame_equal(got, frame[list(got)], check_dtype=False)
        samples = split.samples[part]
        batch = samples.batch(np.arange(len(samples)))
        cats = split.log.categories.decode(batch.target_category)
        assert cats.tolist() == frame.cate_id.tolist()
        cats = split.log.categories.decode(batch.history_category)
        assert cats.tolist() == [int(c) for text in frame.cate_history for c in text.split("^")]
    assert split.mixed_items == 0 and split.held_out == 0
    assert split.summary()["train"] == len(frames["train"])


def test_the_graph_sees_the_longest_training_histories_only(tmp_path):
    frames = write(tmp_path / "set", valid=True)
    split = read_ready_made(tmp_path / "set")
    events = split.train
    for user, items, *_ in sequences():
        mine = events.user == split.log.users.encode([f"u{user}"])[0][0]
        # All but the validation and the test event.
        assert split.log.items.decode(events.item[mine]).tolist() == items[:-2]
        assert events.time[mine].tolist() == list(range(len(items) - 2))
    assert len(frames["train"]) and split.item_counts.sum() == len(events)
    seen = split.item_counts[split.samples["test"].target] > 0
    assert split.samples["test"].target_seen.tolist() == seen.tolist()


def test_without_a_valid_file_users_are_held_out(tmp_path):
    frames = write(tmp_path / "set")
    split = read_ready_made(tmp_path / "set", valid_share=0.25, seed=3)
    train, valid = decoded(split, "train"), decoded(split, "valid")
    assert not set(train.user_id) & set(valid.user_id)
    assert set(train.user_id) | set(valid.user_id) == set(frames["train"].user_id)
    both = pd.concat([train, valid]).sort_values(list(train), ignore_index=True)
    expected = frames["train"][list(train)].sort_values(list(train), ignore_index=True)
    pd.testing.assert_frame_equal(both, expected, check_dtype=False)
    held = split.log.users.encode(valid.user_id.unique())[0]
    assert not np.isin(split.train.user, held).any()
    same = read_ready_made(tmp_path / "set", valid_share=0.25, seed=3)
    assert same.hash == split.hash and same.samples["valid"].split_hash == split.samples["test"].split_hash
    other = read_ready_made(tmp_path / "set", valid_share=0.25, seed=4)
    assert other.samples["test"].split_hash != split.samples["test"].split_hash


@pytest.mark.parametrize("name", ["validation", "val", "dev"])
def test_other_names_of_the_valid_file(tmp_path, name):
    """Users validate on their own rows, rather than on some of the training rows."""
    frames = write(tmp_path, valid=True)
    (tmp_path / "valid.csv").rename(tmp_path / f"{name}.csv")
    split = read_ready_made(tmp_path)
    assert len(split.samples["valid"]) == len(frames["valid"]) and not split.held_out
    (tmp_path / "train_2.csv").write_text((tmp_path / "train.csv").read_text())
    with pytest.warns(DataWarning, match=r"other files: train_2.csv: a part is one file"):
        read_ready_made(tmp_path)
    (tmp_path / "valid.csv").write_text((tmp_path / f"{name}.csv").read_text())
    with pytest.raises(ValueError, match=r"several valid files: \w+.csv, \w+.csv"):
        read_ready_made(tmp_path)


def test_parts_that_do_not_belong_together(tmp_path):
    """Items written otherwise are no training items; a history column may be empty."""
    frames = write(tmp_path)
    test = frames["test"].assign(item_id=[f"x{item}" for item in frames["test"].item_id], item_history="")
    test.assign(cate_history="").to_csv(tmp_path / "test.csv", index=False)
    with pytest.warns(DataWarning) as caught:
        read_ready_made(tmp_path)
    shown = " ".join(str(warning.message) for warning in caught)
    assert "no row of test.csv has a history" in shown
    assert "no target of test.csv occurs in train.csv, the first is 'x" in shown and "write ids alike" in shown


def test_the_hash_covers_every_file(tmp_path):
    write(tmp_path / "set")
    before = read_ready_made(tmp_path / "set").hash
    assert read_ready_made(tmp_path / "set").hash == before
    rewrite("test", lambda f: f.assign(item_history=f.item_history + "^5", cate_history=f.cate_history + "^1"))(
        tmp_path / "set"
    )
    assert read_ready_made(tmp_path / "set").hash != before


def test_max_history_keeps_the_newest(tmp_path):
    frames = write(tmp_path / "set")
    got = decoded(read_ready_made(tmp_path / "set", max_history=2), "test")
    expected = ["^".join(text.split("^")[-2:]) for text in frames["test"].item_history]
    assert got.item_history.tolist() == expected


def taobao(folder):
    """TaobaoAd_x1 in small: other names, histories of categories and brands, some empty."""
    rng = np.random.default_rng(2)
    folder.mkdir()
    for part, rows in (("train", 300), ("test", 80)):
        history = [rng.integers(1, 9, rng.integers(0, 6)) for _ in range(rows)]
        pd.DataFrame(
            {
                "clk": np.arange(rows) % 2,
                "userid": rng.integers(0, 20, rows),
                "adgroup_id": rng.integers(0, 99, rows),
                "cate_id": rng.integers(1, 9, rows),
                "brand": rng.integers(1, 9, rows),
                "price": rng.random(rows),
                "cate_his": ["^".join(map(str, h % 4 + 1)) for h in history],
                "brand_his": ["^".join(map(str, h)) for h in history],
                "btag_his": ["^".join(["1"] * len(h)) for h in history],
            }
        ).to_csv(folder / f"{part}.csv", index=False)


def test_other_names_and_empty_histories(tmp_path):
    taobao(tmp_path / "set")
    with pytest.raises(ValueError, match="cannot guess the item column"):
        read_ready_made(tmp_path / "set")
    with pytest.raises(ValueError, match="'adgroup_id' has no history column; expected one of adg"):
        read_ready_made(tmp_path / "set", item="adgroup_id", category=False)
    split = read_ready_made(tmp_path / "set", item="brand")
    assert split.log.columns["history"] == "brand_his" and split.mixed_items > 0
    lengths = split.samples["train"].end - split.samples["train"].start
    assert (lengths == 0).any() and lengths.max() == 5
    by_category = read_ready_made(tmp_path / "set", item="cate_id")
    assert by_category.log.categories is None


@pytest.mark.one_in(2)
@pytest.mark.parametrize("model", ["dnn", "din"])
def test_train_and_evaluate(tmp_path, capsys, model):
    frames = write(tmp_path / "set")
    out = tmp_path / "out"
    command = ["train", "--data", str(tmp_path / "set"), *FAST, "--model", model, "--category"]
    assert main([*command, "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert [run["embedding"] for run in result["runs"]] == ["plain", "res"]
    assert result["data"]["split"]["how"] == "ready-made"
    assert result["data"]["samples"]["test"] == len(frames["test"])
    scores = pd.read_parquet(out / "test_scores.parquet")
    assert scores.label.tolist() == frames["test"].label.tolist()
    assert scores.user.tolist() == frames["test"].user_id.tolist()
    for run in result["runs"]:
        auc = rx.metrics.auc(scores.label.to_numpy(), scores[f"{run['embedding']}_seed0"])
        assert run["test"]["auc"] == pytest.approx(auc)
    graph = rx.InterestGraph.load(out / "graph.npz")
    split = read_ready_made(tmp_path / "set")
    assert graph.hash == rx.InterestGraph.from_log(split.train).hash
    # The saved graph serves another run on the same samples.
    again = [*command, "--graph", str(out / "graph.npz"), "--embedding", "res"]
    assert main([*again, "--out", str(tmp_path / "again")]) == 0


def test_training_by_brand(tmp_path):
    taobao(tmp_path / "set")
    command = ["train", "--data", str(tmp_path / "set"), *FAST, "--item-column", "brand"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert main([*command, "--category", "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()


def break_line(text):
    def edit(folder):
        lines = (folder / "train.csv").read_text().splitlines()
        lines[4] = text
        (folder / "train.csv").write_text("\n".join(lines))

    return edit


def remove(name):
    return lambda folder: (folder / name).unlink()


def rewrite(part, change):
    def edit(folder):
        path = folder / f"{part}.csv"
        change(pd.read_csv(path)).to_csv(path, index=False)

    return edit


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("test.csv"), "no test file in"),
        (break_line("1,u1,5,2"), "line 5: expected 6 columns, found 4"),
        (break_line("1,u1,5,2,3^4,2"), "train.csv, line 5, column 'cate_history': 1 entries, but 2"),
        (break_line("1,u1,5,2,3^^4,2^2^2"), "line 5, column 'item_history': empty id in a history"),
        (break_line("2,u1,5,2,3,2"), "line 5, column 'label': label must be 0 or 1 (2)"),
        (break_line("1,,5,2,3,2"), "line 5, column 'user_id': null user id"),
        (break_line("1,u1,5.5,2,3,2"), "line 5, column 'item_id': fractional item id ('5.5')"),
        (rewrite("train", lambda f: f.drop(columns="item_history")), "has no history column"),
        (rewrite("test", lambda f: f.drop(columns="label")), "cannot guess the label column"),
        (rewrite("train", lambda f: f.assign(label=0)), "train rows have label 0"),
        (rewrite("test", lambda f: f.assign(label=1)), "test rows have label 1"),
        (rewrite("test", lambda f: f.iloc[:0]), "test.csv has no rows"),
        (lambda folder: (folder / "train.parquet").write_bytes(b""), "several train files"),
        (lambda folder: (folder / "test.csv").write_bytes(b""), "it is empty"),
    ],
)
def test_bad_folders_are_one_line(tmp_path, capsys, damage, words):
    write(tmp_path / "set")
    damage(tmp_path / "set")
    out = tmp_path / "out"
    assert (
        main(["train", "--data", str(tmp_path / "set"), *FAST, "--category-column", "cate_id", "--out", str(out)]) == 2
    )
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--time-column", "t"], "time_column is for logs"),
        (["--split", "time"], "split is for logs"),
        (["--eval-negatives", "3"], "eval_negatives is for logs"),
        (["--label-column", "-"], "need their labels"),
        (["--item-column", "nope"], "no column 'nope'"),
    ],
)
def test_options_that_do_not_fit(tmp_path, capsys, options, words):
    write(tmp_path / "set")
    assert main(["train", "--data", str(tmp_path / "set"), *options]) == 2
    assert words in capsys.readouterr().err
