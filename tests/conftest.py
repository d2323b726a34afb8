"""Test groups, and shared fixtures: real logs, CUDA, the random state, C++ drivers under sanitizers."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes of -n share the cores, and OpenMP's waiting threads would take them from one another.
    # Tests of several threads set their number; what they start takes it from here.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from resemb_ext import _loader

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("RESEMB_DATA", _ROOT.parent / "shared" / "data"))

# Examples of a property test, of 100. The quick group draws the same ones in every run, the others new ones.
hypothesis.settings.register_profile("quick", max_examples=10, deadline=None, derandomize=True)
hypothesis.settings.register_profile("some", max_examples=12, deadline=None)
hypothesis.settings.register_profile("full", max_examples=50, deadline=None, print_blob=True)
hypothesis.settings.load_profile("quick")


#: Folders of the tests that were collected, whatever -m leaves of them.
FOLDERS = pytest.StashKey[set[str]]()
_UNTRACKED = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Signals as in a terminal. Without -m: the quick group, or all but the slow where a file or folder is named."""
    # A shell's background jobs and nohup start with some ignored; tests that send them would wait for ever.
    for signum, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, usual)
    if not config.option.markexpr:
        named = config.args_source is pytest.Config.ArgsSource.ARGS
        config.option.markexpr = "not slow" if named else "not full and not slow"


def _untracked() -> set[str]:
    """Files of the checkout that git neither holds nor ignores; none where there is no git or no checkout."""
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    if shutil.which("git") is None:
        return set()
    return set(subprocess.run(command, cwd=_ROOT, capture_output=True, text=True).stdout.splitlines())


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # of -n: the process that starts the others looks
        session.config.stash[_UNTRACKED] = _untracked()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run where a test has left a file in the checkout."""
    stash = session.config.stash
    if _UNTRACKED in stash:
        stash[_UNTRACKED] = _untracked() - stash[_UNTRACKED]
        if stash[_UNTRACKED] and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash.get(_UNTRACKED, set()):
        terminalreporter.section("files left in the checkout, where tests write to tmp_path alone", red=True)
        for name in sorted(config.stash[_UNTRACKED]):
            terminalreporter.line(name)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[FOLDERS] = {item.path.parent.name for item in items}
    _thin(items)
    if torch.cuda.is_available() or os.environ.get("RESEMB_EMULATED") == "1":
        return
    if os.environ.get("RESEMB_REQUIRE_CUDA") == "1":
        raise pytest.UsageError("RESEMB_REQUIRE_CUDA=1 but there is no CUDA device")
    for item in items:
        if item.get_closest_marker("cuda"):  # a folder of that name is a keyword too
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process takes neighbouring tests, so that a module's fixtures are made once, not in every process."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage need look at it again, and each run makes one."""
    gc.collect()
    gc.freeze()


def _thin(items: list[pytest.Item]) -> None:
    """Moves all but the first of every n cases of a test that is marked ``one_in(n)`` to the full group."""
    seen: Counter[str] = Counter()
    for item in items:
        marker = item.get_closest_marker("one_in")
        if marker is not None:
            test = item.nodeid.partition("[")[0]
            if seen[test] % marker.args[0]:
                item.add_marker(pytest.mark.full)
            seen[test] += 1


class _Called(TorchDispatchMode):
    """Names of our operators that a test calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "resemb_ext":
            self.names.add(func._schema.name.split("::")[1])
        return func(*args, **(kwargs or {}))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that is marked ``operators(...)`` calls each of them: tests/test_groups.py counts on it."""
    claimed = {name for marker in item.iter_markers("operators") for name in marker.args}
    if not claimed:
        return (yield)
    with _Called() as called:
        yield
    if claimed - called.names:
        pytest.fail(f"does not call {', '.join(sorted(claimed - called.names))}", pytrace=False)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a real log by file name; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = _DATA / name
        if not path.exists():
            pytest.skip(f"no {name} in the data folder (set RESEMB_DATA)")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Only a power cut shows whether a file was synced; tests of when it is put their own in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


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
        # Optimising what sanitizers add takes longer than running it plain; races do not depend on a block's width.
        few = ["-DRESEMB_FEW_WIDTHS=1"] if sanitizer == "thread" else []
        command = [
            *(compiler, "-std=c++20", "-O0", "-g1", "-pthread", f"-I{_ROOT / 'csrc'}", *few),
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
