"""``python -m benchmarks.distributed_torchrec``: a step of dealt tables beside TorchRec's row-wise sharded bags.

The weighted-bag form of a Res-embedding: for each id a bag of its neighbours in C, with the link's weights, and a bag of its
own row in R. An ``EmbeddingBagCollection`` pools bags at the owners of the rows. It needs TorchRec.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks.cells import Cell
from benchmarks.distributed import write_graph
from benchmarks.machine import machine
from resemb_ext.runtime.files import check_out, write_json
from resemb_ext.testing.problems import zipf_ids

LR = 0.01


class Ours:
    """``rx.distributed.shard``, row-wise Adagrad in backward."""

    def __init__(self, graph: rx.InterestGraph, cell: Cell, start: tuple[Tensor, Tensor]) -> None:
        self.emb = rx.ResEmbedding(graph, cell.dim, "given", sparse=True)
        with torch.no_grad():
            self.emb.central.copy_(start[0])
            self.emb.residual.copy_(start[1])
        self.model: Any = nn.ModuleList([self.emb])
        rx.distributed.shard(self.model, graph="whole")
        self.optimizer = rx.optim.RowwiseAdagrad(self.model.parameters(), lr=LR)
        self.optimizer.step_in_backward(self.model)

    def step(self, ids: Tensor, upstream: Tensor) -> Tensor:
        out = self.model[0](ids)
        out.backward(upstream)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return out.detach()


class Bags:
    """A row-wise sharded ``EmbeddingBagCollection``, FBGEMM's row-wise Adagrad."""

    def __init__(self, graph: rx.InterestGraph, cell: Cell, start: tuple[Tensor, Tensor]) -> None:
        from torch.distributed.optim import _apply_optimizer_in_backward as in_backward
        from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
        from torchrec.distributed.model_parallel import DistributedModelParallel, get_default_sharders
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
        from torchrec.distributed.types import ShardingEnv, ShardingPlan
        from torchrec.optim import RowWiseAdagrad

        self.jagged = KeyedJaggedTensor
        self.graph = graph
        names = ("central", "residual")
        sizes = {"num_embeddings": cell.items, "embedding_dim": cell.dim}
        tables = [EmbeddingBagConfig(name=name, feature_names=[name], **sizes) for name in names]
        bags = EmbeddingBagCollection(tables=tables, is_weighted=True)
        in_backward(RowWiseAdagrad, bags.parameters(), {"lr": LR})
        plan = construct_module_sharding_plan(bags, {name: row_wise(compute_kernel="fused") for name in names})
        self.model = DistributedModelParallel(
            bags,
            env=ShardingEnv.from_process_group(dist.group.WORLD),
            device=torch.device("cpu"),
            plan=ShardingPlan(plan={"": plan}),
            sharders=get_default_sharders(),
        )
        for path, weight in self.model.state_dict().items():
            for shard in weight.local_shards():
                first = shard.metadata.shard_offsets[0]
                whole = start[next(i for i, name in enumerate(names) if name in path)]
                shard.tensor.copy_(whole[first : first + len(shard.tensor)])

    def step(self, ids: Tensor, upstream: Tensor) -> Tensor:
        indptr, rows = self.graph.indptr, ids.numpy()
        starts = indptr[rows]
        lengths = indptr[rows + 1] - starts
        ends = np.cumsum(lengths)
        edges = np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])
        values = torch.from_numpy(np.concatenate([self.graph.neighbors[edges], rows]))
        weights = torch.from_numpy(np.concatenate([self.graph.weights[edges], np.ones(len(rows), np.float32)]))
        sizes = torch.from_numpy(np.concatenate([lengths, np.ones(len(rows), np.int64)]))
        asked = self.jagged(["central", "residual"], values, weights=weights, lengths=sizes)
        found = self.model(asked).to_dict()
        out = found["central"] + found["residual"]
        out.backward(upstream)
        return out.detach()


def work(rank: int, ranks: int, folder: str, cell: Cell, rounds: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    graph = rx.InterestGraph.load(Path(folder) / "graph.npz", mapped=True)
    torch.manual_seed(0)
    start = (torch.randn(cell.items, cell.dim), 0.1 * torch.randn(cell.items, cell.dim))
    forms = {"resemb_ext": Ours(graph, cell, start), "EmbeddingBagCollection, row-wise": Bags(graph, cell, start)}
    del start
    draws = zipf_ids(np.random.default_rng(1), cell.items, cell.positions * cell.batches, cell.zipf).astype(np.int64)
    share = cell.positions // ranks
    batches = draws.reshape(cell.batches, cell.positions)[:, rank * share : (rank + 1) * share]
    upstream = torch.randn(share, cell.dim, generator=torch.Generator().manual_seed(rank))
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds + 2):
        ids = torch.from_numpy(batches[turn % len(batches)].copy())
        found = []
        for name, form in forms.items():
            dist.barrier()
            begun = time.perf_counter()
            found.append(form.step(ids, upstream))
            seconds[name].append(time.perf_counter() - begun)
        if turn == 0:
            torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    if rank == 0:
        torch.save({name: times[2:] for name, times in seconds.items()}, f"{folder}/seconds.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort the process at its end


def measure(cell: Cell, ranks: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step of each form, in turns, and the median of paired ratios."""
    with tempfile.TemporaryDirectory() as folder:
        write_graph(Path(folder) / "graph.npz", cell)
        mp.spawn(work, args=(ranks, folder, cell, rounds), nprocs=ranks)
        seconds = torch.load(f"{folder}/seconds.pt")
    (own, times), (other, others) = seconds.items()
    ratios = np.array(others) / np.array(times)
    return {
        "ranks": ranks,
        "positions": cell.positions,
        "items": cell.items,
        "milliseconds": {own: 1e3 * float(np.median(times)), other: 1e3 * float(np.median(others))},
        "ratio": [float(x) for x in np.percentile(ratios, [25, 50, 75])],
        "machine": machine(),
    }


def section(found: dict[str, Any]) -> str:
    """The line of docs/distributed.md."""
    (_, own), (_, other) = found["milliseconds"].items()
    low, middle, high = found["ratio"]
    about = found["machine"]
    return (
        f"TorchRec's row-wise `EmbeddingBagCollection` takes {middle:.1f} [{low:.1f}, {high:.1f}] times as long: "
        f"{other:.0f} ms beside {own:.0f} ms, by {found['ranks']} ranks with row-wise Adagrad, {found['items']:,} items, "
        f"{found['positions']:,} ids. {about['cpu']}, {about['cores']} cores, torch {about['torch']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed_torchrec", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="H")
    parser.add_argument("--positions", type=int, default=200_000, help="P, of all ranks together")
    parser.add_argument("--ranks", type=int, default=2, help="W")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/distributed_torchrec.json"), help="JSON file")
    args = parser.parse_args()
    check_out(args.out, [])
    found = measure(Cell(items=args.items, positions=args.positions), args.ranks, args.rounds)
    write_json(args.out, found)
    for name, spent in found["milliseconds"].items():
        print(f"{name}: {spent:.1f} ms a step")
    low, middle, high = found["ratio"]
    print(f"times as long: {middle:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
