"""How embedding tables are stepped: dense, lazy, in backward, and where the time goes."""

import math

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.train import FitConfig, build_optimizer, fit
from resemb_ext.train.clock import PARTS, Laps, mean_seconds

OPTIONS = {"epochs": 2, "batch_size": 128, "embedding_lr": 0.02, "lr": 0.01, "progress": False}
LAZY = {"table_optimizer": "lazy"}


@pytest.fixture(scope="module")
def parts():
    log, truth = rx.data.simulate(users=120, items=100, domains=4, events_per_user=(6, 12), seed=1)
    category = truth.domain[log.item] + 1
    log = rx.data.read_log({"user": log.user, "item": log.item, "time": log.time, "category": category})
    split = rx.data.split(log)
    return {
        "log": log,
        "graph": rx.InterestGraph.from_log(split.train),
        "train": rx.data.make_train_samples(split),
        "valid": rx.data.make_eval_samples(split, "valid"),
        "test": rx.data.make_eval_samples(split, "test"),
    }


def make_model(parts, arm="res", model=rx.models.DNN, sparse=True, category=False):
    torch.manual_seed(5)
    items, log = parts["graph"].num_items, parts["log"]
    if arm == "res":
        table = rx.ResEmbedding(parts["graph"], 8, padding_idx=0, init_std=0.05, sparse=sparse)
    else:
        table = torch.nn.Embedding(items, 8, padding_idx=0, sparse=sparse)
    beside = None
    if category:
        beside = torch.nn.Embedding(log.num_categories, 8, padding_idx=0, sparse=sparse)
    return model(table, category_embedding=beside, hidden=(16,))


def run_fit(parts, model, **options):
    torch.set_num_threads(1)
    return fit(model, parts["train"], parts["valid"], parts["test"], **{**OPTIONS, **options})


def tensors(model):
    return {k: v for k, v in model.state_dict().items() if not k.endswith("_extra_state")}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("category", [False, True])
@pytest.mark.parametrize("model", [rx.models.DNN, rx.models.DIN])
@pytest.mark.parametrize("arm", ["plain", "res"])
@pytest.mark.parametrize("decay", ["touched", "global"])
def test_steps_in_backward_are_those_of_step(parts, arm, model, category, decay):
    runs = []
    for in_backward in (False, True):
        module = make_model(parts, arm, model, category=category)
        options = {**LAZY, "decay": decay, "in_backward": in_backward, "embedding_l2": 1e-2}
        done = run_fit(parts, module, epochs=1, **options)
        runs.append((done, tensors(module)))
    (first, weights), (second, again) = runs
    # A plain table in a DNN pools by F.embedding_bag, unless it is watched: another order of sums.
    other_sums = model is rx.models.DNN and decay == "touched" and (arm == "plain" or category)
    limits = {"rtol": 1e-3, "atol": 1e-5} if other_sums else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(first.test_scores, second.test_scores, **limits)
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, **limits)


@pytest.mark.parametrize("model", [rx.models.DNN, rx.models.DIN])
@pytest.mark.parametrize("arm", ["plain", "res"])
def test_lazy_steps_only_the_rows_of_the_batch(parts, arm, model):
    """One batch: its rows as dense Adam's first step, the others untouched, the MLP as dense."""
    lazy, dense = make_model(parts, arm, model), make_model(parts, arm, model, sparse=False)
    start = {name: value.clone() for name, value in tensors(lazy).items()}
    batch = next(rx.train.batches.train_batches(parts["train"], 32, seed=0, epoch=0))
    for module, options in ((lazy, LAZY), (dense, {})):
        optimizer = build_optimizer(module, FitConfig(embedding_l2=0, residual_l2=0, **options))
        torch.nn.functional.binary_cross_entropy_with_logits(module(batch), batch.label).backward()
        optimizer.step()
    moved = 0
    for name, value in tensors(lazy).items():
        torch.testing.assert_close(value, tensors(dense)[name], rtol=1e-5, atol=1e-7)
        if name.startswith("item_embedding"):
            still = (value == start[name]).all(1)
            moved += int((~still).sum())
            assert 0 < int(still.sum()) < len(value)
    assert moved


def test_global_decay_reaches_rows_that_no_batch_touches(parts):
    untouched = parts["graph"].num_items - 1  # the out-of-vocabulary row
    norms = {}
    for decay in ("touched", "global"):
        model = make_model(parts, "plain")
        before = model.item_embedding.weight[untouched].detach().norm().item()
        done = run_fit(parts, model, **LAZY, decay=decay, embedding_l2=0.5, patience=2)
        norms[decay] = model.state_dict()["item_embedding.weight"][untouched].norm().item() / before
    steps = done.steps // done.epochs * done.best_epoch
    assert norms["touched"] == 1
    assert math.isclose(norms["global"], (1 - 0.02 * 0.5) ** steps, rel_tol=1e-4)


def test_the_rest_of_the_model_is_stepped_by_torch(parts):
    model = make_model(parts)
    optimizer = build_optimizer(model, FitConfig(l2=0.1, **LAZY, decay="global"))
    decays = {group["name"]: group["decay"] for group in optimizer.param_groups}
    assert decays == {"central": "global", "residual": "global", "other": "touched"}


@pytest.mark.parametrize("arm", ["plain", "res"])
def test_gradients_must_fit_the_table_optimizer(parts, arm):
    with pytest.raises(ValueError, match=r"item_embedding gives sparse gradients.*sparse=False"):
        run_fit(parts, make_model(parts, arm), table_optimizer="dense")
    with pytest.raises(ValueError, match=r"item_embedding gives dense gradients.*sparse=True"):
        run_fit(parts, make_model(parts, arm, sparse=False), **LAZY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decay": "touched"}, "decay: needs table_optimizer lazy, found auto"),
        ({"in_backward": True, "table_optimizer": "dense"}, "in_backward: needs table_optimizer lazy, found dense"),
        ({"table_optimizer": "sparse"}, "table_optimizer must be one of auto, dense, lazy"),
        ({**LAZY, "decay": "local"}, "decay must be one of touched, global"),
        ({**LAZY, "decay": "global", "embedding_l2": 1e3}, "embedding_lr .* times embedding_l2"),
        ({**LAZY, "decay": "global", "residual_l2": 1e3}, "residual_lr .* times residual_l2"),
    ],
)
def test_bad_combinations_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        FitConfig(**options)


@pytest.mark.parametrize("options", [{}, LAZY, {**LAZY, "in_backward": True}])
def test_every_epoch_says_where_its_time_went(parts, options):
    done = run_fit(parts, make_model(parts, sparse=bool(options)), **options)
    for entry in done.history:
        seconds = entry["seconds"]
        assert tuple(seconds) == PARTS and all(value > 0 for value in seconds.values())
        assert math.isclose(entry["train_s"], sum(seconds.values()) - seconds["evaluation"])


def test_laps_add_up(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 3.5])
    monkeypatch.setattr("resemb_ext.train.clock.time.perf_counter", lambda: next(ticks))
    clock = Laps()
    for part in ("data", "forward", "data"):
        clock.lap(part)
    assert clock.seconds["data"] == 1.5 and clock.seconds["forward"] == 2 and clock.total == 3.5
    twice = mean_seconds([clock.seconds, dict.fromkeys(PARTS, 1.0)])
    assert twice["data"] == 1.25 and twice["backward"] == 0.5
