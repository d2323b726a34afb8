"""Tables of a feature map of FuxiCTR."""

from __future__ import annotations

from typing import NamedTuple

from fuxictr.features import FeatureMap


class Field(NamedTuple):
    """A table of the feature map.

    Attributes:
        name: the field that owns it.
        sequences: sequence fields that look up in it.
        rows: its number of rows.
        oov: its out-of-vocabulary row.
    """

    name: str
    sequences: tuple[str, ...]
    rows: int
    oov: int


def item_field(feature_map: FeatureMap, item: str | None) -> Field:
    """The table of the items.

    Args:
        item: its field, or one that shares it; None: the only one that a sequence shares.
    """
    if not isinstance(feature_map, FeatureMap):
        raise TypeError(f"feature_map: found {type(feature_map).__name__}; expected FuxiCTR's FeatureMap")
    fields = owners(feature_map)
    if item is None:
        shared = {owner for name, owner in fields.items() if name != owner and _kind(feature_map, name) == "sequence"}
        if len(shared) != 1:
            found = f"sequences share the tables of {', '.join(sorted(shared))}" if shared else "no sequence shares one"
            raise ValueError(f"item: found None, and {found}; name the item field, one of {', '.join(fields)}")
        item = shared.pop()
    if item not in fields:
        raise ValueError(f"item: found {item!r}; expected a field with ids, one of {', '.join(fields)}")
    owner = fields[item]
    spec = feature_map.features[owner]
    sequences = tuple(name for name, of in fields.items() if of == owner and _kind(feature_map, name) == "sequence")
    rows = int(spec["vocab_size"])
    return Field(owner, sequences, rows, int(spec.get("oov_idx", rows - 1)))


def owners(feature_map: FeatureMap) -> dict[str, str]:
    """Of each field with ids, the field whose table it looks up in."""
    found: dict[str, str] = {}
    for name, spec in feature_map.features.items():
        if spec["type"] in ("categorical", "sequence"):
            # As FuxiCTR: a field that stands before the one it would share with has a table of its own.
            found[name] = found.get(spec.get("share_embedding"), name)
    return found


def _kind(feature_map: FeatureMap, name: str) -> str:
    return feature_map.features[name]["type"]
