#!/usr/bin/env bash
# torch 2.13.0 (CPU), Python 3.11: the store that torchrun gives its processes, after --max-restarts has started them anew.
#
# Expected: a new store for every start: torch.distributed.rendezvous._create_c10d_store says so in a comment, and
#           therefore adds no prefix for each start.
# Seen: keys of the start before are still there, with --standalone and with --master-port. init_process_group and
#       new_group exchange addresses by such keys. A rank that is quicker than another reads where that one was
#       before, and fails with "Gloo connectFullMesh failed ... Connection refused".
# Way out: a dist.PrefixStore by TORCHELASTIC_RESTART_COUNT over the store, given to init_process_group.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "torch==2.13.0" "numpy<3"
cd "$place"
cat > work.py <<'PY'
import os
import sys

import torch.distributed as dist

store, rank, ranks = next(dist.rendezvous("env://"))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    store.set("of the first start", "here")
    sys.exit(1)
print("kept:", store.check(["of the first start"]))
PY
for how in "--standalone" "--master-port 29511"; do
  # shellcheck disable=SC2086
  venv/bin/torchrun $how --nproc-per-node 1 --max-restarts 1 work.py 2>/dev/null | tee told
  grep -q "kept: True" told || { echo "the behaviour has changed"; exit 1; }
done
