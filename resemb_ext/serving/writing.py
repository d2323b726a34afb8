"""What every export writes: a program of a module, its ONNX form, and the folder that they lie in."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext.runtime.files import naming, staging

PROGRAM, ONNX = "model.pt2", "model.onnx"
ONNX_DATA = f"{ONNX}.data"  # where torch puts the weights of a model beyond 2 GB
# Scores of an export may differ from the model's by the order of their sums.
_RTOL, _ATOL = 1e-3, 1e-4

#: Inputs that a program of ``torch.export`` takes by position, in this order; others by name.
POSITIONAL = ("rows", "target", "history")

Inputs = Mapping[str, Tensor]
Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def write_programs(
    module: nn.Module, inputs: Sequence[Inputs], dynamic: Mapping[str, Any], place: Path, *, onnx: bool
) -> None:
    """Writes ``model.pt2`` and, where asked, ``model.onnx``, and checks what they score.

    Args:
        module: takes those of ``POSITIONAL`` by position and the others by name, and gives logits float32 [B]; in
            evaluation mode, without gradients.
        inputs: some of them; the first traces the module, and with all of them what was written must score alike.
        dynamic: the free sizes of each input, as ``torch.export`` takes them.
        place: an empty folder.
        onnx: write ``model.onnx`` as well.

    Raises:
        ValueError: the program has operators of this package, which would be needed to load it.
        RuntimeError: what was written scores otherwise than ``module``.
    """
    with _quiet():
        written = _write(module, inputs[0], dynamic, place, onnx)
    for some in inputs:
        given, named = _arguments(some)
        with torch.inference_mode():
            expected = module(*given, **named)
        for name, score in written.items():
            _same(name, torch.from_numpy(score({key: value.numpy() for key, value in some.items()})), expected)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what torch and onnxscript say of their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
        warnings.filterwarnings("ignore", message="No complete tensor found in the group", category=UserWarning)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _write(module: nn.Module, some: Inputs, dynamic: Mapping[str, Any], place: Path, onnx: bool) -> dict[str, Run]:
    """Writes the programs; gives what scores with each, by its file's name."""
    given, named = _arguments(some)
    program = torch.export.export(module, given, named, dynamic_shapes=dict(dynamic))
    foreign = sorted({str(node.target) for node in program.graph.nodes if str(node.target).startswith("resemb_ext")})
    if foreign:
        raise ValueError(
            f"model: cannot be exported, since {', '.join(foreign)} would be needed to load it; "
            "only ResEmbedding and ResEmbeddingBag have a plain table to put in its place"
        )
    # By way of memory: torch's own writer of files ends the process where the disk is full.
    content = io.BytesIO()
    torch.export.save(program, content)
    (place / PROGRAM).write_bytes(content.getbuffer())
    written: dict[str, Run] = {PROGRAM: torch_runner(place / PROGRAM)}
    if onnx:
        model = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[*some], output_names=["logit"])
        assert model is not None
        model.save(str(place / ONNX))
        written[ONNX] = onnx_runner(place / ONNX)
    return written


def _arguments(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    given = tuple(inputs[name] for name in POSITIONAL if name in inputs)
    return given, {name: value for name, value in inputs.items() if name not in POSITIONAL}


def _same(name: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, _RTOL, _ATOL):
        raise RuntimeError(f"{name}: scores {found.tolist()}; the model {expected.tolist()}")


def torch_runner(path: Path) -> Run:
    """Scores by a program of ``torch.export``; inputs by name."""
    program = torch.export.load(path).module()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        given, named = _arguments({name: torch.from_numpy(value) for name, value in inputs.items()})
        with torch.inference_mode():
            return program(*given, **named).numpy()

    return run


def onnx_runner(path: Path) -> Run:
    """Scores by an ONNX model, on the CPU; inputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logit"], dict(inputs))[0]


def need_onnx() -> None:
    """Raises ImportError where a package that writes ONNX is missing; it says how to get it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(f'onnx: needs {name} (pip install "resemb_ext[onnx]"): {error}') from error


@contextmanager
def written_into(place: Path, last: str) -> Iterator[tuple[Path, Path]]:
    """A temporary folder beside ``place`` for what will lie there: (it, ``place`` with links followed).

    ``place`` may be a link to a folder, or a folder that is there: that one may be a file system of its own, into which
    nothing can be renamed, so the temporary folder then lies in it.

    Args:
        place: the folder to write.
        last: name of the file that is written last.
    """
    target = Path(os.path.realpath(place))
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(place), staging(target / last if target.exists() else target) as beside:
        temporary = beside / target.name
        temporary.mkdir()
        yield temporary, target


def move_into(temporary: Path, place: Path, last: str, earlier: Sequence[str] = ()) -> None:
    """Moves a finished folder into place, or what it holds into a folder that is there.

    ``last`` comes last: until then its digests are those of the earlier files, and what is neither the one export nor
    the other is refused when it is loaded.

    Args:
        temporary: the finished folder.
        place: where it goes.
        last: the file in it that holds the digests.
        earlier: names in ``place`` of an earlier export, which go where the new one lacks them.
    """
    if not place.exists():
        os.replace(temporary, place)
        return
    written = {file.name for file in temporary.iterdir()}
    for name in sorted(written - {last}):
        os.replace(temporary / name, place / name)
    for name in sorted(set(earlier) - written):
        (place / name).unlink(missing_ok=True)
    os.replace(temporary / last, place / last)
