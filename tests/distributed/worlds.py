"""A model with every kind of table, its batches cut into shares of ranks, and what training it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import resemb_ext as rx

H, USERS, TAGS, D = 41, 7, 5, 6

OPTIMIZERS = {
    "SGD": lambda p: rx.optim.SGD(p, lr=0.3),
    "momentum": lambda p: rx.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adagrad": lambda p: rx.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "RowwiseAdagrad": lambda p: rx.optim.RowwiseAdagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "Adam": lambda p: rx.optim.Adam(p, lr=0.01, eps=1e-4),
    "AdamW": lambda p: rx.optim.AdamW(p, lr=0.01, eps=1e-4),
    "row bias": lambda p: rx.optim.Adam(p, lr=0.01, eps=1e-4, bias_correction="row"),
    "global decay": lambda p: rx.optim.Adam(p, lr=0.01, eps=1e-4, weight_decay=0.1, decay="global"),
    "rowwise state": lambda p: rx.optim.Adam(p, lr=0.01, eps=1e-4, state="rowwise"),
}


@dataclass(frozen=True)
class Case:
    """One training: of which model, with which optimizer, dealt how."""

    link: str = "average"
    optimizer: str = "Adam"
    dtype: torch.dtype = torch.float32
    sparse: bool = True
    in_backward: bool = False
    two_lookups: bool = False
    shard: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [self.link, self.optimizer, str(self.dtype).removeprefix("torch.")]
        parts += [] if self.sparse else ["dense"]
        parts += ["in backward"] if self.in_backward else []
        parts += ["two lookups"] if self.two_lookups else []
        return " ".join(parts + [f"{k}={v}" for k, v in {**self.shard, **self.options}.items()])


def graph(items: int = H, own: bool = True, seed: int = 0) -> rx.InterestGraph:
    """Some neighbours for every item but 0, for the last ones none; own: rows of every link hold themselves."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, 4, (items, items)) * (rng.random((items, items)) < 0.15)
    dense[0] = dense[:, 0] = 0
    dense[-2:] = 0
    np.fill_diagonal(dense, own)
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=items))])
    return rx.InterestGraph.from_csr(indptr, columns, dense[rows, columns].astype(np.float32), directed=True)


class Model(nn.Module):
    """Lookups and weighted bags of one table over a graph, and plain tables, whose gradients are sparse."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(7)
        of_graph = graph(own=case.link == "attention")
        if case.link == "attention":
            of_graph = rx.InterestGraph.from_csr(of_graph.indptr, of_graph.neighbors, of_graph.weights + 1)
        self.item = rx.ResEmbedding(
            of_graph, D, case.link, padding_idx=0, sparse=case.sparse, dtype=case.dtype, **case.options
        )
        if self.item.attention is not None:  # at its start a gradient is zero in theory, and its noise steers Adam
            for part in self.item.attention.parameters():
                nn.init.normal_(part, std=0.5)
        self.user = nn.Embedding(USERS, 3, sparse=True, padding_idx=2, dtype=case.dtype)
        self.tags = nn.EmbeddingBag(TAGS, 3, mode="mean", sparse=True, dtype=case.dtype)
        with torch.no_grad():
            self.user.weight[2] = 1
        tower = torch.float64 if case.dtype == torch.float64 else torch.float32
        self.top = nn.Sequential(nn.Linear(2 * D + 6, 7), nn.Tanh(), nn.Linear(7, 1)).to(tower)
        self.two_lookups = case.two_lookups

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        history, offsets = batch["history"], batch["offsets"]
        if self.two_lookups:
            target = self.item(batch["target"])
            pooled = self.item.bag(history, offsets, "sum", batch["weights"].to(self.top[0].weight.dtype))
        else:
            vectors = self.item(torch.cat([batch["target"], history]))
            target, rest = vectors.split([len(batch["target"]), len(history)])
            row = torch.repeat_interleave(
                torch.arange(len(offsets)), torch.cat([offsets, torch.tensor([len(history)])]).diff()
            )
            pooled = torch.zeros_like(target).index_add(0, row, rest)
        parts = [target, pooled, self.user(batch["user"]), self.tags(batch["tags"])]
        return self.top(torch.cat([part.to(self.top[0].weight.dtype) for part in parts], 1))[:, 0]


def batches(steps: int, size: int = 12, seed: int = 1) -> list[dict[str, Tensor]]:
    """Whole batches."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        lengths = torch.randint(0, 5, (size,), generator=generator)
        total = int(lengths.sum())
        popular = torch.rand(size + total, generator=generator) ** 3
        ids = (popular * H).long()
        found.append(
            {
                "target": ids[:size],
                "history": ids[size:],
                "lengths": lengths,
                "weights": torch.rand(total, generator=generator) + 0.5,
                "user": torch.randint(0, USERS, (size,), generator=generator),
                "tags": torch.randint(0, TAGS, (size, 2), generator=generator),
                "label": torch.rand(size, generator=generator),
            }
        )
    return found


