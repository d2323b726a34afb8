"""A run folder of several arms and seeds that was stopped: continued, refused, finished."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.train import RunConfig, TrainingInterrupted, load_checkpoint, run, saved_config
from resemb_ext.train import loop as loop_module
from resemb_ext.train import prepare as prepare_module
from tests.train.stopped import SMALL, Stopped, simulate_little, stop_after, stopped_run

TIMES = ("samples_per_s", "peak_memory_mb", "peak_memory_before_mb", "wall_s", "seconds_per_epoch", "history")


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    simulate_little(monkeypatch)


def facts(folder):
    """All of a run's results that must not depend on stops."""
    result = json.loads((folder / "result.json").read_text())
    runs = [{k: v for k, v in entry.items() if k not in TIMES} for entry in result["runs"]]
    losses = [[(e["loss"], e["valid"]) for e in entry["history"]] for entry in result["runs"]]
    scores = pd.read_parquet(folder / "test_scores.parquet")
    return runs, losses, result["hashes"], result["summary"], scores


def assert_same(one, other):
    assert one[:4] == other[:4]
    pd.testing.assert_frame_equal(one[4], other[4], check_exact=True)


@pytest.mark.full
def test_arms_and_seeds_go_on(tmp_path, monkeypatch):
    options = {**SMALL, "table_optimizer": "lazy", "in_backward": True, "seed": (0, 1)}
    run(**options, out=str(tmp_path / "whole"))
    out, started = tmp_path / "stopped", []
    build = prepare_module.build_model
    monkeypatch.setattr(
        "resemb_ext.train.arm.build_model",
        lambda c, p, arm, seed: started.append((arm, seed)) or build(c, p, arm, seed),
    )
    for life in range(60):
        with monkeypatch.context() as patch:
            stop_after(patch, 5 + life % 4)
            try:
                run(**options, out=str(out), resume=life > 0, save_every=0)
            except Stopped:
                continue
        break
    assert life > 3
    assert_same(facts(tmp_path / "whole"), facts(out))
    # An arm that is done is not begun again.
    order = [("plain", 0), ("res", 0), ("plain", 1), ("res", 1)]
    assert started == sorted(started, key=order.index) and set(started) == set(order)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("moment", ["before the scores", "before the entry", "before the result"])
def test_stops_between_files(tmp_path, monkeypatch, moment):
    run(**SMALL, embedding="plain", out=str(tmp_path / "whole"))
    out = tmp_path / "stopped"
    wanted = {"scores": "test_scores.parquet", "entry": "run.json", "result": "result.json"}[moment.split()[-1]]
    whole = os.replace

    def die(old, new):
        if new.name == wanted:
            raise Stopped
        whole(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Stopped):
            run(**SMALL, embedding="plain", out=str(out))
    run(**SMALL, embedding="plain", out=str(out), resume=True)
    assert_same(facts(tmp_path / "whole"), facts(out))


def test_a_finished_run_is_returned_as_it_is(tmp_path, capsys):
    first = run(**SMALL, embedding="plain", out=str(tmp_path))
    written = (tmp_path / "result.json").stat().st_mtime_ns
    again = run(**{**SMALL, "progress": None}, embedding="plain", out=str(tmp_path), resume=True)
    assert again.result == first.result
    assert (tmp_path / "result.json").stat().st_mtime_ns == written
    assert "is finished; nothing to resume" in capsys.readouterr().err


def test_other_options_are_refused_by_name(tmp_path, monkeypatch):
    stopped_run(tmp_path, monkeypatch)
    words = r"differ from those of the run in .*: dim 4 \(saved: 8\), hidden \[4\] \(saved: \[8\]\);"
    with pytest.raises(ValueError, match=words):
        run(**{**SMALL, "dim": 4, "hidden": (4,)}, out=str(tmp_path), resume=True)
    with pytest.raises(ValueError, match=r"seed \[5\] \(saved: \[0\]\)"):
        run(**SMALL, seed=5, out=str(tmp_path), resume=True)


