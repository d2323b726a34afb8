"""An embedding over a graph that changes: more items behind the known ones, or other neighbours."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext import _growth
from resemb_ext._growth import RowMoves
from resemb_ext.graph import InterestGraph
from resemb_ext.graph.changes import changed_rows
from resemb_ext.runtime.living import living

from .starts import starts_of
from .state import GraphState
from .whole_table import WholeTable

_TABLES = ("central", "residual")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _outside_inference(method: _Function) -> _Function:
    """Without gradients; what it makes may be trained, whatever the mode it is called in."""

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return method(*args, **options)

    return cast(_Function, call)


class Growing(GraphState, WholeTable):
    """The part of an embedding over a graph that takes another graph."""

    num_embeddings: int

    @_outside_inference
    def grow(self, graph: InterestGraph, *, oov: int | None = None) -> Tensor:
        """Takes a larger graph over the same numbers, in place, in training or in ``eval()``.

        Every known row of C and R keeps its bits, and learned link weights stay. R of a new item is 0. C of a new
        item is the mean of C over its neighbours that are known, by the weights of the link (with "attention" by
        those of its prior). New items without such a neighbour come after those that have one, and count them as
        known. An item that no path joins to a known one starts at 0, where its vector is zero.

        The parameters stay the same objects. The state of every living optimizer that holds them grows with them:
        of ``resemb_ext.optim`` in every form, and of torch.optim's Adam, AdamW, SGD, Adagrad, SparseAdam, RMSprop,
        Adamax, NAdam, RAdam and Adadelta. A known row keeps its state, and a new one starts as in a new table.

        Tables and state take as much memory again until this returns. Backward of a lookup made before is refused.
        A captured CUDA graph has to be captured anew. Another module with the same parameters takes the larger graph
        by its own call of this.

        Args:
            graph: H' >= H items, the first H of them this module's; of raw weights, as the constructor takes it, or
                with this module's link already. ``graph.update(events)`` gives one.
            oov: the out-of-vocabulary row, which an id map puts behind its items. Its C and R move to the last row,
                H' - 1, and the item that takes its place starts as a new one. None: where both graphs know their id
                maps and new items have come, the row behind the known items of this module's; else no row moves.

        Returns:
            int64, ascending: the rows of [0, H') whose vectors are not those of the same row before, new ones
            among them.

        Raises:
            TypeError: ``graph`` is no InterestGraph; an optimizer with another kind of state holds C or R.
            ValueError: fewer items than H, a link that ``graph`` does not have, ``oov`` out of range or padding.
            RuntimeError: a table has a gradient, is parametrized, sharded, shared between processes, or inside
                DistributedDataParallel. Nothing has changed then.
        """
        linked = self._linked(graph)
        if linked.num_items < self.num_embeddings:
            raise ValueError(f"graph: {linked.num_items} items; expected at least this module's, {self.num_embeddings}")
        moved = self._moved_row(linked, oov) if linked.num_items > self.num_embeddings else None
        moves = RowMoves(self.num_embeddings, linked.num_items, moved)
        self._before_read(None)
        # A module that shares its tables with one that has grown takes the graph alone.
        tables = {name: t for name, t in zip(_TABLES, self._own_tables(), strict=True) if len(t) < moves.new}
        optimizers = self._check_growth(tables) if tables else []
        states = [(o, t, _growth.grown_state(o, t, moves)) for o in optimizers for t in tables.values()]
        grown = {name: moves.apply(table.detach()) for name, table in tables.items()}
        if "central" in grown:
            starts_of(linked, moves.fresh, grown["central"])
        changed = changed_rows(self.graph, linked, moves.places)

        folded = None if self._fold is None else self._fold.held(self)
        for name, values in grown.items():
            _growth.put_rows(tables[name], values)
        for optimizer, table, state in states:
            if state:
                optimizer.state[table].update(state)
        for optimizer in optimizers:
            getattr(optimizer, "_rows_have_moved", lambda _: None)([*tables.values()])
        self.num_embeddings = moves.new
        self._take(linked)
        rows = torch.from_numpy(changed)
        if self._fold is not None and folded is not None:
            self._fold.renew(self, folded if moves.new == moves.old else moves.apply(folded), rows)
        return rows

    @_outside_inference
    def swap_graph(self, graph: InterestGraph) -> Tensor:
        """Takes another graph over the same H items, in place; C, R, link parameters and optimizers stay.

        Inside ``folded_tables`` only the returned rows are computed again; do not look up in other threads meanwhile.

        Args:
            graph: H items, of raw weights, as the constructor takes it, or with this module's link already.

        Returns:
            int64, ascending: the rows whose neighbours or weights changed, and with them their vectors.

        Raises:
            TypeError: ``graph`` is no InterestGraph.
            ValueError: another number of items, or a link that ``graph`` does not have.
        """
        linked = self._linked(graph)
        if linked.num_items != self.num_embeddings:
            raise ValueError(
                f"graph: {linked.num_items} items; expected this module's, {self.num_embeddings}"
                + ("; grow takes a larger graph" if linked.num_items > self.num_embeddings else "")
            )
        self._before_read(None)
        rows = torch.from_numpy(changed_rows(self.graph, linked, np.arange(self.num_embeddings)))
        folded = None if self._fold is None else self._fold.held(self)
        self._take(linked)
        if self._fold is not None and folded is not None:
            self._fold.renew(self, folded, rows)
        return rows

    def _linked(self, graph: InterestGraph) -> InterestGraph:
        """A graph with the weights of this module's link, hops and dtype."""
        if not isinstance(graph, InterestGraph):
            raise TypeError(f"graph: found {type(graph).__name__}; expected InterestGraph")
        return graph.with_link(
            self.link,
            padding_idx=self.padding_idx,
            hops=self.graph.meta.get("link", {}).get("hops", 1),
            weights_dtype=self.graph.weights.dtype,
        )

    def _take(self, linked: InterestGraph) -> None:
        self.graph = linked
        self._place_graph(self.central.device)

    def _moved_row(self, linked: InterestGraph, oov: Any) -> int | None:
        """The out-of-vocabulary row that is to move: the one named, or the one that the graphs' id maps tell of."""
        if oov is None:
            before, after = (_behind_known(graph) for graph in (self.graph, linked))
            ends = (self.num_embeddings - 1, linked.num_items - 1)
            return before if (before, after) == ends else None
        if isinstance(oov, bool) or not isinstance(oov, (int, np.integer)):
            raise TypeError(f"oov: found {oov!r}; expected a row, or None")
        if not 0 <= oov < self.num_embeddings or oov == self.padding_idx:
            but = "" if self.padding_idx is None else f", but padding_idx, {self.padding_idx}"
            raise ValueError(f"oov: found {oov}; expected a row in [0, {self.num_embeddings}){but}")
        return int(oov)

    def _own_tables(self) -> tuple[nn.Parameter, nn.Parameter]:
        own = self._parameters
        if any(own.get(name) is None for name in _TABLES):
            raise RuntimeError(f"{type(self).__name__}: .central or .residual is parametrized; remove that first")
        return own["central"], own["residual"]  # type: ignore[return-value]

    def _check_growth(self, tables: Mapping[str, Tensor]) -> list[torch.optim.Optimizer]:
        """The optimizers whose state has to grow with the tables."""
        for name, table in tables.items():
            if table.grad is not None:
                raise RuntimeError(f"{name}: has a gradient; call optimizer.step(), then zero_grad(), first")
            if type(table.data) is not Tensor:
                raise RuntimeError(f"{name}: a {type(table.data).__name__}; expected a whole table, not a sharded one")
            if table.device.type == "cpu" and table.is_shared():
                raise RuntimeError(f"{name}: lies in memory that processes share; grow it before share_memory")
        gc.collect()  # optimizers that nobody uses any more
        found = living()
        if any(module is self for wrapper in found.wrappers for module in wrapper.modules()):
            raise RuntimeError("grow: the module is inside DistributedDataParallel; wrap the model after grow")
        return _growth.holders(found.optimizers, tables)


def _behind_known(graph: InterestGraph) -> int | None:
    """The row behind a graph's known items, where its meta data tell how many those are."""
    known = (graph.meta.get("ids") or {}).get("items")
    return None if known is None or "shift" in graph.meta else int(known["first"]) + int(known["count"])
