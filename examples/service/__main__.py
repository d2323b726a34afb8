"""``python -m examples.service BUNDLE``: serves a bundle of ``resemb export --table`` over HTTP.

Needs numpy, onnxruntime, fastapi and uvicorn, and neither torch nor resemb_ext: the bundle brings what scores. That is
Python code, so serve only bundles whose maker you trust. SIGTERM and Ctrl-C end the service when the requests that it
took are answered.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from pathlib import Path


def main() -> int:
    """Runs the service until it is told to stop."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of resemb export --table")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one, which is printed (default: 8000)")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime (default: 1)")
    parser.add_argument("--max-batch", type=int, default=512, help="rows scored at a time (default: 512)")
    parser.add_argument("--max-waiting", type=int, default=4096, help="rows that may wait (default: 4096)")
    parser.add_argument("--max-rows", type=int, default=1024, help="rows of a request (default: 1024)")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between looks for a new version (default: 1)")
    args = parser.parse_args()
    for name in ("threads", "max_batch", "max_waiting", "max_rows", "poll"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(args, name)}, expected more than 0")
    sys.path.insert(0, str(args.bundle.resolve()))
    try:
        import uvicorn
        from resemb_lite.bundle import Bundle

        from .app import Settings, create_app

        bundle = Bundle.open(args.bundle, threads=args.threads)
    except (ImportError, ValueError, OSError) as error:
        print(f"examples.service: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    settings = Settings(args.max_batch, args.max_waiting, args.max_rows, args.poll)
    config = uvicorn.Config(create_app(bundle, settings), log_level="warning", timeout_graceful_shutdown=10)
    listening = socket.create_server((args.host, args.port), backlog=1024)
    host, port = listening.getsockname()[:2]
    print(f"serving {args.bundle} at http://{host}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
