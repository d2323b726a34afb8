"""The command line: help, one-line errors, exit statuses, doctor, train."""

import io
import json
import os
import re
import signal
import sys

import pytest
import torch

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.cli.doctor import device, lines
from resemb_ext.train import TrainingDiverged
from resemb_ext.train import prepare as prepare_module

COMMANDS = (
    *("data", "train", "tune", "predict", "export", "publish", "neighbors", "grow", "graph", "study", "bench"),
    "doctor",
    "selftest",
)
FAST = ["--epochs", "1", "--dim", "4", "--hidden", "4", "--batch-size", "256", "--threads", "1"]


@pytest.fixture
def small_simulation(monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        prepare_module.data, "simulate", lambda **o: whole(users=80, items=60, domains=3, events_per_user=(4, 7), **o)
    )


def refused(capsys, *arguments: str, status: int = 2) -> str:
    """Runs a command that must fail; its one line on stderr."""
    try:
        code = main(list(arguments))
    except SystemExit as exit:  # argparse's own errors
        code = exit.code
    seen = capsys.readouterr()
    assert code == status
    assert seen.out == ""
    assert len(seen.err.splitlines()) == 1, seen.err
    assert "Traceback" not in seen.err
    return seen.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert "example" in shown and f"resemb {command}" in shown
    assert "`" not in shown


def test_root_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(re.search(rf"^    {command}\s", shown, re.MULTILINE) for command in COMMANDS)


@pytest.mark.full
def test_doctor_prints_versions_isa_and_cuda(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "torch", "CPU path", "CUDA kernels", "CUDA device"):
        assert word in shown


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ({"cuda": False, "cuda_why_not": "no nvcc on PATH"}, "kernels are not built"),
        ({"cuda": True, "cuda_runtime": {"driver": 0, "devices": []}}, "no NVIDIA driver"),
        ({"cuda": True, "cuda_runtime": {"driver": 12000, "devices": [], "error": "too old"}}, "not usable: too old"),
        (
            {
                "cuda": True,
                "cuda_runtime": {"driver": 13000, "devices": ["H200"]},
                "torch_cuda": None,
                "torch": "2.13.0+cpu",
            },
            "torch 2.13.0\\+cpu is a CPU build",
        ),
        ({"cuda": True, "cuda_runtime": {"driver": 13000, "devices": ["H200"]}, "torch_cuda": "13.0"}, "^H200$"),
    ],
)
def test_doctor_says_why_a_device_is_missing(build, words):
    import re

    assert re.search(words, device(build))


def test_doctor_says_why_cuda_is_not_built():
    build = {
        "cuda": False,
        "cuda_why_not": "no nvcc on PATH",
        "isa": "avx2",
        "threads": 2,
        "available_isas": ["baseline", "avx2"],
    }
    shown = dict(lines({"versions": {"torch": None}, "commit": None, "build": build}))
    assert shown["CUDA kernels"] == "not built: no nvcc on PATH"
    assert shown["torch"] == "not installed"


def test_doctor_tells_the_architectures_and_why():
    build = {
        "cuda": True,
        "cuda_archs": "80+PTX",
        "cuda_archs_why": "no GPU here",
        "cuda_runtime": {"driver": 0, "devices": []},
        "isa": "avx2",
        "threads": 2,
        "available_isas": ["baseline", "avx2"],
    }
    shown = dict(lines({"versions": {}, "commit": None, "build": build}))
    assert shown["CUDA kernels"] == "built for 80+PTX (no GPU here)"


def test_train_prints_the_table_and_where_results_are(capsys, tmp_path, small_simulation):
    out = tmp_path / "out"
    assert main(["train", *FAST, "--out", str(out)]) == 0
    seen = capsys.readouterr()
    rows = [line.split("  ")[0].strip() for line in seen.out.splitlines()]
    assert rows[:2] == ["embedding", rows[1]] and set(rows[1]) == {"-"}
    assert rows[2:6] == ["plain", "res", "res - plain", "Bayes"]
    assert f"results in {out}" in seen.out and len(seen.out.splitlines()) <= 15
    assert "Res-embedding's test gAUC is " in seen.out and "one seed; more seeds" in seen.out
    assert "epoch 1/1" in seen.err and "Traceback" not in seen.err
    resolved = json.loads((out / "config.resolved.json").read_text())
    assert resolved["epochs"] == 1 and resolved["out"] == str(out)


