"""Whole runs on tiny logs: the folder, result.json, guards."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import resemb_ext as rx
from resemb_ext.train import RunConfig, load_checkpoint, run
from resemb_ext.train import prepare as prepare_module
from resemb_ext.train.prepare import build_model, prepare
from resemb_ext.train.report import closing, notes, table_rows

SMALL = {"epochs": 2, "batch_size": 256, "dim": 8, "hidden": (8,), "progress": False, "threads": 1}


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    """The simulated log, small enough for a unit test."""
    whole = rx.data.simulate

    def small(**options):
        return whole(users=120, items=100, domains=4, events_per_user=(5, 9), **options)

    monkeypatch.setattr(prepare_module.data, "simulate", small)


@pytest.fixture
def log_file(tmp_path):
    """A log with categories and text ids as a CSV file."""
    log, truth = rx.data.simulate(seed=2)
    path = tmp_path / "shop.csv"
    frame = pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in log.user],
            "item_id": [f"item-{i}" for i in log.item],
            "timestamp": log.time,
            "category": [f"c{d}" for d in truth.domain[log.item]],
        }
    )
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of both arms with two seeds, read only."""
    folder = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        whole = rx.data.simulate
        patch.setattr(
            prepare_module.data,
            "simulate",
            lambda **o: whole(users=120, items=100, domains=4, events_per_user=(5, 9), **o),
        )
        return run(out=str(folder), seed=(0, 1), **SMALL)


