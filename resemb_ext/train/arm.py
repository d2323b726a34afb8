"""The training of one arm with one seed, and what a run tells of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from resemb_ext import metrics
from resemb_ext.data import Samples
from resemb_ext.distributed.whole import inner, whole_parameters
from resemb_ext.runtime.files import plain
from resemb_ext.runtime.peak_memory import PeakMemory
from resemb_ext.runtime.progress import Progress, RunWarning

from .clock import mean_seconds
from .config import RunConfig
from .inputs import made_for
from .loop import fit
from .prepare import Prepared, build_dealt, build_model, fit_parts, item_vectors
from .ranks import ALONE, Ranks
from .smoothing import smooth
from .statistics import shown


def train_arm(
    config: RunConfig,
    prepared: Prepared,
    train: Samples,
    arm: str,
    seed: int,
    *,
    place: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Any], np.ndarray]:
    """Trains one arm with one seed.

    Args:
        config: options of the run.
        prepared: what all arms share.
        train: training samples of the seed.
        arm: "plain" or "res".
        seed: of the model and of training.
        place: the arm's folder, where it goes on from the last checkpoint; None writes nothing.
        on_epoch: as of ``fit``.
        progress: where it is shown; None is silent.
        ranks: that train it together, its tables dealt over them; all of them call this.

    Returns:
        the arm's entry of ``result.json``, and its test logits, float32 [test samples].

    Raises:
        TrainingDiverged, TrainingInterrupted, ValueError, OSError: as ``fit``.
    """
    show = progress or Progress(False)
    name = f"{arm} seed {seed}"
    with PeakMemory() as memory:
        model = (build_model if ranks.alone else build_dealt)(config, prepared, arm, seed)
        parts = fit_parts(config, prepared, model, arm, seed)
        done = fit(
            model,
            train,
            prepared.valid,
            None if config.smoothing_strengths else prepared.test,
            config=config.fit_config(),
            seed=seed,
            folder=place,
            resume=place is not None,
            **parts,
            made_for={**made_for(prepared), "embedding": arm},
            on_epoch=on_epoch,
            progress=show,
            name=name,
        )
        smoothed = smooth(model, prepared, config) if config.smoothing_strengths else None
    if smoothed is not None:
        model, done.valid = smoothed.model, smoothed.valid
        done.test_scores, done.test = smoothed.test_scores, smoothed.test
        show.say(f"{name}  smoothed with strength {smoothed.about['strength']:g}, chosen by validation")
    radius = None
    if prepared.domain is not None:
        try:
            vectors = item_vectors(inner(model).get_submodule("item_embedding"))
            radius = ranks.first_does(
                lambda: metrics.aggregation_radius(
                    vectors, prepared.domain, seen=prepared.split.item_counts, domain_source=prepared.domain_source
                )
            )
        except (ValueError, MemoryError) as error:  # a diverged row that validation does not look up, say
            warnings.warn(f"{name}: no aggregation radius: {error}", RunWarning, stacklevel=2)
    assert done.test is not None and done.test_scores is not None
    show.say(f"{name}  test gAUC {shown(done.test['gauc'])}  AUC {shown(done.test['auc'])}")
    entry = {
        "embedding": arm,
        "model": config.model,
        "seed": seed,
        "valid": done.valid,
        "test": done.test,
        "aggregation_radius": None if radius is None else radius.normalised,
        "aggregation_radius_details": None if radius is None else radius.to_dict(),
        "samples_per_s": done.samples_per_s,
        "peak_memory_mb": memory.peak_mb,
        "peak_memory_before_mb": memory.before_mb,
        "peak_memory_source": memory.source,
        "epochs": done.epochs,
        "best_epoch": done.best_epoch,
        "steps": done.steps,
        "smoothing": None if smoothed is None else smoothed.about,
        "stopped": done.stopped,
        "parameters": _trained(inner(model)),
        "wall_s": done.wall_s,
        "seconds_per_epoch": mean_seconds(entry["seconds"] for entry in done.history),
        "history": done.history,
    }
    return plain(entry), done.test_scores


def _trained(model: nn.Module) -> int:
    """Numbers that are learned, on all ranks together."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return sum(value.shape.numel() for name, value in whole_parameters(model).items() if name in learned)
