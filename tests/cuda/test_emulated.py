"""The CUDA kernels on the host, without a GPU: every CUDA thread a fiber (csrc/cuda/emulate.h).

The kernels alone run against plain loops in double under AddressSanitizer, with mutants that must be caught.
With their operators they then take the place of the CPU's under torch, and the tests of those run on them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("sort", "plan", "lookup", "update", "attention")
DRIVERS = ("cuda_kernels", "cuda_attention")
COMPILER = os.environ.get("CXX") or shutil.which("g++")
FLAGS = [*("-std=c++20", "-DRESEMB_EMULATE", "-fno-strict-aliasing", "-Wall", "-Wno-unknown-pragmas"), "-Wno-psabi"]

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the fibers are written for x86-64"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]

SANITIZED = ["-O1", "-g1", "-fsanitize=address"]


def compile_all(folder: Path, csrc: Path, sources: list[Path], flags: list[str]) -> list[Path]:
    """Objects of the sources, made side by side."""
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.name}.o"
        subprocess.run(
            [*COMPILER.split(), *FLAGS, *flags, f"-I{csrc}", "-x", "c++", "-c", source, "-o", target],  # type: ignore[union-attr]
            check=True,
            capture_output=True,
            text=True,
        )
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def link(program: Path, objects: list[Path], flags: list[str]) -> Path:
    subprocess.run(
        [*COMPILER.split(), *objects, *flags, "-o", program],  # type: ignore[union-attr]
        check=True,
        capture_output=True,
        text=True,
    )
    return program


def kernels(csrc: Path, names: tuple[str, ...] = KERNELS) -> list[Path]:
    return [csrc / "cuda" / f"{name}.cu" for name in names]


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
        ("cuda_kernels", "problems", "0", "25"),
        ("cuda_attention", "0", "12"),
    ):
        program = link(tmp_path / driver, for_driver(driver, objects), SANITIZED)
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-3000:]


@pytest.mark.slow
def test_attention_on_more_problems(tmp_path: Path, objects: dict[str, Path]) -> None:
    program = link(tmp_path / "driver", for_driver("cuda_attention", objects), SANITIZED)
    done = run(program, "12", "150")
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
}
MORE_MUTANTS = {
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


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA operators and kernels as a library that registers them in place of the CPU's."""
    include = Path(torch.__file__).parent / "include"
    folder = tmp_path_factory.mktemp("operators")
    sources = [*sorted((ROOT / "csrc/ops").glob("*.cpp")), *sorted((ROOT / "csrc/cuda").glob("*.cpp"))]
    sources += kernels(ROOT / "csrc", (*KERNELS, "device"))
    setup = (ROOT / "setup.py").read_text()
    match = re.search(r"TORCH_TARGET = \((\d+), (\d+)\)", setup)
    assert match
    target = f"-DTORCH_TARGET_VERSION=0x{int(match[1]):02x}{int(match[2]):02x}000000000000"
    flags = [
        *("-O1", "-fPIC", "-fvisibility=hidden", target, "-DRESEMB_SMALL_GRAPH=1000"),
        *(f"-isystem{include}", f"-isystem{include / 'torch/csrc/api/include'}"),
    ]
    library = include.parent / "lib"
    return link(
        folder / "emulated.so",
        compile_all(folder, ROOT / "csrc", sources, flags),
        ["-shared", f"-L{library}", "-Wl,--no-as-needed", "-ltorch"],
    )


RUN = """
import sys
import torch
import resemb_ext
torch.ops.load_library(sys.argv[1])
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def run_tests(operators: Path, *arguments: str, profile: str = "full") -> None:
    """Tests of the CPU's operators, on the emulated ones instead; ``profile`` is one of tests/conftest.py."""
    command = [sys.executable, "-c", RUN, str(operators), "-q", "-p", "no:cacheprovider"]
    command += [f"--hypothesis-profile={profile}", *arguments]
    environment = {**os.environ, "RESEMB_EMULATED": "1"}
    environment.pop("PYTEST_ADDOPTS", None)  # -n would run them in processes without the library
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, env=environment)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Overriding a previously registered kernel" in done.stderr, done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-1000:]


@pytest.mark.full
def test_operators_on_chosen_problems(operators: Path) -> None:
    """Widths and dtypes, corners, handmade graphs; steps apart and in backward."""
    run_tests(
        operators,
        "-k",
        "not avx2 and (every_width or corners or handmade or out_dtype)",
        "tests/op/test_parity.py",
        "tests/op/test_handmade.py",
    )


@pytest.mark.slow
def test_operators_on_any_problem(operators: Path) -> None:
    """hypothesis over shapes, dtypes, dense and sparse gradients; sums of several chunks; autograd."""
    run_tests(operators, "-k", "not avx2", "tests/op/test_parity.py", "tests/op/test_autograd.py")


@pytest.mark.full
def test_operators_on_some_problems(operators: Path) -> None:
    """The same and the optimizers' rules on a few examples each; steps in backward."""
    for tests, chosen in (
        (["tests/op/test_parity.py", "tests/op/test_attention.py"], "any_problem"),
        (["tests/optim/test_rules.py"], "formulas or low_precision"),
        (["tests/optim/test_compact.py"], "within_rounding or own_bits"),
        (["tests/optim/test_in_backward.py"], "steps_in_the_kernel"),
    ):
        run_tests(operators, "-k", f"not avx2 and ({chosen})", *tests, profile="some")


