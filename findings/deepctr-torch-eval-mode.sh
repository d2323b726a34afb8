#!/usr/bin/env bash
# deepctr-torch 0.3.0 (torch 2.13.0, Python 3.11, CPU): fit with validation data.
#
# Expected: every epoch trains in training mode, so that dropout drops and batch statistics are updated in each.
# Seen: fit calls train() once, before the first epoch. The validation after it calls eval(), and nothing calls train()
#       again: epochs 2 and later train in eval mode, without dropout, on frozen batch statistics (those of Dice in DIN
#       too). Without validation data all epochs train in training mode. No warning is given.
#
# So a model that is validated while it trains is not the same as one that is not. Call fit for one epoch at a time.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "deepctr-torch==0.3.0" requests "torch>=2.11,<2.14" numpy
"$place/venv/bin/python" - <<'PY'
import numpy as np
from deepctr_torch.callbacks import Callback
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import WDL


class Modes(Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(self.model.training)


x, y = {"item": np.arange(64) % 8}, (np.arange(64) % 2).astype(np.float32)
seen = {}
for name, options in {"without": {}, "validated": {"validation_data": (dict(x), y)}}.items():
    model = WDL([], [SparseFeat("item", 8, 4)], dnn_dropout=0.5, device="cpu")
    model.compile("adam", "binary_crossentropy", metrics=["auc"])
    modes = Modes()
    model.fit(dict(x), y, epochs=3, verbose=2, callbacks=[modes], **options)
    seen[name] = modes.seen
print("training mode at the start of each epoch:", seen)
assert seen == {"without": [True] * 3, "validated": [True, False, False]}, "the behaviour has changed"
PY
