"""``python -m examples.service.publisher TABLE``: publishes versions with random rows changed, until it is told to stop.

For the load test: a training pipeline would call ``resemb publish``. Needs resemb_ext.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import numpy as np

from resemb_ext.serving.lite import decode, read_snapshot
from resemb_ext.serving.publish import publish_rows


def main() -> int:
    """Publishes until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.service.publisher", description=__doc__)
    parser.add_argument("table", type=Path, metavar="TABLE", help="file of a table")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between versions (default: 1)")
    parser.add_argument("--share", type=float, default=0.01, help="of the rows that change (default: 0.01)")
    args = parser.parse_args()
    if args.every <= 0 or not 0 < args.share <= 1:
        parser.error("--every must be above 0, and --share above 0 and at most 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    draw = np.random.default_rng(0)
    print("publishing", flush=True)
    while True:
        now = read_snapshot(args.table)
        rows = np.sort(draw.choice(now.rows, max(1, int(args.share * now.rows)), replace=False))
        rows = rows[rows != now.header.padding]
        vectors = decode(now.gather(rows), now.header.dtype, now.header.dim)
        noise = draw.normal(0, 0.1 * float(vectors.std()) + 1e-6, vectors.shape)
        publish_rows(args.table, rows, vectors + noise.astype(np.float32))
        time.sleep(args.every)


if __name__ == "__main__":
    sys.exit(main())
