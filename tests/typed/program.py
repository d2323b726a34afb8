"""A program of a user over the public API, as ``mypy --strict`` sees it. It is never run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import resemb_ext as rx
from resemb_ext.data import Log, Samples, Split
from resemb_ext.replace import Replacement
from resemb_ext.serving import ExportedModel
from resemb_ext.train import FitResult, RunResult


class Net(nn.Module):
    """A model whose table is a Res-embedding."""

    def __init__(self, graph: rx.InterestGraph) -> None:
        super().__init__()
        self.item = rx.ResEmbedding(graph, 16, padding_idx=0, link="gcn", hops=2, sparse=True)
        self.bag = rx.ResEmbeddingBag(graph, 16, mode="sum")

    def forward(self, history: Tensor, target: Tensor) -> Tensor:
        return (self.bag(history) * self.item(target)).sum(-1)


def graphs(path: Path) -> rx.InterestGraph:
    log = assert_type(rx.data.read_log(path, user="user_id", time=None, label=False), Log)
    split = assert_type(rx.data.split(log, how="time"), Split)
    graph = assert_type(
        rx.InterestGraph.from_log(split.train, window=3, weighting="ppmi", top_k=None), rx.InterestGraph
    )
    assert_type(graph.num_items, int)
    assert_type(graph.hash, str)
    assert_type(graph.meta, dict[str, Any])
    assert_type(graph.same_items(log.items), bool | None)
    assert_type(graph.to_edge_index(), tuple[Tensor, Tensor])
    rx.InterestGraph.from_events([1], [2], [3], num_items=9, session_gap=30.0).save(path)
    rx.InterestGraph.from_dataframe({"user_id": np.ones(3)}, memory=1 << 20, progress=lambda done, total: None)
    grown = assert_type(rx.InterestGraph.load(path).update((np.ones(1), np.ones(1))), rx.InterestGraph)
    return assert_type(grown.shift(3, 100).with_link("average"), rx.InterestGraph)


def training(graph: rx.InterestGraph, ids: Tensor) -> float:
    model = Net(graph)
    optimizer = rx.optim.Adam(model.parameters(), lr=1e-3, bias_correction="row")
    optimizer.step_in_backward(model)
    assert_type(model.item(ids), Tensor)
    assert_type(model.bag(ids), Tensor)
    assert_type(model.item.weight, Tensor)
    assert_type(model.item.central, nn.Parameter)
    assert_type(rx.optim.clip_grad_norm_(model.parameters(), 1.0), Tensor)
    model(ids, ids).sum().backward()
    optimizer.step()
    loss = assert_type(optimizer.step(lambda: 1.0), float)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    scheduler.step()
    plain = assert_type(model.item.to_embedding(), nn.Embedding)
    assert_type(rx.ResEmbedding.from_embedding(plain, graph), rx.ResEmbedding)
    return loss


def swapping(model: nn.Module, graph: rx.InterestGraph) -> str:
    optimizer = torch.optim.Adam(model.parameters())
    report = assert_type(rx.replace_embeddings(model, {"item": graph}, optimizer=optimizer), Replacement)
    rx.replace_embeddings(model, {lambda name, module: name.endswith("item"): graph}, start="smoothed", sparse=True)
    rx.optim.like(optimizer, lr=0.1).step()
    assert_type(rx.restore_embeddings(model, optimizer=optimizer), Replacement)
    return str(report)


class Printer(rx.train.RunLogger):
    def epoch(self, arm: str, seed: int, epoch: int, values: Mapping[str, float]) -> None:
        print(arm, seed, epoch, values["loss"])


def runs(split: Split, folder: Path) -> dict[str, Any]:
    samples = assert_type(rx.data.make_train_samples(split, max_history=50, negatives=1), Samples)
    model = rx.models.DNN(nn.Embedding(split.log.num_items, 8), hidden=(8,))
    done = assert_type(rx.train.fit(model, samples, samples, epochs=1, progress=False), FitResult)
    assert_type(done.valid["gauc"], Any)
    finished = assert_type(rx.train.run(data="simulated", epochs=1, log_to=["wandb", Printer()]), RunResult)
    assert_type(rx.serving.load_export(folder), ExportedModel)
    assert_type(rx.metrics.auc(np.ones(2), np.ones(2)), float)
    return finished.result


def mistakes(graph: rx.InterestGraph) -> None:
    """Each line is an error; one that is none any more is an error too, of an ignore that is not used."""
    rx.ResEmbedding(graph, "64")  # type: ignore[arg-type]
    rx.ResEmbedding(graph, 64, paddingidx=0)  # type: ignore[call-arg]
    rx.InterestGraph.from_events([1], [2], windows=3)  # type: ignore[call-arg]
    graph.shift("3", 100)  # type: ignore[arg-type]
    rx.optim.Adam(lr=0.1)  # type: ignore[call-arg]
    rx.train.run(log_to=[3])  # type: ignore[list-item]
    print(rx.nothing_of_this_name)  # type: ignore[attr-defined]
