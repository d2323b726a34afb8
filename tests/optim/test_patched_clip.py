"""torch's own clipping functions with sparse gradients, under every name that they were imported by."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_  # imported before, as libraries do

from resemb_ext import optim

H, D = 20, 4


def with_gradients(sparse: bool, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(H, D, sparse=sparse), nn.Linear(D, 3))
    model(torch.tensor([1, 4, 4, 9])).square().sum().mul(30).backward()
    return model


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.to_dense() for p in model.parameters() if p.grad is not None]


def refused(clip: Callable[..., Any] = clip_grad_norm_) -> None:
    with pytest.raises((NotImplementedError, RuntimeError), match="Sparse"):
        clip(with_gradients(True).parameters(), 1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda parameters: clip_grad_norm_(parameters, 1.0),
        lambda parameters: clip_grad_norm_(parameters, max_norm=1.0, norm_type=1, foreach=False),
        lambda parameters: torch.nn.utils.clip_grad_norm_(list(parameters), 2.0, error_if_nonfinite=True),
        lambda parameters: clip_grad_value_(parameters, 0.5),
        lambda parameters: torch.nn.utils.clip_grad.clip_grad_value_(parameters, clip_value=0.5, foreach=False),
    ],
)
def test_sparse_gradients_are_clipped_as_dense_ones(call: Callable[..., Any]) -> None:
    plain, sparse, again = with_gradients(False), with_gradients(True), with_gradients(False)
    expected = call(plain.parameters())
    with optim.patch_clipping():
        found = call(sparse.parameters())
        same = call(again.parameters())
    torch.testing.assert_close(found, expected)
    assert same is None or torch.equal(same, expected)
    for a, b, c in zip(gradients(plain), gradients(sparse), gradients(again), strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(a, c)  # dense gradients alone: torch's own numbers, to the bit
    refused()


def test_one_tensor_no_gradient_and_an_empty_generator() -> None:
    table = next(iter(with_gradients(True).parameters()))
    with optim.patch_clipping():
        clip_grad_norm_(table, 0.1)
        assert table.grad.to_dense().norm() < 0.1001
        assert clip_grad_norm_([nn.Parameter(torch.ones(2))], 1.0) == 0
        with pytest.warns(UserWarning, match="empty generator"):
            clip_grad_norm_((p for p in ()), 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            clip_grad_norm_([], 1.0)
        with pytest.raises(TypeError):
            clip_grad_norm_(table)  # type: ignore[call-arg]


def test_nested_and_overlapping_blocks() -> None:
    first = optim.patch_clipping()
    with optim.patch_clipping() as second, first:
        assert clip_grad_norm_(with_gradients(True).parameters(), 1.0) > 1
    refused()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    refused()
    with first:  # once more
        clip_grad_norm_(with_gradients(True).parameters(), 1.0)
    refused()


def test_an_exception_leaves_torch_as_it_was() -> None:
    with pytest.raises(KeyError), optim.patch_clipping():
        raise KeyError
    refused()
    with optim.patch_clipping(), pytest.raises(RuntimeError, match="non-finite"):
        broken = with_gradients(True)
        broken[1].bias.grad.fill_(torch.nan)
        clip_grad_norm_(broken.parameters(), 1.0, error_if_nonfinite=True)
    refused(clip_grad_value_)


def test_threads_leave_torch_as_it_was() -> None:
    found: list[Exception] = []

    def work(seed: int) -> None:
        try:
            for i in range(20):
                with optim.patch_clipping():
                    clip_grad_norm_(with_gradients(True, seed + i).parameters(), 1.0)
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not found
    refused()


@pytest.mark.full
def test_for_good() -> None:
    """In a process of its own; no reference is kept."""
    program = """
import gc, torch
from torch.nn.utils import clip_grad_norm_
import resemb_ext as rx
rx.optim.patch_clipping()
gc.collect()
with rx.optim.patch_clipping():
    pass
table = torch.nn.Embedding(5, 2, sparse=True)
table(torch.tensor([1, 1])).sum().backward()
print(float(clip_grad_norm_(table.parameters(), 1.0)))
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(out.stdout) == pytest.approx(8**0.5)


def test_another_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim.patched_clip, "_cells", {})
    monkeypatch.setattr(optim.patched_clip, "clip_grad_value_", lambda parameters, clip_value: None)
    with pytest.raises(RuntimeError, match=r"is not built as in 2.13"):
        optim.patch_clipping()
    refused()
