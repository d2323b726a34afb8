"""What study ``quantised`` compares, written before the results and kept with them."""

from __future__ import annotations

from typing import Any

from resemb_ext.study.compact.protocol import OPTIONS as _COMPACT

MARGIN = 0.0005
DTYPES = ("float16", "int8", "int4")
MODELS = ("dnn", "din")
PROTOCOL: dict[str, Any] = {
    "version": 1,
    "primary": "test gAUC of the same trained model with its item table in int8 minus in float32, Res-embedding (link "
    "average) with category: DNN and DIN, amazon-beauty, amazon-toys, ml-1m; at most 0.0005 either way, mean over seeds",
    "margin": MARGIN,
    "tables": "the folded item table E, encoded and decoded by row as resemb_ext.serving.lite does, in float16, int8 and "
    "int4; the other layers and the table of categories stay in float32",
    "seeds": "1 and 2",
    "options": "those of study compact, but for D = 64, at which an int8 row takes 72 bytes in place of 256",
    "test": "all rows, scored at the epoch that validation gAUC picks; the same rows for every dtype",
}

#: Options of every run, whatever the defaults of training become.
OPTIONS: dict[str, Any] = {**_COMPACT, "dim": 64, "attention_hidden": (36,)}
SEEDS = (1, 2)
