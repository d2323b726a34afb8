"""Times of the operators and of plain PyTorch on a device, cell by cell."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cells import Case, Cell
from benchmarks.gpu import din
from benchmarks.gpu.cells import draw_graph, make_case
from benchmarks.gpu.ratios import ratios
from benchmarks.gpu.variants import Refused, embedding, in_backward, variants
from resemb_ext import _loader

NEIGHBORS = 20
LIMIT_S = 450  # past which nothing further is begun
_AHEAD = 8_000_000  # clocks of a device, some 4 ms
_VARIANT_S = 1.0  # of a variant's timed rounds, about


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def time_ms(run: Callable[[int], Any], rounds: int, device: str, warmup: int = 3) -> dict[str, Any]:
    """Quartiles of milliseconds over rotating batches: by events on CUDA, by the host's clock elsewhere.

    Slow variants get fewer rounds, at least 3.
    """
    for turn in range(warmup):
        run(turn)
    _wait(device)
    start = time.perf_counter()
    run(warmup)
    _wait(device)
    rounds = max(3, min(rounds, int(_VARIANT_S / max(time.perf_counter() - start, 1e-6))))
    if device == "cuda":
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
        marks[0].record()
        for turn in range(rounds):
            run(turn)
            marks[turn + 1].record()
        torch.cuda.synchronize()
        spent = [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
    else:
        spent = []
        for turn in range(rounds):
            start = time.perf_counter()
            run(turn)
            spent.append(1e3 * (time.perf_counter() - start))
    low, middle, high = (round(float(q), 4) for q in np.percentile(spent, [25, 50, 75]))
    return {"ms": middle, "q1": low, "q3": high, "rounds": rounds}


def copy_rate(device: str, numbers: int) -> float:
    """Bytes a second of a large copy, read and written counted."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    ms = time_ms(lambda _: target.copy_(source), 20, device)["ms"]
    return 2 * source.nbytes / (ms * 1e-3)


def compulsory_bytes(positions: int, unique: int, touched: int, edges: int, dim: int) -> dict[str, int]:
    """What forward and the whole Adam step must move in float32: each row once in, once out."""
    row = 4 * dim
    forward = positions * (8 + row) + edges * 8 + (unique + touched) * row
    update = (unique + touched) * 6 * row  # param and both moments, in and out
    return {"forward": forward, "step": forward + positions * row + edges * 8 + update}


def stages(case: Case, step: Callable[[int], Any], turns: int = 5) -> dict[str, float]:
    """Milliseconds by stage of ours, with the clocks on: dedupe and transpose apart from the sums."""
    device = case.central.device.type
    step(0)
    _wait(device)
    _loader.take_profile(True)
    try:
        for turn in range(turns):
            if device == "cuda":  # clocks, so that the host runs ahead and no stage waits for a launch
                torch.cuda._sleep(_AHEAD)
            step(turn)
    finally:  # left on, its events would be made in what is timed next
        spent = _loader.take_profile(False)
    return {name: round(ms / turns, 4) for name, ms in spent.items() if ms > 0}


def stages_of_step(case: Case) -> dict[str, float]:
    """Of a whole step in backward."""
    step, batches = in_backward(case), case.batches
    upstream = torch.randn(case.cell.positions, case.cell.dim, device=case.central.device)
    return stages(case, lambda turn: step(batches[turn % len(batches)], upstream))


@torch.no_grad()
def stages_of_lookup(case: Case) -> dict[str, float]:
    """Of lookups of unique ids, whose forward is the gather-sum alone."""
    module, lists = embedding(case), [ids.unique() for ids in case.batches]
    return stages(case, lambda turn: module(lists[turn % len(lists)]))


def scratch(case: Case) -> dict[str, Any]:
    """Memory of a whole step beyond tables, output and its gradient, once what it needs is allocated."""
    step = in_backward(case)
    ids = case.batches[0]
    upstream = torch.randn(ids.numel(), case.cell.dim, device=ids.device)
    step(ids, upstream)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(ids, upstream)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before - upstream.nbytes
    unique = min(ids.numel(), case.cell.items)
    rows = 4 * unique * case.cell.dim  # accumulators of G
    places = ids.numel() + unique * case.cell.neighbors
    return {"bytes": extra, "share": round((extra - rows) / (4 * places), 2)}


class Clock:
    """Seconds since the start, against a limit."""

    def __init__(self, limit: float) -> None:
        self.start, self.limit = time.perf_counter(), limit

    @property
    def late(self) -> bool:
        return time.perf_counter() - self.start > self.limit


@contextmanager
def recorded(place: dict[str, Any], name: str) -> Iterator[None]:
    """Keeps the error of what fails or is refused under its name, never passing over it."""
    try:
        yield
    except Refused as why:
        place[name] = {"refused": str(why)}
    except Exception as error:  # whatever it is, the others' figures are worth having
        place[name] = {"failed": words_of(error)}


def words_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def free(case: Case) -> None:
    """Leaves a case as it was made: no gradient of what failed halfway, no memory held back."""
    for table in (case.central, case.residual, case.plain):
        table.grad = None
    if case.central.is_cuda:
        torch.cuda.empty_cache()


