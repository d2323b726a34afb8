"""The training loop on a tiny simulated log."""

import math

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.train import FitConfig, TrainingDiverged, fit, parameter_groups
from resemb_ext.train.batches import shared_batches
from resemb_ext.train.checkpoint import load_checkpoint

OPTIONS = {"epochs": 3, "batch_size": 256, "embedding_lr": 0.02, "lr": 0.01, "progress": False}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parts():
    log, _ = rx.data.simulate(users=150, items=120, domains=4, events_per_user=(6, 12), seed=1)
    split = rx.data.split(log)
    return {
        "log": log,
        "graph": rx.InterestGraph.from_log(split.train),
        "train": rx.data.make_train_samples(split),
        "valid": rx.data.make_eval_samples(split, "valid"),
        "test": rx.data.make_eval_samples(split, "test"),
    }


def make_model(parts, arm="plain", model=rx.models.DNN, **options):
    torch.manual_seed(5)
    if arm == "res":
        table = rx.ResEmbedding(parts["graph"], 8, padding_idx=0, init_std=0.05)
    else:
        table = torch.nn.Embedding(parts["log"].num_items, 8, padding_idx=0)
    return model(table, hidden=(16,), **options)


def run_fit(parts, model, **options):
    settings = {**OPTIONS, **options}
    return fit(model, parts["train"], parts["valid"], parts["test"], **settings)


@pytest.mark.parametrize("model", [rx.models.DNN, rx.models.DIN])
@pytest.mark.parametrize("arm", ["plain", "res"])
def test_learns_and_reports(parts, arm, model):
    module = make_model(parts, arm, model)
    result = run_fit(parts, module, epochs=6, patience=6)
    assert result.epochs == 6 and len(result.history) == 6 and result.stopped == "epochs"
    assert result.steps == 6 * -(-len(parts["train"]) // 256)
    assert result.history[-1]["loss"] < result.history[0]["loss"] < 0.75
    assert result.valid["gauc"] == max(entry["valid"]["gauc"] for entry in result.history)
    if arm == "res":  # seven events an item teach a plain table nothing general
        assert result.test["gauc"] > 0.55
    assert result.test_scores.shape == (len(parts["test"]),)
    assert result.samples_per_s > 0 and result.wall_s > 0
    # The model holds the weights that the result speaks of.
    again = rx.train.evaluate(module, parts["valid"])
    assert again == result.valid


def test_same_seed_same_result(parts):
    runs = []
    for _ in range(2):
        model = make_model(parts, "res", dropout=0.2)
        runs.append((run_fit(parts, model, seed=3), model.state_dict()))
    (first, weights), (second, again) = runs
    assert [entry["loss"] for entry in first.history] == [e["loss"] for e in second.history]
    assert np.array_equal(first.test_scores, second.test_scores)
    assert all(torch.equal(weights[k], again[k]) for k in weights if "extra" not in k)
    other = run_fit(parts, make_model(parts, "res", dropout=0.2), seed=4)
    assert not np.array_equal(first.test_scores, other.test_scores)


def test_stops_after_patience_and_keeps_the_best(parts, monkeypatch):
    values = iter([0.6, 0.7, 0.65, 0.7, 0.9])

    def scripted(samples, scores):
        return {"auc": 0.5, "gauc": next(values), "logloss": 0.7}

    monkeypatch.setattr("resemb_ext.train.loop.measure", scripted)
    model = make_model(parts)
    weights = []

    def note(*_):
        if model.training:
            weights.append(model.mlp.layers[0].weight.detach().clone())

    take = model.mlp.register_forward_pre_hook(note)
    result = fit(model, parts["train"], parts["valid"], **{**OPTIONS, "epochs": 9, "patience": 2})
    take.remove()
    # 0.7 again is no improvement: two epochs after the second, training stops.
    assert (result.epochs, result.best_epoch, result.stopped) == (4, 2, "patience")
    steps = result.steps // result.epochs
    assert torch.equal(model.mlp.layers[0].weight, weights[2 * steps])
    assert result.test is None and result.test_scores is None


def test_giving_up_ends_after_an_epoch_with_the_best_weights(parts):
    seen = []

    def give_up(history):
        seen.append([entry["epoch"] for entry in history])
        return len(history) == 2

    model = make_model(parts, "res")
    result = run_fit(parts, model, epochs=6, patience=6, give_up=give_up)
    assert result.stopped == "given up" and result.epochs == 2 and seen == [[1], [1, 2]]
    assert rx.train.evaluate(model, parts["valid"]) == result.valid
    # Two epochs of a longer training are those of a shorter one.
    whole = run_fit(parts, make_model(parts, "res"), epochs=2)
    assert [e["loss"] for e in whole.history] == [e["loss"] for e in result.history]


def test_test_samples_choose_nothing(parts):
    plain = run_fit(parts, make_model(parts))
    swapped = fit(make_model(parts), parts["train"], parts["valid"], parts["valid"], **OPTIONS)
    assert plain.best_epoch == swapped.best_epoch
    assert plain.history[-1]["valid"] == swapped.history[-1]["valid"]


def test_stopping_metric_is_an_option(parts):
    by_auc = run_fit(parts, make_model(parts), metric="auc")
    assert by_auc.valid["auc"] == max(entry["valid"]["auc"] for entry in by_auc.history)


def test_checkpoints_hold_what_continuing_needs(parts, tmp_path):
    model = make_model(parts, "res")
    result = run_fit(parts, model, folder=tmp_path / "arm", seed=9)
    assert sorted(p.name for p in (tmp_path / "arm").iterdir()) == ["best.safetensors", "last.safetensors"]
    best = load_checkpoint(tmp_path / "arm" / "best.safetensors")
    assert best["epoch"] == result.best_epoch and best["metrics"]["gauc"] == result.valid["gauc"]
    fresh = make_model(parts, "res")
    fresh.load_state_dict(best["model"])
    assert rx.train.evaluate(fresh, parts["valid"]) == result.valid


def test_sharing_a_folder_or_not_gives_the_same_weights(parts, tmp_path):
    with_folder = run_fit(parts, make_model(parts), folder=tmp_path)
    without = run_fit(parts, make_model(parts))
    assert np.array_equal(with_folder.test_scores, without.test_scores)


def test_nan_loss_stops_with_the_step(parts):
    model = make_model(parts)
    calls = []

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 3 else output

    model.register_forward_hook(poison)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 3 \(epoch 1\).*learning rate"):
        run_fit(parts, model)


def test_nan_loss_names_the_parameter_that_ran_away(parts):
    model = make_model(parts)
    before = model.mlp.layers[2].weight.detach().clone()
    words = r"mlp\.layers\.\d\.\w+ has grown to \S+ \(the loss went from .*lr 1e\+30\): lower it"
    with pytest.raises(TrainingDiverged, match=words):
        run_fit(parts, model, lr=1e30)
    assert not torch.equal(before, model.mlp.layers[2].weight)
    model = make_model(parts)
    with pytest.raises(TrainingDiverged, match=r"item_embedding.weight has .*embedding_lr 1e\+37"):
        run_fit(parts, model, embedding_lr=1e37)


def test_nan_loss_names_a_bad_start_and_a_bad_layer(parts):
    model = make_model(parts)
    with torch.no_grad():
        model.mlp.layers[0].bias[0] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"layers\.0\.bias started with a value of nan"):
        run_fit(parts, model)
    model = make_model(parts)
    model.mlp.layers[1].register_forward_hook(lambda m, i, o: o / 0)
    words = r"output of mlp\.layers\.1 \(PReLU\) is the first that is not"
    with pytest.raises(TrainingDiverged, match=words):
        run_fit(parts, model)


