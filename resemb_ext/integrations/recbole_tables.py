"""Which embeddings of a RecBole model hold the items, and at which rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from recbole.model.layers import FLEmbedding, FMEmbedding, FMFirstOrderLinear
from torch import nn


class ItemTable(NamedTuple):
    """An embedding with a row for each item.

    Attributes:
        path: of the module in the model.
        offset: row of item 0, the padding; behind the rows of the fields before, where a table holds several.
        vectors: whether it holds the items' vectors, as its place and name tell: no first-order weights.
    """

    path: str
    module: nn.Embedding
    offset: int
    vectors: bool

    @property
    def name(self) -> str:
        return f"{self.path} [{self.module.num_embeddings}, {self.module.embedding_dim}]"


def item_tables(model: nn.Module, item_field: str, num_items: int, names: Sequence[str] | None) -> list[ItemTable]:
    """The tables of the items' vectors, or those of the given names.

    Args:
        item_field: the field of item ids.
        num_items: of the data set, padding among them. A table may have one row more, that of a mask.
        names: dotted paths or their last names; None: every table of item vectors.

    Raises:
        ValueError: there is none; a name that is none of the tables with a row for each item, or several.
    """
    known = _known(model, item_field, num_items)
    if names is not None:
        return [_named(name, known, num_items) for name in dict.fromkeys(names)]
    chosen = [table for table in known if table.vectors]
    if not chosen:
        raise ValueError(f"model: found no table of item vectors; name it by tables=[...]: {_listed(known, num_items)}")
    return chosen


def _known(model: nn.Module, item_field: str, num_items: int) -> list[ItemTable]:
    modules = dict(model.named_modules())
    found = []
    sizes = (num_items, num_items + 1)  # the last row of the latter is the mask of BERT4Rec and S3Rec
    for path, module in modules.items():
        owner = modules[path.rpartition(".")[0]]
        if isinstance(module, FMEmbedding):
            fields = _fields(modules, path)
            if item_field in fields:
                offset = int(module.offsets[fields.index(item_field)])
                vectors = not isinstance(owner, FMFirstOrderLinear)
                found.append(ItemTable(f"{path}.embedding", module.embedding, offset, vectors))
        elif isinstance(owner, FMEmbedding | FLEmbedding):
            continue
        elif isinstance(module, nn.Embedding) and module.num_embeddings in sizes:
            vectors = "item" in path.rpartition(".")[2].lower() and module.embedding_dim > 1
            found.append(ItemTable(path, module, 0, vectors))
    return found


def _fields(modules: dict[str, nn.Module], path: str) -> list[str]:
    """The token fields that an FMEmbedding holds one behind the other, as the layer around it lists them."""
    parent, _, key = path.rpartition(".")
    owner: Any = modules[parent]
    if isinstance(owner, nn.ModuleDict):
        named = getattr(modules[parent.rpartition(".")[0]], "token_field_names", {})
        return list(named.get(key, []))
    return list(getattr(owner, "token_field_names", []))


def _named(name: str, known: list[ItemTable], num_items: int) -> ItemTable:
    places = [(table, path) for table in known for path in (table.path, table.path.removesuffix(".embedding"))]
    exact = {table.path: table for table, path in places if path == name}
    fitting = exact or {table.path: table for table, path in places if path.endswith(f".{name}")}
    if len(fitting) != 1:
        what = f"means {', '.join(fitting)}" if fitting else "is no table of items"
        raise ValueError(f"tables: {name!r} {what}; expected one of {_listed(known, num_items)}")
    return next(iter(fitting.values()))


def _listed(known: list[ItemTable], num_items: int) -> str:
    return ", ".join(table.name for table in known) or f"no table has {num_items} rows, one for each item"
