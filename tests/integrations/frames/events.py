"""Events that every library of tables is given, and what they must become."""

import numpy as np
import pandas as pd

from resemb_ext import InterestGraph
from resemb_ext.data import Log, read_log

NAMES = {"user": "who", "item": "what", "time": "when"}


def events(rows: int = 3_000, seed: int = 0) -> pd.DataFrame:
    """Numbers, text, dates and a column that nothing asks for."""
    rng = np.random.default_rng(seed)
    item = np.minimum(rng.zipf(1.4, rows), 60)
    seconds = rng.integers(0, 10**6, rows)
    return pd.DataFrame(
        {
            "who": rng.integers(0, 50, rows) + 2**40,
            "what": item,
            "when": seconds,
            "sku": np.char.add("i", item.astype(str)),
            "stamp": pd.to_datetime(1_600_000_000 + seconds, unit="s").as_unit("us"),
            "other": rng.random(rows),
        }
    )


def graph_of(frame: pd.DataFrame) -> InterestGraph:
    return InterestGraph.from_events(frame["who"], frame["what"], frame["when"], window=2, num_items=61)


def log_of(frame: pd.DataFrame) -> Log:
    return read_log(frame, user="who", item="sku", time="stamp")


def check_graph(source: object, frame: pd.DataFrame) -> None:
    """From the source, in one piece or in small batches, comes the graph of the arrays."""
    expected = graph_of(frame)
    for more in ({}, {"memory": 30_000, "batch_rows": 500}):
        built = InterestGraph.from_dataframe(source, **NAMES, window=2, num_items=61, threads=1, **more)
        assert built.hash == expected.hash and built.meta == expected.meta


def check_log(source: object, frame: pd.DataFrame) -> None:
    """From the source comes the log of the pandas frame, with text ids and dates."""
    assert read_log(source, user="who", item="sku", time="stamp").content_hash == log_of(frame).content_hash