@pytest.mark.parametrize(
    ("rates", "cause"),
    [({"embedding_lr": 3e38}, r"item_embedding\.weight has grown to"), ({"lr": 1e30}, r"mlp\.\S+ has grown to")],
)
def test_weights_that_run_away_in_the_last_step_of_an_epoch(parts, rates, cause):
    words = rf"^arm 7: the score of validation sample \d+ is \S+ after step 1 \(epoch 1\): {cause} .*: lower it"
    with pytest.raises(TrainingDiverged, match=words):
        run_fit(parts, make_model(parts), batch_size=10**6, name="arm 7", **rates)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("call", "where"),
    [(0, r"validation sample 3 .*\(epoch 1\)"), (1, r"test sample 3 .*\(the best weights, of epoch 1\)")],
)
def test_scores_that_are_not_finite_stop_and_name_the_layer(parts, value, call, where):
    model, calls = make_model(parts), []

    def poison(module, inputs, output):
        if not module.training:
            calls.append(1)
            output = output.clone()
            output[3] = value if len(calls) > call else output[3]
        return output

    model.mlp.register_forward_hook(poison)
    with pytest.raises(TrainingDiverged, match=rf"the score of {where}: .*the output of mlp \(\w+\) is the first"):
        run_fit(parts, model, epochs=1)


def test_a_resumed_training_that_diverges_does_not_blame_the_start(parts, tmp_path):
    def poisoned(after):
        model, calls = make_model(parts), []

        def poison(module, inputs):
            calls.append(1)
            if len(calls) > after:
                with torch.no_grad():
                    module.mlp.layers[0].bias[0] = float("nan")

        model.register_forward_pre_hook(poison)
        return model

    with pytest.raises(TrainingDiverged, match=r"bias has grown to nan .*the loss went"):
        run_fit(parts, poisoned(2), folder=tmp_path, save_every=0)
    with pytest.raises(TrainingDiverged, match="bias has grown to nan; the likely cause is a learning rate"):
        run_fit(parts, poisoned(0), folder=tmp_path, save_every=0, resume=True)


