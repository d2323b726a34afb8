"""The builder's core, free of Python, under address, undefined-behaviour and thread sanitizers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_clean_under(sanitizer, tmp_path):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "driver"
    subprocess.run(
        [
            *(COMPILER, "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"),
            *(f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}"),
            *(str(ROOT / "tests" / "test_graph_driver.cpp"), "-o", str(program)),
        ],
        check=True,
    )
    run = subprocess.run(
        [program, "24"],
        capture_output=True,
        text=True,
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
    )
    assert run.returncode == 0 and run.stdout == "ok\n", run.stderr
