#!/usr/bin/env bash
# torch 2.13.0 (CPU), Python 3.11: torch.func.jvp of torch.func.jvp through an autograd.Function that has
# setup_context and jvp, the form that an extension's operators take to work under torch.func.
#
# Expected: the second derivative, or an error that forward mode does not nest through such a function.
# Seen: zero. The function's jvp runs with forward mode off, so what the outer level differentiates is a constant.
#       Forward over reverse and reverse over forward through the same function are right, so tests of these two do not
#       show it. jacfwd(jacfwd(...)) of such a function is wrong in the same way.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "torch==2.13.0" "numpy<3"
cd "$place"
venv/bin/python - <<'PY'
import torch
from torch import func


class Product(torch.autograd.Function):
    @staticmethod
    def forward(x, y):
        return x * y

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, x_t, y_t):
        x, y = ctx.saved_tensors
        return x_t * y + x * y_t

    @staticmethod
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        return gradient * y, gradient * x


def forward(f):
    return lambda x: func.jvp(f, (x,), (torch.ones_like(x),))[1]


def reverse(f):
    return func.grad(lambda x: f(x).sum())


def cube(x):
    return Product.apply(x, x * x)


x = torch.tensor([2.0])  # the second derivative of x^3 is 12
found = {
    "forward over reverse": float(forward(reverse(cube))(x)),
    "reverse over forward": float(reverse(forward(cube))(x)),
    "forward over forward": float(forward(forward(cube))(x)),
    "forward over forward, x * x * x": float(forward(forward(lambda x: x * x * x))(x)),
}
print(found)
assert list(found.values()) == [12.0, 12.0, 0.0, 12.0], "the behaviour has changed"
PY
