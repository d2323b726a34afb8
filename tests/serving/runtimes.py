"""The runtimes that docs/serve.md names, each as a function of inputs by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

Score = Callable[[Mapping[str, Tensor]], Tensor]


def has(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


HAS_ONNX = has("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason='needs ONNX: pip install -e ".[onnx]"')
needs_openvino = pytest.mark.skipif(not has("openvino"), reason="needs OpenVINO: pip install openvino")

#: The runtimes of an exported program; beside them "eager" is the module itself.
RUNTIMES = [
    "torch.export",
    pytest.param("onnxruntime", marks=needs_onnx),
    pytest.param("openvino", marks=[needs_onnx, needs_openvino]),
]
#: Ids that no table of a few rows has. OpenVINO on a CPU takes the lower 32 bits of an input, before the model sees it.
NARROW = [-1, -7, 2**31 - 1]
WIDE = [*NARROW, 2**31, -(2**31) - 1, 2**62, -(2**63)]


def ids_of(runtime: str) -> list[int]:
    """Ids that a runtime can be given."""
    return NARROW if runtime == "openvino" else WIDE


def scorer(runtime: str, folder: Path) -> Score:
    """``model.pt2`` or ``model.onnx`` of a folder in a runtime."""
    if runtime == "torch.export":
        from resemb_ext.serving.writing import torch_runner

        run = torch_runner(folder / "model.pt2")
    elif runtime == "onnxruntime":
        from resemb_ext.serving.writing import onnx_runner

        run = onnx_runner(folder / "model.onnx")
    else:
        run = _openvino(folder / "model.onnx")
    return lambda inputs: torch.from_numpy(run({name: value.numpy() for name, value in inputs.items()}).copy())


def _openvino(path: Path) -> Callable:
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: model(dict(inputs))[0]
