"""resemb tune: the same search for both arms, on validation alone, resumable."""

import json
import math
import os
import re
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.runtime.digests import UncheckedWarning
from resemb_ext.runtime.progress import Progress, RunWarning
from resemb_ext.train import RunConfig, TrainingDiverged, TrainingInterrupted, prepare, tune
from resemb_ext.train import tuning as tuning_module

pytest.importorskip("optuna")
SMALL = {"epochs": 1, "batch_size": 256, "dim": 4, "hidden": (4,), "threads": 1}


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        prepare.data, "simulate", lambda **o: whole(users=80, items=60, domains=3, events_per_user=(4, 7), **o)
    )


def search(out, trials=3, **options):
    return tune(RunConfig(**SMALL, out=str(out)), trials=trials, progress=False, **options)


def told(result):
    """All of a search that must not depend on stops."""
    return [
        {k: v for k, v in trial.items() if k != "wall_s"}
        for trial in sorted(result["trials"], key=lambda t: (t["arm"], t["number"]))
    ]


def test_both_arms_get_the_same_search(tmp_path):
    done = search(tmp_path, trials=4)
    trials = {arm: [t for t in done.result["trials"] if t["arm"] == arm] for arm in ("plain", "res")}
    assert [len(found) for found in trials.values()] == [4, 4]
    given = RunConfig()
    for name in tuning_module.SPACE:
        # The options as given come first; what is drawn at random is drawn alike.
        assert trials["plain"][0]["params"][name] == getattr(given, name)
        drawn = [[t["params"][name] for t in trials[arm]] for arm in trials]
        assert drawn[0] == drawn[1]
        low, high = tuning_module.SPACE[name]
        assert all(low <= value <= high for value in drawn[0])
    extra = set(trials["res"][1]["params"]) - set(trials["plain"][1]["params"])
    assert extra == {"residual_scale", "residual_l2"}
    for arm, best in done.result["best"].items():
        assert best["value"] == max(t["value"] for t in trials[arm])
    assert done.table.splitlines()[1].split()[:3] == ["plain", "4", "0"]
    summary = (tmp_path / "tune.md").read_text()
    assert "Test events were not scored" in summary and "| res | 4 | 0 |" in summary
    assert not (tmp_path / "tune-trials").exists()


@pytest.mark.full
def test_the_best_options_train_and_give_the_same_validation(tmp_path):
    done = search(tmp_path, trials=2)
    for arm in ("plain", "res"):
        config = RunConfig.build(tmp_path / f"best-{arm}.json", out=str(tmp_path / arm), threads=1)
        assert config.arms == (arm,)
        run = rx.train.run(config, progress=False)
        assert run.result["runs"][0]["valid"] == done.result["best"][arm]["valid"][0]


def test_later_trials_follow_the_sampler(tmp_path, monkeypatch):
    """With a value that one option decides, the search finds it; and it is no random draw."""
    monkeypatch.setattr(tuning_module, "_STARTUP", 4)
    wanted = 2e-3

    class Done:
        best_epoch, wall_s = 1, 0.0

    def fit(model, train, valid, *, config, **_):
        done = Done()
        done.valid = {"gauc": -abs(math.log(config.lr / wanted))}
        return done

    monkeypatch.setattr(tuning_module, "fit", fit)
    config = RunConfig(**SMALL, embedding="plain", lr=2e-2, out=str(tmp_path))
    done = tune(config, trials=24, progress=False)
    values = [t["value"] for t in done.result["trials"]]
    assert max(values[12:]) > max(values[:6]) and done.result["best"]["plain"]["value"] > -0.3


def test_test_events_are_never_looked_at(tmp_path, monkeypatch):
    class Poison:
        def __getattr__(self, name):
            if name == "candidate_hash":  # known before the search, and says nothing of a model
                return "hash"
            raise AssertionError(f"test.{name} was looked at")

        def __len__(self):
            raise AssertionError("test was looked at")

    def prepared(config):
        return replace(prepare.prepare(config), test=Poison())

    monkeypatch.setattr(tuning_module, "prepare", prepared)
    assert search(tmp_path, trials=1).result["best"]["res"]["value"] > 0


