"""A training that was stopped, wherever, ends as one that was not, bit for bit."""

import errno
import io
import os
import signal
import sys

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.train import FitConfig, TrainingInterrupted, fit, load_checkpoint
from resemb_ext.train import saving as saving_module

OPTIONS = {
    "epochs": 3,
    "batch_size": 128,
    "embedding_lr": 0.02,
    "lr": 0.01,
    "progress": False,
    "embedding_l2": 1e-2,
    "l2": 1e-3,
}
LAZY = {"table_optimizer": "lazy"}
TABLES = [{}, LAZY, {**LAZY, "decay": "global"}, {**LAZY, "decay": "global", "in_backward": True}]


class Stopped(Exception):
    """Stands for a process that dies."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parts():
    log, _ = rx.data.simulate(users=100, items=80, domains=4, events_per_user=(6, 10), seed=1)
    split = rx.data.split(log)
    return {
        "graph": rx.InterestGraph.from_log(split.train),
        "train": rx.data.make_train_samples(split),
        "valid": rx.data.make_eval_samples(split, "valid"),
        "test": rx.data.make_eval_samples(split, "test"),
    }


def make_model(parts, arm="res", model=rx.models.DNN, sparse=False, start=5):
    torch.manual_seed(start)
    items = parts["graph"].num_items
    if arm == "res":
        table = rx.ResEmbedding(parts["graph"], 8, padding_idx=0, init_std=0.05, sparse=sparse)
    else:
        table = torch.nn.Embedding(items, 8, padding_idx=0, sparse=sparse)
    # Dice keeps running statistics, dropout draws: both are part of the state.
    return model(table, hidden=(16,), activation="dice", dropout=0.2)


def run_fit(parts, model, **options):
    options = {**OPTIONS, **options}
    return fit(model, parts["train"], parts["valid"], parts["test"], **options)


def stop_after(model, forwards):
    """Lets the model make some forward passes, of training or evaluation, and then raises."""
    left = [forwards]

    def count(*_):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    model.register_forward_pre_hook(count)


def outcome(done, model):
    """All that must not depend on stops."""
    history = [(e["epoch"], e["loss"], e["valid"]) for e in done.history]
    weights = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    facts = (done.epochs, done.steps, done.best_epoch, done.stopped, done.valid, done.test, history)
    return facts, done.test_scores, weights


def assert_same(one, other):
    assert one[0] == other[0]
    assert np.array_equal(one[1], other[1])
    assert all(torch.equal(value, other[2][name]) for name, value in one[2].items())


@pytest.mark.one_in(5)
@pytest.mark.parametrize("tables", TABLES, ids=["dense", "touched", "global", "in-backward"])
@pytest.mark.parametrize(("arm", "kind"), [("plain", rx.models.DNN), ("res", rx.models.DNN), ("res", rx.models.DIN)])
def test_resumes_bit_for_bit(parts, tmp_path, arm, kind, tables):
    sparse = bool(tables)
    model = make_model(parts, arm, kind, sparse)
    whole = outcome(run_fit(parts, model, **tables), model)
    # The same, dying every few forwards; each new life starts from a model drawn otherwise.
    for life in range(100):
        model = make_model(parts, arm, kind, sparse, start=5 if life == 0 else 77 + life)
        stop_after(model, 2 + life % 5)
        try:
            done = run_fit(parts, model, **tables, folder=tmp_path, resume=True, save_every=0)
        except Stopped:
            continue
        assert life > 5
        assert_same(whole, outcome(done, model))
        return
    pytest.fail("never finished")


def test_resumes_between_rare_saves(parts, tmp_path):
    """With saves at epochs' ends alone, a stop inside an epoch costs that epoch, nothing else."""
    whole = make_model(parts)
    expected = outcome(run_fit(parts, whole), whole)
    steps = -(-len(parts["train"]) // OPTIONS["batch_size"])
    model = make_model(parts)
    stop_after(model, steps + 1 + 3)
    with pytest.raises(Stopped):
        run_fit(parts, model, folder=tmp_path)
    assert load_checkpoint(tmp_path / "last.safetensors")["progress"]["step"] == steps
    model = make_model(parts, start=99)
    assert_same(expected, outcome(run_fit(parts, model, folder=tmp_path, resume=True), model))


def test_early_stopping_goes_on_where_it_was(parts, tmp_path, monkeypatch):
    def scripted(values):
        values = iter(values)

        def measure(samples, scores):
            value = next(values)
            if value is None:
                raise Stopped
            return {"auc": 0.5, "gauc": value, "logloss": 0.7}

        monkeypatch.setattr("resemb_ext.train.loop.measure", measure)

    options = {"folder": tmp_path, "epochs": 9, "patience": 2, "resume": True}
    scripted([0.6, 0.7, 0.65, None])
    with pytest.raises(Stopped):
        run_fit(parts, make_model(parts), **options)
    scripted([0.69, 0.9])
    done = run_fit(parts, make_model(parts, start=6), **options)
    assert (done.epochs, done.best_epoch, done.stopped) == (4, 2, "patience")
    assert done.valid["gauc"] == 0.7


def test_a_finished_training_is_scored_again_without_a_step(parts, tmp_path):
    model = make_model(parts)
    first = outcome(run_fit(parts, model, folder=tmp_path), model)
    model = make_model(parts, start=8)
    steps = []
    model.mlp.register_forward_hook(lambda m, i, o: steps.append(m.training))
    again = run_fit(parts, model, folder=tmp_path, resume=True)
    assert_same(first, outcome(again, model))
    assert not any(steps)


def test_without_resume_it_starts_anew(parts, tmp_path):
    first = run_fit(parts, make_model(parts), folder=tmp_path, epochs=1)
    again = run_fit(parts, make_model(parts), folder=tmp_path, epochs=1)
    assert again.steps == first.steps and np.array_equal(again.test_scores, first.test_scores)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save_and_say_where(parts, tmp_path, signum):
    whole = make_model(parts)
    expected = outcome(run_fit(parts, whole), whole)
    model, calls = make_model(parts), []
    before = signal.getsignal(signum)

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signum)

    model.register_forward_hook(interrupt)
    words = rf"stopped in epoch 1 after step 4, saved in {tmp_path}"
    with pytest.raises(TrainingInterrupted, match=words) as stop:
        run_fit(parts, model, folder=tmp_path)
    assert stop.value.signum == signum and signal.getsignal(signum) is before
    model = make_model(parts, start=31)
    assert_same(expected, outcome(run_fit(parts, model, folder=tmp_path, resume=True), model))


