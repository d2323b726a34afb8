"""The number of threads: chosen by measurement, without effect on the result."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.train import threads


@pytest.mark.parametrize(
    ("seconds", "chosen"), [({1: 0.02, 2: 0.01}, 2), ({1: 0.01, 2: 0.02}, 1), ({1: 0.01, 2: 0.0098}, 1)]
)
def test_more_threads_must_be_clearly_faster(seconds, chosen, monkeypatch):
    now = [0.0]

    def step():
        now[0] += seconds[torch.get_num_threads()]

    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    before = torch.get_num_threads()
    assert threads.faster_threads(step, 2) == chosen
    assert torch.get_num_threads() == before


def test_one_thread_needs_no_measurement():
    def never():
        raise AssertionError("measured")

    assert threads.faster_threads(never, 1) == 1


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", [rx.models.DNN, rx.models.DIN])
@pytest.mark.parametrize("arm", ["plain", "res"])
def test_threads_do_not_change_the_result(model, arm):
    log, _ = rx.data.simulate(users=150, items=120, domains=4, events_per_user=(6, 12))
    split = rx.data.split(log)
    train, valid = rx.data.make_train_samples(split), rx.data.make_eval_samples(split)
    scores = []
    for count in (1, 2):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        if arm == "res":
            table = rx.ResEmbedding(rx.InterestGraph.from_log(split.train), 16, padding_idx=0)
        else:
            table = torch.nn.Embedding(log.num_items, 16, padding_idx=0)
        done = rx.train.fit(model(table), train, valid, valid, epochs=1, progress=False)
        scores.append(done.test_scores)
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-6)


def test_a_run_measures_unless_told(tmp_path, monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        "resemb_ext.train.prepare.data.simulate",
        lambda **o: whole(users=80, items=60, domains=3, events_per_user=(4, 7), **o),
    )
    asked = []
    monkeypatch.setattr("resemb_ext.train.runner.faster_threads", lambda step, most: asked.append(step()) or 3)
    small = {"epochs": 1, "dim": 4, "hidden": (4,), "progress": False}
    measured = rx.train.run(out=str(tmp_path / "a"), embedding="res", **small).result
    assert measured["threads"] == 3 and len(asked) == 1
    told = rx.train.run(out=str(tmp_path / "b"), embedding="plain", threads=1, **small).result
    assert told["threads"] == 1 and len(asked) == 1
    assert measured["hashes"]["test_candidates"] == told["hashes"]["test_candidates"]
