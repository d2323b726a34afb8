"""Rows of a served table in FBGEMM's own operators: the same bytes, the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("torchrec", __file__)

import fbgemm_gpu  # noqa: E402, F401  (registers torch.ops.fbgemm)


@pytest.mark.parametrize(
    ("dtype", "dim"), [("int8", 1), ("int8", 30), ("int8", 64), ("int4", 4), ("int4", 36), ("int4", 64)]
)
def test_fbgemm_writes_and_reads_the_same_rows(tmp_path: Path, dtype: str, dim: int) -> None:
    weight = (
        torch.randn(50, dim, generator=torch.Generator().manual_seed(dim)) * 10 ** torch.linspace(-3, 3, 50)[:, None]
    )
    weight[7] = 0.5  # a row without spread
    table = rx.serving.Table.write(weight, tmp_path / "items.table", dtype=dtype)
    rows, ids = table.as_torch().clone(), torch.arange(50)
    if dtype == "int8":
        written = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(weight)
        read = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(rows)
    else:
        written = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(weight, 4)
        read = torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(rows, 4)
    torch.testing.assert_close(table(ids), read, rtol=1e-6, atol=1e-7)
    # Rows without spread may be written with any scale.
    spread = ids != 7
    assert torch.equal(rows[spread], written[spread])
