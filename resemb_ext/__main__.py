"""``python -m resemb_ext``: the same as ``resemb``."""

import sys

from resemb_command import main

if __name__ == "__main__":
    sys.exit(main())
