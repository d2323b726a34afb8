"""What each study compares, set down before any test score is looked at; kept in every result."""

from __future__ import annotations

from typing import Any

PROTOCOLS: dict[str, dict[str, Any]] = {
    "delay": {
        "version": 1,
        "primary": "held-out log-likelihood an event, delay model minus each rival, users independent",
        "choice": "lowest BIC on the training users among independent, delay, markov, mixture",
        "comparisons": [
            "delay against independent",
            "delay against markov",
            "delay against mixture",
            "delay+mixture against mixture: a stay beyond fixed interests",
        ],
        "domains": "category; communities of the other half's graph (communities of the same events are "
        "circular and serve as a warning only)",
    },
    "bound": {
        "version": 1,
        "primary": "cells term and radius term of the bound against the loss's ceiling; vacuous where "
        "their sum is above it",
        "comparisons": ["bound against the measured gap", "plain against res"],
    },
    "radius": {
        "version": 1,
        "primary": "generalisation gap (held-out minus training logloss, same negative ratio) of the "
        "smallest gamma minus that of gamma 1, for true or given domains minus the same for random "
        "domains of equal sizes; paired over seeds, 95 % t interval",
        "comparisons": [
            "primary, at the epoch chosen on validation",
            "test logloss at matched training logloss, same contrast",
            "the two above for the largest gamma instead of the smallest",
        ],
        "tuning": "table learning rate per gamma, domains and seed, by validation logloss; test unseen",
        "circular": "communities of the training graph: reported, never the claim",
    },
}
