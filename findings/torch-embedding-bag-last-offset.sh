#!/usr/bin/env bash
# torch 2.13.0 (CPU), Python 3.11: nn.EmbeddingBag(include_last_offset=True) where the last offset ends before the ids
# do, as when a batch's ids are padded to a fixed length.
#
# Expected: with include_last_offset the last offset is where the last bag ends, so ids behind it are in no bag; or an
#           error that they are.
# Seen: no error, and the answer depends on dtype and mode. float32 sums leave the ids out. float64 sums count them in
#       the last bag. float32 means divide the sum without them by the number with them, which is neither mean. Cut the
#       ids at the last offset before the call.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "torch==2.13.0" "numpy<3"
cd "$place"
venv/bin/python - <<'PY'
import torch
from torch import nn

vectors = torch.arange(10.0)[:, None].repeat(1, 2)
ids, offsets = torch.tensor([3, 3, 1, 0, 5, 7]), torch.tensor([0, 1, 4])  # 5 and 7 lie behind the last bag
last = {}
for dtype in (torch.float32, torch.float64):
    for mode in ("sum", "mean"):
        bag = nn.EmbeddingBag.from_pretrained(vectors.to(dtype), mode=mode, include_last_offset=True)
        last[str(dtype)[6:], mode] = round(float(bag(ids, offsets)[-1, 0]), 6)
print("last bag, ids 3, 1, 0:", last)
expected = {("float32", "sum"): 4.0, ("float32", "mean"): 0.8, ("float64", "sum"): 16.0, ("float64", "mean"): 3.2}
assert last == expected, "the behaviour has changed"
PY