@pytest.mark.full
def test_captured_steps(operators: Path) -> None:
    run_tests(operators, "tests/cuda/test_capture.py")


@pytest.mark.full
def test_attention_on_chosen_problems(operators: Path) -> None:
    """Numbers and gradients made by hand, each gradient alone, dtypes, scores far from zero, dropout."""
    run_tests(
        operators,
        "-k",
        "not avx2 and (by_hand or grad_of_each or out_dtype or extreme or dropout or zero_scores)",
        "tests/op/test_attention.py",
    )


@pytest.mark.slow
def test_attention_on_any_problem(operators: Path) -> None:
    """hypothesis over shapes, heads and dtypes; sums of several chunks; autograd; all but messages.

    Those come with a later call here, see tests/cuda/test_attention.py.
    """
    run_tests(operators, "-k", "not avx2 and not messages", "tests/op/test_attention.py")


ATTENTION = """
import sys
import torch
import resemb_ext
from resemb_ext import functional
from resemb_ext.testing.attention import make_attention as make, solve_attention as solve

def results(problem):
    upstream = torch.randn(problem.call(functional).shape, generator=torch.Generator().manual_seed(1))
    return solve(problem, functional, upstream.to(problem.central.dtype))

cases = [
    make(num_items=300, dim=dim, heads=heads, positions=900, neighbors=12, exponent=exponent, bags=bags,
         dropout=dropout, dtype=dtype, padding_idx=1, seed=dim)
    for dim, heads, exponent, bags, dropout, dtype in (
        (24, 1, 1.3, None, 0.4, torch.float32), (24, 3, 0.0, 9, 0.4, torch.float32),
        (7, 7, 1.3, None, 0.2, torch.float64), (32, 2, 1.3, None, 0.5, torch.bfloat16))
]
cases.append(make(num_items=900, dim=8, positions=900, neighbors=350, exponent=0.0, dropout=0.3))
on_cpu = [results(p) for p in cases]
torch.ops.load_library(sys.argv[1])
for problem, expected in zip(cases, on_cpu):
    close = {torch.float32: 3e-4, torch.float64: 1e-11, torch.bfloat16: 0.02}[problem.central.dtype]
    for name, value in results(problem).items():
        scale = expected[name].abs().max().item() + 1e-30
        error = (value.double() - expected[name].double()).abs().max().item()
        assert error <= close * scale, (name, error, scale, problem.central.dtype)
print("ok")
"""


@pytest.mark.full
def test_attention_agrees_with_the_cpu(operators: Path) -> None:
    """The same edges are dropped, so that outputs and gradients are close."""
    done = subprocess.run([sys.executable, "-c", ATTENTION, str(operators)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stderr[-3000:]


@pytest.mark.slow
def test_optimizers(operators: Path) -> None:
    """Every rule, dtype and option of the optimizers, decay of whole tables, steps in backward.

    But for the bits of a fused multiply-add, which the host's compiler does not make here.
    """
    run_tests(
        operators,
        "-k",
        "not avx2 and not bit_for_bit",
        "tests/optim/test_rules.py",
        "tests/optim/test_compact.py",
        "tests/optim/test_decay.py",
        "tests/optim/test_in_backward.py",
    )


STATES = """
import sys
import torch
sys.path.insert(0, "tests/cuda")
import test_states as states

cases = states.cases()
on_cpu = [states.stepped(*case, "cpu") for case in cases]
torch.ops.load_library(sys.argv[1])
for case, expected in zip(cases, on_cpu):
    for name, value in states.stepped(*case, "cpu").items():
        assert torch.equal(value, expected[name]), (case, name)
print("ok", len(cases))
"""


@pytest.mark.full
def test_states_are_the_cpus_bit_for_bit(operators: Path) -> None:
    """Where neither fuses a multiplication and an addition, and sums of squares are exact in any order."""
    command = [sys.executable, "-c", STATES, str(operators)]
    environment = {**os.environ, "RESEMB_ISA": "baseline"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert re.fullmatch(r"ok \d{2,}\n", done.stdout), done.stderr[-3000:]
    assert "Overriding a previously registered kernel" in done.stderr, done.stderr[-2000:]


FAULTS = """
import sys
import torch
import resemb_ext
from resemb_ext import functional
from resemb_ext.testing import make_problem
torch.ops.load_library(sys.argv[1])
ops = torch.ops.resemb_ext
p = make_problem(num_items=9, dim=5, positions=30, neighbors=3)
ops.raise_faults(p.central)
good = p.call(functional)
ids = p.ids.clone()
ids[7] = 9
call = lambda ids: functional.res_embedding(ids, p.central, p.residual, *p.graph)
out = call(ids)
assert (out[7] == 0).all() and torch.equal(out[8:], good[8:])
try:
    call(p.ids)
except IndexError as error:
    assert "id 9 at position 7" in str(error) and "[0, 9)" in str(error), error
else:
    raise AssertionError("the next call does not raise")
assert torch.equal(call(p.ids), good)
functional.res_embedding_bag(
    p.ids, torch.tensor([0, 5, 3]), p.central, p.residual, *p.graph)
try:
    ops.raise_faults(p.central)
except ValueError as error:
    assert "offsets" in str(error), error
else:
    raise AssertionError("offsets that fall go unseen")
print("ok")
"""


@pytest.mark.full
def test_faults_are_raised_by_the_next_call(operators: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS, str(operators)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stderr[-3000:]
