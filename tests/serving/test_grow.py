"""resemb grow: rows of new items in a saved run, what reads it, the table's next version, and what is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.serving import SavedModel
from resemb_ext.serving.grow import grow_run
from resemb_ext.serving.lite.snapshot import read_snapshot
from resemb_ext.serving.publish import publish
from resemb_ext.train import run

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("one_thread")]
SMALL: dict[str, Any] = {
    **{"epochs": 1, "batch_size": 256, "dim": 8, "hidden": (8,), "threads": 1, "max_history": 5},
    **{"progress": False, "keep_counts": True, "embedding": "res"},
}


def events(first: int, last: int, items: range, seed: int, users: int = 60) -> pd.DataFrame:
    """Events at the times first to last, of text ids; c0 to c3 are the categories."""
    rng = np.random.default_rng(seed)
    item = rng.choice([*items], last - first)
    return pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, users, last - first)],
            "item_id": [f"i{i:03d}" for i in item],
            "timestamp": np.arange(first, last),
            "category": [f"c{i % 4}" for i in item],
        }
    )


OLD, NEW = events(0, 900, range(40), 0), events(1000, 1060, range(30, 46), 1, 70)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("grow")
    OLD.to_csv(place / "log.csv", index=False)
    NEW.to_parquet(place / "new.parquet")
    options = {"data": str(place / "log.csv"), "model": "deepfm", "category": True, "seed": (0, 1)}
    run(out=str(place / "run"), **{**SMALL, **options})
    return place / "run"


def vectors(saved: SavedModel) -> torch.Tensor:
    with torch.no_grad():
        return saved.model.get_submodule("item_embedding").materialize()  # type: ignore[operator]


def test_the_grown_run_has_the_rows_of_an_embedding_that_grew(trained: Path, tmp_path: Path) -> None:
    before = SavedModel.load(trained, "res", 1)
    done = grow_run(trained, trained.parent / "new.parquet", tmp_path / "grown", seed=1)
    after = SavedModel.load(done.folder)
    new_ids = sorted({*NEW.item_id} - {*OLD.item_id})
    assert done.new_items == len(new_ids) and done.events == len(NEW) and after.seed == 1
    assert after.items == before.items.extended(NEW.item_id.to_numpy())
    # The graph is one of both logs, the training events of the first.
    split = rx.data.split(rx.data.read_log(trained.parent / "log.csv", label=False), "leave-last-out")
    both = pd.concat(
        [
            pd.DataFrame(
                {
                    "user_id": split.log.users.decode(split.train.user),
                    "item_id": split.log.items.decode(split.train.item),
                    "timestamp": split.train.time,
                }
            ),
            NEW,
        ]
    )
    log = rx.data.read_log(both, users=split.log.users, items=split.log.items)
    graph = rx.InterestGraph.from_log(log, window=3, top_k=10)
    saved = rx.InterestGraph.load(done.folder / "graph.npz")
    assert saved.hash == graph.hash and saved.counts is not None
    table = before.model.get_submodule("item_embedding")
    changed = table.grow(graph, oov=before.items.oov)  # type: ignore[operator]
    assert torch.equal(vectors(after), vectors(before)) and np.array_equal(done.changed, changed)
    # First-order weights: known rows stay, the out-of-vocabulary one moves.
    old, new = (model.get_parameter(_first_order(model)) for model in (before.model, after.model))
    height = before.items.oov
    assert torch.equal(new[:height], old[:height]) and torch.equal(new[-1], old[height])
    assert new[height:-1].abs().sum() > 0
    # Categories by the run's own map.
    assert after.item_category is not None and before.item_category is not None
    assert np.array_equal(after.item_category[:height], before.item_category[:height])
    known = dict(zip(before.items.decode(range(1, height)), before.item_category[1:height], strict=True))
    of_category = {int(item[1:]) % 4: category for item, category in known.items()}
    for item in new_ids:
        assert after.item_category[after.items.encode([item])[0][0]] == of_category[int(item[1:]) % 4]
    assert after.item_category[-1] == before.item_category[-1]


def _first_order(model: torch.nn.Module) -> str:
    (name,) = [n for n, p in model.named_parameters() if n.endswith(".item.weight")]
    return name


def test_predict_export_publish_and_growing_again(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "items.table"
    before = SavedModel.load(trained, "res", 0)
    assert main(["publish", str(trained), "--to", str(table), "--seed", "0", "--dtype", "float32"]) == 0
    grown = tmp_path / "first-grown-1"
    arguments = [str(trained), str(trained.parent / "new.parquet"), "--out", str(grown), "--seed", "0"]
    assert main(["grow", *arguments, "--to", str(table), "--compact", "1"]) == 0
    out = capsys.readouterr().out
    assert "60 events, 6 new items" in out and "version 1 of" in out
    after = SavedModel.load(grown)
    snapshot = read_snapshot(table)
    assert (snapshot.rows, snapshot.oov, snapshot.sequence) == (after.items.size, after.items.oov, 1)
    served = snapshot.gather(np.arange(snapshot.rows)).copy().view(np.float32)
    assert np.array_equal(served, vectors(after).numpy())

    rows = pd.DataFrame({"history": ["i001^i045", "i002"], "target": ["i044", "i999"]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert main(["predict", str(grown), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "scores.csv")]) == 0
    about = json.loads((tmp_path / "scores.csv.json").read_text())
    assert about["unknown_targets"] == 1 and about["unknown_history_ids"] == 0
    assert main(["export", str(grown), "--out", str(tmp_path / "served")]) == 0
    assert json.loads((tmp_path / "served" / "items.json").read_text())["values"][-1] == "i045"

    later = events(2000, 2020, range(40, 50), 3)
    later.to_csv(tmp_path / "later.csv", index=False)
    capsys.readouterr()
    assert main(["grow", str(grown), str(tmp_path / "later.csv"), "--to", str(table), "--compact", "1"]) == 0
    second = tmp_path / "first-grown-2"
    assert str(second) in capsys.readouterr().out
    told = json.loads((second / "grown.json").read_text())
    assert told["grown_from"] == "first-grown-1" and told["before"]["new_items"] == 6
    assert SavedModel.load(second).items.oov == read_snapshot(table).oov > after.items.oov > before.items.oov


def test_events_without_new_items_change_the_graph_alone(trained: Path, tmp_path: Path) -> None:
    events(3000, 3020, range(10), 5).to_csv(tmp_path / "known.csv", index=False)
    before = SavedModel.load(trained, "res", 0)
    done = grow_run(trained, tmp_path / "known.csv", tmp_path / "grown", seed=0)
    after = SavedModel.load(done.folder)
    assert done.new_items == 0 and after.items == before.items and 0 < len(done.changed) < done.rows
    same = np.setdiff1d(np.arange(done.rows), done.changed)
    assert torch.equal(vectors(after)[same], vectors(before)[same])


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    new, out = trained.parent / "new.parquet", tmp_path / "grown"
    NEW.drop(columns="category").to_csv(tmp_path / "bare.csv", index=False)
    early = NEW.assign(user_id="u1", timestamp=5)
    early.to_csv(tmp_path / "early.csv", index=False)
    (tmp_path / "there").mkdir()
    for events_, options, says in (
        (tmp_path / "none.csv", (), "none.csv"),
        (tmp_path / "bare.csv", (), "has no category column, which the run's model takes of its 6 new items"),
        (tmp_path / "early.csv", (), "early.csv: user 'u1' has an event at 5, before the last one"),
        (new, ("--seed", 7), "has no seed 7; it has 0, 1"),
        (new, ("--keep", 3), "--keep is of a table; name one with --to"),
    ):
        assert says in refused(capsys, "grow", trained, events_, "--out", out, *options)
        assert not out.exists()
    assert "exists; choose another folder" in refused(capsys, "grow", trained, new, "--out", tmp_path / "there")
    assert "holds no run" in refused(capsys, "grow", tmp_path, new)
    assert not [*tmp_path.glob(".*")]


def test_a_full_disk_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("resemb_ext.serving.grow.save_checkpoint", full)
    with pytest.raises(OSError, match="nothing was written") as error:
        grow_run(trained, trained.parent / "new.parquet", tmp_path / "grown", seed=0)
    assert error.value.filename == str(tmp_path / "grown") and not [*tmp_path.iterdir()]


def test_a_table_of_other_vectors_leaves_the_grown_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table, out = tmp_path / "other.table", tmp_path / "grown"
    publish(np.zeros((5, 3), np.float32), table)
    line = refused(capsys, "grow", trained, trained.parent / "new.parquet", "--out", out, "--to", table, "--seed", 0)
    assert f"the grown run is in {out}, and resemb publish {out} --to {table} publishes it" in line
    assert SavedModel.load(out).items.size > 0


def test_a_smoothed_run_keeps_its_strength(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(data=str(trained.parent / "log.csv"), out=str(tmp_path / "run"), smooth="5", **SMALL)
    new, table = trained.parent / "new.parquet", tmp_path / "items.table"
    assert main(["publish", str(tmp_path / "run"), "--to", str(table), "--dtype", "float32"]) == 0
    before, done = SavedModel.load(tmp_path / "run"), grow_run(tmp_path / "run", new, to=table)
    after = SavedModel.load(done.folder)
    split = rx.data.split(rx.data.read_log(trained.parent / "log.csv", label=False), "leave-last-out")
    counts = np.zeros(
        after.items.size, np.int64
    )  # new items, and the out-of-vocabulary row, were met in no training event
    counts[: before.items.oov] = split.item_counts[:-1]
    trained_table = after.trained.get_submodule("item_embedding")
    graph = rx.InterestGraph.load(done.folder / "graph.npz").with_link("average")
    dense = torch.zeros(after.items.size, after.items.size)
    dense[np.repeat(np.arange(after.items.size), np.diff(graph.indptr)), graph.neighbors] = torch.tensor(
        graph.weights.copy()
    )
    with torch.no_grad():
        rows = trained_table.materialize()  # type: ignore[operator]
    gate = torch.tensor(5 / (5 + counts), dtype=torch.float32)[:, None] * (dense.sum(1, keepdim=True) > 0)
    expected = rows + gate * (dense @ rows - rows)
    expected[0] = 0
    (served,) = [m.weight for n, m in after.model.named_modules() if n == "item_embedding"]
    torch.testing.assert_close(served, expected, rtol=1e-4, atol=1e-5)
    old = before.model.get_submodule("item_embedding").weight
    height = before.items.oov
    differ = np.flatnonzero((served[:height] != old[:height]).any(1))
    assert len(differ) and not np.setdiff1d(differ, done.changed).size and done.new_items > 0
    snapshot = read_snapshot(table)
    assert np.array_equal(snapshot.gather(np.arange(snapshot.rows)).copy().view(np.float32), served.detach().numpy())
    # A grown run that is smoothed grows again.
    events(2000, 2020, range(40, 50), 3).to_csv(tmp_path / "later.csv", index=False)
    again = grow_run(done.folder, tmp_path / "later.csv")
    assert SavedModel.load(again.folder).smoothing.strength == 5  # type: ignore[union-attr]


def test_runs_that_cannot_grow(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    OLD.assign(session=OLD.timestamp // 100).to_csv(tmp_path / "log.csv", index=False)
    NEW.to_csv(tmp_path / "new.csv", index=False)
    for name, options, says in (
        (
            "bare",
            {"keep_counts": False, "session_column": "-"},
            "keeps no counts of pairs, which growth needs; train with",
        ),
        ("sessions", {}, "joins events within sessions"),
        ("plain", {"embedding": "plain", "keep_counts": False}, "has no arm res; it has plain"),
    ):
        run(data=str(tmp_path / "log.csv"), out=str(tmp_path / name), **{**SMALL, **options})
        assert says in refused(capsys, "grow", tmp_path / name, tmp_path / "new.csv")
    for options, says in (
        ({"graph": "g.npz"}, "keep_counts: is of a graph built from the log"),
        ({"embedding": "plain"}, "keep_counts: needs the arm res"),
    ):
        with pytest.raises(ValueError, match=says):
            rx.train.RunConfig(keep_counts=True, **options)


def test_a_grown_run_is_not_trained_on(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    grown = grow_run(trained, trained.parent / "new.parquet", tmp_path / "grown", seed=0).folder
    assert "holds a grown run (grown.json)" in refused(capsys, "train", "--resume", grown)
    assert "holds an earlier run" in refused(capsys, "train", "--data", trained.parent / "log.csv", "--out", grown)