def test_another_log_is_refused(tmp_path, monkeypatch):
    frame = pd.DataFrame({"user_id": np.repeat(range(40), 5), "item_id": np.arange(200) % 17, "timestamp": range(200)})
    path, out = tmp_path / "log.csv", tmp_path / "out"
    frame.to_csv(path, index=False)
    stopped_run(out, monkeypatch, data=str(path))
    frame.assign(item_id=frame.item_id[::-1].to_numpy()).to_csv(path, index=False)
    words = r"begun on other inputs \(data, split, graph, .*start a new run"
    with pytest.raises(ValueError, match=words):
        run(**SMALL, data=str(path), out=str(out), resume=True)


@pytest.mark.full
def test_a_saved_graph_may_be_gone(tmp_path, monkeypatch):
    log, _ = prepare_module.data.simulate(null=False, seed=0)
    path, out = tmp_path / "graph.npz", tmp_path / "out"
    rx.InterestGraph.from_log(rx.data.split(log).train, top_k=2).save(path)
    whole = run(**SMALL, graph=str(path), embedding="res", out=str(tmp_path / "whole"))
    stopped_run(out, monkeypatch, graph=str(path), embedding="res")
    path.unlink()
    done = run(saved_config(out), resume=True, progress=False)
    assert done.result["runs"][0]["test"] == whole.result["runs"][0]["test"]
    assert done.result["config"]["graph"] == str(path)
    assert done.result["resumed"] and not whole.result["resumed"]


@pytest.mark.full
def test_measured_threads_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("resemb_ext.train.runner.faster_threads", lambda step, most: 3)
    options = {**SMALL, "threads": None}
    stopped_run(tmp_path, monkeypatch, threads=None)
    assert saved_config(tmp_path).threads == 3
    monkeypatch.setattr("resemb_ext.train.runner.faster_threads", lambda step, most: 1)
    assert run(**options, out=str(tmp_path), resume=True).result["threads"] == 3


@pytest.mark.full
def test_a_moved_folder_goes_on(tmp_path, monkeypatch):
    stopped_run(tmp_path / "a", monkeypatch)
    (tmp_path / "a").rename(tmp_path / "b")
    config = saved_config(tmp_path / "b")
    assert config.out == str(tmp_path / "b")
    assert run(config, resume=True, progress=False).result["runs"][0]["epochs"] == 2


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch):
    save, sent = loop_module._Training.save, []

    def interrupt(self):
        save(self)
        if self.batch and not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop_module._Training, "save", interrupt)
    folder = tmp_path / "a b"
    words = rf"res seed 0: stopped in epoch 1.*continue with: resemb train --resume '{folder}'"
    with pytest.raises(TrainingInterrupted, match=words):
        run(**SMALL, embedding="res", save_every=0, out=str(folder))


def test_a_folder_named_like_an_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stop = loop_module._Training.run

    def interrupt(self, interrupts):
        raise KeyboardInterrupt

    options = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--threads", "1", "--embedding", "plain", "--quiet"]
    monkeypatch.setattr(loop_module._Training, "run", interrupt)
    assert main(["train", *options, "--out=-o"]) == 130
    shown = capsys.readouterr().err.strip()
    assert shown.endswith("continue with: resemb train --resume ./-o")
    monkeypatch.setattr(loop_module._Training, "run", stop)
    assert main([*shlex.split(shown.rsplit("resemb ", 1)[1]), "--quiet"]) == 0


