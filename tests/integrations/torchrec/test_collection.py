"""Res-embeddings over tables that TorchRec shards: against one process, and over ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import resemb_ext as rx
from tests.docs.pages import ROOT
from tests.integrations.conftest import framework
from tests.processes import on_ranks

framework("torchrec", __file__)

from torch.distributed.optim import _apply_optimizer_in_backward as in_backward  # noqa: E402
from torchrec import EmbeddingConfig, KeyedJaggedTensor  # noqa: E402
from torchrec.distributed.model_parallel import DistributedModelParallel, get_default_sharders  # noqa: E402
from torchrec.distributed.types import ShardingEnv  # noqa: E402
from torchrec.modules.embedding_configs import DataType  # noqa: E402
from torchrec.optim import RowWiseAdagrad  # noqa: E402

from resemb_ext.integrations.torchrec import ResEmbeddingCollection, row_wise_plan  # noqa: E402

ITEMS, TAGS, DIM, STEPS = 31, 9, 8, 5
KEYS = ["target", "history", "tag"]
LINKS = ("average", "gcn", "attention")


def graph(items: int, seed: int = 0) -> rx.InterestGraph:
    draw = np.random.default_rng(seed)
    users, ids = draw.integers(0, 20, 300), draw.integers(0, items - 2, 300)  # two items that nobody met
    return rx.InterestGraph.from_events(users, ids, np.arange(300), num_items=items, window=2, top_k=4)


def config(name: str, rows: int, *features: str, **options: Any) -> EmbeddingConfig:
    return EmbeddingConfig(name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=[*features], **options)


def collection(link: str = "average", seed: int = 0) -> ResEmbeddingCollection:
    torch.manual_seed(0)
    tables = [config("item", ITEMS, "target", "history"), config("tag", TAGS, "tag")]
    made = ResEmbeddingCollection(tables, {"item": graph(ITEMS, seed), "tag": graph(TAGS)}, link=link, init_std=0.5)
    for part in made.attention.values():
        nn.init.normal_(part.a_src), nn.init.normal_(part.a_dst)
    return made


def features(rank: int, step: int) -> KeyedJaggedTensor:
    """Samples of one rank; the lengths differ, and rank 1 brings nothing to step 2."""
    draw = torch.Generator().manual_seed(100 * rank + step)
    lengths = torch.randint(0, 4, (12,), generator=draw) * (0 if (rank, step) == (1, 2) else 1)
    ids = [
        torch.randint(0, rows, (int(n),), generator=draw)
        for n, rows in zip(lengths, [ITEMS] * 8 + [TAGS] * 4, strict=True)
    ]
    return KeyedJaggedTensor(KEYS, torch.cat(ids), lengths=lengths)


class Model(nn.Module):
    def __init__(self, link: str, seed: int = 0) -> None:
        super().__init__()
        self.items = collection(link, seed)
        self.over = nn.Linear(DIM, 1)

    def forward(self, asked: KeyedJaggedTensor) -> torch.Tensor:
        found = self.items(asked)
        return self.over(torch.cat([found[key].values() for key in KEYS])).pow(2).sum()


@pytest.mark.parametrize("link", LINKS)
def test_vectors_and_gradients_are_those_of_res_embeddings(link: str) -> None:
    made, asked = collection(link), features(0, 0)
    plain = {name: made.to_res_embedding(name) for name in ("item", "tag")}
    found = made(asked)
    given = asked.to_dict()
    loss = torch.zeros(())
    for key, part in found.items():
        expected = plain["tag" if key == "tag" else "item"](given[key].values())
        torch.testing.assert_close(part.values(), expected)
        assert torch.equal(part.lengths(), given[key].lengths())
        loss = loss + (expected * torch.arange(DIM)).pow(2).sum()
    loss.backward()
    sum((part.values() * torch.arange(DIM)).pow(2).sum() for part in found.values()).backward()  # type: ignore[union-attr]
    for name, one in plain.items():
        for part in ("central", "residual"):
            own = made.tables.embeddings[f"{name}_{part}"].weight.grad
            torch.testing.assert_close(own, getattr(one, part).grad, rtol=1e-4, atol=1e-5)
        if one.attention is not None:
            for key, value in one.attention.named_parameters():
                torch.testing.assert_close(
                    made.attention[name].get_parameter(key).grad, value.grad, rtol=1e-3, atol=1e-4
                )


def dealt(link: str, optimizer: type[torch.optim.Optimizer]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of a rank, and the tables after the steps."""
    model = Model(link)
    in_backward(optimizer, model.items.tables.parameters(), {"lr": 0.01})
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=row_wise_plan(model, compute_kernel="fused"),
        sharders=get_default_sharders(),
    )
    rest = torch.optim.SGD([p for name, p in sharded.named_parameters() if ".tables." not in name], lr=0.01)
    losses = []
    for step in range(STEPS):
        loss = sharded(features(dist.get_rank(), step))
        rest.zero_grad()
        loss.backward()
        rest.step()
        losses.append(float(loss.detach()))
    tables = {}
    for name, value in sharded.state_dict().items():
        if ".tables." in name:
            whole = torch.empty(value.size()) if dist.get_rank() == 0 else None
            value.gather(0, whole)
            tables[name] = whole
    return losses, tables


