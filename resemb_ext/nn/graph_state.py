"""A graph as the one tensor that a state_dict keeps of it.

Its hash alone is float32 [64], the hash's hexadecimal digits as numbers from 0 to 15: averages over checkpoints, casts
to half precision and other loops over a state_dict's floating values leave them readable. A graph that is kept whole
is uint8: the 64 digits as text, those of the sha256 of all that follows, then the arrays and the link as safetensors.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resemb_ext.graph import InterestGraph

_ARRAYS = ("indptr", "neighbors", "weights", "degree")
_DIGITS = 64
_NAMES = {"i8": "I64", "i4": "I32", "f8": "F64", "f4": "F32", "f2": "F16", "u1": "U8"}
_OFF = 0.25  # how far a digit may have moved


def encode(graph: InterestGraph, whole: bool) -> Tensor:
    """The tensor of a graph's hash, or of the whole graph, which it holds once."""
    if not whole:
        return encode_hash(graph.hash)
    arrays = {name: getattr(graph, name) for name in _ARRAYS}
    arrays["link"] = np.frombuffer(graph.link.encode(), np.uint8)
    content = np.empty(2 * _DIGITS + _size(arrays), np.uint8)
    head, body = np.split(content, [2 * _DIGITS])
    _write(arrays, body)
    head[:] = np.frombuffer((graph.hash + hashlib.sha256(body.data).hexdigest()).encode(), np.uint8)
    return torch.from_numpy(content)


def encode_hash(digits: str) -> Tensor:
    """The tensor of a graph's hash."""
    return torch.tensor([float(int(digit, 16)) for digit in digits])


# Safetensors, written and read in place: the library's own functions take and give bytes, which are two more copies
# of a graph that may be large.


def _header(arrays: dict[str, np.ndarray]) -> tuple[bytes, list[str]]:
    """What stands before the arrays, and their order: each begins at a multiple of its item's size."""
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    entries, at = {}, 0
    for name in order:
        array = arrays[name]
        past = at + array.nbytes
        entries[name] = {"dtype": _NAMES[array.dtype.str[1:]], "shape": [len(array)], "data_offsets": [at, past]}
        at = past
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _size(arrays: dict[str, np.ndarray]) -> int:
    return len(_header(arrays)[0]) + sum(array.nbytes for array in arrays.values())


def _write(arrays: dict[str, np.ndarray], to: np.ndarray) -> None:
    head, order = _header(arrays)
    to[: len(head)] = np.frombuffer(head, np.uint8)
    at = len(head)
    for name in order:
        array = arrays[name]
        place = to[at : at + array.nbytes].view(array.dtype.newbyteorder("<"))
        place[:] = array
        at += array.nbytes


def _read(body: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays, as copies."""
    begin = 8 + int.from_bytes(body[:8].tobytes(), "little")
    entries = json.loads(body[8:begin].tobytes())
    codes = {name: code for code, name in _NAMES.items()}
    arrays = {}
    for name, entry in entries.items():
        code, (first, past) = codes[entry["dtype"]], entry["data_offsets"]
        arrays[name] = body[begin + first : begin + past].view(f"<{code}").astype(code)
    return arrays


def hash_of(state: Any) -> str | None:
    """The hash in what a state_dict holds; None where it cannot be read. Dicts are of version 0.1."""
    if isinstance(state, dict):
        return state.get("graph_hash")
    if not isinstance(state, Tensor) or state.is_meta:
        return None
    if state.dtype == torch.uint8:
        text = bytes(state[:_DIGITS].cpu().numpy()).decode("ascii", "replace")
        return text if re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", text) else None
    numbers = state.detach().double().cpu()
    digits = numbers.round()
    fits = numbers.shape == (_DIGITS,) and bool(
        ((digits >= 0) & (digits <= 15) & ((numbers - digits).abs() <= _OFF)).all()
    )
    return "".join(f"{int(digit):x}" for digit in digits) if fits else None


def decode(state: Any, name: str) -> InterestGraph:
    """The whole graph.

    Args:
        state: what the state_dict holds.
        name: its key, for messages.

    Raises:
        ValueError: no graph there, or one that does not fit its hash.
    """
    damaged = ValueError(f"state_dict: the graph under {name} is damaged")
    if isinstance(state, dict) and "graph" in state:
        found = {"link": state["link"], **{key: state["graph"][key].cpu().numpy() for key in _ARRAYS}}
    elif isinstance(state, Tensor) and state.dtype == torch.uint8 and not state.is_meta:
        digest, body = np.split(state.detach().cpu().contiguous().numpy()[_DIGITS:], [_DIGITS])
        if hashlib.sha256(body.data).hexdigest().encode() != digest.tobytes():
            raise damaged
        arrays = _read(body)
        found = {**arrays, "link": arrays["link"].tobytes().decode()}
    else:
        raise ValueError(f"state_dict: no graph under {name}; it is kept with save_graph=True")
    graph = InterestGraph(**found)
    if graph.hash != hash_of(state):
        raise damaged
    return graph
