"""Lookups in worker processes of a parent that has looked up on several threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import numpy as np
import torch
from torch import multiprocessing, nn
from torch.utils.data import DataLoader
from resemb_ext import InterestGraph, ResEmbedding

H, D = 2000, 16
items = np.arange(1, H)
EMB = ResEmbedding(InterestGraph.from_csr(np.r_[0, 0, items], np.roll(items, 1), np.ones(H - 1)), D)
IDS = torch.arange(20_000) % H


class Vectors(torch.utils.data.Dataset):
    def __init__(self, emb):
        self.emb = emb

    def __len__(self):
        return 8

    def __getitem__(self, i):
        with torch.no_grad():
            return self.emb(IDS)[:3] * i


def child(emb, expected):
    torch.set_num_threads(2)
    with torch.no_grad():
        assert torch.equal(emb(IDS), expected)


def look_up(how, expected):
    if how == "forked, one thread":
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)
            with torch.no_grad():
                os._exit(0 if torch.equal(EMB(IDS), expected) else 1)
        assert os.waitpid(pid, 0)[1] == 0
    elif how == "spawned, two threads":
        process = multiprocessing.get_context("spawn").Process(target=child, args=(EMB, expected))
        process.start()
        process.join()
        assert process.exitcode == 0
    else:
        workers = 1 if how == "spawn" else 2  # each takes seconds to import torch
        batches = DataLoader(Vectors(EMB), 4, num_workers=workers, multiprocessing_context=how)
        found = torch.cat(list(batches))
        assert torch.equal(found, torch.stack([expected[:3] * i for i in range(8)]))


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["torch", "resemb_ext"])
    torch.set_num_threads(2)
    expected = EMB(IDS).detach()
    EMB(IDS).sum().backward()
    EMB.zero_grad()
    for how in sys.argv[1:]:
        print(how, flush=True)
        look_up(how, expected)
"""
WAYS = ["fork", "spawn", "forkserver", "forked, one thread", "spawned, two threads"]


@pytest.mark.full
def test_lookups_in_workers(tmp_path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(SCRIPT)
    result = subprocess.run([sys.executable, str(script), *WAYS], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, f"{result.stdout.splitlines()[-1:]}: {result.stderr}"
    assert result.stdout.splitlines() == WAYS
