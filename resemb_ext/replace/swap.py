"""One embedding's change, prepared beside the model and made in one go that cannot fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from resemb_ext._ownership import set_replaced
from resemb_ext.nn import ResEmbeddingBase
from resemb_ext.nn.combining import graph_attributes

from .names import Table

_REGISTRIES = ("_parameters", "_buffers", "_modules")
# Hooks and the like stay as they are: what has registered them keeps a reference to the dictionary.
_KEPT = frozenset(vars(nn.Module())) - {*_REGISTRIES, "training"}


@dataclass
class Swap:
    """A module that is to become another: the object stays, and so does all that refers to it.

    Attributes:
        table: the module and its names.
        made: a module with the new content.
        kind: the class that the module takes.
        old: parameters that go, by their name in the module, the leading one first.
        new: parameters that come, likewise.
        stale: plain attributes that go.
        sparse: whether the new tables' gradients are sparse.
        edges: of the graph.
        notes: for the report.
    """

    table: Table
    made: nn.Module
    kind: Any
    old: dict[str, nn.Parameter]
    new: dict[str, nn.Parameter]
    stale: frozenset[str]
    sparse: bool
    edges: int
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def module(self) -> nn.Module:
        return self.table.module

    def check(self) -> None:
        """Tries the change of class on an empty object, and looks for attributes that are in the way.

        Raises:
            TypeError: Python does not allow it, as for classes with slots of their own.
            ValueError: somebody has set an attribute whose name the new class needs.
        """
        ours = graph_attributes(self.kind) if issubclass(self.kind, ResEmbeddingBase) else frozenset()
        taken = ours & (set(vars(self.module)).union(*(vars(self.module)[registry] for registry in _REGISTRIES)))
        if taken:
            raise ValueError(
                f"{self.name}: has attributes of its own that {self.kind.__name__} needs, {', '.join(sorted(taken))}; "
                "rename them"
            )
        kind = type(self.module)
        try:
            empty: Any = kind.__new__(kind)
            empty.__class__ = self.kind
        except TypeError as error:
            raise TypeError(f"{self.name}: a {kind.__name__} cannot become a {self.kind.__name__}: {error}") from error

    def apply(self) -> None:
        """Changes the module."""
        for new in self.new.values():
            # Marks that a framework has put on the weight.
            vars(new).update(vars(next(iter(self.old.values()))))
        content = vars(self.module)
        for registry in _REGISTRIES:
            _merge(content[registry], vars(self.made)[registry], self.old)
        for name in self.stale:
            content.pop(name, None)
        content.update({k: v for k, v in vars(self.made).items() if k not in _REGISTRIES and k not in _KEPT})
        self.module.__class__ = self.kind
        for old in self.old.values():
            set_replaced(old, self.module)


def tables_of(module: Any) -> dict[str, nn.Parameter]:
    """The parameters that an embedding over a graph learns in place of a weight, C first."""
    tables = {"central": module.central, "residual": module.residual}
    link = {} if module.attention is None else dict(module.attention.named_parameters())
    return tables | {f"attention.{name}": parameter for name, parameter in link.items()}


def tie(swaps: list[Swap]) -> None:
    """Modules that shared their parameters go on sharing the new ones.

    Raises:
        ValueError: they have come to be of different forms.
    """
    first: dict[tuple[int, ...], Swap] = {}
    for swap in swaps:
        leader = first.setdefault(tuple(map(id, swap.old.values())), swap)
        if leader is swap:
            continue
        graphs = {getattr(getattr(one.made, "graph", None), "hash", None) for one in (swap, leader)}
        if swap.new.keys() != leader.new.keys() or len(graphs) > 1:
            raise ValueError(
                f"{swap.name}: has the same weight as {leader.name}, and another graph or link; expected the same"
            )
        swap.new = leader.new
        for name in swap.new:
            part, _, own = name.rpartition(".")
            vars(swap.made.get_submodule(part))["_parameters"][own] = leader.new[name]


def _merge(present: dict[str, Any], coming: dict[str, Any], going: dict[str, Any]) -> None:
    """The coming entries take the place of those that go; the dictionary itself stays, as others may hold it."""
    merged: dict[str, Any] = {}
    names = {name.split(".")[0] for name in going}
    for name, value in present.items():
        if name in names:
            merged.update(coming)
        elif name not in merged:
            merged[name] = value
    merged.update(coming)
    present.clear()
    present.update(merged)
