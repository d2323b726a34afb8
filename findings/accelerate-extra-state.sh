#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0 (CPU), Python 3.11: load_checkpoint_in_model into a module that keeps extra state in
# its state_dict, as nn.Module.get_extra_state and set_extra_state of PyTorch define it.
#
# Expected: the file that the model's own state_dict filled loads, with and without device_map; set_extra_state is called.
# Seen: without device_map it loads. With device_map={"": "cpu"} every key of the file is taken for a parameter or
#       buffer: "Layer() does not have a parameter or a buffer named _extra_state." So no model with such a module can
#       be loaded in parts.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "torch==2.13.0" "numpy<3" "accelerate==1.15.0"
cd "$place"
venv/bin/python - <<'PY'
import torch
from accelerate import load_checkpoint_in_model
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.version = torch.tensor(1)

    def get_extra_state(self):
        return self.version

    def set_extra_state(self, state):
        self.version = state


saved = Layer()
saved.version = torch.tensor(7)
torch.save(saved.state_dict(), "model.bin")
whole = Layer()
load_checkpoint_in_model(whole, "model.bin")
print("without device_map:", whole.version)
assert whole.version == 7, "the behaviour has changed"
try:
    load_checkpoint_in_model(Layer(), "model.bin", device_map={"": "cpu"})
except ValueError as error:
    print("with device_map:", error)
    assert "does not have a parameter or a buffer named _extra_state" in str(error), "the behaviour has changed"
else:
    raise SystemExit("the behaviour has changed")
PY