def test_signals_that_are_ignored_stay_ignored(parts, tmp_path):
    """As under nohup, which ignores SIGHUP."""
    model = make_model(parts)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        assert run_fit(parts, model, epochs=1, folder=tmp_path).epochs == 1
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lost_terminal_ends_nothing(parts, tmp_path, monkeypatch):
    """What it cannot show is left out, of lines and of the bar; the step under way is saved."""

    class Gone(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stderr", Gone())
    model = make_model(parts)
    whole = run_fit(parts, model, epochs=1, progress=True)
    model, calls = make_model(parts), []

    def hang_up(*_):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGHUP)

    model.register_forward_hook(hang_up)
    with pytest.raises(TrainingInterrupted, match="after step 2, saved in"):
        run_fit(parts, model, epochs=1, folder=tmp_path, progress=True)
    again = run_fit(parts, make_model(parts, start=31), epochs=1, folder=tmp_path, resume=True, progress=True)
    assert np.array_equal(again.test_scores, whole.test_scores)


def test_a_second_signal_ends_at_once(parts, tmp_path):
    model = make_model(parts)
    model.register_forward_hook(lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in "ab"])
    with pytest.raises(KeyboardInterrupt) as stop:
        run_fit(parts, model, folder=tmp_path)
    assert not isinstance(stop.value, TrainingInterrupted)
    assert load_checkpoint(tmp_path / "last.safetensors")["progress"]["step"] == 0


