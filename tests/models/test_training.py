"""Every model through the training command's functions, and DIEN's auxiliary loss in the loop."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import resemb_ext as rx
from resemb_ext.models import DIEN, DNN, MODELS, TorchBatch
from resemb_ext.train import fit, run
from resemb_ext.train.evaluate import predict


@pytest.fixture(scope="module")
def log_file(tmp_path_factory):
    """A small log with categories."""
    log, truth = rx.data.simulate(seed=2, users=80, items=60, domains=4, events_per_user=(5, 9))
    path = tmp_path_factory.mktemp("log") / "shop.csv"
    pd.DataFrame(
        {
            "user_id": log.user,
            "item_id": log.item,
            "timestamp": log.time,
            "category": [f"c{d}" for d in truth.domain[log.item]],
        }
    ).to_csv(path, index=False)
    return path


@pytest.mark.one_in(7)
@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_trains_by_name(model, log_file, tmp_path):
    layers = {} if model == "fm" else {"hidden": (8,)}
    done = run(
        data=str(log_file),
        model=model,
        category=True,
        out=str(tmp_path / "run"),
        epochs=2,
        batch_size=128,
        dim=4,
        threads=1,
        progress=False,
        eval_negatives=5,
        **layers,
    )
    assert [entry["embedding"] for entry in done.result["runs"]] == ["plain", "res"]
    for entry in done.result["runs"]:
        assert entry["model"] == model and 0 < entry["test"]["auc"] < 1
        losses = [epoch["loss"] for epoch in entry["history"]]
        assert losses[-1] < losses[0]


@pytest.mark.full
@pytest.mark.parametrize("model", ["deepfm", "dien"])
def test_tables_may_step_in_backward(model, log_file, tmp_path):
    """First-order tables and negatives included: every table is looked up once a step."""
    scores = []
    for inside in (False, True):
        done = run(
            data=str(log_file),
            model=model,
            category=True,
            out=str(tmp_path / f"{inside}"),
            epochs=1,
            batch_size=128,
            dim=4,
            hidden=(8,),
            threads=1,
            progress=False,
            eval_negatives=5,
            table_optimizer="lazy",
            in_backward=inside,
        )
        scores.append([entry["test"]["logloss"] for entry in done.result["runs"]])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def batch(**fields) -> TorchBatch:
    return TorchBatch(
        target=torch.tensor([1, 2]),
        history=torch.tensor([3, 4, 5, 6, 7]),
        offsets=torch.tensor([0, 3]),
        label=torch.tensor([0.0, 1.0]),
        **fields,
    )


def dien(**options) -> DIEN:
    torch.manual_seed(0)
    return DIEN(torch.nn.Embedding(9, 4, padding_idx=0), **options)


def test_auxiliary_loss_is_the_mean_over_next_events_and_negatives():
    model = dien()
    given = batch(history_negative=torch.tensor([8, 1, 2, 8, 1]))
    model(given)
    loss = model.auxiliary_loss()
    # States after events 0, 1 of the first history and 0 of the second, told apart one by one.
    states = []
    for ids in ([3, 4], [6]):
        h = torch.zeros(4)
        for i in ids:
            x_r, x_u, x_n = model.extractor.input(model.item_embedding.weight[i]).chunk(3)
            h_r, h_u, h_n = model.extractor.state(h).chunk(3)
            new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
            u = torch.sigmoid(x_u + h_u)
            h = (1 - u) * h + u * new
            states.append(h)
    terms = []
    for state, chosen, unchosen in zip(states, (4, 5, 7), (1, 2, 1), strict=True):
        for item, label in ((chosen, 1.0), (unchosen, 0.0)):
            pair = torch.cat([state, model.item_embedding.weight[item]])
            logit = model.auxiliary(pair[None])[0]
            terms.append(F.binary_cross_entropy_with_logits(logit, torch.tensor(label)))
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_auxiliary_loss_trains_the_states_and_the_table():
    """That is what it is for: its gradient goes past its own MLP."""
    model = dien()
    model(batch(history_negative=torch.tensor([8, 1, 2, 8, 1])))
    model.auxiliary_loss().backward()
    for part in (model.auxiliary, model.extractor):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    # Events that a state comes of, next ones, and negatives; 8 stands at no place that has a next event.
    touched = model.item_embedding.weight.grad.abs().sum(1) > 0
    assert touched[[3, 4, 5, 6, 7, 1, 2]].all()
    assert model.mlp.layers[0].weight.grad is None


def test_drawn_negatives_are_never_the_next_event():
    """With one item in all histories every drawn negative is the next event: nothing is left."""
    model, same = dien(), batch()
    model(TorchBatch(same.target, torch.full_like(same.history, 3), same.offsets))
    assert model.auxiliary_loss().item() == 0
    model(same)
    assert model.auxiliary_loss().item() > 0


def test_auxiliary_loss_is_given_once_and_in_training_only():
    model = dien(auxiliary_weight=0.5)
    model(batch())
    assert model.auxiliary_loss().requires_grad
    assert model.auxiliary_loss() is None
    model.eval()(batch())
    assert model.auxiliary_loss() is None
    assert dien(auxiliary_weight=0).auxiliary_loss() is None


def small_samples():
    log, _ = rx.data.simulate(users=60, items=40, domains=3, events_per_user=(5, 8))
    split = rx.data.split(log, "leave-last-out")
    train = rx.data.make_train_samples(split)
    return log, train, rx.data.make_eval_samples(split, "valid", negatives=3)


def test_the_loop_trains_the_auxiliary_mlp():
    log, train, valid = small_samples()
    torch.manual_seed(0)
    model = DIEN(torch.nn.Embedding(log.num_items, 4, padding_idx=0), hidden=(8,))
    before = {k: v.clone() for k, v in model.auxiliary.state_dict().items()}
    done = fit(model, train, valid, epochs=2, batch_size=64, progress=False)
    assert all(not torch.equal(v, before[k]) for k, v in model.auxiliary.state_dict().items())
    assert np.isfinite(done.valid["auc"])


def test_the_loop_gives_the_user():
    """A table of users from 0 on: users have no padding."""
    log, train, valid = small_samples()
    torch.manual_seed(0)
    table = torch.nn.Embedding(log.num_users, 3)
    before = table.weight.detach().clone()
    item = torch.nn.Embedding(log.num_items, 4, padding_idx=0)
    model = DNN(item, user_embedding=table, hidden=(8,))
    done = fit(model, train, valid, epochs=1, batch_size=64, progress=False)
    assert np.isfinite(done.valid["auc"])
    # The user is fed in evaluation too: other vectors, other scores.
    scores = predict(model, valid)
    assert not torch.equal(table.weight, before)
    with torch.no_grad():
        table.weight.copy_(table.weight.flip(0))
    assert not np.array_equal(predict(model, valid), scores)
