"""Tests of an adapter lie in the folder of its environment, and skip where the framework is not installed.

``.ci/frameworks`` sets RESEMB_REQUIRE_FRAMEWORK to the environment's name, where a missing framework is an error.
"""

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest


def framework(name: str, test_file: str) -> ModuleType:
    """Imports a framework, or skips the test file.

    Args:
        name: of the module.
        test_file: ``__file__`` of the test; its folder is named as the environment.
    """
    if os.environ.get("RESEMB_REQUIRE_FRAMEWORK") == Path(test_file).parent.name:
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed; .ci/frameworks runs these tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Frameworks that the environment happens to have are left to ``.ci/frameworks``, or to a run that names them."""
    for item in items:
        if Path(__file__).parent in item.path.parent.parents:
            item.add_marker(pytest.mark.full)
