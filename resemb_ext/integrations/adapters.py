"""Which adapters there are, and whether each can load here."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Adapter:
    """An adapter and what it was tested with.

    Attributes:
        name: of its module in ``resemb_ext.integrations``.
        package: the framework, as pip calls it.
        tested: its version in ``tests/integrations/environments``.
        below: the first version that is another series, which was not tested.
        extra: what installs it, as in ``pip install "resemb_ext[EXTRA]"``.
        clashes: limits of other packages, as pip writes them, beyond which the framework fails.
    """

    name: str
    package: str
    tested: str
    below: str
    extra: str
    clashes: tuple[str, ...] = ()


ADAPTERS = (
    Adapter("fuxictr", "fuxictr", "2.3.10", "2.4", "fuxictr"),
    Adapter("deepctr", "deepctr-torch", "0.3.0", "0.4", "deepctr"),
    Adapter("torchrec", "torchrec", "1.8.0", "1.9", "torchrec"),
    Adapter("recbole", "recbole", "1.2.1", "1.3", "recbole", ("numpy<2", "pandas<2.3", "setuptools<80")),
    Adapter("lightning", "lightning", "2.6.6", "2.7", "lightning"),
    Adapter("accelerate", "accelerate", "1.15.0", "1.16", "accelerate"),
    Adapter("transformers", "transformers", "5.24.0", "5.25", "transformers"),
    Adapter("spark", "pyspark", "4.3.0", "4.4", "spark"),
)

_SECONDS = 120
_LIMIT = re.compile(r"([\w.-]+?)(<|==)([\d.]+)")


@dataclass(frozen=True)
class Found:
    """What was found of an adapter: the framework's version, or None; whether it loads; a line that says so or why not."""

    framework: str | None
    loads: bool
    text: str


def look_at(adapter: Adapter) -> Found:
    """Whether an adapter can load.

    It is imported in a process of its own: a framework that crashes, or changes what it is imported into, does so
    there.
    """
    installed = _version(adapter.package)
    if installed is None:
        return Found(None, False, f'{adapter.package} is not installed: pip install "resemb_ext[{adapter.extra}]"')
    what = f"{adapter.package} {installed}"
    if not _below(installed, adapter.below) or _below(installed, adapter.tested):
        what += f" (tested: {adapter.tested})"
    clash = _clash(adapter)
    if clash is not None:
        return Found(installed, False, f"{what} does not work with {clash}")
    fault = _fault(f"resemb_ext.integrations.{adapter.name}")
    return Found(installed, fault is None, f"{what}, loads" if fault is None else f"{what} cannot be loaded: {fault}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _clash(adapter: Adapter) -> str | None:
    """The first installed package that the framework does not work with."""
    for clash in adapter.clashes:
        found = _LIMIT.fullmatch(clash)
        assert found is not None, clash
        package, sign, limit = found.groups()
        installed = _version(package)
        if installed is None:
            continue
        fits = _below(installed, limit) if sign == "<" else _release(installed) == _release(limit)
        if not fits:
            return f"{package} {installed}, it needs {clash}"
    return None


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version without zeros at its end, what follows them left out."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    numbers = [int(part) for part in found[0].split(".")] if found else [0]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _below(one: str, other: str) -> bool:
    return _release(one) < _release(other)


def _fault(module: str) -> str | None:
    """Why a module cannot be imported in a fresh process, or None."""
    code = f"import importlib; importlib.import_module({module!r})"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no end after {_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"the process ended with status {done.returncode}"
