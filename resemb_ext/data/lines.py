"""Text files as chunks of whole lines: decompressed, in UTF-8, with a limit to a line's length."""

from __future__ import annotations

import codecs
import io
import itertools
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

CHUNK = 1 << 20
# A longer line is refused while it is read: a small compressed file may hold one of gigabytes.
LINE_LIMIT = 1 << 25
_LINE_END = re.compile(rb"\r\n|\n|\r")
# How files begin that are no text.
_OTHERS = (
    (b"\x1f\x8b", "it is compressed; its name must end in .gz"),
    (b"BZh", "it is compressed; its name must end in .bz2"),
    (b"\x28\xb5\x2f\xfd", "it is compressed; its name must end in .zst"),
    (b"PK\x03\x04", "it is a zip file or a workbook; unpack it, or save it as .csv"),
    (b"PAR1", "it is a Parquet file; its name must end in .parquet"),
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _encoding(start: bytes) -> tuple[str, int]:
    """The encoding of a text by its first bytes, and how many of them are its mark."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name, len(mark)
    # A text begins in ASCII as a rule, with a name or a number; in UTF-16 every second byte of it is zero.
    even, odd = start[:8:2], start[1:8:2]
    if len(start) >= 4 and not any(odd) and all(even):
        return "utf-16-le", 0
    if len(start) >= 4 and not any(even) and all(odd):
        return "utf-16-be", 0
    return "utf-8", 0


def chunks(path: Path, size: int) -> Iterator[bytes]:
    """The file's text in UTF-8, without a byte-order mark; every chunk but the last ends with a line.

    Args:
        path: the file, compressed or not.
        size: bytes read at a time; a chunk is about as long, but for longer lines.

    Raises:
        ValueError: a line of more than ``LINE_LIMIT`` bytes, or a file that is no text.
        OSError, UnicodeError: a damaged file.
    """
    decoder: codecs.IncrementalDecoder | None = None
    begun: list[bytes] = []  # of a line whose end is not yet read
    pending, lines = 0, 0
    with pa.input_stream(path, compression="detect") as file:
        start = file.read(size)
        while 0 < len(start) < 8 and (more := file.read(size)):
            start += more
        for begin, what in _OTHERS:
            if start.startswith(begin):
                raise ValueError(what)
        name, mark = _encoding(start)
        if name != "utf-8":
            decoder = codecs.getincrementaldecoder(name)()
        for block in itertools.chain([start[mark:]], iter(lambda: file.read(size), b"")):
            if decoder is not None:
                block = decoder.decode(block).encode()
            cut = block.rfind(b"\n") + 1
            if not cut:  # lines may end with a carriage return alone, unless a line feed follows in the next block
                cut = block.rfind(b"\r", 0, max(len(block) - 1, 0)) + 1
            if cut:
                whole = b"".join((*begun, block[:cut]))
                lines += whole.count(b"\n")
                yield whole
                begun, pending = [], 0
            begun.append(block[cut:])
            pending += len(block) - cut
            if pending > LINE_LIMIT:
                raise ValueError(f"line {lines + 1} is longer than {LINE_LIMIT >> 20} MiB; is it a text file of lines?")
    if decoder is not None:
        decoder.decode(b"", final=True)
    if rest := b"".join(begun):
        yield rest


class LineStream:
    """``chunks`` as a file that Arrow's readers take: each of its reads gives one chunk.

    A chunk ends with a line, so that Arrow never sees a carriage return and its line feed in different blocks:
    within quotes it would lose the line feed.

    Args:
        path: the file.
        size: as of ``chunks``.
        skip: lines to leave out at the start.
        look: called with every chunk.
    """

    closed = False

    def __init__(self, path: Path, size: int, skip: int = 0, look: Callable[[bytes], None] | None = None) -> None:
        self._chunks = chunks(path, size)
        self._skip, self._look = skip, look
        self._first = self._next()

    def at_end(self) -> bool:
        """Whether there is nothing to read."""
        return not self._first

    def read(self, size: int = -1) -> bytes:
        """The next chunk, whatever ``size`` is; empty at the end."""
        chunk, self._first = self._first or self._next(), b""
        return chunk

    def _next(self) -> bytes:
        for chunk in self._chunks:
            while self._skip and chunk:
                end = _LINE_END.search(chunk)
                chunk = chunk[end.end() :] if end else b""
                self._skip -= 1
            if chunk:
                if self._look is not None:
                    self._look(chunk)
                return chunk
        return b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._chunks.close()  # type: ignore[attr-defined]
        self.closed = True


@contextmanager
def lent(stream: Any) -> Iterator[list[Any]]:
    """Lends a Python file to Arrow, and waits at the end until Arrow's threads have let go of it.

    The one that lets go last takes the interpreter's lock. Where the interpreter ends meanwhile, that aborts the
    process. The block pops the file from the list, and keeps no reference to it; so may the caller.
    """
    held, gone = [stream], weakref.ref(stream)
    del stream
    try:
        yield held
    finally:
        held.clear()
        until = time.monotonic() + 1
        while gone() is not None and time.monotonic() < until:
            time.sleep(0.0002)


def text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends, which are line feeds, carriage returns or both; bad bytes become U+FFFD."""
    for chunk in chunks(path, CHUNK):
        # Not str.splitlines, which also ends lines at form feeds and the like.
        yield from io.StringIO(chunk.decode(errors="replace"), newline="")


def filled_lines(chunk: bytes) -> int:
    """How many lines of a chunk are not empty."""
    if b"\r" in chunk:
        chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
    lengths = np.diff(ends, prepend=-1)
    return int((lengths > 1).sum()) + (len(chunk) > (ends[-1] + 1 if len(ends) else 0))
