"""``python -m benchmarks.din``: DIN end to end, samples a second by embedding and optimizer."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks.machine import machine
from benchmarks.report import din_table
from benchmarks.timing import interleave
from resemb_ext.models import DIN, TorchBatch
from resemb_ext.runtime.files import check_out, write_json
from resemb_ext.train import RunConfig
from resemb_ext.train.batches import train_batches
from resemb_ext.train.building import PADDING
from resemb_ext.train.clock import Laps
from resemb_ext.train.evaluate import predict
from resemb_ext.train.prepare import Prepared, prepare, train_samples

LR = 1e-3
OWN = "res, resemb_ext Adam in backward"


class Materialised(nn.Module):
    """W C + R as one CSR product a step, then F.embedding: the simplest Res-embedding in plain PyTorch."""

    def __init__(self, matrix: Tensor, central: Tensor, residual: Tensor, padding_idx: int) -> None:
        super().__init__()
        self.embedding_dim, self.padding_idx = central.shape[1], padding_idx
        self.register_buffer("matrix", matrix, persistent=False)
        self.central, self.residual = nn.Parameter(central), nn.Parameter(residual)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.matrix @ self.central + self.residual, self.padding_idx)


@dataclass
class Variant:
    """A model with its optimizers."""

    model: DIN
    optimizers: list[torch.optim.Optimizer]
    laps: Laps

    def step(self, batch: TorchBatch) -> float:
        assert batch.label is not None
        self.laps.lap("data")
        loss = F.binary_cross_entropy_with_logits(self.model(batch), batch.label)
        value = loss.item()
        self.laps.lap("forward")
        loss.backward()
        self.laps.lap("backward")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.laps.lap("optimizer")
        return value


def make_variants(prepared: Prepared, dim: int) -> dict[str, Variant]:
    """All embeddings start at the same vectors, so that models differ in how they compute alone."""
    assert prepared.graph is not None
    items = prepared.log.num_items
    torch.manual_seed(0)
    start = rx.ResEmbedding(prepared.graph, dim, padding_idx=PADDING, init_std=0.05)

    def res(sparse: bool) -> rx.ResEmbedding:
        table = rx.ResEmbedding(prepared.graph, dim, padding_idx=PADDING, sparse=sparse)
        table.load_state_dict(start.state_dict())
        return table

    def plain(sparse: bool) -> nn.Embedding:
        weight = start.materialize().detach().clone()
        return nn.Embedding(items, dim, padding_idx=PADDING, sparse=sparse, _weight=weight)

    def materialised() -> Materialised:
        graph = prepared.graph.with_link("average", padding_idx=PADDING)
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(graph.indptr.copy()),
            torch.from_numpy(graph.neighbors.astype(np.int64)),
            torch.from_numpy(graph.weights.copy()),
            (items, items),
            check_invariants=False,
        )
        central, residual = (t.detach().clone() for t in (start.central, start.residual))
        return Materialised(matrix, central, residual, PADDING)

    def dense(model: DIN) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(model.parameters(), lr=LR, fused=True)]

    def sparse_adam(model: DIN) -> list[torch.optim.Optimizer]:
        tables = list(model.item_embedding.parameters())
        rest = [p for p in model.parameters() if all(p is not t for t in tables)]
        return [torch.optim.SparseAdam(tables, lr=LR), torch.optim.Adam(rest, lr=LR, fused=True)]

    def own(model: DIN) -> list[torch.optim.Optimizer]:
        return [rx.optim.Adam(model.parameters(), lr=LR, fused=True)]

    def in_backward(model: DIN) -> list[torch.optim.Optimizer]:
        optimizer = rx.optim.Adam(model.parameters(), lr=LR, fused=True)
        optimizer.step_in_backward(model)
        return [optimizer]

    makers: dict[str, tuple[nn.Module, Callable[[DIN], list[torch.optim.Optimizer]]]] = {
        OWN: (res(True), in_backward),
        "res, resemb_ext Adam": (res(True), own),
        "res, materialise + F.embedding, dense fused Adam": (materialised(), dense),
        "plain, dense fused Adam": (plain(False), dense),
        "plain, SparseAdam": (plain(True), sparse_adam),
        "plain, resemb_ext Adam in backward": (plain(True), in_backward),
    }
    variants = {}
    for name, (table, optimizer) in makers.items():
        torch.manual_seed(1)
        model = DIN(table)
        variants[name] = Variant(model, optimizer(model), Laps())
    return variants


def check_equal(variants: dict[str, Variant], batch: TorchBatch) -> None:
    """Every variant gives the same logits before training.

    Raises:
        AssertionError: a variant that differs, by name.
    """
    with torch.no_grad():
        logits = {name: v.model(batch) for name, v in variants.items()}
    for name, found in logits.items():
        torch.testing.assert_close(found, logits[OWN], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def run_log(config: RunConfig, *, rounds: int, warmup: int, steps: int) -> dict[str, Any]:
    """Times DIN on one log.

    Args:
        rounds, warmup: pieces of training timed and not timed, of every variant alike.
        steps: training steps a piece.

    Returns:
        JSON-able: the log's sizes; by variant samples a second, quartiles of its time over ours, and the
        seconds of one epoch by part.
    """
    prepared = prepare(config)
    samples = train_samples(config, prepared.split, seed=0)
    variants = make_variants(prepared, config.dim)
    check_equal(variants, next(train_batches(samples, config.batch_size, seed=0, epoch=0)))
    streams = {name: _endless(samples, config.batch_size) for name in variants}

    def piece(name: str) -> Callable[[int], None]:
        def run(turn: int) -> None:
            variant = variants[name]
            if turn == warmup:
                variant.laps = Laps()
            variant.laps.skip()
            for _ in range(steps):
                variant.step(next(streams[name]))

        return run

    seconds = interleave(
        {name: piece(name) for name in variants}, rounds=rounds, warmup=warmup, label=Path(config.data).stem
    )
    own = np.asarray(seconds[OWN])
    epoch = -(-len(samples) // config.batch_size)
    share = epoch / (steps * rounds)
    result: dict[str, Any] = {
        "log": Path(config.data).stem,
        "items": prepared.log.num_items,
        "samples": len(samples),
        "batch_size": config.batch_size,
        "dim": config.dim,
        "rounds": rounds,
        "steps": steps,
        "variants": {},
    }
    for name, values in seconds.items():
        variant = variants[name]
        variant.laps.skip()
        predict(variant.model, prepared.valid, batch_size=config.eval_batch_size)
        evaluation = variant.laps.lap("evaluation")
        parts = {part: round(value * share, 3) for part, value in variant.laps.seconds.items()}
        parts["evaluation"] = round(evaluation, 3)
        ratio = np.asarray(values) / own
        result["variants"][name] = {
            "samples_per_s": round(steps * config.batch_size / float(np.median(values))),
            "ratio": [round(float(q), 3) for q in np.percentile(ratio, [25, 50, 75])],
            "epoch_s": parts,
        }
    return result


def _endless(samples: Any, batch_size: int) -> Iterator[TorchBatch]:
    epoch = 0
    while True:
        yield from train_batches(samples, batch_size, seed=0, epoch=epoch)
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.din",
        description="DIN on logs, end to end: data, forward, backward, optimizer; by embedding and "
        "optimizer, interleaved in one process.",
        epilog="example: python -m benchmarks.din --data amazon-beauty.parquet ml-1m.parquet",
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="log files")
    parser.add_argument("--dim", type=int, default=32, help="D")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30, help="training steps a piece")
    parser.add_argument("--rounds", type=int, default=9, help="timed pieces of every variant")
    parser.add_argument("--warmup", type=int, default=1, help="pieces not timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/din.json"), help="JSON file")
    args = parser.parse_args()
    check_out(args.out, args.data)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    result: dict[str, Any] = {"machine": machine(), "logs": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for data in args.data:
        config = RunConfig.build(
            data=str(data), model="din", dim=args.dim, batch_size=args.batch_size, threads=args.threads
        )
        result["logs"].append(run_log(config, rounds=args.rounds, warmup=args.warmup, steps=args.steps))
        write_json(args.out, result)
    print(din_table(result))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
