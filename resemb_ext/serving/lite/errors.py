"""The one error of tables: what is wrong with a file, in one line."""

from __future__ import annotations


class TableError(ValueError):
    """A table, a delta or what they are asked for is not as it must be; the message is one line."""
