"""What study ``radius`` compares, written before the results and kept with them."""

from __future__ import annotations

from typing import Any

PROTOCOL: dict[str, Any] = {
    "version": 2,
    "primary": "generalisation gap (held-out minus training logloss, same negative ratio) at matched "
    "training logloss, the lowest that all four runs of a seed reach: the smallest gamma minus "
    "gamma 1, for true or given domains minus the same for random domains of equal sizes; paired over "
    "seeds, 95 % t interval",
    "comparisons": [
        "primary",
        "test logloss at matched training logloss, same contrast",
        "held-out logloss at the epoch chosen on validation, same contrast",
        "gap at that epoch, same contrast (confounded by how far a model fits)",
        "the four above for the largest gamma instead of the smallest",
    ],
    "null": "the simulated log without domains, and random domains against other random ones: no difference",
    "tuning": "learning rate per gamma, domains and seed, by validation logloss; test unseen",
    "circular": "communities and item2vec clusters of the training events: reported, never the claim",
    "sweeps": "residual scale and residual decay of Res-embedding: exploratory",
}
