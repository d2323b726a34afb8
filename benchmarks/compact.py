"""``python -m benchmarks.compact``: bfloat16 tables and compact state against float32, in bytes, time and peak memory."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks.cells import Cell, add_cell_options, drawn_graph
from benchmarks.compact_report import compact_section
from benchmarks.machine import available_bytes, machine
from benchmarks.timing import interleave, summary
from resemb_ext.nn.graph_tensors import ATTRIBUTES
from resemb_ext.runtime.files import check_out, write_json
from resemb_ext.testing.problems import zipf_ids

LR = 1e-3
DTYPES = {"float32": torch.float32, "compact": torch.bfloat16}  # of the tables, by state
STATES = ("float32", "bfloat16", "rowwise", "bfloat16_rowwise", "int8_rowwise", "compact")
DIMS = (16, 32, 64)
PARTS = ("bytes", "step", "memory", "forward")
_PROCESS = 2**30  # of Python, torch and the batches


def graph_of(cell: Cell) -> rx.InterestGraph:
    """A cell's graph with random weights, given as they are."""
    rng = np.random.default_rng(cell.seed)
    neighbors = drawn_graph(rng, cell).reshape(-1).to(torch.int32).numpy()
    weights = rng.random(len(neighbors), dtype=np.float32) + 0.1
    by_row = weights.reshape(cell.items, cell.neighbors)
    by_row /= by_row.sum(1, keepdims=True)
    return rx.InterestGraph.from_csr(np.arange(cell.items + 1) * cell.neighbors, neighbors, weights)


def batches_of(cell: Cell) -> list[Tensor]:
    """int64 [P] ids each."""
    rng = np.random.default_rng(cell.seed + 1)
    draws = zipf_ids(rng, cell.items, cell.positions * cell.batches, cell.zipf)
    return [torch.from_numpy(row.copy()) for row in draws.reshape(cell.batches, -1)]


def over_graph(graph: rx.InterestGraph, dim: int, dtype: torch.dtype, like: rx.ResEmbedding | None) -> rx.ResEmbedding:
    """A sparse ResEmbedding; the tensors of its graph are those of ``like``."""
    module = rx.ResEmbedding(graph, dim, link="given", sparse=True, dtype=dtype)
    for name in ATTRIBUTES if like is not None else ():
        setattr(module, name, getattr(like, name))
    return module


def stepped(module: nn.Module, state: str) -> rx.optim.Adam:
    """Adam over a module's tables, in backward, with its moments made."""
    optimizer = rx.optim.Adam(module.parameters(), lr=LR, state=state)
    optimizer.step_in_backward(module)
    module(torch.zeros(1, dtype=torch.int64)).sum().backward()
    return optimizer


