"""What study ``delay`` compares, written before the results and kept with them."""

from __future__ import annotations

from typing import Any

PROTOCOL: dict[str, Any] = {
    "version": 2,
    "primary": "held-out log-likelihood an event, delay model minus each rival, users independent",
    "choice": "lowest BIC on the training users among independent, delay, markov, mixture",
    "comparisons": [
        "delay against independent",
        "delay against markov",
        "delay against mixture",
        "delay+mixture against mixture: a stay beyond fixed interests",
    ],
    "domains": "category; category on first meetings of items, where a log has returns; communities of "
    "the other half's graph (communities of the same events are circular and serve as a warning only)",
    "graph": "test AUC and gAUC of Res-embedding when one option of its graph is changed: exploratory, not corrected",
}
