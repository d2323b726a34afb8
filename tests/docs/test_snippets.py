"""Every command and snippet of the pages runs as it stands, on a small log."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import resemb_ext as rx
from resemb_ext.cli import main, parser
from tests.docs.pages import FRAMEWORK_PAGES, PAGES, ROOT, blocks

# A program whose module another test has imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")

#: Commands that are not run here: they install, need a GPU, or are timed or tested elsewhere.
ELSEWHERE = (
    "pip",
    "git",
    "pytest",
    "python -m pytest",
    "python -m benchmarks",
    "python -m sphinx",
    ".ci/run",
    ".ci/wheel",
    ".ci/frameworks",
    "ruff",
    "mypy",
    "lint-imports",
)
ELSEWHERE_RESEMB = ("train", "selftest", "doctor")  # without options: the newcomer's, in CI
#: Options of other programs: pip, pytest, hypothesis, ruff, nvcc, torchrun.
OTHERS = {
    *("--no-build-isolation", "--no-deps", "--hypothesis-profile", "--check", "--kills"),
    *("--standalone", "--nproc-per-node", "--max-restarts"),
}
#: Pages whose commands train, search, export or step a model.
TRAINS = ("grow", "optimizers", "publish", "serve", "training", "tune")
#: Snippets that need a GPU.
GPU = "torch.cuda.CUDAGraph"
#: Sizes made smaller: what is written, what is run.
SMALLER = {"--trials 30": "--trials 1", "--seed 0 1 2": "--seed 0"}
if not all(map(importlib.util.find_spec, ("tensorboard", "mlflow"))):
    SMALLER[" --log-to tensorboard mlflow=runs/mlruns"] = ""  # tests/integrations/loggers runs them


#: Words of commands and snippets that need a package of an extra, and the package; without it they are not run.
NEEDS = {"--table": "onnxscript", "served": "onnxscript", "examples.service": "fastapi", "export_index": "usearch"}


def _lacks(text: str) -> bool:
    """Whether a command or snippet needs a package that is not there."""
    return any(word in text and importlib.util.find_spec(package) is None for word, package in NEEDS.items())


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name, small."""
    folder = tmp_path_factory.mktemp("pages")
    log, _ = rx.data.simulate(users=60, items=60, domains=4, events_per_user=(5, 9), seed=0)
    item = log.items.decode(log.item)
    frame = pd.DataFrame({"user_id": log.user, "item_id": item, "timestamp": 1_500_000_000 + 60 * log.time})
    frame["category"] = "c" + (frame["item_id"] % 4).astype(str)
    frame.to_parquet(folder / "events.parquet")
    frame.to_csv(folder / "events.csv", index=False)
    later = frame.iloc[:30].assign(item_id=frame["item_id"].max() + np.arange(30) % 3, timestamp=1_700_000_000)
    later.to_parquet(folder / "today.parquet")
    raw = frame.assign(behavior="pv")[["user_id", "item_id", "category", "behavior", "timestamp"]]
    raw.to_csv(folder / "raw.csv", index=False, header=False)
    rows = pd.DataFrame({"history": [item[:3].tolist(), []], "target": item[:2].tolist()})
    rows.to_parquet(folder / "rows.parquet")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.to_dict("records")))
    _ready_made(folder / "samples")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def _ready_made(folder: Path) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for part, rows in (("train", 80), ("test", 30)):
        history = ["^".join(map(str, draw.integers(1, 20, draw.integers(1, 6)))) for _ in range(rows)]
        columns = {"user_id": np.arange(rows) % 10, "item_id": draw.integers(1, 20, rows), "item_history": history}
        pd.DataFrame({"label": np.arange(rows) % 2, **columns}).to_csv(folder / f"{part}.csv", index=False)


@pytest.fixture
def place(log_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the files, as the current folder."""
    shutil.copytree(log_folder, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def _marked(page: Path) -> Any:
    return pytest.param(page, id=page.stem, marks=[pytest.mark.full] if page.stem in TRAINS else [])


@pytest.mark.parametrize("page", [_marked(page) for page in PAGES if page not in FRAMEWORK_PAGES])
def test_page_runs(page: Path, place: Path) -> None:
    if page.stem in ("publish", "serve"):  # their commands start from a run
        assert main(["train", "--data", "events.parquet", "--epochs", "1", "--out", "runs/first", "--quiet"]) == 0
    names: dict[str, Any] = {}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.language == "python" and GPU not in block.text and not _lacks(block.text):
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        elif block.language == "bash":
            for words in block.commands:
                _run_command(words, where)


def _help_of(module: str) -> str:
    """What ``python -m MODULE --help`` prints."""
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(text), pytest.raises(SystemExit):
        patch.setattr(sys, "argv", [module, "--help"])
        runpy.run_module(module, run_name="__main__")
    return text.getvalue()


def _check_options(module: str, options: list[str]) -> None:
    """The module's ``--help`` has the options."""
    known = _help_of(module)
    assert [option for option in options if option not in known] == []


def _run_command(words: list[str], where: str) -> None:
    while "=" in words[0]:  # a variable of the environment
        words = words[1:]
    text = " ".join(words)
    if text.startswith("python -m benchmarks"):
        _check_options(words[2], [word for word in words[3:] if word.startswith("--")])
    if _lacks(text) or text.startswith(ELSEWHERE) or any(text == f"resemb {name}" for name in ELSEWHERE_RESEMB):
        return
    for written, run in SMALLER.items():
        text = text.replace(written, run)
    words = text.split()
    if words[0] == "resemb":
        assert main(words[1:]) in (0, 1), where  # 1: ``data validate`` has warnings
        return
    assert words[0] == "python", f"{where}: {text} is neither run nor named in ELSEWHERE"
    if not words[1].startswith("-m") and not Path(words[1]).exists():
        pytest.fail(f"{where}: no file {words[1]}")
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, *words[1:]], check=True, env={**os.environ, "PYTHONPATH": paths})


@pytest.fixture(scope="module")
def all_options() -> set[str]:
    """The options of every command of ``resemb``, of the benchmarks and of the picture, and those of other programs."""
    texts = [command.format_help() for command in _commands(parser())]
    programs = [path for path in (ROOT / "benchmarks").glob("*.py") if '"__main__"' in path.read_text()]
    names = [f"benchmarks.{path.stem}".removesuffix(".__main__") for path in programs if path.stem != "publish"]
    others = ("benchmarks.frameworks", "benchmarks.gpu", "docs.picture", "examples.service", "examples.service.load")
    texts += [_help_of(module) for module in (*others, *names)]
    return set(re.findall(r"--[\w-]+", " ".join(texts))) | OTHERS


def _commands(command: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield command
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _commands(sub)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_options_exist(page: Path, all_options: set[str]) -> None:
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) - all_options == set()