def kept_bytes(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of tables and state, counters left out."""
    tensors = list(module.parameters())
    tensors += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor) and v.dim()]
    return sum(t.numel() * t.element_size() for t in tensors)


def measure_bytes(items: int) -> dict[str, Any]:
    """Bytes of tables and state for an item and dimension, by D, dtype of the tables and state.

    Args:
        items: H of the tables that are made.
    """
    graph = rx.InterestGraph.from_csr(np.arange(items + 1), np.arange(items))
    rows = []
    for dim in DIMS:
        for state in STATES:
            for dtype in (torch.float32, torch.bfloat16):
                module = rx.ResEmbedding(graph, dim, sparse=True, dtype=dtype)
                res = kept_bytes(module, stepped(module, state)) / (items * dim)
                plain = nn.Embedding(items, dim, sparse=True, dtype=dtype)
                one = kept_bytes(plain, stepped(plain, state)) / (items * dim)
                rows.append(
                    {"dim": dim, "state": state, "tables": str(dtype).removeprefix("torch."), "res": res, "plain": one}
                )
    return {"rows": rows}


def need_of_step(cell: Cell) -> int:
    """Bytes that ``measure_step`` holds at its peak: both pairs of tables with state, and the graph."""
    numbers, graph = cell.items * cell.dim, 8 * cell.items * (cell.neighbors + 1)
    # Before the state is made, the graph's arrays lie beside its tensors.
    return max((24 + 8) * numbers + graph, (8 + 4) * numbers + 3 * graph) + _PROCESS


def need_of_memory(cell: Cell) -> int:
    """Bytes of the larger process of ``measure_memory``; making the graph takes less."""
    return 12 * cell.items * cell.dim + 16 * cell.items * (cell.neighbors + 1) + _PROCESS


def refuse_too_large(what: str, need: int) -> None:
    """
    Raises:
        SystemExit: less memory is free than is needed.
    """
    free = available_bytes()
    if need > free:
        raise SystemExit(
            f"{what}: needs {need / 2**30:.1f} GiB, found {free / 2**30:.1f} GiB free; take fewer --items, or --only others"
        )


def two_of(cell: Cell, graph: rx.InterestGraph) -> dict[str, rx.ResEmbedding]:
    """The same tables in float32 and in bfloat16, over the tensors of one graph, whose arrays they let go."""
    compact = over_graph(graph, cell.dim, DTYPES["compact"], None)
    whole = over_graph(graph, cell.dim, DTYPES["float32"], compact)
    with torch.no_grad():
        for one, other in zip(compact.parameters(), whole.parameters(), strict=True):
            one.copy_(other)
    modules = {"float32": whole, "compact": compact}
    for module in modules.values():
        del module.graph
    return modules


def check_close(modules: dict[str, rx.ResEmbedding], ids: Tensor) -> None:
    """
    Raises:
        AssertionError: vectors differ by more than the rounding of bfloat16 tables explains.
    """
    with torch.no_grad():
        whole, compact = (modules[name](ids).float() for name in ("float32", "compact"))
    torch.testing.assert_close(compact, whole, rtol=2**-6, atol=2**-6)


def measure_step(cell: Cell, rounds: int, warmup: int) -> dict[str, Any]:
    """The whole Adam step in backward of both, interleaved: the ratio is to float32's time.

    Returns:
        JSON-able: the cell, "step" (``summary``), "bytes" of tables and state, U and V of the first batch.
    """
    refuse_too_large("step", need_of_step(cell))
    graph, batches = graph_of(cell), batches_of(cell)
    rows = batches[0].unique()
    columns = np.unique(graph.neighbors.reshape(cell.items, cell.neighbors)[rows.numpy()])
    modules = two_of(cell, graph)
    del graph
    check_close(modules, batches[0][:10_000])
    optimizers = {name: stepped(module, name) for name, module in modules.items()}
    upstream = torch.randn(cell.positions, cell.dim, generator=torch.Generator().manual_seed(cell.seed))
    gradients = {name: upstream.to(dtype) for name, dtype in DTYPES.items()}

    def step(name: str) -> Callable[[int], None]:
        return lambda turn: modules[name](batches[turn % len(batches)]).backward(gradients[name])

    runs = {name: step(name) for name in modules}
    seconds = interleave(runs, rounds=rounds, warmup=warmup, label="compact, step")
    for name, module in modules.items():
        # In blocks: isfinite of a whole table makes a copy of it.
        if not all(bool(block.isfinite().all()) for p in module.parameters() for block in p.detach().split(100_000)):
            raise AssertionError(f"{name}: tables are no longer finite")
    return {
        **asdict(cell),
        "rounds": rounds,
        "unique": len(rows),
        "touched_neighbors": len(columns),
        "step": summary(seconds, "float32"),
        "bytes": {name: kept_bytes(modules[name], optimizers[name]) for name in modules},
    }


def measure_forward(cell: Cell, rounds: int, warmup: int) -> dict[str, Any]:
    """Lookups without gradients in both dtypes, interleaved: the ratio is to float32's time."""
    modules, batches = two_of(cell, graph_of(cell)), batches_of(cell)
    check_close(modules, batches[0][:10_000])

    def forward(name: str) -> Callable[[int], Tensor]:
        @torch.no_grad()
        def run(turn: int) -> Tensor:
            return modules[name](batches[turn % len(batches)])

        return run

    seconds = interleave(
        {name: forward(name) for name in modules}, rounds=rounds, warmup=warmup, label="compact, forward"
    )
    return {**asdict(cell), "rounds": rounds, "forward": summary(seconds, "float32")}


def measure_memory(cell: Cell, threads: int) -> dict[str, Any]:
    """Peak resident set of a process that trains every row: plain with SparseAdam in PyTorch, and ours.

    Returns:
        JSON-able: the cell, and by process "peak_bytes", "start_bytes" (torch imported, nothing made) and
        "kept_bytes" (tables and state).
    """
    refuse_too_large("memory", need_of_memory(cell))
    found = {}
    with tempfile.TemporaryDirectory(prefix="compact-") as folder:
        file = Path(folder) / "graph.npz"
        graph_of(cell).save(file)
        for name in TRAININGS:
            asked = {"name": name, "items": cell.items, "dim": cell.dim, "positions": cell.positions}
            asked |= {"threads": threads, "graph": str(file)}
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.compact", "--one", json.dumps(asked)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=Path(__file__).parents[1],
            )
            found[name] = json.loads(done.stdout)
    return {**asdict(cell), "processes": found}


