"""Inputs of torch.testing's module_db, in the checks that test_modules.py makes of a module; and its NewModuleTest."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.testing._internal import common_nn
from torch.testing._internal.common_modules import module_db

from .cases import LINKS, Cases, over_graph


def module_cases() -> Cases:
    (info,) = [info for info in module_db if info.name == "nn.Embedding"]
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    return {
        f"{check.__name__} {link} {number}": (lambda check=check, link=link, given=given: check(link, given))
        for number, given in enumerate(inputs)
        for link in LINKS
        for check in _CHECKS
    }


def _made(link: str, given: Any, **options: Any) -> tuple[Any, Any, Tensor]:
    plain = nn.Embedding(*given.constructor_input.args, **{"dtype": torch.float64, **given.constructor_input.kwargs})
    return over_graph(plain, link, **options), plain, given.forward_input.args[0]


def test_forward(link: str, given: Any) -> None:
    ours, plain, ids = _made(link, given)
    assert_close(ours(ids), plain(ids))
    if given.reference_fn is not None:
        assert_close(ours(ids), given.reference_fn(plain, [*plain.parameters()], ids))


def test_factory_kwargs(link: str, given: Any) -> None:
    for options in ({"dtype": torch.float16}, {"device": "meta"}):
        ours, _, _ = _made(link, given, **options)
        for parameter in (ours.central, ours.residual):
            assert parameter.dtype == options.get("dtype", torch.float64)
            assert parameter.device.type == options.get("device", "cpu")


def test_repr(link: str, given: Any) -> None:
    assert str(_made(link, given)[0]).startswith("ResEmbedding(")


def test_pickle(link: str, given: Any) -> None:
    ours, _, ids = _made(link, given)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(ids), ours(ids))
    assert torch.equal(copy.deepcopy(ours)(ids), ours(ids))


def test_save_load(link: str, given: Any) -> None:
    ours, plain, ids = _made(link, given)
    other = over_graph(plain, link)
    other.reset_parameters()
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other(ids), ours(ids))


def test_non_contiguous_tensors(link: str, given: Any) -> None:
    ours, _, ids = _made(link, given)
    spread = torch.stack([ids, ids], -1)[..., 0]
    results = []
    for one in (ids, spread):
        ours.zero_grad()
        out = ours(one)
        out.sin().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in ours.parameters())])
    assert_close(*results)


def test_if_train_and_eval_modes_differ(link: str, given: Any) -> None:
    ours, _, ids = _made(link, given)
    assert torch.equal(ours.train()(ids), ours.eval()(ids))


def test_to(link: str, given: Any) -> None:
    ours, _, ids = _made(link, given)
    expected = ours(ids).detach()
    assert_close(ours.float()(ids).double(), expected, rtol=1e-5, atol=1e-5)
    assert_close(ours.to("cpu", torch.float64)(ids), expected, rtol=1e-5, atol=1e-5)


def test_to_empty(link: str, given: Any) -> None:
    ours, _, ids = _made(link, given, device="meta")
    ours.to_empty(device="cpu").reset_parameters()
    assert ours(ids).isfinite().all()


def test_grad(link: str, given: Any) -> None:
    _check(torch.autograd.gradcheck, link, given)


def test_gradgrad(link: str, given: Any) -> None:
    _check(torch.autograd.gradgradcheck, link, given)


def _check(check: Any, link: str, given: Any) -> None:
    ours, _, ids = _made(link, given)
    ids = ids[:2, :3]
    parameters = dict(ours.named_parameters())

    def out(*values: Tensor) -> Tensor:
        return torch.func.functional_call(ours, dict(zip(parameters, values, strict=True)), (ids,))

    assert check(out, [*parameters.values()])


_CHECKS = (
    test_forward,
    test_factory_kwargs,
    test_repr,
    test_pickle,
    test_save_load,
    test_non_contiguous_tensors,
    test_if_train_and_eval_modes_differ,
    test_to,
    test_to_empty,
    test_grad,
    test_gradgrad,
)


class _TestNN(common_nn.NNTestCase):
    def runTest(self) -> None:
        raise NotImplementedError

    def _forward(self, module: Any, inputs: Any) -> Tensor:
        return module(*inputs) if isinstance(inputs, tuple) else module(inputs)

    def _backward(
        self, module: Any, inputs: Any, output: Tensor, grad_output: Tensor, create_graph: bool = False
    ) -> Any:
        output.backward(grad_output, retain_graph=True, create_graph=create_graph)
        return None if isinstance(inputs, Tensor) else tuple(None for _ in inputs)

    def _get_parameters(self, module: nn.Module) -> tuple:
        parameters = [*module.parameters()]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return parameters, [parameter.grad for parameter in parameters]

    def _zero_grad_parameters(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            if parameter.grad is not None:  # in place, as others hold it
                parameter.grad.zero_()


def new_module_cases() -> Cases:
    cases: Cases = {}
    for given in common_nn.get_new_module_tests():
        module = given.get("module_name") or given.get("fullname", "").split("_")[0]
        if module not in ("Embedding", "EmbeddingBag"):
            continue
        name = given.get("fullname") or f"{module}_{given.get('desc', 'default')}"
        for link in LINKS:
            cases[f"{name} {link}"] = lambda given=dict(given), module=module, link=link: _new_module(
                given, module, link
            )
    return cases


def _new_module(given: dict[str, Any], module: str, link: str) -> None:
    plain = given.pop("constructor", None) or getattr(nn, module)
    given.pop("module_name", None)
    given.pop("decorator", None)
    given.setdefault("fullname", module)
    before = torch.get_default_dtype()
    torch.set_default_dtype(given.pop("default_dtype", before))
    try:
        case = _TestNN()
        common_nn.NewModuleTest(constructor=lambda *args: over_graph(plain(*args), link), **given)(case)
    finally:
        torch.set_default_dtype(before)
