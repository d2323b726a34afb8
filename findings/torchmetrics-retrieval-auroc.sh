#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.13.0, Python 3.11, CPU): RetrievalAUROC, the library's AUC averaged over users.
#
# Expected: a user whose rows have one class only has no AUC, and empty_target_action="skip" leaves such users out.
# Seen: "skip" leaves out users without a positive. A user with positives only counts as 0.0 in the mean, whatever
#       the option says, and no warning is given. On the six rows below, where the one user with both classes is
#       ranked perfectly, "skip" gives 0.5, "neg" (the default) 0.3333 and "pos" 0.6667.
#
# So the value falls with the share of users who clicked everything they saw. It cannot be compared with a gAUC that
# leaves out users of one class (resemb_ext.metrics.gauc, FuxiCTR). Drop the rows of those users beforehand.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "torchmetrics==1.9.0" "torch>=2.11,<2.14" numpy
"$place/venv/bin/python" - <<'PY'
import warnings

import torch
from torchmetrics.retrieval import RetrievalAUROC

scores = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.3, 0.2])
labels = torch.tensor([1, 0, 1, 1, 0, 0])
users = torch.tensor([0, 0, 1, 1, 2, 2])  # both classes; positives only; negatives only
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    mean = {
        action: round(float(RetrievalAUROC(empty_target_action=action)(scores, labels, indexes=users)), 4)
        for action in ("skip", "neg", "pos")
    }
print(mean, "warnings:", len(seen))
assert mean == {"skip": 0.5, "neg": 0.3333, "pos": 0.6667} and not seen, "the behaviour has changed"
PY
