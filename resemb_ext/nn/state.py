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

    def _place_graph(self, device: torch.device | str | None) -> None:
        """Tensors of the graph by the attributes that hold them, and the graph where those lie on the host."""
        # Without CUDA a pinned graph, of a pickle, lies in plain memory.
        pinned = self.graph_device == "pinned" and torch.cuda.is_available()
        tensors = graph_tensors.host_tensors(self.graph, self.link, pinned)
        self.graph = graph_tensors.graph_over(self.graph, tensors, self.link)
        for name, tensor in tensors.items():
            setattr(self, name, tensor if self.graph_device else tensor.to(device=device))

    def _apply(self, fn: Callable, recurse: bool = True) -> GraphState:
        super()._apply(fn, recurse)
        if self.graph_device != "pinned":
            # The graph follows the device alone: not a dtype, nor to_empty's uninitialised memory. share_memory moves
            # the whole memory of a part.
            device = {fn(getattr(self, name)[:0]).device for name in graph_tensors.ATTRIBUTES}.pop()
            self._move_to(device)
            held = {name: getattr(self, name) for name in graph_tensors.ATTRIBUTES}
            self.graph = graph_tensors.graph_over(self.graph, held, self.link)
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
        if self._indptr.device == device:
            return
        if device.type == "cpu" or self._indptr.is_meta:
            self._place_graph(device)  # of the graph's arrays, which stay on the host
            return
        for name in graph_tensors.ATTRIBUTES:
            setattr(self, name, getattr(self, name).to(device=device))

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep: the graph once, as arrays. Memory that processes share goes as tensors."""
        state = super().__getstate__()
        tensors = {name: state.pop(name) for name in graph_tensors.ATTRIBUTES}
        if all(tensor.device.type == "cpu" and tensor.is_shared() for tensor in tensors.values()):
            state |= tensors
            state["graph"] = graph_tensors.graph_without(self.graph, self.link)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not len(self.graph.indptr):
            held = {name: getattr(self, name) for name in graph_tensors.ATTRIBUTES}
            on_host = {name: tensor.cpu() for name, tensor in held.items()}
            self.graph = graph_tensors.graph_over(self.graph, on_host, self.link)
            if all(held[name] is on_host[name] for name in held):
                return
        # In place of the tensors of older pickles, which are a second copy.
        self._place_graph(next(self.parameters()).device)

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
        elif found != self.graph.hash and not self.graph.differs_by_rounding(found):
            raise ValueError(
                f"state_dict: {name.removesuffix('_extra_state') or 'the module '}was saved over the graph "
                f"{found[:12]}; this module's graph is {self.graph.hash[:12]} (link {self.link!r}). Build it over the "
                "same graph and link."
            )