def test_a_stopped_search_goes_on_to_the_same_end(tmp_path, monkeypatch):
    whole = search(tmp_path / "whole", trials=3)
    fit, left = tuning_module.fit, [0]

    def dying(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return fit(*args, **options)

    monkeypatch.setattr(tuning_module, "fit", dying)
    out = tmp_path / "stopped"
    for life in range(20):
        left[0] = 1 + life % 2
        try:
            done = search(out, trials=3, resume=life > 0)
            break
        except TrainingInterrupted as stop:
            assert f"continue with: resemb tune --resume {out}" in str(stop)
    assert life == 3
    assert told(done.result) == told(whole.result)
    assert done.result["best"].keys() == whole.result["best"].keys()
    # More trials: the first ones stay.
    monkeypatch.setattr(tuning_module, "fit", fit)
    more = search(out, trials=4, resume=True)
    kept = [trial for trial in more.result["trials"] if trial["number"] < 3]
    assert told({"trials": kept}) == told(whole.result) and len(more.result["trials"]) == 8


def test_a_trial_goes_on_inside(tmp_path, monkeypatch):
    from resemb_ext.train import loop

    whole = tune(RunConfig(**{**SMALL, "epochs": 2}, out=str(tmp_path / "a")), trials=1, progress=False)
    save, sent = loop._Training.save, []

    def interrupt(self):
        save(self)
        if self.batch and not sent:
            sent.append(self.result.steps)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop._Training, "save", interrupt)
    config = RunConfig(**{**SMALL, "epochs": 2}, save_every=0, out=str(tmp_path / "b"))
    with pytest.raises(TrainingInterrupted, match="plain trial 1/1: stopped in epoch 1 after step 2"):
        tune(config, trials=1, progress=False)
    done = tune(config, trials=1, progress=False, resume=True)
    assert told(done.result) == told(whole.result)


def test_diverged_trials_count(tmp_path, monkeypatch):
    fit = tuning_module.fit

    def diverge(*args, config, **options):
        if options["name"].startswith("res trial 1"):
            raise TrainingDiverged("loss is nan at step 3")
        return fit(*args, config=config, **options)

    monkeypatch.setattr(tuning_module, "fit", diverge)
    done = search(tmp_path, trials=2)
    first = next(t for t in done.result["trials"] if t["arm"] == "res")
    assert first["value"] is None and "step 3" in first["diverged"]
    assert done.result["best"]["res"]["number"] == 1
    assert done.table.splitlines()[2].split()[:4] == ["res", "2", "1", "-"]


def test_a_trial_that_diverges_in_evaluation_counts_and_the_search_goes_on(tmp_path, capsys):
    """Weights that run away in an epoch's last step are met by evaluation, not by a loss."""
    config = RunConfig(**{**SMALL, "batch_size": 10**6}, embedding="plain", out=str(tmp_path))
    done = tune(config, trials=3, ranges={"embedding_lr": (2e38, 3e38)}, progress=False)
    values = [trial["value"] for trial in done.result["trials"]]
    assert values[0] > 0 and values[1:] == [None, None]  # the first one has the options as given
    for trial in done.result["trials"][1:]:
        assert re.search(r"plain trial \d/3: the score of validation sample .* \(epoch 1\)", trial["diverged"])
    assert done.result["best"]["plain"]["number"] == 0
    more = tune(config, trials=4, ranges={"embedding_lr": (2e38, 3e38)}, progress=False, resume=True)
    assert len(more.result["trials"]) == 4 and more.result["trials"][:3] == done.result["trials"]