def test_the_folder_is_complete(finished):
    found = {str(p.relative_to(finished.folder)) for p in finished.folder.rglob("*") if p.is_file()}
    arms = {
        f"arms/{arm}-seed{seed}/{file}"
        for arm in ("plain", "res")
        for seed in (0, 1)
        for file in ("best.safetensors", "last.safetensors", "run.json")
    }
    assert found == arms | {
        "SHA256SUMS",
        "config.resolved.json",
        "curves.png",
        "graph.npz",
        "id_maps.json",
        "inputs.json",
        "result.json",
        "summary.md",
        "test_scores.parquet",
        "valid_candidates.parquet",
    }
    assert (finished.folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_result_follows_the_schema(finished):
    result = json.loads((finished.folder / "result.json").read_text())
    assert result == finished.result
    assert [(r["embedding"], r["seed"]) for r in result["runs"]] == [("plain", 0), ("res", 0), ("plain", 1), ("res", 1)]
    for entry in result["runs"]:
        assert entry["model"] == "dnn" and entry["epochs"] == 2
        for part in ("valid", "test"):
            for metric in ("auc", "gauc", "logloss"):
                assert 0 < entry[part][metric] < 2
                assert 0 < entry[part]["seen"][metric] < 2
        assert entry["aggregation_radius"] > 0
        assert entry["aggregation_radius_details"]["domain_source"] == "simulated truth"
        assert entry["samples_per_s"] > 0 and entry["peak_memory_mb"] > 100
        assert entry["wall_s"] > 0
    plain_arm, res_arm = result["runs"][:2]
    assert plain_arm["parameters"] < res_arm["parameters"] < 2.2 * plain_arm["parameters"]
    assert {"torch", "numpy", "resemb_ext"} <= set(result["versions"])
    assert {"commit", "threads", "isa", "machine", "started", "wall_s"} <= set(result)
    assert result["threads"] == 1 and result["isa"] in ("baseline", "avx2")
    assert set(result["hashes"]) == {"data", "split", "graph", "graph_events", "valid_candidates", "test_candidates"}
    assert all(len(value) == 64 for value in result["hashes"].values())


def test_the_graph_is_that_of_the_training_events(finished):
    graph = rx.InterestGraph.load(finished.folder / "graph.npz")
    prepared = prepare(RunConfig())
    assert graph.hash == finished.result["hashes"]["graph"]
    assert graph.meta["event_hash"] == prepared.split.train.content_hash
    assert finished.result["hashes"]["graph_events"] == prepared.split.train.content_hash
    assert graph.hash == rx.InterestGraph.from_log(prepared.split.train).hash


def test_scores_of_every_test_row_give_the_reported_metrics(finished):
    rows = pd.read_parquet(finished.folder / "test_scores.parquet")
    assert list(rows) == [
        "user",
        "item",
        "label",
        "target_seen",
        "plain_seed0",
        "res_seed0",
        "plain_seed1",
        "res_seed1",
    ]
    for entry in finished.result["runs"]:
        scores = rows[f"{entry['embedding']}_seed{entry['seed']}"].to_numpy()
        gauc = rx.metrics.gauc(rows.label.to_numpy(), scores, rows.user.to_numpy())
        assert gauc == pytest.approx(entry["test"]["gauc"])
    candidates = pd.read_parquet(finished.folder / "valid_candidates.parquet")
    assert len(candidates) == finished.result["data"]["samples"]["valid"]


def test_checkpoints_give_the_saved_scores(finished):
    config = RunConfig(**json.loads((finished.folder / "config.resolved.json").read_text()))
    prepared = prepare(config)
    rows = pd.read_parquet(finished.folder / "test_scores.parquet")
    for arm in ("plain", "res"):
        model = build_model(config, prepared, arm, 1)
        state = load_checkpoint(finished.folder / "arms" / f"{arm}-seed1" / "best.safetensors")
        model.load_state_dict(state["model"])
        scores = rx.train.predict(model, prepared.test)
        np.testing.assert_allclose(scores, rows[f"{arm}_seed1"], rtol=1e-5, atol=1e-6)


def test_id_maps_are_kept(finished):
    maps = json.loads((finished.folder / "id_maps.json").read_text())
    items = rx.data.IdMap.from_dict(maps["items"])
    assert items == prepare(RunConfig()).log.items
    assert maps["categories"] is None


def test_bayes_row(finished):
    bayes = finished.result["bayes"]
    best = max(entry["test"]["gauc"] for entry in finished.result["runs"])
    assert best < bayes["test"]["gauc"] < 1 and bayes["test"]["exact"]
    assert not bayes["valid"]["exact"]
    assert finished.table.splitlines()[-1].split()[:2] == ["Bayes", f"~{bayes['valid']['gauc']:.4f}"]


def test_difference_is_paired_by_seed(finished):
    values = {
        arm: [r["test"]["gauc"] for r in finished.result["runs"] if r["embedding"] == arm] for arm in ("plain", "res")
    }
    gain = finished.result["summary"]["difference"]["test"]["gauc"]
    assert gain == rx.train.paired_difference(values["plain"], values["res"])
    assert gain["n"] == 2 and gain["low"] < gain["mean"] < gain["high"]
    names = [row[0] for row in table_rows(finished.result)]
    assert names == ["embedding", "plain", "res", "res - plain", "Bayes"]
    assert "±" in finished.table
    (line,) = (note for note in notes(finished.result) if note.startswith("seconds an epoch"))
    spent = [r["seconds_per_epoch"]["forward"] for r in finished.result["runs"][::2]]
    assert "plain data " in line and f"forward {sum(spent) / 2:.2f}" in line and "; res data" in line
    (line,) = (note for note in notes(finished.result) if note.startswith("res - plain"))
    assert f"gAUC {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" in line


def test_the_closing_says_what_the_table_means(finished):
    gain = finished.result["summary"]["difference"]["test"]["gauc"]
    text = closing(finished.result, finished.folder)
    lines = text.splitlines()
    assert text.startswith(finished.table) and len(lines) <= 15
    side = "above" if gain["mean"] >= 0 else "below"
    assert f"Res-embedding's test gAUC is {abs(gain['mean']):.4f} {side} the plain one's" in lines[-2]
    assert f"(95 % interval over 2 seeds: {gain['low']:+.4f} to {gain['high']:+.4f})." in lines[-2]
    assert f"results in {finished.folder}" in lines[-1] and "summary.md" in lines[-1]
    assert lines[-2] in (finished.folder / "summary.md").read_text()


def test_summary_shows_the_table(finished):
    text = (finished.folder / "summary.md").read_text()
    for row in table_rows(finished.result):
        assert "| " + " | ".join(row) + " |" in text
    assert "training events only" in text and "curves.png" in text


def test_same_seed_same_run(tmp_path):
    first, second = (run(out=str(tmp_path / name), embedding="res", seed=7, **SMALL) for name in "ab")
    for a, b in zip(first.result["runs"], second.result["runs"], strict=True):
        assert a["valid"] == b["valid"] and a["test"] == b["test"]
        assert [e["loss"] for e in a["history"]] == [e["loss"] for e in b["history"]]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("model", ["dnn", "din"])
def test_a_file_with_categories(tmp_path, log_file, model):
    done = run(
        data=str(log_file), out=str(tmp_path / "out"), model=model, category=True, split="time", metric="auc", **SMALL
    )
    result = done.result
    assert result["bayes"] is None and result["data"]["categories"] == 4
    assert result["runs"][0]["aggregation_radius_details"]["domain_source"] == "category"
    without = run(
        data=str(log_file),
        out=str(tmp_path / "no"),
        model=model,
        split="time",
        metric="auc",
        embedding="plain",
        **SMALL,
    )
    assert without.result["runs"][0]["parameters"] < result["runs"][0]["parameters"]
    assert without.result["hashes"]["graph"] is None
    assert without.result["summary"]["difference"] is None
    assert without.result["hashes"]["test_candidates"] == result["hashes"]["test_candidates"]
    assert not (tmp_path / "no" / "graph.npz").exists()
    items = pd.read_parquet(tmp_path / "out" / "test_scores.parquet").item
    assert items.str.startswith("item-").all()


def test_labels_are_used_or_left_out(tmp_path, log_file):
    frame = pd.read_csv(log_file)
    frame["label"] = np.arange(len(frame)) % 3 == 0
    frame["label"] = frame.label.astype(int)
    frame.to_csv(log_file, index=False)
    options = {"data": str(log_file), "embedding": "plain", "split": "time", "metric": "auc"}
    labelled = run(**options, out=str(tmp_path / "a"), **SMALL).result
    drawn = run(**options, out=str(tmp_path / "b"), label_column="-", **SMALL).result
    assert labelled["data"]["samples"]["test"] == labelled["data"]["split"]["test"]
    assert drawn["data"]["samples"]["test"] == 21 * drawn["data"]["split"]["test"]


def test_a_saved_graph_of_these_events_is_taken(tmp_path, log_file):
    log = rx.data.read_log(log_file)
    split = rx.data.split(log)
    path = tmp_path / "graph.npz"
    graph = rx.InterestGraph.from_log(split.train, window=2, top_k=4)
    graph.save(path)
    done = run(data=str(log_file), graph=str(path), embedding="res", out=str(tmp_path / "out"), **SMALL)
    assert done.result["hashes"]["graph"] == graph.hash


def test_a_graph_that_saw_held_out_events_is_refused(tmp_path, log_file):
    log = rx.data.read_log(log_file)
    path = tmp_path / "graph.npz"
    rx.InterestGraph.from_log(log).save(path)
    options = {"data": str(log_file), "graph": str(path), "embedding": "res", **SMALL}
    with pytest.raises(ValueError, match=r"built from other events.*resemb graph build"):
        run(**options, out=str(tmp_path / "out"))
    rx.InterestGraph.from_csr([0, 0, 1], [1], [1.0]).save(path)
    with pytest.raises(ValueError, match="has 2 items, the log"):
        run(**options, out=str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="graph: no file"):
        run(**{**options, "graph": "none.npz"}, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()  # bad input leaves nothing behind


def test_results_are_not_overwritten_by_accident(tmp_path):
    out = tmp_path / "out"
    options = {**SMALL, "epochs": 1, "embedding": "plain", "out": str(out)}
    run(**options)
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"holds an earlier run.*--overwrite"):
        run(**options)
    run(**options, overwrite=True, seed=3)
    result = json.loads((out / "result.json").read_text())
    assert result["runs"][0]["seed"] == 3
    assert not (out / "arms" / "plain-seed0").exists()
    assert (out / "mine.txt").read_text() == "keep"


def test_an_unwritable_folder_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out: cannot write to"):
        run(out=str(tmp_path / "file" / "out"), **SMALL)


def test_missing_categories_are_said(tmp_path):
    with pytest.raises(ValueError, match="category: 'simulated' has no category column"):
        run(category=True, out=str(tmp_path / "out"), **SMALL)


def test_null_log_says_what_its_domains_are(tmp_path):
    done = run(data="simulated-null", embedding="plain", out=str(tmp_path / "out"), **SMALL)
    details = done.result["runs"][0]["aggregation_radius_details"]
    assert details["domain_source"] == "simulated labels that steer nothing"


def test_arms_start_alike_but_for_the_embedding():
    config = RunConfig(dim=8, hidden=(8,))
    prepared = prepare(config)
    arms = {arm: build_model(config, prepared, arm, 3) for arm in ("plain", "res")}
    for name, parameter in arms["plain"].mlp.named_parameters():
        assert torch.equal(parameter, dict(arms["res"].mlp.named_parameters())[name])
    assert arms["plain"].item_embedding.weight[0].abs().sum() == 0


def test_threads_are_given_back(tmp_path):
    before = torch.get_num_threads()
    run(embedding="plain", out=str(tmp_path / "out"), **{**SMALL, "threads": before + 1})
    assert torch.get_num_threads() == before


@pytest.mark.one_in(2)
@pytest.mark.parametrize("model", ["dnn", "din"])
def test_lazy_tables_in_a_run(tmp_path, log_file, model):
    done = run(
        data=str(log_file),
        out=str(tmp_path / "out"),
        model=model,
        category=True,
        table_optimizer="lazy",
        decay="global",
        in_backward=True,
        **SMALL,
    )
    for entry in done.result["runs"]:
        seconds = entry["seconds_per_epoch"]
        assert sum(seconds.values()) < entry["wall_s"] and min(seconds.values()) > 0
        for part, value in seconds.items():
            spent = [epoch["seconds"][part] for epoch in entry["history"]]
            assert value == pytest.approx(sum(spent) / len(spent))


def test_a_models_own_options_reach_it():
    prepared = prepare(RunConfig(dim=8))
    config = RunConfig(dim=8, hidden=(8,), model="din", model_options=("softmax=true",))
    assert build_model(config, prepared, "res", 0).softmax
    assert build_model(RunConfig(dim=8), prepared, "plain", 0).pooling == "mean"
    config = RunConfig(dim=8, model_options=("pooling=sum",))
    assert build_model(config, prepared, "plain", 0).pooling == "sum"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hops": 2}, 'only "gcn" has hops'),
        ({"heads": 2}, 'they are of link="attention"'),
        ({"link": "attention", "heads": 3}, "a divisor of embedding_dim"),
    ],
)
def test_what_the_second_arm_refuses_is_said_before_the_first_is_trained(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(out=str(tmp_path / "run"), **SMALL, **options)
    assert not (tmp_path / "run").exists()
