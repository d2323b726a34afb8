"""What study ``bound`` compares, written before the results and kept with them."""

from __future__ import annotations

from typing import Any

PROTOCOL: dict[str, Any] = {
    "version": 2,
    "primary": "cells term and radius term of the bound against the loss's ceiling; vacuous where "
    "their sum is above it",
    "comparisons": [
        "bound against the measured gap, held-out users minus training users",
        "training loss plus bound against a coin's loss, ln 2",
        "plain against res, whole histories against the newest event",
    ],
}
