"""The CUDA kernels alone on the host, against plain loops in double under AddressSanitizer; mutants are caught."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cuda.emulation import ROOT, compile_all, kernels, link, needs_emulation

DRIVERS = ("cuda_kernels", "cuda_attention")
SANITIZED = ["-O1", "-g1", "-fsanitize=address"]

pytestmark = needs_emulation


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Objects of the drivers and their kernels by name, made once."""
    drivers = [ROOT / "tests/native" / f"{driver}.cpp" for driver in DRIVERS]
    sources = [*kernels(ROOT / "csrc"), *drivers]
    flags = [*SANITIZED, f"-I{ROOT / 'tests/native'}"]
    targets = compile_all(tmp_path_factory.mktemp("objects"), ROOT / "csrc", sources, flags)
    return {source.stem: target for source, target in zip(sources, targets, strict=True)}


def for_driver(driver: str, objects: dict[str, Path]) -> list[Path]:
    return [target for name, target in objects.items() if name == driver or name not in DRIVERS]


@pytest.mark.full
def test_kernels_against_plain_loops_under_address(tmp_path: Path, objects: dict[str, Path]) -> None:
    for driver, *arguments in (
        ("cuda_kernels", "primitives", "60"),
        ("cuda_kernels", "problems", "0", "14"),
        ("cuda_attention", "0", "7"),
    ):
        program = link(tmp_path / driver, for_driver(driver, objects), SANITIZED)
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-3000:]


@pytest.mark.slow
def test_attention_on_more_problems(tmp_path: Path, objects: dict[str, Path]) -> None:
    program = link(tmp_path / "driver", for_driver("cuda_attention", objects), SANITIZED)
    done = run(program, "7", "150")
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-3000:]


# A name; the file; what is replaced there; by what; the kernels; what the driver then runs; what it says (a regex).
MUTANTS = {
    "sort without the barrier before the digits are added up": (
        "sort.cu",
        "    __syncthreads();\n    uint32_t start =",
        "    uint32_t start =",
        "sort",
        ("primitives", "40"),
        "primitives",
    ),
    "ids read one past the end": (
        "plan.cu",
        "p < n; p += all_threads()",
        "p <= n; p += all_threads()",
        "plan",
        ("problems", "0", "8"),
        "heap-buffer-overflow",
    ),
}
#: Of kernels that take long to compile. The same faults, a missing barrier and a wrong index, are among the others.
MORE_MUTANTS = {
    "attention's long rows without the barrier before the warps' parts are read": (
        "softmax.cuh",
        "    __syncthreads();\n    value = of_warp[0];",
        "    value = of_warp[0];",
        "attention",
        ("3", "4"),
        "seed 3",
    ),
    "int8 moments whose scale is that of a lane's own columns": (
        "update.cuh",
        "lanes.largest(totals.largest)",
        "totals.largest",
        "update",
        ("problems", "0", "12"),
        "after a step",
    ),
    "second moments by row of the last columns alone": (
        "update.cuh",
        "totals.squares += g[j] * g[j];",
        "totals.squares = g[j] * g[j];",
        "update",
        ("problems", "0", "12"),
        "second moment after a step",
    ),
    "counts of a row's steps that a lane may read after they are raised": (
        "update.cuh",
        "    __syncwarp(lanes.mask);  // all have read",
        "    // all have read",
        "update",
        ("problems", "0", "12"),
        "after a step|differs from that after them",
    ),
    "bfloat16 moments that are loaded eight bytes at a time wherever they lie": (
        "numbers.cuh",
        "bool aligned = dim % static_cast<int64_t>(16 / item_size(type)) == 0;",
        "bool aligned = true;",
        "update",
        ("problems", "0", "8"),
        "AddressSanitizer",
    ),
    "bags that begin a position late": (
        "bags.cuh",
        "if (offsets[middle] <= p) {",
        "if (offsets[middle] < p) {",
        "lookup",
        ("problems", "0", "12"),
        "seed",
    ),
    "scan without the barrier before the warps' sums are read": (
        "scan.cuh",
        "of_warp[warp] = sum;\n  __syncthreads();",
        "of_warp[warp] = sum;",
        "sort",
        ("primitives", "40"),
        "primitives|SEGV",
    ),  # wrong, or so wrong that keys go astray
    "long sums without the barrier between halves": (
        "segments.cuh",
        "        __syncthreads();\n        if (group >= half) continue;",
        "        if (group >= half) continue;",
        "lookup",
        ("problems", "3", "4"),
        "seed 3",
    ),
    "counts cleared by one block of the kernel that counts": (
        "segments.cuh",
        "  for (int64_t s = first_group(lane_count); s < count;",
        "  if (first_thread() == 0) longs.counts[0] = longs.counts[1] = 0;\n"
        "  __syncthreads();\n  for (int64_t s = first_group(lane_count); s < count;",
        "lookup",
        ("problems", "3", "4"),
        "seed 3",
    ),
    "columns one past the row": (
        "segments.cuh",
        "if (active && col < dim) finish.store",
        "if (active && col <= dim) finish.store",
        "lookup",
        ("problems", "0", "8"),
        "heap-buffer-overflow",
    ),
    "vector loads of rows that do not allow them": (
        "numbers.cuh",
        "bool aligned = dim % static_cast<int64_t>(16 / item_size(type)) == 0;",
        "bool aligned = true;",
        "lookup",
        ("problems", "0", "8"),
        "AddressSanitizer",
    ),
    "scores that read past a head's columns": (
        "attention.cu",
        "col < width; col += lane_count * N",
        "col <= width; col += lane_count * N",
        "attention",
        ("0", "8"),
        "heap-buffer-overflow",
    ),
    "softmax's gradient without its mean": (
        "softmax.cuh",
        "alpha[i] * (dots[i] - mean)",
        "alpha[i] * dots[i]",
        "attention",
        ("0", "8"),
        "seed",
    ),
    "backward that drops other edges than forward": (
        "softmax.cuh",
        "alpha[i] *= factor(dropout, u, edge + t - first, h);",
        "alpha[i] *= factor(dropout, u, edge, h);",
        "attention",
        ("0", "12"),
        "seed",
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("name", [*MUTANTS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_MUTANTS)])
def test_mutant_is_caught(name: str, tmp_path: Path, objects: dict[str, Path]) -> None:
    file, old, new, unit, arguments, message = {**MUTANTS, **MORE_MUTANTS}[name]
    csrc = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    text = (csrc / "cuda" / file).read_text()
    assert text.count(old) == 1, "the mutant no longer fits the source"
    (csrc / "cuda" / file).write_text(text.replace(old, new))
    (mutated,) = compile_all(tmp_path / "mutant", csrc, kernels(csrc, (unit,)), SANITIZED)
    # First, so that the linker takes its copies of what several of them hold.
    driver = "cuda_attention" if unit == "attention" else "cuda_kernels"
    rest = [target for target in for_driver(driver, objects) if target != objects[unit]]
    done = run(link(tmp_path / "driver", [mutated, *rest], SANITIZED), *arguments)
    assert done.returncode != 0 and re.search(message, done.stderr), f"not caught: {done.stderr[-2000:]}"
