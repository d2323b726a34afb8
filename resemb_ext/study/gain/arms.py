"""The arms of study ``gain``: what trains, over which graph, and what it is smoothed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from resemb_ext.graph import InterestGraph
from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.study.compare.training import FACTORS, PENALTY_FACTOR
from resemb_ext.study.compare.variants import PENALTY, TABLES, Group, ItemTable, build_model
from resemb_ext.study.harness.search import Factor
from resemb_ext.study.methods.controls import permuted_entries
from resemb_ext.train import RunConfig
from resemb_ext.train.building import PADDING, res_table
from resemb_ext.train.prepare import graph_of
from resemb_ext.train.swaps import Swaps

from .protocol import CATEGORY_SHARE, CATEGORY_TOP_K, WIDE

SWAP = "swap"
SWAP_FACTOR = Factor(SWAP, 0.1, choices=(0.1, 0.03, 0.3))


@dataclass(frozen=True, eq=False)
class Logs:
    """A log set up, with the graphs of the arms, each made once a process.

    Attributes:
        dataset: of the log; its graph is the narrow one.
    """

    dataset: Dataset
    _permuted: dict[int, InterestGraph] = field(default_factory=dict)

    @cached_property
    def wide(self) -> InterestGraph:
        return graph_of(replace(self.dataset.config, **WIDE), self.dataset.split.train)

    @cached_property
    def mixed(self) -> InterestGraph:
        """The wide graph and items of one category."""
        category = self.dataset.log.category_domain
        assert category is not None
        counts = self.dataset.split.item_counts
        same = InterestGraph.from_categories(category, popularity=counts, top_k=CATEGORY_TOP_K, padding_idx=PADDING)
        return InterestGraph.mixed([self.wide, same], [1 - CATEGORY_SHARE, CATEGORY_SHARE], top_k=WIDE["top_k"])

    def graph(self, name: str, seed: int) -> InterestGraph:
        """The graph "narrow", "wide", "mixed", or "permuted" by the seed."""
        if name == "permuted":
            if seed not in self._permuted:
                self._permuted[seed] = permuted_entries(self.dataset.graph, seed)
            return self._permuted[seed]
        return {"narrow": lambda: self.dataset.graph, "wide": lambda: self.wide, "mixed": lambda: self.mixed}[name]()


@dataclass(frozen=True)
class Arm:
    """What is trained and how its table is served.

    Attributes:
        title: for people.
        kind: "cheap", "form" or "control".
        table: item table of study ``compare``, or the graph of a Res-embedding.
        smooth: graphs it may be smoothed over; none where it is not smoothed.
        swaps: ids are swapped in training; the probability is searched.
        fresh: tables are drawn anew each epoch.
        rank: lower ones are run first.
        dense: also run on dense logs and with DIN.
    """

    title: str
    kind: str
    table: str
    smooth: tuple[str, ...] = ()
    swaps: bool = False
    fresh: bool = False
    rank: int = 1
    dense: bool = False

    @property
    def factors(self) -> tuple[Factor, ...]:
        """What is searched."""
        penalty = (PENALTY_FACTOR,) if self.table == "laplacian" else ()
        return (*FACTORS, *penalty, *((SWAP_FACTOR,) if self.swaps else ()))

    def smooth_graphs(self, category: bool) -> tuple[str, ...]:
        """The graphs to smooth over, of a log with categories or without."""
        return tuple(name for name in self.smooth if category or name != "mixed")

    def build(self, logs: Logs, config: RunConfig, seed: int, penalty: float | None) -> nn.Module:
        """A new model, a function of the seed."""
        table = TABLES.get(self.table) or ItemTable(self.title, _over(logs, self.table))
        return build_model(table, logs.dataset, config, seed, penalty)


def _over(logs: Logs, graph: str) -> Callable[[Dataset, RunConfig, int], nn.Module]:
    return lambda dataset, config, seed: res_table(logs.graph(graph, seed), config)


_ALL = ("narrow", "wide", "mixed")
ARMS: dict[str, Arm] = {
    "plain": Arm("plain", "cheap", "plain", rank=0, dense=True),
    "plain-smooth": Arm("plain, smoothed", "cheap", "plain", _ALL, rank=0, dense=True),
    "item2vec-smooth": Arm("plain, started by item2vec, smoothed", "cheap", "item2vec", _ALL, dense=True),
    "laplacian-smooth": Arm("plain, graph-Laplacian penalty, smoothed", "cheap", "laplacian", _ALL),
    "plain-2d-smooth": Arm("plain, twice as wide, smoothed", "cheap", "plain-2d", _ALL),
    "swap-smooth": Arm("plain, swapped ids, smoothed", "cheap", "plain", _ALL, swaps=True),
    "fresh-smooth": Arm("plain, fresh tables each epoch, smoothed", "cheap", "plain", _ALL, fresh=True),
    "res": Arm("res", "form", "narrow", rank=0, dense=True),
    "res-smooth": Arm("res, smoothed", "form", "narrow", ("narrow",), rank=0, dense=True),
    "wide-smooth": Arm("res over the wide graph, smoothed", "form", "wide", ("wide",), rank=0, dense=True),
    "mixed-smooth": Arm("res over the wide graph and categories, smoothed", "form", "mixed", ("mixed",)),
    "permuted-smooth": Arm("res over permuted neighbours, smoothed", "control", "permuted", ("permuted",), rank=2),
}
#: Finalists: which kind of arm each is chosen from.
ROLES = {"base": "plain", "cheap": "cheap", "best": "form"}


def arms_of(*, category: bool, dense: bool) -> list[str]:
    """Names of the arms that are run on a log and model, the most important first."""
    names = [n for n, arm in ARMS.items() if (arm.dense or not dense) and (category or arm.table != "mixed")]
    return sorted(names, key=lambda name: ARMS[name].rank)


def candidates(role: str, names: list[str]) -> list[str]:
    """Those of some arms that a finalist is chosen from."""
    return [name for name in names if (name == "plain" if role == "base" else ARMS[name].kind == ROLES[role])]


@dataclass(frozen=True)
class Cell:
    """An arm or finalist on a log and model."""

    group: Group
    name: str

    @property
    def key(self) -> str:
        return f"{self.group.key}-{self.name}"

    @property
    def title(self) -> str:
        return f"{self.group.title}: {ARMS[self.name].title if self.name in ARMS else self.name}"

    def beside(self, name: str) -> Cell:
        """Another one of the group."""
        return replace(self, name=name)


def swaps_of(arm: Arm, logs: Logs, found: dict) -> Swaps | None:
    """The swaps of a training at a point of the search."""
    return Swaps(logs.dataset.graph, found[SWAP], PADDING) if arm.swaps else None


def penalty_of(found: dict) -> float | None:
    """The strength of the penalty at a point of the search."""
    return found.get(PENALTY)
