"""What the names of files say: their kinds by their suffixes, and which set of a split they hold."""

from __future__ import annotations

from pathlib import Path

from .layout import DELIMITERS

PARQUET = (".parquet", ".pq")
JSON = (".json", ".jsonl")
COMPRESSED = (".gz", ".bz2", ".zst")
SUFFIXES = (".parquet", *DELIMITERS, *JSON)

#: The part of ready-made samples, or the set of a split, that a file or folder so called holds.
SETS = {
    **{"train": "train", "training": "train"},
    **{"valid": "valid", "validation": "valid", "val": "valid", "dev": "valid"},
    "test": "test",
}


def kind_of(path: Path) -> str:
    """The suffix that says how to read the file, less that of a compression; "" for unknown."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    return kind if kind in (*PARQUET, *JSON, *DELIMITERS) else ""


def name_of(path: Path) -> str:
    """The file's name without its suffix, and that of a compression."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem
