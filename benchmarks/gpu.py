"""`python -m benchmarks.gpu`: the operators on a CUDA device, checked (`--check`) or timed against plain PyTorch.

Without a device it says so and ends with code 2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import resemb_ext as rx
from benchmarks import peers, steps
from benchmarks.cells import Case, Cell, make_case
from benchmarks.machine import machine
from benchmarks.steps import Bench, Step
from resemb_ext import _loader
from resemb_ext.train.files import write_text

_ROOT = Path(__file__).resolve().parents[1]
_TESTS = "tests/test_cuda_device.py"
_LIMIT_S = 300  # after which no further part is begun


def device_data() -> dict[str, Any]:
    """The device, its driver and its clocks as found."""
    properties = torch.cuda.get_device_properties(0)
    query = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
    smi = shutil.which("nvidia-smi")
    found = "nvidia-smi is not on PATH"
    if smi is not None:
        command = [smi, f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "torch_cuda": torch.version.cuda,
        "runtime": json.loads(_loader._C.cuda_info()),
        "nvidia_smi": {query: found},
    }


# Checks.


def run_pytest(prefix: list[str], *selection: str) -> dict[str, Any]:
    """Counts of a run of the device tests, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            *prefix,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            f"--junitxml={report}",
            *selection,
        ]
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True,
            env={**os.environ, "RESEMB_REQUIRE_CUDA": "1"})  # fmt: skip
        result: dict[str, Any] = {
            "exit_code": done.returncode,
            "seconds": round(time.perf_counter() - start, 1),
        }
        if not report.exists():
            return {**result, "passed": 0, "output": (done.stdout + done.stderr)[-2000:]}
        suite = ElementTree.parse(report).getroot()
        cases = list(suite.iter("testcase"))
        failed = [
            f"{c.get('name')}" for c in cases if c.find("failure") is not None or c.find("error") is not None
        ]  # fmt: skip
        skipped = sum(c.find("skipped") is not None for c in cases)
        result.update(passed=len(cases) - len(failed) - skipped, failed=failed, skipped=skipped)
        if failed or done.returncode != 0:
            result["output"] = (done.stdout + done.stderr)[-4000:]
        return result


