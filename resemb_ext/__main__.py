"""``python -m resemb_ext``: the same as ``resemb``."""

import sys

from resemb_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