def test_undefined_metric_and_missing_samples(parts):
    valid = parts["valid"]
    positives = rx.data.Samples(
        **{**{f: getattr(valid, f) for f in valid.__dataclass_fields__}, "label": np.ones_like(valid.label)}
    )
    for metric in ("gauc", "auc"):
        model = make_model(parts)
        before = {k: v.clone() for k, v in model.named_parameters()}
        with pytest.raises(ValueError, match=f"^{metric} is undefined on the validation samples"):
            fit(model, parts["train"], positives, **{**OPTIONS, "metric": metric})
        # It is said before an epoch is trained.
        assert all(torch.equal(v, before[k]) for k, v in model.named_parameters())
    one = rx.data.Samples(
        **{**{f: getattr(valid, f) for f in valid.__dataclass_fields__}, "user": np.arange(len(valid))}
    )
    with pytest.raises(ValueError, match="no user has both classes"):
        fit(make_model(parts), parts["train"], one, **OPTIONS)
    none = rx.data.Samples(
        **{
            f: v[:0] if f in ("user", "target", "label", "start", "end", "target_seen") else v
            for f in valid.__dataclass_fields__
            for v in [getattr(valid, f)]
        }
    )
    with pytest.raises(ValueError, match="0 for training"):
        fit(make_model(parts), none, valid, **OPTIONS)


def test_parameter_groups(parts):
    torch.manual_seed(0)
    table = rx.ResEmbedding(parts["graph"], 4, padding_idx=0)
    category = torch.nn.Embedding(5, 4)
    model = rx.models.DIN(table, category_embedding=category, hidden=(8,))
    config = FitConfig(lr=1e-3, l2=1e-6, embedding_lr=2e-3, embedding_l2=3e-6, residual_lr=4e-3, residual_l2=5e-6)
    groups = {group["name"]: group for group in parameter_groups(model, config)}
    settings = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert settings == {
        "embedding": (2e-3, 3e-6),
        "central": (2e-3, 3e-6),
        "residual": (4e-3, 5e-6),
        "other": (1e-3, 1e-6),
    }
    assert groups["embedding"]["params"] == [category.weight]
    assert groups["central"]["params"][0] is table.central
    assert groups["residual"]["params"][0] is table.residual
    together = sum(len(group["params"]) for group in groups.values())
    assert together == len(list(model.parameters()))
    table.central.requires_grad_(False)
    assert "central" not in {group["name"] for group in parameter_groups(model, config)}


def test_l2_pulls_the_whole_table(parts):
    """Rows that no batch touches decay too: the L2 is that of the whole table."""
    model = make_model(parts)
    untouched = parts["log"].num_items - 1  # the out-of-vocabulary row
    before = model.item_embedding.weight[untouched].detach().abs().sum()
    run_fit(parts, model, embedding_l2=1e-2)
    assert model.item_embedding.weight[untouched].detach().abs().sum() < before - 0.1
    assert model.item_embedding.weight[0].abs().sum() == 0  # padding stays


@pytest.mark.parametrize("batch_size", [1, 50, 10_000])
def test_shared_batches_score_as_single_rows(parts, batch_size):
    test, model = parts["test"], make_model(parts, model=rx.models.DIN)
    model.eval()
    whole = rx.train.predict(model, test, batch_size=batch_size)
    with torch.inference_mode():
        rows = np.arange(0, len(test), 17)
        single = model(test.batch(rows)).numpy()
    np.testing.assert_allclose(whole[rows], single, rtol=1e-5, atol=1e-6)
    assert not model.training


def test_shared_batches_hold_each_history_once(parts):
    (batch,) = shared_batches(parts["test"], 10**6)
    assert batch.offsets.numel() * 21 == len(batch)
    assert batch.history_row.tolist()[:43] == [0] * 21 + [1] * 21 + [2]


def test_metrics_part_seen_targets_from_all(parts):
    test = parts["test"]
    scores = np.linspace(-1, 1, len(test), dtype=np.float32)
    measured = rx.train.measure(test, scores)
    seen = test.target_seen
    assert measured["rows"] == len(test) and measured["seen"]["rows"] == int(seen.sum())
    assert measured["auc"] == rx.metrics.auc(test.label, scores)
    assert measured["seen"]["gauc"] == rx.metrics.gauc(test.label[seen], scores[seen], test.user[seen])
    expected = np.log1p(np.exp(np.where(test.label == 1, -scores, scores).astype(float))).mean()
    assert math.isclose(measured["logloss"], expected, rel_tol=1e-6)


def test_progress_goes_to_stderr_as_lines(parts, capsys):
    fit(make_model(parts), parts["train"], parts["valid"], **{**OPTIONS, "progress": None})
    seen = capsys.readouterr()
    assert seen.out == ""
    assert len(seen.err.splitlines()) == 3 and "epoch 3/3" in seen.err