def sanitize(tool: str) -> dict[str, Any]:
    """The operators' tests of widths under compute-sanitizer, or why it did not run."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"refused": "compute-sanitizer is not on PATH"}
    prefix = [program, f"--tool={tool}", "--error-exitcode=99", "--kernel-name-exclude", "kns=at::"]
    found = run_pytest(prefix, _TESTS, "-k", "every_width and float32 and (-8 or -18 or -64)")
    if found["exit_code"] not in (0, 1, 99):
        return {"refused": found.get("output", "")[-500:]}
    return found


def check() -> dict[str, Any]:
    start = time.perf_counter()
    result = {"tests": run_pytest([], _TESTS)}
    for tool in ("memcheck", "racecheck"):
        late = time.perf_counter() - start > _LIMIT_S
        result[tool] = {"refused": "no time left"} if late else sanitize(tool)
    return result


def check_passed(result: dict[str, Any]) -> bool:
    parts = [part for part in result.values() if "refused" not in part]
    return all(part["exit_code"] == 0 and part["passed"] > 0 for part in parts)


# Speed.


def to_device(case: Case) -> Case:
    """A copy on the device whose tables are leaves."""
    moved = {}
    for field in fields(case):
        value = getattr(case, field.name)
        if isinstance(value, list):
            moved[field.name] = [t.cuda() for t in value]
        elif isinstance(value, Tensor):
            moved[field.name] = value.detach().cuda().requires_grad_(value.requires_grad)
    return replace(case, **moved)


def bench_of(case: Case) -> Bench:
    def moments(table: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(table, requires_grad=False), torch.zeros_like(table, requires_grad=False)  # fmt: skip

    central, residual, plain = (moments(t) for t in (case.central, case.residual, case.plain))
    shared = (central, residual, plain)
    return Bench(case, shared, shared)


def in_backward(case: Case, host: Case, dtype: torch.dtype) -> Step:
    """Our Adam inside backward, over tables of its own."""
    graph = rx.InterestGraph.from_csr(
        host.indptr.numpy(), host.neighbors32.numpy(), host.link_weights.numpy()
    )
    module = rx.ResEmbedding(
        graph, case.central.shape[1], link="given", sparse=True, dtype=dtype, device="cuda"
    )
    optimizer = rx.optim.Adam(module.parameters(), lr=steps.LR)
    optimizer.step_in_backward(module)
    return lambda ids, upstream: module(ids).backward(upstream.to(dtype))


def dense_adam(tables: list[Tensor], look_up: Callable[[Tensor], Tensor]) -> Step:
    optimizer = torch.optim.Adam(tables, lr=steps.LR, fused=True)

    def step(ids: Tensor, upstream: Tensor) -> None:
        look_up(ids).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()

    return step


def gather_sum(case: Case) -> Callable[[Tensor], Tensor]:
    """A plain gather-sum kernel over the unique rows' index list: what the lookup's kernel can reach."""

    def look_up(rows: Tensor) -> Tensor:
        return F.embedding_bag(
            case.neighbors[rows], case.central.detach(), mode="sum",
            per_sample_weights=case.weights[rows])  # fmt: skip

    return look_up


def cusparse(case: Case) -> Callable[[Tensor], Tensor]:
    """W C + R as one CSR product a step, F.embedding over it."""
    items = case.central.shape[0]
    matrix = torch.sparse_csr_tensor(
        case.indptr, case.neighbors.reshape(-1), case.weights.reshape(-1), (items, items),
        check_invariants=False)  # fmt: skip
    return lambda ids: F.embedding(ids, matrix @ case.central + case.residual)


Maker = Callable[[], Callable[[int], Any]]


def variants(case: Case, host: Case) -> dict[str, Maker]:
    """What is timed, by name; each is made when its turn comes, so that its memory is its own."""
    upstream = torch.randn(case.batches[0].numel(), case.central.shape[1], device="cuda")
    unique = [ids.unique() for ids in case.batches]

    def batch(turn: int) -> Tensor:
        return case.batches[turn % len(case.batches)]

    def forward(make: Callable[[Case], Callable[[Tensor], Tensor]]) -> Maker:
        def maker() -> Callable[[int], Any]:
            look_up = make(case)

            def run(turn: int) -> Tensor:
                with torch.no_grad():
                    return look_up(batch(turn))

            return run

        return maker

    def whole(make: Callable[[], Step]) -> Maker:
        def maker() -> Callable[[int], Any]:
            step = make()
            return lambda turn: step(batch(turn), upstream)

        return maker

    def with_bench(make: Callable[[Bench], Step]) -> Maker:
        return whole(lambda: make(bench_of(case)))

    rows = gather_sum(case)
    look_up_dense = peers.bag_over_unique(case, sparse=False)
    plain_dense = peers.plain_embedding(case, sparse=False)
    return {
        "forward: resemb_ext": forward(peers.operator),
        "forward: dedupe alone, torch.sort": lambda: lambda turn: batch(turn).sort(),
        "forward: embedding_bag over the unique rows' list": lambda: (
            lambda turn: rows(unique[turn % len(unique)])
        ),
        "forward: gather": forward(peers.gather),
        "forward: torch.compile of the gather": forward(peers.compiled_gather),
        "forward: unique + embedding_bag": forward(peers.bag_over_unique),
        "forward: plain F.embedding": forward(peers.plain_embedding),
        "step: resemb_ext, Adam in backward": whole(lambda: in_backward(case, host, torch.float32)),
        "step: resemb_ext, Adam in backward, bfloat16": whole(
            lambda: in_backward(case, host, torch.bfloat16)
        ),
        "step: resemb_ext, optim.Adam": with_bench(steps.own),
        "step: unique + embedding_bag, SparseAdam": with_bench(steps.unique_sparse_adam),
        "step: unique + embedding_bag, dense fused Adam": whole(
            lambda: dense_adam([case.central, case.residual], look_up_dense)
        ),
        "step: touched rows as leaves, lazy Adam by hand": with_bench(steps.touched_rows),
        "step: cuSPARSE W C + R, dense fused Adam": whole(
            lambda: dense_adam([case.central, case.residual], cusparse(case))
        ),
        "step: plain, SparseAdam": with_bench(steps.plain_sparse_adam),
        "step: plain, dense fused Adam": whole(lambda: dense_adam([case.plain], plain_dense)),
        "step: plain, touched rows, lazy Adam by hand": with_bench(steps.plain_touched_rows),
        "step: plain, resemb_ext.optim.Adam": with_bench(steps.plain_own_adam),
    }


def time_ms(run: Callable[[int], Any], rounds: int, warmup: int = 5) -> dict[str, float]:
    """Quartiles of milliseconds by events, over rotating batches."""
    for turn in range(warmup):
        run(turn)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for turn in range(rounds):
        run(turn)
        marks[turn + 1].record()
    torch.cuda.synchronize()
    spent = [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
    low, middle, high = np.percentile(spent, [25, 50, 75])
    return {"ms": round(middle, 4), "q1": round(low, 4), "q3": round(high, 4)}


def copy_rate() -> float:
    """Bytes a second of a large copy on the device, read and written counted."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    ms = time_ms(lambda _: target.copy_(source), 20)["ms"]
    return 2 * source.nbytes / (ms * 1e-3)


