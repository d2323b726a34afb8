"""--overwrite, a full disk, links and several processes: an earlier result goes only when a new one may start."""

import hashlib
import json
import os
import signal
import sys
import traceback

import pytest

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.runtime.files import locked
from resemb_ext.train import RunConfig, run, tune
from resemb_ext.train import prepare as prepare_module
from resemb_ext.train.tuning import SEARCH

SMALL = {"epochs": 1, "batch_size": 256, "dim": 4, "hidden": (4,), "threads": 1, "embedding": "plain"}
FLAGS = [*("--epochs", "1", "--batch-size", "256", "--dim", "4", "--hidden", "4", "--threads", "1"), "--quiet"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small_simulation(monkeypatch):
    whole = rx.data.simulate
    monkeypatch.setattr(
        prepare_module.data, "simulate", lambda **o: whole(users=60, items=50, domains=4, events_per_user=(5, 9), **o)
    )


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        whole = rx.data.simulate
        patch.setattr(
            prepare_module.data,
            "simulate",
            lambda **o: whole(users=60, items=50, domains=4, events_per_user=(5, 9), **o),
        )
        run(**SMALL, out=str(folder / "run"), progress=False)
        pytest.importorskip("optuna")
        tune(RunConfig(**SMALL, out=str(folder / "search")), trials=1, progress=False)
    (folder / "search" / SEARCH.tree).mkdir()
    (folder / "search" / SEARCH.tree / "kept").write_text("")
    return folder


@pytest.fixture(params=["train", "tune"])
def earlier(request, finished, tmp_path):
    """A command and the folder of an earlier result of it."""
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished / {"train": "run", "tune": "search"}[request.param], out)
    return request.param, out


def refused(capsys, command, out, *flags):
    extra = ["--trials", "1"] if command == "tune" else []
    assert main([command, *FLAGS, *extra, "--embedding", "plain", "--out", str(out), *flags]) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    return shown


def test_what_another_process_works_on_stays(earlier, capsys):
    command, out = earlier
    before = content(out)
    with locked(out):
        assert "another process is working in" in refused(capsys, command, out, "--overwrite")
    assert content(out) == before


def test_what_is_not_to_be_overwritten_stays(earlier, capsys, monkeypatch):
    command, out = earlier
    before = content(out)
    reads = []
    monkeypatch.setattr(prepare_module.data, "simulate", lambda **o: reads.append(o))
    assert "choose another folder, give --overwrite, or continue it with --resume" in refused(capsys, command, out)
    other = {"train": "tune", "tune": "train"}[command]
    assert "holds a" in refused(capsys, other, out, "--overwrite")
    assert content(out) == before and not reads  # it is said before the data is read


def test_a_link_in_the_place_of_the_checkpoints_is_refused(earlier, capsys, tmp_path):
    command, out = earlier
    tree = out / {"train": "arms", "tune": "tune-trials"}[command]
    tree.rename(tmp_path / "elsewhere")
    tree.symlink_to(tmp_path / "elsewhere")
    before, there = content(out), content(tmp_path / "elsewhere")
    assert f"{tree.name} is no folder of its own" in refused(capsys, command, out, "--overwrite")
    assert content(out) == before and content(tmp_path / "elsewhere") == there and tree.is_symlink()


def test_what_cannot_be_removed_stays_whole(earlier, capsys, monkeypatch):
    command, out = earlier
    before, whole = content(out), os.rename

    def rename(old, new):
        if old.name in ("arms", "tune-trials") and "resemb-tmp" in str(new):
            raise PermissionError(13, "Permission denied", str(old))
        whole(old, new)

    monkeypatch.setattr(os, "rename", rename)
    assert "cannot write to" in refused(capsys, command, out, "--overwrite")
    assert content(out) == before


def test_a_disk_without_room_leaves_what_was_there(earlier, tmp_path, capsys, monkeypatch):
    command, out = earlier
    new = tmp_path / "a" / "b"
    before = content(out)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
        assert "has 1 MB of disk free" in refused(capsys, command, out, "--overwrite")
        assert "has 1 MB of disk free" in refused(capsys, command, new)
    assert content(out) == before and not (tmp_path / "a").exists()
    extra = ["--trials", "1"] if command == "tune" else []
    assert main([command, *FLAGS, *extra, "--embedding", "plain", "--out", str(new)]) == 0


def test_overwriting_leaves_nothing_of_the_earlier_run(finished, tmp_path):
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished / "run", out)
    (out / "mine.txt").write_text("keep")
    (out / "summary.md").unlink()
    (out / "summary.md").symlink_to("nowhere")
    run(**SMALL, out=str(out), seed=3, overwrite=True, progress=False)
    assert {path.name for path in (out / "arms").iterdir()} == {"plain-seed3"}
    assert not (out / "summary.md").is_symlink() and (out / "mine.txt").read_text() == "keep"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_run_that_was_replaced_while_its_data_was_read_is_not_resumed(finished, tmp_path, monkeypatch):
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished / "run", out)
    (out / "result.json").unlink()
    from resemb_ext.train import runner

    whole = runner.prepare

    def prepare(config):
        monkeypatch.setattr(runner, "prepare", whole)
        run(**SMALL, out=str(out), lr=0.1, overwrite=True, progress=False)
        return whole(config)

    monkeypatch.setattr(runner, "prepare", prepare)
    with pytest.raises(ValueError, match=r"options differ from those of the run in .*: lr 0.003 \(saved: 0.1\)"):
        run(**SMALL, out=str(out), resume=True, progress=False)
    assert json.loads((out / "result.json").read_text())["config"]["lr"] == 0.1


def test_a_signal_before_training_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    from resemb_ext.train import runner

    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    whole = runner.write_table
    monkeypatch.setattr(runner, "write_table", stop)
    assert main(["train", *FLAGS, "--embedding", "plain", "--out", str(out)]) == 143
    shown = capsys.readouterr().err
    assert shown == f"resemb train: stopped by SIGTERM; continue with: resemb train --resume {out}\n"
    monkeypatch.setattr(runner, "write_table", whole)
    assert main(["train", "--resume", str(out), "--quiet"]) == 0


def together(configs):
    """Runs in as many processes; their exit statuses: 0 done, 2 refused, 1 anything else."""
    children = []
    for config in configs:
        child = os.fork()
        if not child:
            status = 1
            try:
                run(config, progress=False)
                status = 0
            except ValueError as error:
                status = 2 if "another process is working in" in str(error) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.parametrize(
    ("processes", "rounds"),
    [(2, 1), pytest.param(2, 6, marks=pytest.mark.full), pytest.param(8, 2, marks=pytest.mark.full)],
)
def test_processes_at_once_leave_one_whole_run(tmp_path, processes, rounds):
    out = tmp_path / "out"
    rates = [0.001 * (1 + number) for number in range(processes)]
    for _ in range(rounds):
        configs = [RunConfig(**SMALL, lr=rate, out=str(out), overwrite=True) for rate in rates]
        statuses = together(configs)
        assert set(statuses) <= {0, 2} and 0 in statuses
        resolved = json.loads((out / "config.resolved.json").read_text())
        assert resolved["lr"] == json.loads((out / "result.json").read_text())["config"]["lr"]
        assert resolved["lr"] in [rate for rate, status in zip(rates, statuses, strict=True) if status == 0]
        assert not [path for path in out.rglob(".*")]
