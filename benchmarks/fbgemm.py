"""FBGEMM's table-batched embedding (TBE) as a baseline, where fbgemm-gpu-cpu or, for CUDA, fbgemm-gpu is installed.

Its optimizer runs inside backward; on the CPU it has no Adam, so it meets ours with Adagrad there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import resemb_ext as rx
from benchmarks.baselines import LookUp, bag_over_unique, module_over
from benchmarks.cells import Case
from benchmarks.timing import interleave, summary

LOOKUP = "FBGEMM TBE over unique rows"
OWN = "resemb_ext, Adagrad in backward"
LR, EPS = 1e-2, 1e-8
Step = Callable[[Tensor, Tensor], None]


def why_not(device: str = "cpu") -> str | None:
    """Why FBGEMM cannot be a baseline on a kind of device; None where it can."""
    package = "fbgemm-gpu" if device == "cuda" else "fbgemm-gpu-cpu"
    remedy = f"pip install --no-deps {package}==1.8.0 goes with torch 2.13"
    try:
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as _  # noqa: F401
    except ModuleNotFoundError:
        return f"not installed; {remedy}"
    except (ImportError, OSError):
        return f"installed, but of another torch than {torch.__version__}; {remedy}"
    return None


def _table(weight: Tensor) -> Any:
    from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation

    items, dim = weight.shape
    place = (EmbeddingLocation.HOST, training.ComputeDevice.CPU)
    optimizer = training.OptimType.EXACT_ADAGRAD
    options = {}
    if weight.is_cuda:
        place = (EmbeddingLocation.DEVICE, training.ComputeDevice.CUDA)
        optimizer = training.OptimType.ADAM
        options["device"] = weight.device
    table = training.SplitTableBatchedEmbeddingBagsCodegen(
        [(items, dim, *place)], optimizer=optimizer, learning_rate=LR, eps=EPS, **options
    )
    table.split_embedding_weights()[0].copy_(weight.detach())
    return table


class Tables:
    """C and R in TBEs of their own: with Adagrad on the CPU, Adam on CUDA."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.central, self.residual = _table(case.central), _table(case.residual)

    def look_up(self, ids: Tensor) -> Tensor:
        case = self.case
        rows, inverse = ids.unique(return_inverse=True)
        starts = torch.arange(len(rows) + 1, device=ids.device)
        bags = self.central(
            case.neighbors[rows].reshape(-1), starts * case.cell.neighbors, case.weights[rows].reshape(-1)
        )
        return F.embedding(inverse, bags + self.residual(rows, starts))


def lookup(case: Case) -> LookUp:
    return Tables(case).look_up


def _own(case: Case) -> tuple[Step, list[Tensor]]:
    module = module_over(case, *(t.detach().clone() for t in (case.central, case.residual)))
    rx.optim.Adagrad(module.parameters(), lr=LR, eps=EPS).step_in_backward(module)
    return lambda ids, upstream: module(ids).backward(upstream), [module.central, module.residual]


def _torch(case: Case) -> tuple[Step, list[Tensor]]:
    tables = [case.central, case.residual]
    look_up, optimizer = (bag_over_unique(case), torch.optim.Adagrad(tables, lr=LR, eps=EPS))

    def step(ids: Tensor, upstream: Tensor) -> None:
        look_up(ids).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()

    return step, tables


def _fbgemm(case: Case) -> tuple[Step, list[Tensor]]:
    tables = Tables(case)
    weights = [t.split_embedding_weights()[0] for t in (tables.central, tables.residual)]
    return lambda ids, upstream: tables.look_up(ids).backward(upstream), weights


def run_adagrad(case: Case, *, rounds: int, warmup: int, slow: float | None = None) -> dict[str, Any]:
    """The whole step with Adagrad: ours, torch's and FBGEMM's, checked to move the tables alike.

    Changes the case's tables.

    Returns:
        JSON-able: "adagrad" (summary by variant), and "refused" where FBGEMM is not at hand.

    Raises:
        AssertionError: a variant that differs, by name.
    """
    makers = {OWN: _own, "unique + embedding_bag, torch.optim.Adagrad": _torch}
    missing = why_not()
    if missing is None:
        makers[f"{LOOKUP}, exact Adagrad"] = _fbgemm
    # torch's comes last, as it alone changes the case's own tables.
    made = {name: makers[name](case) for name in sorted(makers, key=lambda n: makers[n] is _torch)}
    upstream = torch.randn(case.cell.positions, case.cell.dim)
    expected: list[Tensor] | None = None
    for name, (step, tables) in made.items():
        before = [t.detach().clone() for t in tables]
        step(case.batches[0], upstream)
        moved = [t.detach() - b for t, b in zip(tables, before, strict=True)]
        expected = expected or moved
        for found, wanted in zip(moved, expected, strict=True):
            # The first step is plus or minus lr; where a sum nearly cancels, rounding picks the sign.
            if torch.isclose(found, wanted, rtol=1e-2, atol=1e-2 * LR).float().mean() < 0.9999:
                raise AssertionError(f"{name}: moves differ from {OWN}")
        del before, moved

    def run(step: Step) -> Callable[[int], None]:
        return lambda turn: step(case.batches[turn % case.cell.batches], upstream)

    seconds = interleave(
        {name: run(step) for name, (step, _) in made.items()},
        rounds=rounds,
        warmup=warmup,
        label=f"{case.cell.name}, Adagrad",
        slow=(OWN, slow) if slow else None,
    )
    refused = {} if missing is None else {LOOKUP: missing}
    return {"adagrad": summary(seconds, OWN), "refused": refused}
