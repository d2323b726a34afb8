"""DIN over a Res-embedding whose rows TorchRec shards: DistributedModelParallel on gloo processes of this machine.

See docs/integrations/torchrec.md for the install.
python examples/torchrec_din.py --processes 2
"""

from __future__ import annotations

import argparse
import os
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec import EmbeddingConfig, KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel, get_default_sharders
from torchrec.distributed.types import ShardingEnv
from torchrec.optim import RowWiseAdagrad

import resemb_ext as rx
from resemb_ext.integrations.torchrec import ResEmbeddingCollection, row_wise_plan

DIM = 16


class Items(nn.Module):
    """Ids to vectors: the only table of a collection."""

    def __init__(self, graph: rx.InterestGraph, link: str) -> None:
        super().__init__()
        self.embedding_dim, self.padding_idx = DIM, 0
        config = EmbeddingConfig(name="item", num_embeddings=graph.num_items, embedding_dim=DIM, feature_names=["item"])
        self.collection = ResEmbeddingCollection([config], {"item": graph}, link=link, init_std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        asked = KeyedJaggedTensor(["item"], ids.reshape(-1), lengths=torch.tensor([ids.numel()]))
        return self.collection(asked)["item"].values().reshape(*ids.shape, DIM)


def work(rank: int, options: argparse.Namespace, store: str) -> None:
    """One rank: its share of the batches, its rows of the tables."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.processes)
    log, _ = rx.data.simulate(users=options.users, items=options.items, domains=15, seed=0)
    split = rx.data.split(log)
    train = rx.data.make_train_samples(split, max_history=20)
    test = rx.data.make_eval_samples(split, "test", max_history=20, negatives=4)

    events = (split.train.user, split.train.item, split.train.time)
    graph = rx.InterestGraph.from_events(*events, num_items=log.num_items, padding_idx=0, window=3, top_k=10)
    torch.manual_seed(0)
    model = rx.models.DIN(Items(graph, options.link))
    # The rows are stepped where they lie, by FBGEMM's own optimizer: on CPUs it has no Adam.
    tables = model.item_embedding.collection.tables
    apply_optimizer_in_backward(RowWiseAdagrad, tables.parameters(), {"lr": 0.05})
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=row_wise_plan(model, compute_kernel="fused"),
        sharders=get_default_sharders(),
    )
    rest = [p for name, p in sharded.named_parameters() if ".tables." not in name]
    optimizer = torch.optim.Adam(rest, lr=3e-3)
    for epoch in range(options.epochs):
        batches = list(train.batches(128, shuffle=True, epoch=epoch))
        # As many on each rank: every lookup is one of all ranks.
        for batch in batches[rank : len(batches) - len(batches) % options.processes : options.processes]:
            loss = nn.functional.binary_cross_entropy_with_logits(sharded(batch), torch.tensor(batch.label))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        rows = test.batch(slice(rank, None, options.processes))
        found = [None] * options.processes
        dist.all_gather_object(found, (rows.label, sharded(rows).numpy()))
    if rank == 0:
        labels, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        print({"processes": options.processes, "auc": round(float(rx.metrics.auc(labels, scores)), 4)}, flush=True)
    dist.barrier()
    os._exit(0)  # gloo's threads may outlive the interpreter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--link", choices=("average", "gcn", "attention"), default="attention")
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, args=(options, f"{folder}/store"), nprocs=options.processes)


if __name__ == "__main__":
    main()
