"""The training samples of a log, in the form that each library's users give it."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np

import resemb_ext as rx
from benchmarks.frameworks.settings import PADDING
from resemb_ext.data import Samples

MAX_HISTORY = 50


def simulated(items: int, samples: int, seed: int = 0) -> rx.data.Log:
    """A log with many items: as many users as give the samples, with 10 to 22 events each."""
    users = max(100, -(-samples // 16))
    return rx.data.simulate(users=users, items=items, domains=max(2, items // 5000), seed=seed)[0]


def draw(log: rx.data.Log, count: int, seed: int = 0) -> tuple[Samples, rx.InterestGraph]:
    """``count`` training samples that have a history, or all where there are fewer, and the graph of the training events.

    Every library can take these: an empty history is a matter of its own in each.
    """
    split = rx.data.split(log)
    samples = rx.data.make_train_samples(split, max_history=MAX_HISTORY, seed=seed)
    rows = np.flatnonzero(samples.end > samples.start)
    rows = np.random.default_rng(seed).permutation(rows)[:count]
    parts = {name: getattr(samples, name)[rows] for name in ("user", "target", "label", "start", "end", "target_seen")}
    graph = rx.InterestGraph.from_log(split.train, window=3, top_k=10)
    return dataclasses.replace(samples, **parts), graph


def padded(samples: Samples) -> dict[str, np.ndarray]:
    """Columns item [N], history [N, L] padded behind to the longest, length [N], user [N] from 1 on, and label [N]."""
    batch = samples.batch(slice(None))
    lengths = samples.end - samples.start
    history = np.full((len(samples), int(lengths.max())), PADDING, dtype=np.int64)
    history[np.arange(history.shape[1]) < lengths[:, None]] = batch.history
    return {"item": batch.target, "history": history, "length": lengths, "user": batch.user + 1, "label": batch.label}


def write(folder: Path, samples: Samples, graph: rx.InterestGraph) -> dict[str, Any]:
    """Writes what every side reads, and returns the sizes.

    ``samples.pkl`` and ``graph.npz`` are ours, ``train.npz`` is of FuxiCTR and DeepCTR-Torch, and the folder ``recbole``
    holds atomic files.
    """
    columns = padded(samples)
    about = {
        "items": int(samples.num_items),
        "users": int(columns["user"].max()) + 1,
        "samples": len(samples),
        "mean_history": round(float(columns["length"].mean()), 2),
        "longest_history": columns["history"].shape[1],
        "positive": round(float(columns["label"].mean()), 3),
        "edges": int(graph.num_edges),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "samples.pkl", "wb") as file:
        pickle.dump(samples, file)
    graph.save(folder / "graph.npz")
    np.savez(folder / "train.npz", **columns, num_items=samples.num_items)
    _write_recbole(folder / "recbole", columns, samples.num_items)
    return about


def _write_recbole(folder: Path, columns: dict[str, np.ndarray], num_items: int) -> None:
    """Atomic files with one row a sample. All items are listed, so that RecBole's table has them too."""
    folder.mkdir(exist_ok=True)
    rows = zip(*(columns[name] for name in ("user", "item", "label", "length")), columns["history"], strict=True)
    lines = ["user_id:token\titem_id:token\tlabel:float\titem_id_list:token_seq"]
    for user, item, label, length, history in rows:
        lines.append(f"{user}\t{item}\t{label:.0f}\t{' '.join(map(str, history[:length]))}")
    (folder / "recbole.train.inter").write_text("\n".join(lines) + "\n")
    few = "\n".join(lines[:65]) + "\n"  # RecBole asks for all parts
    for part in ("valid", "test"):
        (folder / f"recbole.{part}.inter").write_text(few)
    (folder / "recbole.item").write_text("item_id:token\n" + "".join(f"{i}\n" for i in range(1, num_items)))