def test_other_options_models_and_graphs_are_refused(parts, tmp_path):
    run_fit(parts, make_model(parts), folder=tmp_path, epochs=1)
    again = {"folder": tmp_path, "resume": True, "epochs": 1}
    words = r"options differ from the saved ones: l2 0.5 \(saved: 0.001\), lr 0.25 \(saved: 0.01\)$"
    with pytest.raises(ValueError, match=words):
        run_fit(parts, make_model(parts), **again, lr=0.25, l2=0.5)
    with pytest.raises(ValueError, match=r"seed 4 \(saved: 0\)"):
        run_fit(parts, make_model(parts), **again, seed=4)
    run_fit(parts, make_model(parts), **again, save_every=7.0)  # changes no result
    with pytest.raises(ValueError, match="other parameters: attention"):
        run_fit(parts, make_model(parts, model=rx.models.DIN), **again)
    other = {**parts, "graph": rx.InterestGraph.from_csr(np.zeros(83, int), [])}
    with pytest.raises(ValueError, match="another graph"):
        run_fit(parts, make_model(other), **again)


def test_a_checkpoint_of_another_shape_is_no_traceback(parts, tmp_path):
    run_fit(parts, make_model(parts), folder=tmp_path, epochs=1)
    path = tmp_path / "last.safetensors"
    state = load_checkpoint(path)
    for key in ("optimizer", "rng", "progress", "tensors"):
        rx.train.save_checkpoint(path, {k: v for k, v in state.items() if k != key})
        with pytest.raises(ValueError, match=r"last\.safetensors does not fit"):
            run_fit(parts, make_model(parts), folder=tmp_path, epochs=1, resume=True)
    rx.train.save_checkpoint(path, state)
    best = load_checkpoint(tmp_path / "best.safetensors")
    rx.train.save_checkpoint(tmp_path / "best.safetensors", {**best, "epoch": 7})
    with pytest.raises(ValueError, match=r"best.safetensors is of epoch 7, expected epoch 1"):
        run_fit(parts, make_model(parts), folder=tmp_path, epochs=1, resume=True)


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(parts, tmp_path, monkeypatch):
    model = make_model(parts)
    expected = outcome(run_fit(parts, model), model)
    whole, saves = saving_module.save_checkpoint, []

    def fill(path, state, wire=None):
        saves.append(path)
        if len(saves) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, state)

    monkeypatch.setattr(saving_module, "save_checkpoint", fill)
    with pytest.raises(OSError, match=r"cannot write .*: No space left on device; the one before it is"):
        run_fit(parts, make_model(parts), folder=tmp_path, save_every=0)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.safetensors")["progress"]["step"] == 2
    model = make_model(parts, start=3)
    assert_same(expected, outcome(run_fit(parts, model, folder=tmp_path, resume=True), model))


def test_what_cannot_be_written_is_said_before_the_first_step(parts, tmp_path, monkeypatch):
    def refuse(path, state, wire=None):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    model, steps = make_model(parts), []
    model.register_forward_hook(lambda *_: steps.append(1))
    with monkeypatch.context() as patch:
        patch.setattr(saving_module, "save_checkpoint", refuse)
        with pytest.raises(OSError, match="Read-only file system; there is none before it"):
            run_fit(parts, model, folder=tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    with pytest.raises(ValueError, match="has 1 MB of disk free"):
        run_fit(parts, model, folder=tmp_path)
    assert not steps


def test_resume_needs_a_folder(parts):
    with pytest.raises(ValueError, match="resume: needs the folder"):
        run_fit(parts, make_model(parts), resume=True)


def test_save_every_is_checked():
    with pytest.raises(ValueError, match="save_every must be at least 0"):
        FitConfig(save_every=-1)
