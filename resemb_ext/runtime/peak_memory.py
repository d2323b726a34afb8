"""Peak resident memory of this process over a stretch of its work."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
from pathlib import Path
from types import TracebackType

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Context manager that measures the peak resident set (RSS) of the process inside it.

    The kernel's high-water mark is reset on entry, after freed memory was given back, so a second
    stretch is not charged for the first one's garbage; what is alive on entry (the log, the
    samples) counts in both. Where the mark cannot be reset (no Linux, or not permitted) the peak
    is that of the process since it started, and ``source`` says so.

    Attributes:
        peak_mb: peak RSS in MiB, after exit.
        before_mb: RSS on entry in MiB (0 where it cannot be read).
        source: how it was measured.
    """

    peak_mb: float = 0.0
    before_mb: float = 0.0
    source: str = ""

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)
        try:
            _CLEAR.write_text("5")
            _status_mb("VmHWM")  # some containers have no such entry
            self.before_mb = _status_mb("VmRSS")
            self.source = "peak RSS of the process during the arm (VmHWM, reset before it)"
        except OSError:
            self.source = "peak RSS of the process since its start (ru_maxrss)"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before_mb:
            self.peak_mb = _status_mb("VmHWM")
        else:
            # ru_maxrss is in KiB on Linux, in bytes on macOS.
            unit = 2**20 if sys.platform == "darwin" else 2**10
            self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status_mb(key: str) -> float:
    match = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"{_STATUS} has no {key}")
    return int(match.group(1)) / 1024
