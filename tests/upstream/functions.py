"""Sample inputs of torch.testing's op_db for F.embedding and F.embedding_bag, on ``weight`` and through the modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.testing._internal.common_methods_invocations import op_db

from .cases import LINKS, Cases, over_graph

_NAMES = ("nn.functional.embedding", "nn.functional.embedding_bag")


def function_cases() -> Cases:
    cases: Cases = {}
    for op in op_db:
        if op.name not in _NAMES:
            continue
        for number, sample in enumerate(op.sample_inputs("cpu", torch.float64, requires_grad=True)):
            for link in LINKS:
                cases[f"{op.name} {link} {number}"] = lambda op=op, link=link, sample=sample: _by_function(
                    op, link, sample
                )
        for number, wrong in enumerate(op.error_inputs("cpu") if op.error_inputs_func is not None else ()):
            cases[f"{op.name} error {number}"] = lambda op=op, wrong=wrong: _error(op, wrong)
    return cases


def _by_function(op: Any, link: str, sample: Any) -> None:
    table = sample.input.detach().clone().requires_grad_()
    ours = over_graph(nn.Embedding.from_pretrained(table.detach(), freeze=False), link)
    expected = op.op(table, *sample.args, **sample.kwargs)
    found = op.op(ours.weight, *sample.args, **sample.kwargs)
    assert_close(found, expected)
    _same_gradients(found, expected, ours, table, sample.kwargs.get("per_sample_weights"))


def _error(op: Any, wrong: Any) -> None:
    table = wrong.sample_input.input
    ours = over_graph(nn.Embedding.from_pretrained(table.detach(), freeze=False), "average")
    try:
        op.op(ours.weight, *wrong.sample_input.args, **wrong.sample_input.kwargs)
    except wrong.error_type:
        return
    raise AssertionError(f"expected {wrong.error_type.__name__}")


def bag_cases() -> Cases:
    """Through ResEmbeddingBag itself."""
    (op,) = [op for op in op_db if op.name == _NAMES[1]]
    return {
        f"{sample.kwargs['mode']} {link} {number}": (lambda link=link, sample=sample: _by_bag(link, sample))
        for number, sample in enumerate(op.sample_inputs("cpu", torch.float64, requires_grad=True))
        for link in LINKS
    }


def _by_bag(link: str, sample: Any) -> None:
    (ids,), options = sample.args, dict(sample.kwargs)
    arguments = (ids, options.pop("offsets", None), options.pop("per_sample_weights", None))
    plain = nn.EmbeddingBag.from_pretrained(sample.input.detach(), freeze=False, **options)
    ours, expected = over_graph(plain, link), plain(*arguments)
    found = ours(*arguments)
    assert_close(found, expected)
    _same_gradients(found, expected, ours, plain.weight, arguments[2])


def _same_gradients(found: Tensor, expected: Tensor, ours: Any, table: Tensor, samples: Tensor | None) -> None:
    extra = [samples] if samples is not None and samples.requires_grad else []
    upstream = torch.randn_like(expected)
    # The gradient of R is that of the vectors, dE/dR being the identity.
    result = torch.autograd.grad(found, [ours.residual, *extra], upstream)
    reference = torch.autograd.grad(expected, [table, *extra], upstream)
    assert_close(result, reference)