def compulsory_bytes(
    positions: int, unique: int, touched: int, edges: int, dim: int
) -> dict[str, int]:
    """What forward and the whole Adam step must move in float32: each row once in, once out."""
    row = 4 * dim
    forward = positions * (8 + row) + edges * 8 + (unique + touched) * row
    update = (unique + touched) * 6 * row  # param and both moments, in and out
    return {"forward": forward, "step": forward + positions * row + edges * 8 + update}


def speed(
    items: list[int], positions: list[int], dims: list[int], rounds: int
) -> list[dict[str, Any]]:
    start = time.perf_counter()
    rate = copy_rate()
    cells: list[dict[str, Any]] = []
    memory = torch.cuda.get_device_properties(0).total_memory
    for num_items in items:
        for dim in dims:
            for count in positions:
                cell: dict[str, Any] = {"H": num_items, "D": dim, "K": 20, "P": count}
                cells.append(cell)
                if (
                    4 * num_items * dim * 12 > memory
                ):  # three tables with moments, and their peers' state
                    cell["skipped"] = "does not fit the device's memory"
                elif time.perf_counter() - start > _LIMIT_S:
                    cell["skipped"] = "no time left"
                else:
                    run_cell(cell, rate, rounds)
    return cells


def run_cell(cell: dict[str, Any], rate: float, rounds: int) -> None:
    """Times the variants of one cell; one that fails is recorded by its error, never passed over."""
    host = make_case(
        Cell(items=cell["H"], dim=cell["D"], neighbors=cell["K"], positions=cell["P"], batches=4)
    )
    case = to_device(host)
    unique, touched = case.touched
    must = compulsory_bytes(cell["P"], unique, touched, unique * cell["K"], cell["D"])
    cell.update(U=unique, V=touched, copy_gb_s=round(rate / 1e9, 1))
    cell["compulsory_ms"] = {name: round(1e3 * n / rate, 4) for name, n in must.items()}
    cell["variants"] = {}
    for name, make in variants(case, host).items():
        try:
            cell["variants"][name] = time_ms(make(), rounds)
        except (RuntimeError, ValueError, TypeError) as error:
            cell["variants"][name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        torch.cuda.empty_cache()


def table(cells: list[dict[str, Any]]) -> str:
    lines = []
    for cell in cells:
        lines.append(
            " ".join(f"{k}={cell[k]:,}" for k in ("H", "D", "K", "P", "U", "V") if k in cell)
        )
        if "skipped" in cell:
            lines.append(f"  skipped: {cell['skipped']}")
            continue
        lines.append(f"  compulsory bytes: {cell['compulsory_ms']} ms at {cell['copy_gb_s']} GB/s")
        for name, found in cell["variants"].items():
            lines.append(f"  {name:60} {found.get('ms', found.get('failed'))}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__,
        epilog="example: python -m benchmarks.gpu --check --out gpu_check.json")  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="tests and sanitizers instead of times"
    )
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000, 10_000_000], help="H")
    parser.add_argument("--positions", type=int, nargs="+", default=[205_000, 1_300_000], help="P")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128], help="D")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each variant")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/out/gpu.json"), help="JSON file"
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA device; see `resemb doctor`", file=sys.stderr)
        return 2
    if not _loader.build_info()["cuda"]:
        print("benchmarks.gpu: resemb_ext was built without CUDA; see `resemb doctor`", file=sys.stderr)  # fmt: skip
        return 2
    result: dict[str, Any] = {"machine": machine(), "device": device_data()}
    failed = False
    if args.check:
        result["check"] = check()
        failed = not check_passed(result["check"])
        print(json.dumps(result["check"], indent=1))
    else:
        result["cells"] = speed(args.items, args.positions, args.dims, args.rounds)
        print(table(result["cells"]))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