def share(batch: dict[str, Tensor], first: int, past: int) -> dict[str, Tensor]:
    """Samples [first, past) of a batch, with offsets in place of lengths."""
    ends = torch.cat([batch["lengths"].new_zeros(1), batch["lengths"].cumsum(0)])
    at = slice(int(ends[first]), int(ends[past]))
    part = {name: batch[name][first:past] for name in ("target", "user", "tags", "label")}
    return {
        **part,
        "history": batch["history"][at],
        "weights": batch["weights"][at],
        "offsets": ends[first:past] - ends[first],
    }


def cuts(step: int, size: int, ranks: int) -> list[int]:
    """Where the shares of ranks begin and end: unequal, some of them empty."""
    generator = torch.Generator().manual_seed(step)
    inner = torch.randint(0, size + 1, (ranks - 1,), generator=generator).sort().values.tolist()
    return [0, *inner, size]


def train(case: Case, steps: int, ranks: int = 1, rank: int = 0, clip: float | None = None) -> dict[str, Any]:
    """What a rank sees of a training: its losses, whose mean over ranks is that of the whole batch, and its tables."""
    model: Any = Model(case)
    module = model
    if dist.is_initialized():
        model = rx.distributed.shard(model, **case.shard)
        module = model.module
    optimizer = OPTIMIZERS[case.optimizer](model.parameters())
    if case.optimizer == "global decay":
        optimizer.attach(model)
    if case.in_backward:
        optimizer.step_in_backward(model)
    losses, norms = [], []
    for step, batch in enumerate(batches(steps)):
        size = len(batch["label"])
        at = cuts(step, size, ranks)
        part = share(batch, at[rank], at[rank + 1])
        optimizer.zero_grad()
        found = model(part)
        # The mean over the whole batch, of which every rank's gradient is then ranks times its share.
        loss = (found - part["label"].to(found.dtype)).square().sum() * ranks / size
        loss.backward()
        if clip is not None:
            norms.append(float(rx.optim.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
        losses.append(loss.item())
    if case.optimizer == "global decay":
        optimizer.catch_up()
    if dist.is_initialized():
        tables = {t.name: (t.rows(), t.part.detach().clone()) for t in rx.distributed.tables(model)}
    else:
        names = ("item.central", "item.residual", "user.weight", "tags.weight")
        tables = {name: module.get_parameter(name).detach().clone() for name in names}
    others = {n: p.detach().clone() for n, p in module.named_parameters() if n not in tables}
    return {"losses": np.array(losses), "norms": np.array(norms), "tables": tables, "others": others}


def gathered(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What ranks have seen, as one process sees it; the other parameters must be the same on all."""
    for part in parts[1:]:
        for name, value in part["others"].items():
            assert torch.equal(value, parts[0]["others"][name]), name
    tables = {}
    for name, (_, first) in parts[0]["tables"].items():
        whole = first.new_empty((sum(len(part["tables"][name][0]) for part in parts), first.shape[1]))
        for part in parts:
            rows, values = part["tables"][name]
            whole[rows] = values
        tables[name] = whole
    return {**parts[0], "losses": np.mean([part["losses"] for part in parts], 0), "tables": tables}
