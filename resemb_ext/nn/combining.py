"""Classes of both: a subclass of nn.Embedding or nn.EmbeddingBag, with what it does in ``forward``, over a graph."""

from __future__ import annotations

import copy
import functools
import weakref
from typing import Any

import torch
from torch import nn

from resemb_ext.graph import InterestGraph

_REGISTRIES = ("_parameters", "_buffers", "_modules")
# Hooks and the like, which stay with each module.
_OF_MODULES = frozenset(vars(nn.Module()))

# By the subclass and ours; no class is kept alive.
_made: weakref.WeakKeyDictionary[type, weakref.ref[type]] = weakref.WeakKeyDictionary()


def combine(kind: type, own: Any) -> Any:
    """The class that is of both; see ``combined``.

    Args:
        kind: a subclass of ``own._plain_class``, or that class, which gives ``own``.
        own: ResEmbedding or ResEmbeddingBag.
    """
    if kind is own._plain_class:
        return own
    known = _made.get(kind)
    made = known() if known is not None else None
    if made is None:
        _check(kind, own)
        body = {"__module__": __name__, "__doc__": f"{kind.__name__} over a graph.", "_combines": (kind, own)}
        made = type(kind)(f"Res{kind.__name__}", (Combined, kind, own), body)
        _made[kind] = weakref.ref(made)
    return made


class Combined(nn.Module):
    """What a combined class adds to both."""

    _combines: tuple[type, type]

    def __init__(self, *_: Any, **__: Any) -> None:
        kind, own = self._combines
        raise TypeError(
            f"{type(self).__name__}: not constructed; make a {kind.__name__}, and "
            f"{own.__name__}.{own._from_plain_name} or resemb_ext.replace_embeddings takes it over"  # type: ignore[attr-defined]
        )

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return _empty, self._combines, self.__getstate__()  # type: ignore[attr-defined]

    def to_plain(self: Any, freeze: bool = True) -> Any:
        """A module of the plain subclass with the same vectors, and a copy of all else that it holds.

        Args:
            freeze: its weight takes no gradient.
        """
        kind, own = self._combines
        twin = kind.__new__(kind)
        plain = own.to_plain(self, freeze)
        ours = graph_attributes(own)  # type: ignore[arg-type]
        kept = {name: value for name, value in vars(self).items() if name not in ours}
        kept |= {name: {k: v for k, v in kept[name].items() if k not in ours} for name in _REGISTRIES}
        vars(twin).update(copy.deepcopy(kept))
        _add(twin, vars(plain))
        return twin.train(self.training)


def take_over(module: Any, plain: nn.Module) -> None:
    """Makes a module the combined class's, for a plain subclass; it shares what that one holds beside its table.

    Raises:
        TypeError: the plain module has attributes that ours uses for something else; classes that do not combine.
    """
    own: Any = type(module)
    kind = combine(type(plain), own)
    if clash := sorted(_names(plain) & graph_attributes(own)):  # type: ignore[arg-type]
        raise TypeError(
            f"{type(plain).__name__}: has the attributes {', '.join(clash)}, which {own.__name__} uses for something else"
        )
    held = {name: value for name, value in vars(plain).items() if name not in vars(module)}
    held |= {name: {k: v for k, v in vars(plain)[name].items() if k != "weight"} for name in _REGISTRIES}
    _add(module, held)
    module._non_persistent_buffers_set |= plain._non_persistent_buffers_set
    module.__class__ = kind


@functools.cache
def graph_attributes(own: type) -> frozenset[str]:
    """Names that a module of ResEmbedding or ResEmbeddingBag holds and a plain one does not, tables among them.

    Args:
        own: the class, or one combined with it.
    """
    bare: Any = own._combines[1] if issubclass(own, Combined) else own
    # Tables that are given are not drawn: that would move the random state, or on "meta" import torch's compiler.
    plain = bare._plain_class(1, 1, _weight=torch.zeros(1, 1))
    ours = getattr(bare, bare._from_plain_name)(plain, InterestGraph.from_csr([0, 1], [0], [1.0]))
    return frozenset(_names(ours) - _names(plain))


def _names(module: nn.Module) -> set[str]:
    return {*vars(module), *(name for registry in _REGISTRIES for name in vars(module)[registry])}


def _add(module: nn.Module, content: dict[str, Any]) -> None:
    """Adds parameters, buffers, modules and plain attributes to those of a module."""
    for name in _REGISTRIES:
        vars(module)[name].update(content[name])
    vars(module).update({name: value for name, value in content.items() if name not in _OF_MODULES})


def _empty(kind: type, own: type) -> Any:
    """For copies and pickles."""
    both = combine(kind, own)
    return both.__new__(both)


def _check(kind: type, own: Any) -> None:
    plain = own._plain_class
    ours = {name for cls in own.__mro__ if cls not in plain.__mro__ for name in vars(cls)}
    for part in kind.__mro__:
        if part in plain.__mro__:
            continue
        defined = vars(part)
        if isinstance(defined.get("weight"), property):
            raise TypeError(f"{kind.__name__}: computes its weight (is it parametrized?), and so does {own.__name__}")
        if {"__reduce__", "__reduce_ex__"} & defined.keys():
            raise TypeError(f"{kind.__name__}: has a pickling of its own")
        theirs = {name for name in defined if not name.startswith("__") and not hasattr(plain, name)}
        if clash := sorted(theirs & ours):
            raise TypeError(
                f"{kind.__name__}: defines {', '.join(clash)}, which {own.__name__} uses for something else"
            )
