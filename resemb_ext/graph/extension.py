"""The compiled builder."""

import importlib
from typing import Any


def _load() -> Any:
    try:
        return importlib.import_module("resemb_ext.graph._builder")
    except ImportError as error:
        raise ImportError(
            "resemb_ext.graph._builder is not built for this Python; install the package"
            " (pip install ., or pip install -e . to work in the checkout)"
        ) from error


builder = _load()
