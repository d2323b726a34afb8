"""``python -m benchmarks.distributed``: a training step of tables dealt over gloo processes, beside one process.

Time, bytes on the wire, and memory of a rank. One process with all threads and the ranks take turns.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks.cells import Cell, drawn_graph
from benchmarks.machine import machine
from resemb_ext.runtime.files import check_out, write_json
from resemb_ext.testing.problems import zipf_ids


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        cell: H, D, K, and P, the ids of all ranks together.
        ranks: W; each has one thread, and the process beside them W threads.
        graph, rows_dtype: as of ``rx.distributed.shard``.
        in_backward: Adam steps in backward.
        alone: also one process.
    """

    cell: Cell
    ranks: int = 2
    graph: str = "whole"
    rows_dtype: str | None = None
    in_backward: bool = True
    alone: bool = True


def write_graph(path: Path, cell: Cell) -> None:
    """The cell's graph, with the weights of a link."""
    rng = np.random.default_rng(cell.seed)
    columns = drawn_graph(rng, cell).numpy()
    weights = rng.random(columns.shape, dtype=np.float32) + np.float32(0.1)
    weights /= weights.sum(axis=1, keepdims=True)
    indptr = np.arange(cell.items + 1) * cell.neighbors
    graph = rx.InterestGraph.from_csr(indptr, columns.reshape(-1), weights.reshape(-1), directed=True)
    graph.with_link("given").save(path)


