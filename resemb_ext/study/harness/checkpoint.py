"""A piece's steps on file, so that one stopped on the way does not take them again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resemb_ext.runtime.files import plain, write_json

from .results import read_json


class Checkpoint:
    """Steps taken so far, each a value and details for what was asked, in order.

    Args:
        path: the file; read where it is there and was made for the same.
        made_for: says what the steps depend on.
    """

    def __init__(self, path: Path, made_for: str) -> None:
        self.path, self.made_for = path, made_for
        kept = read_json(path) if path.exists() else {}
        self._left = list(kept["steps"]) if kept.get("made_for") == made_for else []
        self._steps: list[dict[str, Any]] = []

    def recall(
        self, asked: Mapping[str, Any], take: Callable[[], tuple[float, dict[str, Any]]]
    ) -> tuple[float, dict[str, Any]]:
        """What the file holds for the next step, or what ``take`` gives, which is then kept.

        Args:
            asked: what the step is of; a file with another step here is left from here on.
            take: value (-inf is allowed) and details.
        """
        if self._left and self._left[0]["asked"] == plain(dict(asked)):
            step = self._left.pop(0)
            self._steps.append(step)
            return -math.inf if step["value"] is None else step["value"], step["details"]
        self._left = []
        value, details = take()
        finite = value if math.isfinite(value) else None
        self._steps.append({"asked": dict(asked), "value": finite, "details": details})
        write_json(self.path, {"made_for": self.made_for, "steps": self._steps})
        return value, details
