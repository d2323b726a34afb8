"""Scores rows with an export of ``resemb export``; needs torch, or with --onnx only onnxruntime.

python examples/score_exported.py EXPORT rows.jsonl [--onnx]

A row is a line of JSON with the raw ids that the model was trained on, oldest event first:

    {"target": "item-3", "history": ["item-7", "item-1"]}

Printed is the same line with its logit and probability. Ids that the model has not seen share one vector; how many
there were is said at the end, on standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 1024


def read_about(folder: Path, model: str) -> dict[str, Any]:
    """``export.json``; the files that scoring reads must have the digests that it holds."""
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    if model not in about["sha256"]:
        raise ValueError(f"{folder} was exported without {model}")
    for name in ("items.json", model, f"{model}.data"):
        digest = about["sha256"].get(name)
        if digest is not None and hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{folder / name} is not the file that was written: its sha256 differs; export again")
    return about


class IdMap:
    """Raw ids to the numbers that the model takes; unseen ids share one number, and are counted."""

    def __init__(self, folder: Path) -> None:
        held = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        first = held["first"]
        self.numbers = {value: first + rank for rank, value in enumerate(held["values"])}
        self.oov, self.padding = held["oov"], held["padding"]
        self.kind = str if held["kind"] == "text" else int
        self.seen = self.unseen = 0

    def __call__(self, raw: Any) -> int:
        if type(raw) is not self.kind:
            expected = "text" if self.kind is str else "integers"
            raise ValueError(f"rows: ids must be {expected}, as in training; found {raw!r}")
        number = self.numbers.get(raw, self.oov)
        self.seen += 1
        self.unseen += number == self.oov
        return int(number)


def torch_scorer(folder: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Logits from ``model.pt2``."""
    import torch

    model = torch.export.load(folder / "model.pt2").module()

    def score(target: np.ndarray, history: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(target), torch.from_numpy(history)).numpy()

    return score


def onnx_scorer(folder: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Logits from ``model.onnx``."""
    import onnxruntime

    path = str(folder / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def score(target: np.ndarray, history: np.ndarray) -> np.ndarray:
        return session.run(["logit"], {"target": target, "history": history})[0]

    return score


def read_row(line: str, number: int) -> dict[str, Any]:
    """The object of a line; text as a history would be taken for a list of letters."""
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError(f"rows: line {number} is not JSON") from None
    if not isinstance(row, dict) or "target" not in row or not isinstance(row.get("history") or [], list):
        raise ValueError(
            f"rows: line {number}: expected an object with a target and a list of ids as history, found {line.strip():.60}"
        )
    return row


def batches(rows: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows of a file, some at a time."""
    held: list[dict[str, Any]] = []
    with open(rows, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                held.append(read_row(line, number))
            if len(held) == BATCH:
                yield held
                held = []
    if held:
        yield held


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores rows with an exported model.")
    parser.add_argument("folder", type=Path, metavar="EXPORT")
    parser.add_argument("rows", type=Path, metavar="ROWS.jsonl")
    parser.add_argument("--onnx", action="store_true", help="score with onnxruntime")
    args = parser.parse_args()

    about = read_about(args.folder, "model.onnx" if args.onnx else "model.pt2")
    longest, items = about["max_history"], IdMap(args.folder)
    score = (onnx_scorer if args.onnx else torch_scorer)(args.folder)
    for rows in batches(args.rows):
        target = np.array([items(row["target"]) for row in rows], dtype=np.int64)
        history = np.full((len(rows), longest), items.padding, dtype=np.int64)
        for place, row in enumerate(rows):
            newest = [items(raw) for raw in row.get("history") or []][-longest:]
            history[place, : len(newest)] = newest
        logits = score(target, history).astype(np.float64)
        for row, logit in zip(rows, logits.tolist(), strict=True):
            probability = 1 / (1 + np.exp(-logit))
            print(json.dumps({**row, "logit": logit, "probability": float(probability)}))
    if items.unseen:
        print(f"{items.unseen} of {items.seen} ids were not in training", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"score_exported: {error}")
