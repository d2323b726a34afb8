"""Work in processes that begin anew, alone or as ranks of a gloo group; what a process has spent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing as mp


def start(work: Callable[..., Any], args: tuple, processes: int) -> None:
    """Calls ``work(number, *args)`` in fresh processes and waits for their ends; an exception of one is raised here.

    They are forks of a process that has imported torch and started no thread: importing it takes seconds.
    """
    multiprocessing.set_forkserver_preload(["torch", "resemb_ext"])
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


def _rank(rank: int, world: int, folder: str, work: Callable[..., Any], args: tuple) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    # A file has no port that another process could take.
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(work(*args), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # Gloo's threads outlive the group, and one that meets the end of Python may abort the process
    # (pytorch pull request 179291).
    os._exit(0)
