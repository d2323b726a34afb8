"""The CUDA operators on the host, without a GPU, in place of the CPU's under torch: the tests of those run on them.

The kernels alone are tested in test_emulated_kernels.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cuda.emulation import KERNELS, ROOT, compile_all, kernels, link, needs_emulation

pytestmark = needs_emulation


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
    chosen = "any_problem or formulas or low_precision or within_rounding or own_bits or steps_in_the_kernel"
    files = ("op/test_parity", "op/test_attention", "optim/test_rules", "optim/test_compact", "optim/test_in_backward")
    run_tests(operators, "-k", f"not avx2 and ({chosen})", *(f"tests/{file}.py" for file in files), profile="some")


@pytest.mark.full
def test_captured_steps(operators: Path) -> None:
    run_tests(operators, "tests/cuda/test_capture.py")


@pytest.mark.full
def test_attention_on_chosen_problems(operators: Path) -> None:
    """Numbers and gradients made by hand, each gradient alone, dtypes, scores far from zero; dropout: see below."""
    run_tests(
        operators,
        "-k",
        "not avx2 and (by_hand or grad_of_each or out_dtype or extreme or zero_scores)",
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
