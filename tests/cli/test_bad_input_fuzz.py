"""Readers of logs under random bytes: a log, or one line of ValueError or TypeError."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.data import read_log, validate
from resemb_ext.testing.strategies import examples

TABLE = pd.DataFrame(
    {"user_id": [1, 2, 2, 3], "item_id": ["a", "b", "c", "a"], "timestamp": [5, 6, 7, 8], "label": [0, 1, 1, 0]}
)
HEADS = {
    "csv": "user,item,ts,label\n",
    "tsv": "user\titem\tts\n",
    "dat": "",
    "inter": "user_id:token\titem_id:token\tts:float\n",
    "json": "",
}
PARTS = [
    "1",
    "2",
    "a",
    "x y",
    "",
    "nan",
    "1.5",
    "-3",
    "1e400",
    "2020-01-01",
    "99999999999999999999",
    '"',
    "'",
    "::",
    ":",
    ",",
    "\t",
    "\n",
    "\r\n",
    "\0",
    "é",
    "\ufeff",
    '{"user": 1, "item": 2, "ts": 3}',
    '{"user": "x"}',
    "[",
    "}",
    "null",
    "true",
]


def read(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        log = read_log(path)
    except (ValueError, TypeError) as error:
        assert type(error).__module__ == "builtins" or "resemb_ext" in type(error).__module__
        assert len(str(error).splitlines()) == 1, str(error)
        assert len(str(error)) < 2000
    else:
        assert len(log) > 0
        validate(log)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("kind", HEADS)
@examples(80)
@given(st.lists(st.sampled_from(PARTS), max_size=24), st.booleans())
def test_text_of_likely_parts(folder, kind, parts, head):
    content = ((HEADS[kind] if head else "") + "".join(parts)).encode()
    read(folder / f"log.{kind}", content)


@pytest.mark.parametrize("kind", [*HEADS, "parquet", "csv.gz", "json.zst"])
@examples(30)
@given(st.binary(max_size=200))
def test_any_bytes(folder, kind, content):
    read(folder / f"log.{kind}", content)


@examples(100)
@given(st.data())
def test_damaged_parquet(folder, data):
    buffer = io.BytesIO()
    TABLE.to_parquet(buffer)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read(folder / "log.parquet", bytes(content[: data.draw(st.integers(0, len(content)))]))
    read(folder / "log.parquet", bytes(content))