class Worker:
    """One process: builds the table, and makes steps when it is told to."""

    def __init__(self, setting: Setting, path: Path, ranks: int, rank: int) -> None:
        cell = setting.cell
        importlib.import_module("torch._dynamo")  # as the first step of an optimizer does
        self.memory = AnonymousMemory()
        self._build(setting, path, ranks)
        draws = zipf_ids(np.random.default_rng(1), cell.items, cell.positions * cell.batches, cell.zipf)
        share = cell.positions // ranks
        whole = draws.reshape(cell.batches, cell.positions)[:, rank * share : (rank + 1) * share]
        self.batches = [torch.from_numpy(row.copy()) for row in whole]
        self.upstream = torch.randn(share, cell.dim)

    def _build(self, setting: Setting, path: Path, ranks: int) -> None:
        torch.manual_seed(0)
        self.graph = graph = rx.InterestGraph.load(path, mapped=True)
        where = "meta" if ranks > 1 else None
        emb = rx.ResEmbedding(graph, setting.cell.dim, "given", sparse=True, device=where)
        self.model: Any = nn.ModuleList([emb])
        self.wrapper: Any = None
        if ranks > 1:
            travels = None if setting.rows_dtype is None else getattr(torch, setting.rows_dtype)
            self.wrapper = rx.distributed.shard(self.model, graph=setting.graph, rows_dtype=travels)
        self.optimizer = rx.optim.Adam(self.model.parameters())
        if setting.in_backward:
            self.optimizer.step_in_backward(self.model)

    def steps(self, first: int, count: int) -> dict[str, Any]:
        """Makes some steps: their seconds on the clock, and those of the processor."""
        seconds, cpu = [], time.process_time()
        for turn in range(first, first + count):
            begun = time.perf_counter()
            self._step(self.batches[turn % len(self.batches)])
            seconds.append(time.perf_counter() - begun)
        return {"seconds": seconds, "cpu": (time.process_time() - cpu) / count}

    def _step(self, ids: Tensor) -> None:
        self.model[0](ids).backward(self.upstream)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def numbers(self) -> dict[str, Any]:
        """Bytes in memory and on the wire."""
        own = [*self.model.parameters()]
        state = [v for s in self.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        return {
            "tables_and_state": sum(t.nbytes for t in own + state),
            "before": self.memory.before,
            "peak": self.memory.peak,
            "batch": self._batch_bytes(),
            "traffic": None if self.wrapper is None else self.wrapper.traffic(),
        }

    def _batch_bytes(self) -> int:
        """What a batch touches: its rows of both tables and their gradients, its vectors, and theirs."""
        graph: Any = self.graph
        unique = self.batches[0].unique()
        spans = [slice(a, b) for a, b in zip(graph.indptr[unique], graph.indptr[unique + 1], strict=True)]
        read = np.unique(np.concatenate([graph.neighbors[span] for span in spans]))
        return 2 * self.upstream.nbytes + 2 * (len(unique) + len(read)) * self.upstream.shape[1] * 4


class AnonymousMemory:
    """Peak of the resident bytes that are this process's alone; mapped files are shared.

    Attributes:
        before: bytes at first, of Python, torch and its compiler.
        peak: the most there have been, looked at every 5 ms.
    """

    def __init__(self) -> None:
        self.before = self.peak = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._now())
            time.sleep(0.005)

    @staticmethod
    def _now() -> int:
        with open("/proc/self/status") as status:
            return next((1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon:")), 0)


def _serve(rank: int, ranks: int, threads: int, setting: Setting, folder: str, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    if ranks > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    worker = Worker(setting, Path(folder) / "graph.npz", ranks, rank)
    pipe.send(None)
    while True:
        try:
            what, *arguments = pipe.recv()
        except EOFError:
            os._exit(0)  # gloo's threads may abort the process at its end
        pipe.send(getattr(worker, what)(*arguments))


class Processes:
    """Workers that wait for what is asked of them."""

    def __init__(self, ranks: int, threads: int, setting: Setting, folder: str) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(ranks)]
        self.pipes = [own for own, _ in pairs]
        for rank, (_, theirs) in enumerate(pairs):
            arguments = (rank, ranks, threads, setting, folder, theirs)
            context.Process(target=_serve, args=arguments, daemon=True).start()
            theirs.close()
        self._answers()

    def ask(self, *what: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(what)
        return self._answers()

    def _answers(self) -> list[Any]:
        return [pipe.recv() for pipe in self.pipes]


def measure(setting: Setting, rounds: int = 10, steps: int = 8, warmup: int = 16) -> dict[str, Any]:
    """Medians over all steps: milliseconds of a step and of each rank's processor, bytes a step, and memory.

    Args:
        rounds: turns that the one process and the ranks take.
        steps: of each turn.
        warmup: steps before.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_graph(Path(folder) / "graph.npz", setting.cell)
        ranks = Processes(setting.ranks, 1, setting, folder)
        groups = {"ranks": ranks}
        if setting.alone:
            groups["alone"] = Processes(1, setting.ranks, setting, folder)
        for group in groups.values():
            group.ask("steps", 0, warmup)
        before = sum(n["traffic"]["all"] for n in ranks.ask("numbers"))
        seconds: dict[str, list[float]] = {name: [] for name in groups}
        cpu: dict[str, list[float]] = {name: [] for name in groups}
        for turn in range(rounds):
            for name, group in groups.items():
                found = group.ask("steps", warmup + turn * steps, steps)
                seconds[name] += [max(of_ranks) for of_ranks in zip(*(f["seconds"] for f in found), strict=True)]
                cpu[name].append(max(f["cpu"] for f in found))
        numbers = ranks.ask("numbers")
    after = sum(n["traffic"]["all"] for n in numbers)
    result: dict[str, Any] = {"setting": asdict(setting)}
    for name in groups:
        result[name] = {
            "ms": round(1000 * statistics.median(seconds[name]), 2),
            "best_ms": round(1000 * min(seconds[name]), 2),
            "cpu_ms": round(1000 * statistics.median(cpu[name]), 2),
        }
    result["bytes_a_step"] = (after - before) // (rounds * steps)
    result["memory"] = [{k: round(v / 2**20, 1) for k, v in n.items() if k != "traffic"} for n in numbers]
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="H")
    parser.add_argument("--dim", type=int, default=64, help="D")
    parser.add_argument("--neighbors", type=int, default=20, help="K")
    parser.add_argument("--positions", type=int, default=200_000, help="P, of all ranks together")
    parser.add_argument("--ranks", type=int, default=2, help="W")
    parser.add_argument("--graph", choices=("whole", "dealt"), default="whole")
    parser.add_argument("--rows-dtype", choices=("bfloat16", "float16"), help="in which rows travel")
    parser.add_argument("--after-backward", action="store_true", help="optimizer.step() in place of steps in backward")
    parser.add_argument("--without-one-process", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    if options.out:
        check_out(options.out, [])
    cell = Cell(items=options.items, dim=options.dim, neighbors=options.neighbors, positions=options.positions)
    setting = Setting(
        cell,
        options.ranks,
        options.graph,
        options.rows_dtype,
        not options.after_backward,
        not options.without_one_process,
    )
    result = {**measure(setting, options.rounds), "machine": machine()}
    for name in ("alone", "ranks"):
        if name in result:
            print(
                f"{name}: {result[name]['ms']} ms a step (best {result[name]['best_ms']}), {result[name]['cpu_ms']} ms CPU"
            )
    print(f"bytes a step, all ranks: {result['bytes_a_step']:,}")
    for rank, memory in enumerate(result["memory"]):
        above = memory["peak"] - memory["before"] - memory["tables_and_state"]
        print(
            f"rank {rank}: {memory['tables_and_state']} MiB of tables and state; at the peak {above:.0f} MiB above that "
            f"and Python, of which a batch touches {memory['batch']}"
        )
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