def test_an_arm_whose_every_trial_diverged_is_said(tmp_path, monkeypatch, capsys):
    def diverge(*_, **__):
        raise TrainingDiverged("loss is nan at step 3")

    monkeypatch.setattr(tuning_module, "fit", diverge)
    assert main(["tune", "--embedding", "plain", "--trials", "2", "--out", str(tmp_path), "--quiet"]) == 0
    assert "plain: every trial diverged" in capsys.readouterr().out
    assert (
        not (tmp_path / "best-plain.json").exists()
        and "| plain | 2 | 2 | - | - |" in (tmp_path / "tune.md").read_text()
    )


def test_ranges_whose_upper_limits_are_refused_together(tmp_path):
    """Global decay refuses a learning rate times an L2 of 1: it must not end a search in its middle."""
    config = RunConfig(**SMALL, table_optimizer="lazy", decay="global", out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"range: the upper limits do not go together: decay: .*embedding_lr 10 times"):
        tune(config, trials=3, ranges={"embedding_lr": (1e-3, 10.0), "embedding_l2": (1e-3, 1.0)}, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_summary_that_fails_is_one_line(tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("no room")

    monkeypatch.setattr(tuning_module, "_summary", fail)
    with pytest.warns(RunWarning, match=r"cannot write .*tune\.md: no room; the results are whole"):
        done = search(tmp_path, trials=1)
    assert done.result["best"]["res"]["value"] > 0 and (tmp_path / "best-res.json").exists()


def test_trials_are_proposed_as_by_the_sampler_of_one_option_at_a_time(tmp_path):
    """The same seed gives what optuna's independent sampler gives, whatever its default is."""
    optuna = pytest.importorskip("optuna")
    config = RunConfig(**SMALL, embedding="plain", out=str(tmp_path))
    space = tuning_module._space(config, {})
    made = tuning_module._Search(config, 1, 5, space, Progress(False))
    rng = np.random.default_rng(0)
    for number in range(14):
        params = {name: float(np.exp(rng.uniform(*np.log(limits)))) for name, limits in space["plain"].items()}
        made.done.append({"arm": "plain", "number": number, "params": params, "value": float(rng.random())})
    seed = int(np.random.SeedSequence([5, 14]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=10, multivariate=False)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    ranges = {n: optuna.distributions.FloatDistribution(*limits, log=True) for n, limits in space["plain"].items()}
    for trial in made.done:
        study.add_trial(optuna.trial.create_trial(params=trial["params"], distributions=ranges, value=trial["value"]))
    assert made._propose("plain", 14) == study.ask(ranges).params


def test_a_search_of_an_older_version_goes_on(tmp_path, capsys):
    """Its options lack those that came since, and its files have no digests."""
    flags = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--batch-size", "256", "--threads", "1"]
    assert main(["tune", *flags, "--embedding", "plain", "--trials", "1", "--out", str(tmp_path), "--quiet"]) == 0
    path = tmp_path / "tune.json"
    kept = json.loads(path.read_text())
    del kept["config"]["eval_seed"], kept["trials"][0]["optuna"]
    kept["config"]["split"], kept["config"]["table_optimizer"] = "leave-last-out", "dense"
    path.write_text(json.dumps(kept))
    for name in ("SHA256SUMS", "inputs.json"):
        (tmp_path / name).unlink()
    capsys.readouterr()
    assert main(["tune", "--resume", str(tmp_path), "--trials", "2", "--quiet"]) == 0
    assert capsys.readouterr().err.count("has no SHA256SUMS") == 1
    assert len(json.loads(path.read_text())["trials"]) == 2


def test_another_version_of_optuna_is_said(tmp_path):
    search(tmp_path, trials=1)
    path = tmp_path / "tune.json"
    kept = json.loads(path.read_text())
    for trial in kept["trials"]:
        assert trial.pop("optuna") == kept["versions"]["optuna"]
    kept["versions"]["optuna"] = "4.0.0"  # of the trials of version 0.1, which do not say it themselves
    path.write_text(json.dumps(kept))
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.warns(UncheckedWarning), pytest.warns(RunWarning, match="optuna 4.0.0 made trials of this search"):
        done = search(tmp_path, trials=2, resume=True)
    assert {t["number"]: t["optuna"] for t in done.result["trials"]}[0] == "4.0.0"
    assert len({trial["optuna"] for trial in done.result["trials"]}) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"ranges": {"dropout": (0.1, 0.2)}}, "range: dropout is not searched; these are: lr, "),
        ({"ranges": {"lr": (0.2, 0.1)}}, "range: lr must be LOW:HIGH with 0 < LOW < HIGH"),
        ({"resume": True}, "holds no search"),
    ],
)
def test_bad_searches_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        search(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_training_run_is_left_alone(tmp_path):
    done = rx.train.run(RunConfig(**SMALL, embedding="plain", out=str(tmp_path)), progress=False)
    before = sorted(p.name for p in done.folder.iterdir())
    config = RunConfig(**SMALL, out=str(tmp_path), overwrite=True)
    with pytest.raises(ValueError, match="holds a training run"):
        tune(config, trials=1, progress=False)
    assert sorted(p.name for p in done.folder.iterdir()) == before


def test_overwriting_begins_anew(tmp_path):
    search(tmp_path, trials=2)
    config = RunConfig(**SMALL, out=str(tmp_path), overwrite=True, embedding="plain")
    done = tune(config, trials=1, progress=False)
    assert [t["arm"] for t in done.result["trials"]] == ["plain"]
    assert not (tmp_path / "best-res.json").exists() and (tmp_path / "best-plain.json").exists()


@pytest.mark.full
def test_the_command(tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--batch-size", "256", "--threads", "1"]

    def refused(*arguments):
        assert main(["tune", *arguments, "--quiet"]) == 2
        shown = [line for line in capsys.readouterr().err.splitlines() if " warning: " not in line]
        assert len(shown) == 1
        return shown[0]

    begin = [*flags, "--out", str(out), "--trials", "1", "--range", "lr=1e-3:2e-3"]
    assert main(["tune", *begin, "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert f"resemb train --config {out / 'best-res.json'}" in shown
    assert "holds an earlier search" in refused(*begin)
    assert "lr 0.5 (saved: 0.003)" in refused("--resume", str(out), "--lr", "0.5")
    assert "tune_seed 4 (saved: 0)" in refused("--resume", str(out), "--tune-seed", "4")
    assert "range lr [0.5, 1.0] (saved: [0.001, 0.002])" in refused("--resume", str(out), "--range", "lr=0.5:1")
    assert "resume: name the folder" in refused("--resume")
    assert main(["tune", "--resume", "--out", str(out), "--trials", "2", "--quiet"]) == 0
    result = json.loads((out / "tune.json").read_text())
    assert [t["number"] for t in result["trials"]] == [0, 0, 1, 1]
    assert 1e-3 <= result["trials"][2]["params"]["lr"] <= 2e-3
    (out / "tune.json").write_text('{"trials": 3}')
    assert "tune.json does not match its digest" in refused("--resume", str(out))
    (out / "SHA256SUMS").unlink()
    for content, words in (('{"trials": 3}', "holds no search of this package"), ("{", "cannot be read")):
        (out / "tune.json").write_text(content)
        assert main(["tune", "--resume", str(out), "--quiet"]) == 2
        warned, shown = capsys.readouterr().err.splitlines()
        assert "its files are read unchecked" in warned and words in shown
    with pytest.raises(SystemExit):
        main(["tune", "--range", "lr=fast"])
    assert "expected OPTION=LOW:HIGH" in capsys.readouterr().err


def test_optuna_is_optional(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "--out", str(tmp_path), "--quiet"]) == 2
    assert 'pip install "resemb_ext[tune]"' in capsys.readouterr().err
