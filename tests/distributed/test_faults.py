"""A rank that raises, ends or hangs ends the others, each with one line that names it."""

from __future__ import annotations

import datetime
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import resemb_ext as rx
from tests.distributed.worlds import Case, Model, batches, share
from tests.processes import start

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

pytestmark = pytest.mark.full
WORLD, WAITS = 3, 4  # ranks; seconds


def _steps(rank: int, kind: str) -> None:
    """Trains until something happens to a rank."""
    model = rx.distributed.shard(Model(Case()), timeout=WAITS)
    optimizer = rx.optim.SGD(model.parameters(), lr=0.1)
    for step, batch in enumerate(batches(6)):
        part = share(batch, 4 * rank, 4 * rank + 4)
        if step == 3 and rank == 1:
            if kind == "raises":
                raise ValueError("label 7 is neither 0 nor 1\nin a second line")
            if kind == "bad ids":
                part["target"][2] = 99
            if kind == "ends":
                os._exit(0)
            if kind == "hangs":
                time.sleep(WAITS + 5)
        if step == 3 and rank == 0 and kind == "rank 0 ends":
            os._exit(0)
        if step == 3 and rank == 2 and kind == "other order":
            model.module.user(part["user"])
        found = model(part)
        if step == 3 and rank == 1 and kind == "ends before backward":
            os._exit(0)
        found.sum().backward()
        optimizer.step()


def _until_the_end(rank: int, folder: str, kind: str, port: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=60)
    where = f"tcp://127.0.0.1:{port}"  # a store that rank 0 holds
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=WORLD, timeout=wait)
    begun = time.monotonic()
    with open(f"{folder}/{rank}.txt", "w") as out:
        sys.stderr = out
        try:
            _steps(rank, kind)
        except Exception:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        print(f"{time.monotonic() - begun:.1f}", file=out)
    os._exit(0)


@pytest.mark.parametrize(
    ("kind", "own", "others"),
    [
        (
            "bad ids",
            r"IndexError: ids: id 99 at position 2 is out of range; expected ids in \[0, 41\)",
            r"RankError: rank 1: IndexError: ids: id 99 at position 2 is out of range; expected ids in \[0, 41\)",
        ),
        (
            "hangs",
            r"RankError: (rank 0: ended, and with it the store|exchange \d+ \(counts\): the other ranks have ended).*",
            r"RankError: rank 1: took no part before the timeout, while rank \d was in exchange \d+ \(counts\)",
        ),
        (
            "other order",
            r"RankError: rank 2: looks up another table than rank 0, .*\(user with gradients; rank 0: item with .*",
            r"RankError: rank 2: looks up another table than rank 0, .*",
        ),
        ("raises", r"in a second line", r"RankError: rank 1 ended with ValueError: label 7 is neither 0 nor 1"),
        ("ends", None, r"RankError: rank 1: ended, and closed its connection, while rank \d was in .*"),
        (
            "ends before backward",
            None,
            r"RankError: rank 1: ended, and closed its connection, while rank \d was in exchange \d+ \(gradients\)",
        ),
        (
            "rank 0 ends",
            None,
            r"RankError: rank 0: ended, and with it the store of torch.distributed, while rank \d was in .*",
        ),
    ],
)
def test_every_rank_names_it(kind: str, own: str | None, others: str, tmp_path: Path) -> None:
    blamed = 0 if kind == "rank 0 ends" else 1
    start(_until_the_end, (str(tmp_path), kind, _free_port()), WORLD)
    for rank in range(WORLD):
        lines = (tmp_path / f"{rank}.txt").read_text().splitlines()
        if rank == blamed and own is None:
            continue
        said = re.sub(r"^(\[rank\d\]: )?(resemb_ext\.distributed\.faults\.)?", "", lines[-2])
        assert re.fullmatch(own if rank == blamed else others, said), lines[-8:]
        assert float(lines[-1]) < WAITS + 15


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
