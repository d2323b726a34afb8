"""A graph as the one tensor that a state_dict keeps of it.

Its hash alone is float32 [64], the hash's hexadecimal digits as numbers from 0 to 15: averages over checkpoints, casts
to half precision and other loops over a state_dict's floating values leave them readable. A graph that is kept whole
is uint8: the 64 digits as text, those of the sha256 of all that follows, then the arrays and the link as safetensors.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from resemb_ext.graph import InterestGraph

_ARRAYS = ("indptr", "neighbors", "weights", "degree")
_DIGITS = 64
_OFF = 0.25  # how far a digit may have moved


def encode(graph: InterestGraph, whole: bool) -> Tensor:
    """The tensor of a graph's hash, or of the whole graph."""
    if not whole:
        return torch.tensor([float(int(digit, 16)) for digit in graph.hash])
    arrays = {name: np.ascontiguousarray(getattr(graph, name)) for name in _ARRAYS}
    text = np.frombuffer(graph.link.encode(), np.uint8)
    body = safetensors.numpy.save({**arrays, "link": text})
    head = graph.hash + hashlib.sha256(body).hexdigest()
    return torch.frombuffer(bytearray(head.encode() + body), dtype=torch.uint8)


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
        content = state.cpu().numpy().tobytes()
        digest, body = content[_DIGITS : 2 * _DIGITS], content[2 * _DIGITS :]
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise damaged
        found = dict(safetensors.numpy.load(body))
        found["link"] = found["link"].tobytes().decode()
    else:
        raise ValueError(f"state_dict: no graph under {name}; it is kept with save_graph=True")
    graph = InterestGraph(**found)
    if graph.hash != hash_of(state):
        raise damaged
    return graph
