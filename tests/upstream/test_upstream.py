"""PyTorch's own test inputs with ours in place of torch's modules and optimizers; see docs/compatibility.md.

A case that ``groups`` names as different must end with the error named there, and every other must pass.
"""

from __future__ import annotations

import warnings

import pytest
import torch

from .groups import GROUPS
from .page import parts, tables

pytestmark = pytest.mark.full


@pytest.fixture(autouse=True)
def _torch_testing() -> None:
    pytest.importorskip("expecttest", reason="torch.testing needs expecttest, which is not installed")


def _outcome(case) -> BaseException | None:
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case()
    except (Exception, pytest.fail.Exception) as error:
        return error
    return None


@pytest.mark.parametrize("name", GROUPS)
def test_group(name: str) -> None:
    group = GROUPS[name]
    wrong, seen = [], set()
    for case, run in group.cases().items():
        expected, found = group.difference(case), _outcome(run)
        seen.add(expected)
        if expected is None:
            if found is not None:
                wrong.append(f"{case}: {type(found).__name__}: {found}")
        elif not (isinstance(found, expected.error) and expected.message in str(found)):
            wrong.append(f"{case}: expected {expected.message!r}, found {found!r}")
    assert not wrong, "\n".join(wrong[:20])
    assert seen >= {*group.differences}, "a difference that no case shows"


def test_a_wrong_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups can fail: with a lookup that is off by a little, cases of each kind of module do."""
    from resemb_ext import functional

    for name in ("res_embedding", "res_embedding_bag"):
        right = getattr(functional, name)
        monkeypatch.setattr(functional, name, lambda *a, right=right, **o: right(*a, **o) * 1.001)
    for name in ("modules", "functions", "bags", "embeddings"):
        group = GROUPS[name]
        assert any(_outcome(run) for case, run in group.cases().items() if not group.difference(case)), name


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="the page counts the cases of torch 2.13")
def test_page() -> None:
    assert parts()[1].strip() == tables().strip(), "write it anew: python -m tests.upstream.page"
