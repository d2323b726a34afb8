"""Adam on the rows of sparse gradients with its moments in any form, in plain PyTorch: a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .stores import Bfloat16, DynamicBlocks, Exact, Int8ByRow, OneByRow, Store, round_at_random

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class Form:
    """How both moments are kept.

    Attributes:
        title: for people.
        first, second: make a store from H, D and a generator.
    """

    title: str
    first: Callable[[int, int, torch.Generator], Store]
    second: Callable[[int, int, torch.Generator], Store]

    @property
    def one_by_row(self) -> bool:
        """The second moment is that of the mean of a row's squared gradients: partial row-wise Adam of FBGEMM."""
        return self.second is OneByRow


def _dynamic(block: int, at_random: bool) -> tuple[Callable[..., Store], Callable[..., Store]]:
    make = partial(DynamicBlocks, block=block, at_random=at_random)
    return partial(make, signed=True), partial(make, signed=False)


BLOCK = 64
FORMS: dict[str, Form] = {
    "float32": Form("float32", Exact, Exact),
    "bfloat16": Form("bfloat16, at random", Bfloat16, Bfloat16),
    "rowwise": Form("float32; second by row", Exact, OneByRow),
    "bfloat16_rowwise": Form("bfloat16, at random; second by row", Bfloat16, OneByRow),
    "int8_rowwise": Form("int8 with a scale a row, at random; second by row", Int8ByRow, OneByRow),
    "dynamic8": Form(f"dynamic 8-bit code, blocks of {BLOCK}, to the nearest", *_dynamic(BLOCK, False)),
    "dynamic8_random": Form(f"dynamic 8-bit code, blocks of {BLOCK}, at random", *_dynamic(BLOCK, True)),
    "dynamic8_rowwise": Form(
        f"dynamic 8-bit code, blocks of {BLOCK}, at random; second by row", _dynamic(BLOCK, True)[0], OneByRow
    ),
}


class PlainAdam:
    """Lazy Adam on tables with sparse gradients, with coupled L2 of the touched rows, as ``rx.optim.Adam``.

    Args:
        tables: each a parameter [H, D] of float32 or bfloat16 with its learning rate and L2. bfloat16 ones are
            rounded at random.
        form: of the moments.
        seed: of the rounding.
    """

    def __init__(self, tables: Iterable[tuple[nn.Parameter, float, float]], form: Form, seed: int) -> None:
        self.form = form
        self.generator = torch.Generator().manual_seed(seed)
        self.tables = [
            (table, lr, l2, form.first(*size, self.generator), form.second(*size, self.generator))
            for table, lr, l2 in tables
            for size in [(table.shape[0], table.shape[1])]
        ]
        self.steps = 0

    @property
    def bytes(self) -> int:
        """Bytes of tables and state."""
        return sum(
            table.numel() * table.element_size() + first.bytes + second.bytes
            for table, _, _, first, second in self.tables
        )

    @torch.no_grad()
    def step(self) -> None:
        """One step on the rows of the tables' gradients, which are taken away."""
        self.steps += 1
        for table, lr, l2, first, second in self.tables:
            rows, gradient = _summed(table)
            values = table[rows].float()
            gradient = gradient.add(values, alpha=l2)
            square = gradient.square()
            if self.form.one_by_row:
                square = square.mean(1, keepdim=True)
            m = torch.lerp(first.read(rows), gradient, 1 - BETAS[0])
            v = torch.lerp(second.read(rows), square, 1 - BETAS[1])
            first.write(rows, m)
            second.write(rows, v)
            rate = lr / (1 - BETAS[0] ** self.steps)
            root = v.div(1 - BETAS[1] ** self.steps).sqrt_().add_(EPS)
            values.sub_(rate * m / root)
            table[rows] = values if table.dtype == torch.float32 else round_at_random(values, self.generator)


def _summed(table: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Rows of a sparse gradient, each once, with their sums in float32; the gradient is taken away."""
    gradient = table.grad
    assert gradient is not None
    table.grad = None
    summed = torch.sparse_coo_tensor(
        gradient._indices(), gradient._values().float(), gradient.shape, check_invariants=False
    ).coalesce()
    return summed.indices()[0], summed.values()
