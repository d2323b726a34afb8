"""The benchmark against TorchRec's sharded bags: both forms give the same vectors."""

from __future__ import annotations

from tests.integrations.conftest import framework

framework("torchrec", __file__)

from benchmarks.cells import Cell  # noqa: E402
from benchmarks.distributed_torchrec import measure, section  # noqa: E402


def test_both_forms_give_the_same_vectors() -> None:
    found = measure(Cell(items=300, positions=80, neighbors=4, dim=8), ranks=2, rounds=2)  # compares them itself
    assert len(found["milliseconds"]) == 2 and found["ratio"][1] > 0
    assert "by 2 ranks" in section(found)