def test_default_folder_is_named_after_the_run(capsys, tmp_path, small_simulation, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *FAST, "--embedding", "plain", "--quiet"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-simulated-dnn")
    seen = capsys.readouterr()
    assert seen.err == "" and "The plain embedding has test gAUC 0." in seen.out


@pytest.mark.full
def test_config_file_and_flags(capsys, tmp_path, small_simulation):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"epochs": 2, "dim": 4, "embedding": "plain", "hidden": [4]}))
    out = tmp_path / "out"
    arguments = ["train", "--config", str(file), "--epochs", "1", "--seed", "4", "5"]
    assert main([*arguments, "--quiet", "--out", str(out)]) == 0
    resolved = json.loads((out / "config.resolved.json").read_text())
    assert (resolved["epochs"], resolved["dim"], resolved["seed"]) == (1, 4, [4, 5])
    capsys.readouterr()
    # The resolved file repeats the run.
    again = ["train", "--config", str(out / "config.resolved.json"), "--quiet"]
    assert "holds an earlier run" in refused(capsys, *again)
    assert main([*again, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "invalid choice"),
        (["train", "--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["train", "--epochs", "0"], "epochs must be at least 1, found 0"),
        (["train", "--model", "dcn9"], "argument --model: invalid choice: 'dcn9'"),
        (["train", "--data", "none.parquet"], "none.parquet"),
        (["train", "--config", "none.toml"], "no configuration file none.toml"),
        (["train", "--user-column", "u"], "user_column is for log files"),
        (["train", "--category"], "has no category column"),
        (["train", "--seed", "1", "1"], "seed must not repeat"),
        (["train", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["graph", "stats", "none.npz"], "none.npz"),
        (["selftest", "--examples", "0"], "examples"),
    ],
)
def test_bad_input_is_one_line(capsys, small_simulation, arguments, words):
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "column"),
        ("user_id,item_id,timestamp\n", "no rows"),
        ("user_id,item_id,timestamp\n1,2,3\n", "leave-last-out"),
        ("", ""),
    ],
)
def test_bad_logs_are_one_line(capsys, tmp_path, text, words):
    path = tmp_path / "log.csv"
    path.write_text(text)
    out = tmp_path / "out"
    assert words in refused(capsys, "train", "--data", str(path), "--out", str(out))
    assert not out.exists()


def test_debug_shows_the_traceback():
    for arguments in (["--debug", "train", "--epochs", "0"], ["train", "--epochs", "0", "--debug"]):
        with pytest.raises(ValueError, match="epochs must be at least 1"):
            main(arguments)


@pytest.mark.parametrize(
    ("error", "status"), [(TrainingDiverged("loss is nan at step 3"), 1), (KeyboardInterrupt(), 130)]
)
def test_failures_of_the_work_have_their_own_status(capsys, monkeypatch, error, status):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("resemb_ext.cli.train.run", fail)
    words = "nan at step 3" if status == 1 else "interrupted"
    assert words in refused(capsys, "train", status=status)


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("resemb_ext.cli.train.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["train"])


@pytest.mark.full
def test_bench_is_the_benchmarks_of_the_source_tree(capfd, monkeypatch, tmp_path):
    assert main(["bench", "--full", "--only", "no such cell"]) == 1
    assert "no cell 'no such cell'; expected one of 'base, H=1M'" in capfd.readouterr().err
    monkeypatch.setattr(rx, "__file__", str(tmp_path / "resemb_ext" / "__init__.py"))
    assert "the benchmarks are not in the installed package" in refused(capfd, "bench", "--full")


def test_selftest_is_wired(capsys, monkeypatch):
    given = {}
    monkeypatch.setattr("resemb_ext.testing.selftest", lambda **o: given.update(o) or 1)
    assert main(["selftest", "--examples", "3"]) == 1
    assert given == {"device": "cpu", "examples": 3}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_every_command_with_a_line(tmp_path, capsys, monkeypatch, signum):
    """What was half done is cleaned up on the way out, as after an error."""
    before, log = signal.getsignal(signum), tmp_path / "log.csv"
    log.write_text("user,item,time\n1,2,3\n")

    def stop(table, target):
        assert list(tmp_path.glob(".out.parquet.*"))
        os.kill(os.getpid(), signum)

    monkeypatch.setattr("pyarrow.parquet.write_table", stop)
    assert main(["data", "convert", str(log), "--out", str(tmp_path / "out.parquet")]) == 128 + signum
    line = {signal.SIGINT: "interrupted"}.get(signum, f"stopped by {signal.Signals(signum).name}")
    assert capsys.readouterr().err.splitlines()[-1] == f"resemb data: {line}"
    assert list(tmp_path.iterdir()) == [log] and signal.getsignal(signum) is before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        torch.OutOfMemoryError("CUDA out of memory."),
        SystemError("error return without exception set"),
    ],
)
def test_memory_that_ends_is_a_line(capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("resemb_ext.cli.train.run", fail)
    assert "error: out of memory" in refused(capsys, "train")


def test_errors_of_ours_show_where(monkeypatch):
    def fail(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr("resemb_ext.cli.train.run", fail)
    with pytest.raises(KeyError):
        main(["train"])


def test_an_output_that_knows_ascii_alone_ends_no_command(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    rows = "".join(f"u{k % 3},i{k},{k},c\n" for k in range(20))
    path.write_text(f"user_id,item_id,timestamp,catégorie\n{rows}", encoding="utf-8")
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        assert main(["data", "validate", str(path), "--category-column", "catégorie"]) < 2
    output.flush()
    assert b"cat\\xe9gorie" in output.buffer.getvalue()
