"""Checks on a device: the CUDA tests, and the operators' tests under compute-sanitizer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.cpp_extension import CUDA_HOME

_ROOT = Path(__file__).resolve().parents[2]
# Named one by one: to collect every test file takes time, and one that fails to import would end the run.
TESTS = tuple(f"tests/cuda/test_{part}.py" for part in ("device", "states", "attention", "capture", "pinned"))
PARTS = ("tests", "memcheck", "racecheck")
LIMIT_S = 450  # of all parts together
_TESTS_S = 300  # of the tests alone
SANITIZED = (
    "tests/cuda/test_device.py",
    "tests/cuda/test_states.py",
    "tests/cuda/test_attention.py",
    "-k",
    "every_width and float32 and (-8 or -18 or 18-3) or long_sums and edges and None"
    " or state_is_the_cpus and bfloat16 and (7-decay or 16-adamw) or half_weights",
)
# torch's allocator puts many tensors into one block, in which no reading past an end would be seen.
_SANITIZED_ENV = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
_TORCH_KERNELS = "kns=_ZN2at"  # the filter takes a part of the mangled name


def _run(command: list[str], env: dict[str, str], timeout: float) -> tuple[int, str]:
    """Exit code and output; -1 past the timeout. Nothing that the command started goes on."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **env},
        )
        try:
            code, stopped = process.wait(timeout), ""
        except subprocess.TimeoutExpired:
            code, stopped = -1, f"stopped after {timeout:.0f} s\n"
        finally:
            # The group: what a sanitizer runs is its child, and would keep the device busy.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return code, stopped + output.read()


def _ends(output: str, most: int = 6000) -> str:
    """Start and end of what was said: a sanitizer's first error, pytest's summary."""
    return output if len(output) <= 2 * most else f"{output[:most]}\n...\n{output[-most:]}"


def run_pytest(prefix: list[str], *selection: str, timeout: float, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Counts of a run of the device tests, and the names of those that failed.

    Args:
        prefix: command that the interpreter's is given to.
        selection: arguments of pytest.
        timeout: seconds; past them the run counts as failed.
        env: variables beside those of this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*prefix, sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *selection]
        start = time.perf_counter()
        code, output = _run(command, {"RESEMB_REQUIRE_CUDA": "1", **(env or {})}, timeout)
        result: dict[str, Any] = {"exit_code": code, "seconds": round(time.perf_counter() - start, 1), "passed": 0}
        if not report.exists():
            return {**result, "output": _ends(output)}
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
        failed = [
            f"{c.get('classname')}.{c.get('name')}"
            for c in cases
            if c.find("failure") is not None or c.find("error") is not None
        ]
        skipped = sum(c.find("skipped") is not None for c in cases)
        result.update(passed=len(cases) - len(failed) - skipped, failed=failed, skipped=skipped)
        if failed or code != 0:
            result["output"] = _ends(output)
        return result


def sanitize(tool: str, timeout: float) -> dict[str, Any]:
    """The operators' tests of widths under compute-sanitizer, or why the host refuses it.

    Past ``timeout`` seconds it counts as failed.
    """
    program = _sanitizer()
    if program is None:
        return {"refused": "compute-sanitizer is neither on PATH nor in CUDA_HOME"}
    # Calls of torch that fail are handled there.
    own = ["--report-api-errors=no"] if tool == "memcheck" else []
    prefix = [program, f"--tool={tool}", "--error-exitcode=99", *own, "--kernel-name-exclude", _TORCH_KERNELS]
    found = run_pytest(prefix, *SANITIZED, timeout=timeout, env=_SANITIZED_ENV)
    output = found.get("output", "")
    if "device not supported" in output.lower():
        return {"refused": output[:500]}
    if "skipped" not in found and found["exit_code"] not in (-1, 0, 1, 99):  # pytest gave no report
        return {"refused": output[-500:]}
    return found


def _sanitizer() -> str | None:
    folders = [os.environ.get("PATH", "")] + ([f"{CUDA_HOME}/bin"] if CUDA_HOME else [])
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def check(parts: Sequence[str] = PARTS, keep: Callable[[dict[str, Any]], None] = lambda found: None) -> dict[str, Any]:
    """Tests of parity, bits, capture and compilation, then memcheck and racecheck, within ``LIMIT_S``.

    Args:
        parts: of ``PARTS``; a part of its own has all the time.
        keep: is given what was found so far, after each part.
    """
    start = time.perf_counter()
    result: dict[str, Any] = {}
    for part in PARTS:
        if part in parts:
            left = max(LIMIT_S - (time.perf_counter() - start), 1)
            if part == "tests":
                limit = left if len(parts) == 1 else min(left, _TESTS_S)
                result[part] = run_pytest([], "-m", "cuda", *TESTS, timeout=limit)
            else:
                result[part] = sanitize(part, left)
            keep(result)
    return result


def passed(result: dict[str, Any]) -> bool:
    """Whether all parts that ran have passed, and some did; a sanitizer may be refused, tests may not."""
    ran = {name: part for name, part in result.items() if name == "tests" or "refused" not in part}
    return bool(ran) and all(p.get("exit_code") == 0 and p["passed"] > 0 for p in ran.values())