@pytest.mark.full
def test_a_lost_terminal_saves(tmp_path):
    """A real terminal whose other end is closed, as when a connection breaks: the system sends SIGHUP."""
    log, out = tmp_path / "log.csv", tmp_path / "out"
    pd.DataFrame(
        {"user_id": np.repeat(range(300), 8), "item_id": np.arange(2400) * 7 % 101, "timestamp": range(2400)}
    ).to_csv(log, index=False)
    last = out / "arms" / "plain-seed0" / "last.safetensors"
    child, terminal = pty.fork()
    if not child:
        command = ["train", "--data", str(log), "--epochs", "1000", "--patience", "1000", "--batch-size", "64"]
        options = ["--threads", "1", "--embedding", "plain", "--dim", "4", "--save-every", "1000", "--out", str(out)]
        os.execv(sys.executable, [sys.executable, "-m", "resemb_ext", *command, *options])

    def wait_for(epoch):
        shown, deadline = b"", time.monotonic() + 600
        while not any(int(number) >= epoch for number in re.findall(rb"epoch (\d+)/1000  loss", shown)):
            assert time.monotonic() < deadline, shown
            shown += os.read(terminal, 65536)

    wait_for(3)
    before = load_checkpoint(last)["progress"]
    wait_for(before["epochs"] + 1)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    saved = load_checkpoint(last)["progress"]
    assert saved["step"] > before["step"] and not saved["finished"] and not list(out.rglob(".*"))


@pytest.mark.full
def test_flags_of_the_command(tmp_path, monkeypatch, capsys):
    def fails(*arguments):
        assert main(["train", *arguments, "--quiet"]) == 2
        shown = capsys.readouterr().err
        assert len(shown.splitlines()) == 1
        return shown

    assert "resume: name the run folder" in fails("--resume")
    assert "holds no run" in fails("--resume", str(tmp_path))
    stopped_run(tmp_path, monkeypatch, embedding="plain")
    assert "epochs 9 (saved: 2)" in fails("--resume", str(tmp_path), "--epochs", "9")
    file = tmp_path / "other.json"
    file.write_text('{"lr": 0.5}')
    assert "lr 0.5 (saved: 0.003)" in fails("--resume", str(tmp_path), "--config", str(file))
    assert "continue it with --resume" in fails("--out", str(tmp_path))
    assert main(["train", "--resume", "--out", str(tmp_path), "--epochs", "2", "--quiet"]) == 0
    assert "plain" in capsys.readouterr().out


@pytest.mark.full
def test_ctrl_c_and_kill_of_a_real_process(tmp_path, monkeypatch, capsys):
    """One process interrupted, one killed; two at once on one folder; what a kill leaves behind."""
    log, out = tmp_path / "log.csv", tmp_path / "out"
    pd.DataFrame(
        {"user_id": np.repeat(range(300), 8), "item_id": np.arange(2400) * 7 % 101, "timestamp": range(2400)}
    ).to_csv(log, index=False)
    command = [sys.executable, "-m", "resemb_ext", "train", "--threads", "1", "--embedding", "plain"]
    options = [
        "--data",
        str(log),
        "--epochs",
        "1000",
        "--patience",
        "1000",
        "--save-every",
        "0",
        "--batch-size",
        "64",
        "--dim",
        "4",
    ]
    last = out / "arms" / "plain-seed0" / "last.safetensors"

    def begin(*arguments):
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        before = last.stat().st_mtime_ns if last.exists() else 0
        deadline = time.monotonic() + 600
        while not (last.exists() and last.stat().st_mtime_ns > before):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    process = begin("--out", str(out), *options)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=600)
    assert process.returncode == 130
    assert f"continue with: resemb train --resume {out}" in shown and "Traceback" not in shown
    process = begin("--resume", str(out))
    assert main(["train", "--resume", str(out), "--quiet"]) == 2
    assert "another process is working in" in capsys.readouterr().err
    process.kill()
    process.communicate()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_module._Training, "run", stop)
    assert main(["train", "--resume", str(out), "--quiet"]) == 130
    assert f"resemb train --resume {out}" in capsys.readouterr().err
    assert not list(out.rglob(".*tmp*"))
    assert RunConfig(**json.loads((out / "config.resolved.json").read_text())).epochs == 1000
