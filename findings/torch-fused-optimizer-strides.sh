#!/usr/bin/env bash
# torch 2.13.0 (CPU), Python 3.11: torch.optim.Adam and SGD with momentum, fused=True, on a gradient whose strides are
# not those of its parameter. Transposed products and custom autograd functions give such gradients.
#
# Expected: the numbers of fused=False, which reads tensors by their index; or an error.
# Seen: the fused step walks through parameter, gradient and state in the order of memory, so each element is stepped
#       by another element's gradient. No warning; after two steps at lr 0.1 the weights are wrong by .1 and more.
#       Equal strides, transposed or not, are right. Remedy: parameter.grad = parameter.grad.contiguous() before the
#       step, or fused=False.
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


def trained(make, *, fused: bool, transposed: bool) -> torch.Tensor:
    torch.manual_seed(0)
    start, gradient = torch.randn(4, 5), torch.randn(4, 5)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = make([parameter], lr=0.1, fused=fused)
    for _ in range(2):
        parameter.grad = gradient.t().contiguous().t() if transposed else gradient.clone()
        optimizer.step()
    return parameter.detach()


for name, make in (
    ("Adam", torch.optim.Adam),
    ("SGD", lambda p, **options: torch.optim.SGD(p, momentum=0.9, **options)),
):
    right = trained(make, fused=False, transposed=False)
    off = {
        (fused, transposed): float((trained(make, fused=fused, transposed=transposed) - right).abs().max())
        for fused in (False, True)
        for transposed in (False, True)
    }
    print(name, {f"fused={f}, transposed gradient={t}": round(value, 3) for (f, t), value in off.items()})
    assert max(off[False, False], off[False, True], off[True, False]) < 1e-6, "the behaviour has changed"
    assert off[True, True] > 0.05, "the behaviour has changed"
PY
