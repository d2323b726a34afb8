"""What an embedding over a graph saves, loads and moves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext._ownership import untraced
from resemb_ext.graph import InterestGraph

from . import graph_state, graph_tensors
from .tracing import fake


class GraphState(nn.Module):
    """The part of an embedding over a graph that keeps its graph: beside the tables, or pinned on the host."""

    graph: InterestGraph
    link: str
    graph_device: str | None
    save_graph: bool
    _indptr: Tensor
    _neighbors: Tensor
    _link_weights: Tensor

    def _graph_tensors(self) -> dict[str, Tensor]:
        """Fresh tensors of the graph by the attribute that holds them."""
        return graph_tensors.host_tensors(self.graph, self.link, self.graph_device)

    def _apply(self, fn: Callable, recurse: bool = True) -> GraphState:
        super()._apply(fn, recurse)
        if self.graph_device != "pinned":
            # The graph follows the device alone: not a dtype, nor to_empty's uninitialised memory.
            for name in graph_tensors.ATTRIBUTES:
                self._move(name, fn(getattr(self, name)).device)
        return self

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As of nn.Module, also where a table is assigned, whose device the graph then follows."""
        super().register_parameter(name, param)
        if param is not None and not param.is_meta:
            self._graph_beside(param)

    def _graph_beside(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The graph's tensors where a table lies: one may have been put into the module by other ways."""
        if self._indptr.device != table.device and self.graph_device != "pinned":
            self._move_to(table.device)
        return self._indptr, self._neighbors, self._link_weights

    @untraced
    def _move_to(self, device: torch.device) -> None:
        for name in graph_tensors.ATTRIBUTES:
            self._move(name, device)

    def _move(self, name: str, device: torch.device) -> None:
        tensor: Tensor = getattr(self, name)
        if tensor.is_meta and device.type != "meta":
            tensor = self._graph_tensors()[name]
        setattr(self, name, tensor.to(device=device))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.graph_device == "pinned" and torch.cuda.is_available():
            # Copies and pickles lose the pinning.
            for name in graph_tensors.ATTRIBUTES:
                setattr(self, name, getattr(self, name).pin_memory())

    def get_extra_state(self) -> Tensor:
        """The graph's hash, or the whole graph with ``save_graph``, as one tensor."""
        return graph_state.encode(self.graph, self.save_graph)

    @staticmethod
    def graph_from_state(state_dict: dict[str, Any], prefix: str = "") -> InterestGraph:
        """The graph that a module with ``save_graph`` left in its state_dict.

        It already holds link weights: build the module over it with the same ``link``.

        Args:
            state_dict: of the module, or of one that contains it.
            prefix: the module's name in that one and a dot, for example "item.".

        Raises:
            ValueError: no graph there, or one that does not fit its hash.
        """
        name = f"{prefix}_extra_state"
        return graph_state.decode(state_dict.get(name), name)

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: the graph was compared before the tables were loaded."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        name = f"{prefix}_extra_state"
        if name in state_dict:
            self._compare_graph(state_dict[name], name)
        local_metadata, strict, missing_keys, *others = args
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *others)
        # Files may hold the tables alone.
        missing_keys += [key for key in missing if key != name]

    def _compare_graph(self, state: Any, name: str) -> None:
        if fake(state):
            return
        found = graph_state.hash_of(state)
        if found is None:
            warnings.warn(
                f"state_dict: {name} holds no hash of a graph (averaged over graphs, or scaled?); the graph was not "
                "compared with this module's",
                stacklevel=2,
            )
        elif found != self.graph.hash:
            raise ValueError(
                f"state_dict: {name.removesuffix('_extra_state') or 'the module '}was saved over the graph "
                f"{found[:12]}; this module's graph is {self.graph.hash[:12]} (link {self.link!r}). Build it over the "
                "same graph and link."
            )
