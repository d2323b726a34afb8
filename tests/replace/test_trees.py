"""Any tree of modules with shared tables: every name sees the change, and the way back is exact."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import resemb_ext as rx
from resemb_ext.testing.strategies import examples
from tests.replace.models import refused, ring

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, DIM = 7, 2


class Tree(nn.Module):
    """Parts that are registered and parts that are not; its output adds up all tables, by every way to them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: dict[str, Any] = {}

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        parts = [*self._modules.values(), *self.hidden.values()]
        parts = [part for part in parts if not isinstance(part, list)] + [
            p for part in parts if isinstance(part, list) for p in part
        ]
        return sum((index + 1) * part(ids) for index, part in enumerate(parts)) + torch.zeros(len(ids), DIM)


@st.composite
def trees(draw: st.DrawFn) -> tuple[Tree, list[nn.Embedding]]:
    count = draw(st.integers(1, 3), label="tables")
    tables = [nn.Embedding(ROWS, DIM, padding_idx=draw(st.sampled_from([None, 0]))) for _ in range(count)]
    root = Tree()
    nodes = [root]
    for number in range(draw(st.integers(0, 4), label="nodes")):
        node = Tree()
        _put(draw, draw(st.sampled_from(nodes)), f"node{number}", node)
        nodes.append(node)
    for number, table in enumerate(tables):
        for place in range(draw(st.integers(1, 3), label="places")):
            _put(draw, draw(st.sampled_from(nodes)), f"table{number}_{place}", table)
    return root, tables


def _put(draw: st.DrawFn, node: Tree, name: str, part: nn.Module) -> None:
    how = draw(st.sampled_from(["child", "hidden", "list"]))
    if how == "child":
        node.add_module(name, part)
    else:
        node.hidden[name] = part if how == "hidden" else [part]


@examples(50)
@given(tree=trees(), seed=st.integers(0, 9), optimized=st.booleans(), start=st.sampled_from(["exact", "smoothed"]))
def test_trees(tree: tuple[Tree, list[nn.Embedding]], seed: int, optimized: bool, start: str) -> None:
    root, tables = tree
    torch.manual_seed(seed)
    ids = torch.randint(0, ROWS, (5,))
    known = [table.weight for table in tables]
    optimizer = torch.optim.Adam([{"params": known[:1]}, {"params": [nn.Parameter(torch.ones(2)), *known[1:]]}])
    plain = copy.deepcopy(root)
    chosen = {table: ring(ROWS, padding=table.padding_idx == 0) for table in tables[: 1 + seed % len(tables)]}
    given_one = optimizer if optimized else [optimizer]
    report = rx.replace_embeddings(root, chosen, optimizer=given_one, start=start)
    assert {id(table.module) for table in report} == {id(table) for table in chosen}
    assert all(type(table) is (rx.ResEmbedding if table in chosen else nn.Embedding) for table in tables)
    if start == "exact":
        torch.testing.assert_close(root(ids), plain(ids))
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for table in tables for p in table.parameters()} <= {id(p) for p in held}
    assert len(held) == 1 + len(tables) + len(chosen)
    names = {name for table in report for name in (table.path, *table.aliases)}
    for name in names:
        refused(ValueError, "already", root, {name: ring(ROWS)})
    shown = root(ids)
    copied = copy.deepcopy(root)
    rx.restore_embeddings(root, optimizer=optimizer)
    assert all(type(table) is nn.Embedding for table in tables)
    torch.testing.assert_close(root(ids), shown)
    torch.testing.assert_close(copied(ids), shown)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(table.weight) for table in tables] == [id(p) for p in held if p.dim() == 2]
    assert {name: p.shape for name, p in root.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
