"""Training by several ranks is that of one process on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.distributed.worlds import OPTIMIZERS, Case, gathered, train
from tests.processes import on_ranks

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

LONG, SHORT = 50, 15  # steps, of every third case and of the others
WHOLE = {"graph": "whole"}
CASES = [
    *(Case("average", optimizer, shard=WHOLE) for optimizer in OPTIMIZERS),
    *(Case("attention", optimizer, shard=WHOLE) for optimizer in ("SGD", "Adagrad", "global decay")),
    *(Case(link, optimizer, shard=WHOLE) for link, optimizer in (("gcn", "momentum"), ("given", "RowwiseAdagrad"))),
    *(Case("average", "SGD", dtype, shard=WHOLE) for dtype in (torch.float64, torch.bfloat16, torch.float16)),
    *(Case("attention", "SGD", dtype, shard=WHOLE) for dtype in (torch.float64, torch.bfloat16)),
    *(Case(link, "Adam", in_backward=True, shard=WHOLE) for link in ("average", "attention")),
    Case("average", "Adam", sparse=False, shard=WHOLE),
    *(Case(link, "Adam") for link in ("average", "attention", "given")),
    Case("attention", "SGD", two_lookups=True),
    Case("gcn", "Adam", options={"hops": 2}),
    Case("attention", "Adagrad", options={"heads": 2}, shard=WHOLE),
    Case("average", "SGD", options={"weights_dtype": torch.float16}),
    Case("average", "Adagrad", options={"keep_padding": True, "out_dtype": torch.bfloat16}, shard=WHOLE),
]


def _steps(number: int) -> int:
    return SHORT if number % 3 else LONG


def _of_rank(cases: list[Case]) -> list[dict[str, Any]]:
    return [train(case, _steps(i), dist.get_world_size(), dist.get_rank()) for i, case in enumerate(cases)]


@pytest.mark.full
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_equals_one_process(ranks: int, tmp_path: Path) -> None:
    cases = CASES if ranks == 2 else CASES[ranks::5]
    parts = on_ranks(ranks, tmp_path, _of_rank, cases)
    for i, case in enumerate(cases):
        expected, found = train(case, _steps(i)), gathered([part[i] for part in parts])
        assert np.mean(expected["losses"][-5:]) < np.mean(expected["losses"][:5]), case
        # One unit in the last place of 16 bits, which a sum in another order may round the other way.
        rounded = [t for t in (case.dtype, case.options.get("out_dtype")) if t is not None and t.itemsize == 2]
        unit = torch.finfo(rounded[0]).eps if rounded else 0.0
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=1e-5 + unit / 8, err_msg=str(case))
        for kind in ("tables", "others"):
            for name, value in expected[kind].items():
                torch.testing.assert_close(
                    found[kind][name],
                    value,
                    rtol=unit,
                    atol=1e-5 + unit / 8,
                    msg=lambda m, c=case, n=name: f"{c} {n}: {m}",
                )
