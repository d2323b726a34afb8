"""A run folder of several arms and seeds that was stopped: continued, refused, finished."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.runtime.digests import UncheckedWarning
from resemb_ext.train import RunConfig, TrainingInterrupted, load_checkpoint, run, saved_config
from resemb_ext.train import loop as loop_module
from resemb_ext.train import prepare as prepare_module

SMALL = {"epochs": 2, "batch_size": 256, "dim": 8, "hidden": (8,), "progress": False, "threads": 1}
TIMES = ("samples_per_s", "peak_memory_mb", "peak_memory_before_mb", "wall_s", "seconds_per_epoch", "history")


class Stopped(Exception):
    """Stands for a process that dies."""


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        prepare_module.data, "simulate", lambda **o: whole(users=120, items=100, domains=4, events_per_user=(5, 9), **o)
    )


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """A finished run of one arm, to be copied."""
    folder = tmp_path_factory.mktemp("run")
    whole = rx.data.simulate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            prepare_module.data,
            "simulate",
            lambda **o: whole(users=120, items=100, domains=4, events_per_user=(5, 9), **o),
        )
        run(**SMALL, embedding="plain", out=str(folder))
    return folder


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


def stop_after(monkeypatch, saves):
    """Lets trainings save some times and then raises after, or instead of, a save."""
    left, whole = [saves], loop_module._Training.save

    def save(self):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        whole(self)

    monkeypatch.setattr(loop_module._Training, "save", save)


@pytest.mark.full
def test_arms_and_seeds_go_on(tmp_path, monkeypatch):
    options = {**SMALL, "table_optimizer": "lazy", "in_backward": True, "seed": (0, 1)}
    run(**options, out=str(tmp_path / "whole"))
    out, started = tmp_path / "stopped", []
    build = prepare_module.build_model
    monkeypatch.setattr(
        "resemb_ext.train.runner.build_model",
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


def stopped_run(tmp_path, monkeypatch, **options):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run(**{**SMALL, **options}, out=str(tmp_path))


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


def cut(content):
    return content[: len(content) // 2]


def foreign(content):
    return b"PK\x03\x04 something else"


def flipped(content):
    return content[:-5] + bytes([content[-5] ^ 16]) + content[-4:]


LAST = "arms/res-seed0/last.safetensors"


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (LAST, cut, "last.safetensors is no readable checkpoint"),
        (LAST, foreign, "last.safetensors is no readable checkpoint"),
        (LAST, flipped, "last.safetensors is damaged"),
        ("config.resolved.json", cut, "config.resolved.json does not match its digest"),
        ("config.resolved.json", flipped, "config.resolved.json does not match its digest"),
        ("inputs.json", cut, "inputs.json does not match its digest"),
        ("inputs.json", flipped, "inputs.json does not match its digest"),
        ("SHA256SUMS", cut, "SHA256SUMS is damaged"),
    ],
)
def test_damaged_files_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, file, damage, words):
    stopped_run(tmp_path, monkeypatch, embedding="res")
    path = tmp_path / file
    path.write_bytes(damage(path.read_bytes()))
    assert main(["train", "--resume", str(tmp_path), "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert words in shown and len(shown.splitlines()) == 1 and "Traceback" not in shown


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("result.json", "{}", "result.json is no result of a run"),
        ("result.json", "[]", "result.json is no result of a run"),
        ("result.json", "[" * 100_000, "result.json cannot be read: it is nested too deeply"),
        ("arms/plain-seed0/run.json", "{}", "has damaged results of arm plain with seed 0"),
        ("arms/plain-seed0/run.json", "[3]", "has damaged results of arm plain with seed 0"),
        ("inputs.json", "[]", "inputs.json cannot be read: expected hashes by name"),
        ("config.resolved.json", '{"model": "Gnn"}', "model must be one of dnn"),
        ("config.resolved.json", "3", "expected options by name, found int"),
    ],
)
def test_foreign_json_without_digests_is_a_line(one_run, tmp_path, capsys, file, content, words):
    out = tmp_path / "out"
    shutil.copytree(one_run, out)
    (out / "SHA256SUMS").unlink()
    if file != "result.json":
        (out / "result.json").unlink()
    (out / file).write_text(content)
    assert main(["train", "--resume", str(out), "--quiet"]) == 2
    warned, shown = capsys.readouterr().err.splitlines()
    assert words in shown
    assert warned.startswith("resemb train: warning: ") and warned.endswith("its files are read unchecked")


@pytest.mark.parametrize("file", ["arms/plain-seed0/run.json", "test_scores.parquet", "result.json"])
def test_results_that_were_changed_are_not_resumed_from(one_run, tmp_path, capsys, file):
    out = tmp_path / "out"
    shutil.copytree(one_run, out)
    if file != "result.json":
        (out / "result.json").unlink()
    content = bytearray((out / file).read_bytes())
    content[len(content) // 3] ^= 1
    (out / file).write_bytes(content)
    assert main(["train", "--resume", str(out), "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert f"{out / file} does not match its digest" in shown and len(shown.splitlines()) == 1


def test_checkpoints_of_another_log_are_not_resumed_from(tmp_path, monkeypatch):
    """Its arms, sizes and options are equal, and its digests are right."""
    frame = pd.DataFrame({"user_id": np.repeat(range(40), 5), "item_id": np.arange(200) % 17, "timestamp": range(200)})
    for name, log in (("a", frame), ("b", frame.assign(item_id=frame.item_id[::-1].to_numpy()))):
        log.to_csv(tmp_path / f"{name}.csv", index=False)
        stopped_run(tmp_path / name, monkeypatch, data=str(tmp_path / f"{name}.csv"), embedding="plain")
    shutil.copytree(tmp_path / "b" / "arms", tmp_path / "a" / "arms", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"last\.safetensors was trained with other data than those here"):
        run(saved_config(tmp_path / "a"), resume=True, progress=False)


def test_an_older_folder_gets_digests_when_it_is_resumed(one_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(one_run, out)
    for name in ("SHA256SUMS", "result.json", "summary.md"):
        (out / name).unlink()
    with pytest.warns(UncheckedWarning, match="read unchecked"):
        first = run(saved_config(out), resume=True, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(saved_config(out), resume=True, progress=False).result == first.result
    assert (out / "summary.md").exists()
    lines = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert {"config.resolved.json", "test_scores.parquet", "arms/plain-seed0/run.json"} < lines


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
