"""Graphs that saw other events are refused; cross-fitting keeps a batch's users out of its graph."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.train import RunConfig, fit, run
from resemb_ext.train.crossfit import CrossFit
from resemb_ext.train.prepare import build_folds, build_model, prepare, train_samples
from resemb_ext.train.report import notes

SMALL = {"epochs": 2, "batch_size": 64, "dim": 8, "hidden": (8,), "threads": 1}


@pytest.fixture
def small(monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        "resemb_ext.train.prepare.data.simulate",
        lambda **o: whole(users=90, items=70, domains=4, events_per_user=(5, 9), **o),
    )


@pytest.fixture
def log_file(tmp_path):
    log, _ = rx.data.simulate(users=90, items=70, domains=4, events_per_user=(5, 9), seed=2)
    path = tmp_path / "log.csv"
    columns = {"user_id": log.user, "item_id": log.item, "timestamp": np.arange(len(log))}
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_each_graph_is_that_of_the_other_users(folds):
    log, _ = rx.data.simulate(users=90, items=70, domains=4, events_per_user=(5, 9))
    split = rx.data.split(log)
    cross = CrossFit.of(split, folds, lambda part: rx.InterestGraph.from_log(part, top_k=None))
    sizes = np.bincount(cross.fold)
    assert len(sizes) == folds and sizes.max() - sizes.min() <= 1
    whole = rx.InterestGraph.from_log(split.train, top_k=None)
    rest = whole.to_scipy() * 0
    for number, graph in enumerate(cross.graphs):
        kept = cross.fold[split.train.user] != number
        expected = rx.InterestGraph.from_events(
            split.train.user[kept],
            split.train.item[kept],
            split.train.time[kept],
            num_items=log.num_items,
            top_k=None,
            padding_idx=0,
        )
        assert graph.hash == expected.hash
        # Counts of pairs: what a graph lacks is what its own fold's users gave.
        without = graph.to_scipy() - whole.to_scipy()
        without.setdiag(0)
        rest = rest + without
    others = whole.to_scipy()
    others.setdiag(0)
    assert abs(rest + others).max() == 0  # every event is left out of one graph
    again = CrossFit.of(split, folds, None)
    assert np.array_equal(cross.fold, again.fold) and again.graphs == ()


@pytest.mark.parametrize(("model", "tables"), [("dnn", {}), ("din", {"table_optimizer": "lazy", "decay": "global"})])
def test_batches_look_up_over_the_graph_without_their_users(small, model, tables):
    config = RunConfig(**SMALL, **tables, cross_fit=3, model=model, embedding="res")
    prepared = prepare(config)
    cross, train = prepared.cross_fit, train_samples(config, prepared.split, 0)
    module = build_model(config, prepared, "res", 0)
    folds = build_folds(config, prepared, module, "res", 0)
    own = module.item_embedding
    links = {graph.with_link("average", padding_idx=0).hash: n for n, graph in enumerate(cross.graphs)}
    seen, calls = [], []

    def record(model, inputs):
        number = links.get(model.item_embedding.graph.hash)
        calls.append(number)
        if model.training:
            seen.append((number, sorted(inputs[0].target.tolist())))
        else:
            assert number is None and model.item_embedding is own

    module.register_forward_pre_hook(record)
    fit(module, train, prepared.valid, prepared.test, config=config.fit_config(), folds=folds, progress=False)
    assert module.item_embedding is own and None in calls
    for epoch in (1, 2):
        expected = list(folds.batches(train, 64, seed=0, epoch=epoch))
        assert len(expected) == folds.num_batches(train, 64) == len(seen) // 2
        part = seen[(epoch - 1) * len(expected) : epoch * len(expected)]
        assert part == [(number, sorted(b.target.tolist())) for number, b in expected]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10**6])
def test_an_epoch_holds_every_row_once_in_batches_of_one_fold(small, batch_size):
    config = RunConfig(**SMALL, cross_fit=4, embedding="plain")
    prepared = prepare(config)
    train = train_samples(config, prepared.split, 0)
    folds = build_folds(config, prepared, build_model(config, prepared, "plain", 0), "plain", 0)
    told, rows = [], []
    batch = type(train).batch

    def keep(self, index):
        rows.append(index)
        return batch(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(train), "batch", keep)
        told = [number for number, _ in folds.batches(train, batch_size, seed=3, epoch=2)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(train)))
    assert len(told) == folds.num_batches(train, batch_size)
    for number, index in zip(told, rows, strict=True):
        assert len(index) <= batch_size and set(folds.fold[train.user[index]]) == {number}
    later = list(folds.batches(train, batch_size, seed=3, epoch=2, start=2))
    whole = list(folds.batches(train, batch_size, seed=3, epoch=2))[2:]
    assert [n for n, _ in later] == [n for n, _ in whole]
    assert all(torch.equal(a.target, b.target) for (_, a), (_, b) in zip(later, whole, strict=True))


def test_gradients_are_those_of_a_model_over_the_folds_graph(small):
    config = RunConfig(**SMALL, cross_fit=2, embedding="res")
    prepared = prepare(config)
    model = build_model(config, prepared, "res", 0)
    folds = build_folds(config, prepared, model, "res", 0)
    train = train_samples(config, prepared.split, 0)
    for number, batch in folds.batches(train, 64, seed=0, epoch=1):
        table = rx.ResEmbedding(prepared.cross_fit.graphs[number], 8, padding_idx=0)
        alone = rx.models.DNN(table, hidden=(8,))
        alone.load_state_dict({k: v for k, v in model.state_dict().items() if "extra" not in k}, strict=False)
        with folds.using(number):
            loss = model(batch)
        assert torch.equal(loss, alone(batch))
        model.zero_grad()
        loss.sum().backward()
        alone(batch).sum().backward()
        assert torch.equal(model.item_embedding.central.grad, table.central.grad)


@pytest.mark.full
def test_a_run_tells_and_resumes(small, tmp_path, monkeypatch):
    from resemb_ext.train import loop

    options = {**SMALL, "cross_fit": 3, "table_optimizer": "lazy", "decay": "global", "progress": False}
    whole = run(**options, out=str(tmp_path / "a"))
    about = whole.result["graph"]["cross_fit"]
    assert about["folds"] == 3 and sum(about["users"]) == 90 and len(set(about["graphs"])) == 3
    assert whole.result["hashes"]["fold_graphs"] == about["graphs"]
    assert any("cross-fitted: a batch uses the graph without" in note for note in notes(whole.result))
    save, left = loop._Training.save, [6]

    def dying(self):
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError
        save(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "save", dying)
        with pytest.raises(ZeroDivisionError):
            run(**options, save_every=0, out=str(tmp_path / "b"))
    resumed = run(**options, out=str(tmp_path / "b"), resume=True)
    for one, other in zip(whole.result["runs"], resumed.result["runs"], strict=True):
        assert one["valid"] == other["valid"] and one["test"] == other["test"]
    plain = run(**{**options, "cross_fit": 0}, out=str(tmp_path / "c"))
    assert plain.result["runs"][1]["valid"] != whole.result["runs"][1]["valid"]
    assert plain.result["graph"]["cross_fit"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cross_fit": 1}, "cross_fit must be 0 or at least 2"),
        ({"cross_fit": 2, "graph": "g.npz"}, "cross_fit: builds its graphs from the log"),
        (
            {"cross_fit": 2, "table_optimizer": "lazy", "in_backward": True},
            "cross_fit: lookups over several graphs are not stepped in backward",
        ),
        ({"allow_future_edges": True}, "allow_future_edges: needs graph"),
    ],
)
def test_bad_combinations_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RunConfig(**options)


def test_more_folds_than_users_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="cross_fit: 91 folds need as many users, the log has 90"):
        run(**SMALL, cross_fit=91, out=str(tmp_path / "out"), progress=False)


@pytest.mark.full
def test_a_graph_of_other_events_needs_a_word(log_file, tmp_path, capsys):
    """The command refuses it with one line, or takes it when told, and says so in every result."""
    path, out = tmp_path / "graph.npz", tmp_path / "out"
    assert main(["graph", "build", "--data", str(log_file), "--out", str(path)]) == 0
    capsys.readouterr()
    command = [
        "train",
        "--data",
        str(log_file),
        "--graph",
        str(path),
        "--split",
        "time",
        "--epochs",
        "1",
        "--dim",
        "4",
        "--threads",
        "1",
        "--out",
        str(out),
        "--metric",
        "auc",
    ]
    assert main(command) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1 and "--allow-future-edges" in shown
    assert "its last event is of time" in shown and "training ends before" in shown
    assert main([*command, "--allow-future-edges"]) == 0
    seen = capsys.readouterr()
    assert "warning:" in seen.err and "THE GRAPH WAS BUILT FROM OTHER EVENTS" in seen.out
    assert "OTHER EVENTS" in (out / "summary.md").read_text()
    result = json.loads((out / "result.json").read_text())
    assert result["graph"]["training_events_only"] is False
    assert result["config"]["allow_future_edges"] is True


def test_a_clean_graph_is_said_to_be_one(log_file, tmp_path):
    done = run(**SMALL, data=str(log_file), embedding="res", out=str(tmp_path / "o"), progress=False)
    assert done.result["graph"]["training_events_only"] is True
    assert any("built from training events only" in note for note in notes(done.result))


class WithAuxiliary(rx.models.DNN):
    """A model with a second loss: the squared distance of a parameter from 3."""

    def __init__(self, table):
        super().__init__(table, hidden=(4,))
        self.free = torch.nn.Parameter(torch.zeros(()))
        self.asked = 0

    def auxiliary_loss(self):
        self.asked += 1
        return None if self.asked % 2 else (self.free - 3).square()


def test_a_models_auxiliary_loss_is_trained(small):
    config = RunConfig(**SMALL)
    prepared = prepare(config)
    model = WithAuxiliary(torch.nn.Embedding(prepared.log.num_items, 4, padding_idx=0))
    train = train_samples(config, prepared.split, 0)
    done = fit(model, train, prepared.valid, epochs=3, lr=0.3, batch_size=64, progress=False)
    assert model.asked == done.steps and model.free.item() > 0.5
    assert done.history[0]["loss"] < 1  # the logloss alone
    model.free.data.fill_(float("inf"))
    with pytest.raises(rx.train.TrainingDiverged, match="free started with a value of inf"):
        model.asked = 1
        fit(model, train, prepared.valid, epochs=1, progress=False)
