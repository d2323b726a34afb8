"""What continuing a training bit for bit needs, taken from and put into a model and its optimizer."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext.nn import ResEmbeddingBase

from .checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from .config import FitConfig
from .evaluate import device_of
from .optimizer import moment_bytes
from .options import free_options

_SPARE = 16 * 2**20  # for scores, histories and what else a run writes


class Saver:
    """The ``best`` and ``last`` checkpoints of one training.

    Args:
        folder: where they go; made where it is missing.
        model, optimizer: what is saved.
        config, seed, made_for: kept with it; continuing with others is refused.

    Raises:
        ValueError: too little disk is free.
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: FitConfig,
        seed: int,
        made_for: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.config, self.seed = folder, config, seed
        self.made_for = dict(made_for or {})
        self._model, self._optimizer = model, optimizer
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, space_needed(checkpoint_sizes(model, config)))
        self._saved_at = time.monotonic()

    @property
    def can_resume(self) -> bool:
        """Whether there is a ``last`` checkpoint."""
        return (self.folder / LAST).exists()

    def due(self) -> bool:
        """Whether the last checkpoint is older than ``save_every``."""
        return time.monotonic() - self._saved_at >= self.config.save_every

    def save_last(self, progress: Mapping[str, Any]) -> None:
        """Saves weights, optimizer, random state and ``progress``.

        The tables are saved as they lie in memory, decay that is pending on rows included: applying
        it here would round otherwise than a training that is not saved at this step.

        Raises:
            OSError: it cannot be written; the message says which checkpoint is left.
        """
        device = device_of(self._model)
        state = {
            "tensors": _tensors(self._model),
            "extra": _extra(self._model),
            "optimizer": torch.optim.Optimizer.state_dict(self._optimizer),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "config": self.config.to_dict(),
            "seed": self.seed,
            "made_for": self.made_for,
            "progress": dict(progress),
        }
        self._write(LAST, state)
        self._saved_at = time.monotonic()

    def save_best(self, about: Mapping[str, Any]) -> None:
        """Saves the model's state dict and ``about``, to serve from.

        Raises:
            OSError: as ``save_last``.
        """
        state = {
            "model": self._model.state_dict(),
            "config": self.config.to_dict(),
            "seed": self.seed,
            "made_for": self.made_for,
        }
        self._write(BEST, {**state, **about})

    def _write(self, name: str, state: dict[str, Any]) -> None:
        path = self.folder / name
        try:
            save_checkpoint(path, state)
        except OSError as error:
            left = "the one before it is whole" if path.exists() else "there is none before it"
            what = f"cannot write {path}: {error.strerror}" if error.strerror else str(error)
            raise OSError(
                f"out: {what}; {left}. Make room or mend the folder, then continue with resemb train --resume"
            ) from error

    def load_last(self) -> dict[str, Any]:
        """Puts the saved state back and returns the ``progress`` that was saved with it.

        Raises:
            ValueError: the checkpoint is damaged, or of other options, another seed or model.
        """
        path = self.folder / LAST
        state = load_checkpoint(path)
        try:
            saved = {**state["config"], "seed": state["seed"]}
            _refuse_changes({**self.config.to_dict(), "seed": self.seed}, saved)
            check_made_for(path, state, self.made_for)
            _put(self._model, state["tensors"], state["extra"])
            self._optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            device = device_of(self._model)
            if device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"], device)
            return dict(state["progress"])
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} does not fit this model and optimizer: {error}") from error

    def load_best(self, epoch: int) -> None:
        """Gives the model the weights of ``best``.

        Raises:
            ValueError: the checkpoint is damaged or not that of ``epoch``.
        """
        path = self.folder / BEST
        state = load_checkpoint(path)
        if state.get("epoch") != epoch:
            raise ValueError(f"{path} is of epoch {state.get('epoch')}, expected epoch {epoch}")
        check_made_for(path, state, self.made_for)
        self._model.load_state_dict(state["model"])


