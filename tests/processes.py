"""Work in processes that begin anew, alone or as ranks of a gloo group; what a process has spent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import multiprocessing as mp

# Optimizers import the compiler at their first step; test modules import the last four.
_PRELOADED = ["torch", "torch._dynamo", "resemb_ext", "pandas", "pyarrow.parquet", "pytest", "hypothesis"]


def begin(work: Callable[..., Any], *args: Any) -> Any:
    """A fresh process, as of ``start``, that calls ``work(*args)`` and is not waited for."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    process = multiprocessing.get_context("forkserver").Process(target=work, args=args)
    process.start()
    return process


def start(work: Callable[..., Any], args: tuple, processes: int) -> None:
    """Calls ``work(number, *args)`` in fresh processes and waits for their ends; an exception of one is raised here.

    They are forks of a process that has imported torch and started no thread: importing it takes seconds.
    """
    multiprocessing.set_forkserver_preload(_PRELOADED)
    mp.start_processes(work, args, processes, start_method="forkserver")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its threads have taken: unlike the clock's, the same on a loaded machine."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ended(pid: int, seconds: float = 60) -> bool:
    """Whether a process ends within some time; one that nobody has waited for yet counts as ended."""
    until = time.monotonic() + seconds
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
    return True


def on_ranks(world: int, folder: Path, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``work(*args)`` gives on each rank of a gloo group; ``folder`` must be empty of earlier groups."""
    start(_rank, (world, str(folder), work, args), world)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


class Ranks:
    """Ranks of a gloo group that wait for work, one call after the other; for tests with many examples."""

    def __init__(self, world: int, folder: Path) -> None:
        multiprocessing.set_forkserver_preload(_PRELOADED)
        context = multiprocessing.get_context("forkserver")
        pipes = [context.Pipe() for _ in range(world)]
        self._pipes = [own for own, _ in pipes]
        self._processes = [
            context.Process(target=_wait_for_work, args=(rank, world, str(folder), theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(20)
            if process.is_alive():
                process.kill()

    def run(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``work(*args)`` gives on each rank; the first error of one is raised here."""
        for pipe in self._pipes:
            pipe.send((work, args))
        found = [pipe.recv() for pipe in self._pipes]
        for _value, error in found:
            if error is not None:
                raise RuntimeError(error)
        return [value for value, _ in found]


def _wait_for_work(rank: int, world: int, folder: str, pipe: Connection) -> None:
    _join(rank, world, folder)
    while True:
        try:
            work, args = pipe.recv()
        except EOFError:
            os._exit(0)  # as below
        try:
            pipe.send((work(*args), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))


def _join(rank: int, world: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    # A file has no port that another process could take.
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)


def _rank(rank: int, world: int, folder: str, work: Callable[..., Any], args: tuple) -> None:
    _join(rank, world, folder)
    torch.save(work(*args), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # Gloo's threads outlive the group, and one that meets the end of Python may abort the process
    # (pytorch pull request 179291).
    os._exit(0)