def _plain_sparse_adam(asked: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Embedding(asked["items"], asked["dim"], sparse=True)
    return module, torch.optim.SparseAdam(list(module.parameters()), lr=LR)


def _res(state: str) -> Callable[[dict[str, Any]], tuple[nn.Module, torch.optim.Optimizer]]:
    def make(asked: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer]:
        graph = rx.InterestGraph.load(asked["graph"])
        module = over_graph(graph, asked["dim"], DTYPES[state], None)
        return module, stepped(module, state)

    return make


PLAIN = "plain nn.Embedding, SparseAdam"
TRAININGS: dict[str, Callable[[dict[str, Any]], tuple[nn.Module, torch.optim.Optimizer]]] = {
    PLAIN: _plain_sparse_adam,
    "resemb_ext, compact": _res("compact"),
    "resemb_ext, float32": _res("float32"),
}


def train_once(asked: dict[str, Any]) -> dict[str, int]:
    """One pass over all items in this process: each is looked up once, its table stepped."""
    torch.set_num_threads(asked["threads"])
    start = _resident("VmRSS")
    module, optimizer = TRAININGS[asked["name"]](asked)
    order = torch.randperm(asked["items"], generator=torch.Generator().manual_seed(0))
    for ids in order.split(asked["positions"]):
        vectors = module(ids)
        vectors.backward(torch.ones_like(vectors))
        optimizer.step()
        optimizer.zero_grad()
    return {"peak_bytes": _resident("VmHWM"), "start_bytes": start, "kept_bytes": kept_bytes(module, optimizer)}


def _resident(key: str) -> int:
    """A figure of this process by the kernel, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compact",
        description="bfloat16 tables with compact optimizer state against float32: bytes an item and dimension, the "
        "whole Adam step, the peak memory of training beside plain nn.Embedding with SparseAdam, and the forward pass. "
        "At H = 10,000,000 the step needs about 22 GiB of free memory.",
        epilog="example: python -m benchmarks.compact --items 4000000 --out compact.json",
    )
    add_cell_options(parser)
    parser.set_defaults(items=[10_000_000], batches=4)
    parser.add_argument("--forward-items", type=int, default=1_000_000, help="H of the forward pass")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds")
    parser.add_argument("--warmup", type=int, default=3, help="rounds not timed")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/out/compact.json"),
        help="JSON file, rewritten after each part; parts that it has and that are not asked for stay",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def measure(args: argparse.Namespace, out: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Measures parts, each by H where it depends on it, and writes them as they are done."""
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    names = ("dim", "neighbors", "positions", "zipf", "batches", "seed")
    cell = Cell(**{name: getattr(args, name) for name in names})

    def keep(part: str, key: str, found: dict[str, Any]) -> None:
        result.setdefault(part, {})[key] = {**found, "machine": machine()}
        write_json(out, result)

    for part in parts:
        if part == "bytes":
            keep(part, "all", measure_bytes(10_000))
        elif part == "forward":
            found = measure_forward(replace(cell, items=args.forward_items), args.rounds, args.warmup)
            keep(part, str(args.forward_items), found)
        for items in args.items if part in ("step", "memory") else ():
            sized = replace(cell, items=items)
            found = (
                measure_step(sized, args.rounds, args.warmup) if part == "step" else measure_memory(sized, args.threads)
            )
            keep(part, str(items), found)
    return result


def main() -> None:
    args = _parser().parse_args()
    if args.one:
        print(json.dumps(train_once(json.loads(args.one))))
        return
    check_out(args.out, [])
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(compact_section(measure(args, args.out, args.only)))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
