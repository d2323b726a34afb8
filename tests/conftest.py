"""Shared fixtures: real logs, CUDA, the random state, C++ drivers under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from resemb_ext import _loader

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("RESEMB_DATA", _ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("-m"):
        skip = pytest.mark.skip(reason="slow: choose it with -m slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    if not torch.cuda.is_available() and os.environ.get("RESEMB_EMULATED") != "1":
        reason = "no CUDA device"
        if os.environ.get("RESEMB_REQUIRE_CUDA") == "1":
            raise pytest.UsageError(f"RESEMB_REQUIRE_CUDA=1 but there is {reason}")
        for item in items:
            if item.get_closest_marker("cuda"):  # a folder of that name is a keyword too
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a real log by file name; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = _DATA / name
        if not path.exists():
            pytest.skip(f"no {name} in the data folder (set RESEMB_DATA)")
        return path

    return find


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For modules of small models, on which two threads take several times the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=_loader.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction-set path that runs here."""
    before = _loader.isa()
    _loader.select_isa(request.param)
    yield request.param
    _loader.select_isa(before)


@pytest.fixture
def sanitized(tmp_path: Path) -> Callable[..., Callable[..., None]]:
    """Builds a driver of tests/native with a sanitizer, free of Python and torch.

    Returns a function that runs it with some arguments, where it must print "ok" and nothing else.
    Skips the test where there is no compiler, or none that links this sanitizer into what runs here.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

    def compile_(sanitizer: str, name: str, *sources: Path) -> Path:
        program = tmp_path / name
        # Optimising what address and undefined add takes several times as long as running it plain.
        level = "-O1" if sanitizer == "thread" else "-O0"
        command = [
            *(compiler, "-std=c++20", level, "-g1", "-pthread", f"-I{_ROOT / 'csrc'}"),
            *(f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"),
            # Checks of every pointer would double the time; address sees most of what they would.
            "-fno-sanitize=null,alignment,object-size,pointer-overflow",
            *("-o", program, *sources),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return program

    def build(sanitizer: str, *sources: str | Path) -> Callable[..., None]:
        if compiler is None:
            pytest.skip("no C++ compiler")
        empty = tmp_path / "empty.cpp"
        empty.write_text("int main() {}\n")
        try:
            subprocess.run([compile_(sanitizer, "empty", empty)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"-fsanitize={sanitizer} does not work here: {error}")
        try:
            program = compile_(sanitizer, "driver", *(_ROOT / source for source in sources))
        except subprocess.CalledProcessError as error:
            pytest.fail(error.stderr, pytrace=False)

        def run(*arguments: str) -> None:
            environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
            done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
            if done.returncode != 0 or done.stdout != "ok\n":
                pytest.fail(f"exit code {done.returncode}\n{done.stderr}", pytrace=False)

        return run

    return build