@pytest.mark.parametrize(
    ("link", "optimizer"), [*((link, torch.optim.SGD) for link in LINKS), ("attention", RowWiseAdagrad)]
)
def test_two_ranks_train_as_one(tmp_path: Path, link: str, optimizer: type[torch.optim.Optimizer]) -> None:
    both = on_ranks(2, tmp_path, dealt, link, optimizer)
    model = Model(link)
    rows = optimizer(model.items.tables.parameters(), lr=0.01)  # type: ignore[call-arg]
    rest = torch.optim.SGD([p for name, p in model.named_parameters() if ".tables." not in name], lr=0.01)
    for step in range(STEPS):
        losses = [model(features(rank, step)) for rank in range(2)]
        model.zero_grad()
        (sum(losses) / 2).backward()  # type: ignore[union-attr]
        rows.step()
        rest.step()
        for rank, loss in enumerate(losses):
            assert both[rank][0][step] == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, table in both[0][1].items():
        torch.testing.assert_close(table, model.state_dict()[name], rtol=1e-4, atol=1e-5)


def with_graph_of_rank() -> str:
    with pytest.raises(ValueError) as caught:
        row_wise_plan(Model("average", seed=dist.get_rank()))
    return str(caught.value)


def test_another_graph_on_a_rank_ends_every_rank(tmp_path: Path) -> None:
    for said in on_ranks(2, tmp_path, with_graph_of_rank):
        assert (
            said.startswith("model: rank 1 has ('items', 'item'") and "the same tables and graphs on all ranks" in said
        )


def test_the_example_trains(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "examples" / "torchrec_din.py"), "--users", "100", "--items", "400"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*script, "--epochs", "1"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'processes': 2" in done.stdout and "auc" in done.stdout


def test_what_is_refused() -> None:
    item, one = config("item", ITEMS, "item"), graph(ITEMS)
    for tables, graphs, options, says in (
        ([], {}, {}, "tables: found none"),
        (["item"], {"item": one}, {}, "tables: found str"),
        ([item], {"items": one}, {}, r"graphs: found graphs of \['items'\]; expected one of each table, \['item'\]"),
        ([item], {"item": graph(ITEMS + 1)}, {}, "its graph has 32 items and its table 31 rows"),
        ([item], {"item": "graph"}, {}, "graphs: found str for item"),
        (
            [config("item", ITEMS, "item", data_type=DataType.FP16)],
            {"item": one},
            {},
            "data_type: found .*; expected FP32",
        ),
        ([config("item", ITEMS, "item", init_fn=nn.init.zeros_)], {"item": one}, {}, "item: init_fn: not taken"),
        ([config("item", ITEMS, "item", weight_init_max=1.0)], {"item": one}, {}, "item: weight_init_max: not taken"),
        ([item, config("two", ITEMS, "item")], {"item": one, "two": one}, {}, "feature 'item' is of several tables"),
        ([item], {"item": one}, {"heads": 2}, "heads, edge_dropout: found 2 and 0.0 with link='average'"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            ResEmbeddingCollection(tables, graphs, **options)
    made = collection()
    with pytest.raises(ValueError, match="no key 'history' for the table item; found target, tag"):
        made(
            KeyedJaggedTensor(
                ["target", "tag"], torch.zeros(2, dtype=torch.int64), lengths=torch.ones(2, dtype=torch.int64)
            )
        )
    with pytest.raises(IndexError, match="31"):
        made(KeyedJaggedTensor(KEYS, torch.tensor([0, ITEMS, 0]), lengths=torch.ones(3, dtype=torch.int64)))
    with pytest.raises(ValueError, match="no table 'user'; found item, tag"):
        made.to_res_embedding("user")
    with pytest.raises(RuntimeError, match="row_wise_plan: no process group"):
        row_wise_plan(made)