def check_made_for(path: Path, state: Mapping[str, Any], made_for: Mapping[str, str]) -> None:
    """Refuses a checkpoint of other inputs; one of an older version names none.

    Args:
        path: of the checkpoint.
        state: its content.
        made_for: what the inputs are, by name.

    Raises:
        ValueError: an input differs; it is named.
    """
    saved = state.get("made_for", {})
    differ = [name for name, value in made_for.items() if saved.get(name, value) != value]
    if differ:
        raise ValueError(f"{path} was trained with other {', '.join(differ)} than those here; put back its own files")


def check_space(folder: Path, needed: int) -> None:
    """Refuses a disk that checkpoints will not fit on.

    Args:
        folder: where they go; it need not exist. Those that are there already count as room.
        needed: bytes at their peak.

    Raises:
        ValueError: fewer bytes are free.
    """
    place = folder.absolute()
    free = shutil.disk_usage(next(parent for parent in (place, *place.parents) if parent.exists())).free
    needed -= _size_of_checkpoints(folder)
    if free < needed + _SPARE:
        raise ValueError(
            f"out: {folder} has {free / 2**20:,.0f} MB of disk free, training needs about "
            f"{(needed + _SPARE) / 2**20:,.0f} MB for checkpoints and results"
        )


def _size_of_checkpoints(folder: Path) -> int:
    """Bytes of those at any depth. Another process may remove some meanwhile; they count as gone."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".safetensors"):
                with suppress(FileNotFoundError):
                    size += os.stat(os.path.join(place, name)).st_size
    return size


@dataclass(frozen=True)
class Sizes:
    """Bytes of the checkpoints of one training: ``best`` has the weights, ``last`` Adam's moments too."""

    best: int
    last: int


def checkpoint_sizes(model: nn.Module, config: FitConfig) -> Sizes:
    """Sizes of a model's checkpoints, but for small parts."""
    weights = sum(value.numel() * value.element_size() for value in _tensors(model).values())
    return Sizes(weights, weights + moment_bytes(model, config))


def space_needed(*trainings: Sizes) -> int:
    """Bytes that checkpoints need at their peak, for trainings in turn: a new one lies beside the old for a moment."""
    return sum(sizes.best + sizes.last for sizes in trainings) + max(sizes.last for sizes in trainings)


def changed_options(given: Mapping[str, Any], saved: Mapping[str, Any], kind: type) -> list[str]:
    """Options of ``kind`` that differ and may not, each as "NAME FOUND (saved: VALUE)"."""
    free = free_options(kind)
    return [
        f"{name} {given.get(name)!r} (saved: {saved.get(name)!r})"
        for name in sorted({*given, *saved} - free)
        if given.get(name) != saved.get(name)
    ]


def _refuse_changes(given: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    changed = changed_options(given, saved, FitConfig)
    if changed:
        raise ValueError(f"resume: options differ from the saved ones: {', '.join(changed)}")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without the hooks of state_dict."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _extra(model: nn.Module) -> dict[str, Any]:
    """What embeddings know themselves by besides tensors: the graph's hash and link."""
    return {
        name: {"graph_hash": module.graph.hash, "link": module.link}
        for name, module in model.named_modules()
        if isinstance(module, ResEmbeddingBase)
    }


@torch.no_grad()
def _put(model: nn.Module, saved: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    own = _tensors(model)
    differ = sorted({*own, *saved} - ({*own} & {*saved})) or [
        name for name, value in own.items() if (value.shape, value.dtype) != (saved[name].shape, saved[name].dtype)
    ]
    if differ:
        raise ValueError(f"resume: the saved model has other parameters: {', '.join(differ)}")
    if extra != _extra(model):
        raise ValueError("resume: the saved model has another graph or link")
    copy: Callable[..., Any] = Tensor.copy_
    for name, value in own.items():
        copy(value, saved[name])