def run_cell(
    cell: dict[str, Any], graph: Tensor, rate: float, rounds: int, device: str, first: bool, clock: Clock
) -> None:
    """Times one cell; parts that no time is left for are named as skipped.

    Args:
        first: also DIN and, on CUDA, torch.compile of the gather, half a minute to compile.
    """
    size = Cell(items=cell["H"], dim=cell["D"], neighbors=cell["K"], positions=cell["P"], batches=4)
    case = make_case(size, graph, device)
    unique, touched = case.touched
    must = compulsory_bytes(cell["P"], unique, touched, unique * cell["K"], cell["D"])
    cell.update(U=unique, V=touched, copy_gb_s=round(rate / 1e9, 1))
    cell["compulsory_ms"] = {name: round(1e3 * n / rate, 4) for name, n in must.items()}
    cell["variants"] = {}
    with recorded(cell, "stages"):
        cell["stages"] = stages_of_step(case)
    with recorded(cell, "stages_of_unique_ids"):
        cell["stages_of_unique_ids"] = stages_of_lookup(case)
    if device == "cuda":
        with recorded(cell, "memory"):
            cell["memory"] = scratch(case)
    free(case)
    for name, make in variants(case, first and device == "cuda").items():
        if clock.late:
            cell["variants"][name] = {"skipped": "no time left"}
            continue
        with recorded(cell["variants"], name):
            cell["variants"][name] = time_ms(make(), rounds, device)
        free(case)
    if first and not clock.late:
        run_din(cell, case, rounds, device)
    cell["ratios"] = ratios(cell)


def run_din(cell: dict[str, Any], case: Case, rounds: int, device: str) -> None:
    """DIN on batches of up to 4096 samples, whose histories are the cell's positions."""
    samples = max(1, min(4096, cell["P"] // 50))
    batches = din.batches_of(case, samples)
    timed: dict[str, Any] = {}
    cell["din"] = {"samples": samples, "history": cell["P"] // samples, "variants": timed}
    for name, make in din.variants(case).items():
        with recorded(timed, name):
            found = time_ms(din.step_of(make(), batches), rounds, device)
            timed[name] = {**found, "samples_per_s": round(samples / (1e-3 * found["ms"]))}
        free(case)


def speed(
    items: list[int],
    positions: list[int],
    dims: list[int],
    rounds: int,
    device: str = "cuda",
    limit: float = LIMIT_S,
    keep: Callable[[list[dict[str, Any]]], None] = lambda cells: None,
) -> list[dict[str, Any]]:
    """All cells, the small ones first; those that do not fit the device or the time are named as skipped.

    A cell that fails as a whole, as all do on a device that has failed, keeps what it had found.

    Args:
        items, positions, dims: H, P and D of the cells.
        rounds: timed steps of each variant.
        device: "cuda" or "cpu".
        limit: seconds past which nothing further is begun.
        keep: is given the cells so far, after each of them.
    """
    clock = Clock(limit)
    memory = 1 << 62
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    rate = copy_rate(device, 1 << (28 if device == "cuda" else 20))
    cells: list[dict[str, Any]] = []
    for num_items in sorted(items):
        graph: Tensor | None = None
        for dim in sorted(dims):
            for count in sorted(positions):
                cell: dict[str, Any] = {"H": num_items, "D": dim, "K": NEIGHBORS, "P": count}
                cells.append(cell)
                # Three tables, their moments, a variant's own tables and moments, the graph.
                if 4 * num_items * (dim * 15 + NEIGHBORS * 5) > memory:
                    cell["skipped"] = "does not fit the device's memory"
                    continue
                if clock.late:
                    cell["skipped"] = "no time left"
                    continue
                try:
                    if graph is None:
                        graph = draw_graph(num_items, NEIGHBORS, device)
                    run_cell(cell, graph, rate, rounds, device, len(cells) == 1, clock)
                except Exception as error:
                    cell["failed"] = words_of(error)
                keep(cells)
    return cells


def table(cells: list[dict[str, Any]]) -> str:
    """The cells for a reader."""
    lines = []
    for cell in cells:
        lines.append(" ".join(f"{k}={cell[k]:,}" for k in ("H", "D", "K", "P", "U", "V") if k in cell))
        lines += [f"  {why}: {cell[why]}" for why in ("skipped", "failed") if why in cell]
        if "stages" in cell:
            lines.append(f"  compulsory bytes: {cell['compulsory_ms']} ms at {cell['copy_gb_s']} GB/s")
            lines.append(f"  ours by stage, ms: {cell['stages']}")
        for part in (cell, cell.get("din", {})):
            for name, found in part.get("variants", {}).items():
                text = found.get("ms") or next(f"{k}: {v}" for k, v in found.items())
                lines.append(f"  {name:72} {text}")
        for ratio in cell.get("ratios", []):
            against = f" ({ratio['against']})" if "against" in ratio else ""
            lines.append(f"  {ratio['what']:72} {ratio['found']}{against}")
    return "\n".join(lines)
