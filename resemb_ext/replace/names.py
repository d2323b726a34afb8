"""Which tables the keys of a call mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from .walk import Place, places

_WRAPPERS = ("_orig_mod",)  # of torch.compile


class Table(NamedTuple):
    """An embedding in a model.

    Attributes:
        path: its first name; "" where it is the model itself.
        aliases: its other names.
    """

    module: nn.Module
    path: str
    aliases: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path or type(self.module).__name__


def is_table(module: nn.Module) -> bool:
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag))


def embeddings(found: list[Place]) -> list[Table]:
    """The embeddings among all modules of a model, each once."""
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for path, module in found:
        if is_table(module):
            modules[id(module)] = module
            names = paths.setdefault(id(module), [])
            if path not in names:
                names.append(path)
    return [Table(modules[key], names[0], tuple(names[1:])) for key, names in paths.items()]


def choose(model: nn.Module, tables: Any) -> tuple[list[tuple[Table, Any]], list[Place]]:
    """The embeddings that the keys mean, with their values, and all modules of the model.

    Raises:
        TypeError: ``tables`` is no mapping, or a key of another kind.
        ValueError: a key that means no embedding, several, or one that another key means too.
    """
    if not isinstance(tables, Mapping):
        raise TypeError(
            f"tables: found {type(tables).__name__}; expected a mapping of names, modules or predicates to graphs, as "
            "{'item': graph}"
        )
    if not tables:
        raise ValueError("tables: found an empty mapping; expected at least one table and its graph")
    found = places(model)
    known = embeddings(found)
    chosen: dict[int, tuple[Table, Any]] = {}
    for key, value in tables.items():
        for table in _meant(key, known, found):
            if id(table.module) in chosen:
                raise ValueError(f"tables: {table.name} is meant by two keys, one of them {_shown(key)}")
            chosen[id(table.module)] = (table, value)
    return list(chosen.values()), found


def _meant(key: Any, known: list[Table], found: list[Place]) -> list[Table]:
    if isinstance(key, str):
        return [_named(key, known, found)]
    if isinstance(key, nn.Module):
        same = [table for table in known if table.module is key]
        if not same:
            what = "is not in the model" if is_table(key) else "is no nn.Embedding or nn.EmbeddingBag"
            raise ValueError(f"tables: the module given as key, {type(key).__name__}, {what}; {_listed(known)}")
        return same
    if callable(key):
        fitting = [t for t in known if any(key(path, t.module) for path in (t.path, *t.aliases))]
        if not fitting:
            raise ValueError(f"tables: the predicate {_shown(key)} takes none; {_listed(known)}")
        return fitting
    raise TypeError(f"tables: found the key {key!r}; expected a name, a module, or a predicate (name, module) -> bool")


def _named(key: str, known: list[Table], found: list[Place]) -> Table:
    fitting = [table for table in known if any(_fits(key, path) for path in (table.path, *table.aliases))]
    exact = [table for table in fitting if key in (table.path, *table.aliases)]
    if len(exact or fitting) == 1:
        return (exact or fitting)[0]
    if fitting:
        raise ValueError(
            f"tables: {key!r} is ambiguous, it is the end of {', '.join(t.name for t in fitting)}; give a longer name"
        )
    others = [module for path, module in found if _fits(key, path)]
    if others:
        raise ValueError(
            f"tables: {key!r} is a {type(others[0]).__name__}; expected an nn.Embedding or nn.EmbeddingBag; "
            f"{_listed(known)}"
        )
    names = [path for table in known for path in (table.path, *table.aliases)]
    near = difflib.get_close_matches(key, names + [_parts(name)[-1] for name in names if name], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"tables: no module {key!r}{hint}; {_listed(known)}")


def _fits(key: str, path: str) -> bool:
    """Whether a key is a path or its last names."""
    if not key:
        return not path
    wanted, there = _parts(key), _parts(path)
    return there[-len(wanted) :] == wanted


def _parts(path: str) -> list[str]:
    """Names of a path; "tables[0].item" has the names tables, 0 and item."""
    names = re.split(r"[.\[\]]+", path)
    return [name.strip("'\"") for name in names if name and name not in _WRAPPERS]


def _listed(known: list[Table]) -> str:
    if not known:
        return "the model has no nn.Embedding or nn.EmbeddingBag"
    shapes = [f"{t.name} [{t.module.num_embeddings}, {t.module.embedding_dim}]" for t in known[:20]]
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"its tables are {', '.join(shapes)}{more}"


def _shown(key: Any) -> str:
    return repr(key) if isinstance(key, str) else getattr(key, "__name__", type(key).__name__)
