"""Tables as readers see them: the format of their files, rows, versions and raw ids.

Needs NumPy alone, and nothing of ``resemb_ext`` beside this folder, which can be copied to where no torch is.
"""

from .bundle import Bundle, BundleError, Scores
from .deltas import Delta, DeltaHeader, read_delta, read_delta_header, write_delta
from .errors import TableError
from .format import TableHeader, check_rows, map_rows, open_table, read_header, write_table
from .idmap import Items
from .rows import DTYPES, decode, encode, row_bytes
from .snapshot import Snapshot, apply, open_base, read_snapshot, read_version
from .versions import Head, folder_of, read_head

__all__ = [
    "DTYPES",
    "Bundle",
    "BundleError",
    "Delta",
    "DeltaHeader",
    "Head",
    "Items",
    "Scores",
    "Snapshot",
    "TableError",
    "TableHeader",
    "apply",
    "check_rows",
    "decode",
    "encode",
    "folder_of",
    "map_rows",
    "open_base",
    "open_table",
    "read_delta",
    "read_delta_header",
    "read_head",
    "read_header",
    "read_snapshot",
    "read_version",
    "row_bytes",
    "write_delta",
    "write_table",
]
