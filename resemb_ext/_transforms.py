"""Derivatives of an operator, under torch.func and forward-mode AD too.

``torch.library.register_autograd`` knows backward alone: under a transform of ``torch.func`` it raises, and tangents of
forward-mode AD are lost without a word. So under those an operator is called through a ``torch.autograd.Function``,
which torch differentiates and batches itself. Compiled programs hold the operator alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Saved = tuple[Tensor | None, ...]


def differentiable(
    name: str,
    setup: Callable[[Any, tuple, Any, bool], Saved],
    backward: Callable[..., tuple],
    jvp: Callable[..., tuple],
    vmap: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Registers the derivatives of an operator, and returns it as a function that has them everywhere.

    Args:
        name: of the operator.
        setup: from the context, inputs, outputs, and whether ``jvp`` may be called: the tensors to save.
        backward: from the context and the outputs' gradients: a gradient or None for each input.
        jvp: from the context and a tangent or None for each input: a tangent or None for each output. Both read
            ``ctx.saved_tensors``.
        vmap: as ``torch.autograd.Function.vmap``; by default one call for each entry of the batch.
    """
    operator = getattr(torch.ops.resemb_ext, name)

    def save(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*setup(ctx, inputs, output, False))

    torch.library.register_autograd(f"resemb_ext::{name}", backward, setup_context=save)

    def save_for_both(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.set_materialize_grads(False)
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.mark_non_differentiable(*(t for t in outputs if not t.is_floating_point()))
        saved = setup(ctx, inputs, output, True)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    def forward(*inputs: Any) -> Any:
        return operator(*inputs)

    methods = {"forward": forward, "setup_context": save_for_both, "backward": backward, "jvp": jvp}
    if vmap is not None:
        methods["vmap"] = vmap
    # Nor may the compiler trace these frames, should it run what is around them.
    members: dict[str, Any] = {key: staticmethod(torch._disable_dynamo(method)) for key, method in methods.items()}
    function: Any = type(name, (torch.autograd.Function,), {**members, "generate_vmap_rule": vmap is None})

    def call(*inputs: Any) -> Any:
        if not transformed(*inputs):
            return operator(*inputs)
        if torch.compiler.is_compiling():  # the compiler leaves a frame that raises to eager mode
            raise RuntimeError("resemb_ext: operators under torch.func are not compiled; compile what is around them")
        _refuse_nested_jvp()
        return function.apply(*inputs)

    return call


def _refuse_nested_jvp() -> None:
    """torch calls the jvp of a Function with forward mode off, so an outer jvp would lose terms of it."""
    if _transforms().count("Jvp") > 1:
        raise RuntimeError(
            "resemb_ext: forward mode inside forward mode (jacfwd of jacfwd) is not defined; make one of them jacrev, "
            "as torch.func.hessian does"
        )


def transformed(*inputs: Any) -> bool:
    """Whether a transform of torch.func is under way, or an input has a tangent of forward-mode AD."""
    if torch._C._are_functorch_transforms_active():
        # Functionalization takes the operator as it is. The compiler knows that there are transforms, not which.
        return torch.compiler.is_compiling() or any(kind != "Functionalize" for kind in _transforms())
    if torch.compiler.is_compiling() or forward_ad._current_level < 0 or not torch._C._is_fwd_grad_enabled():
        return False
    return any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in inputs)


def _transforms() -> list[str]:
    """The kinds of torch.func's transforms under way, from the outermost in."""
    return [level.key().name for level in torch._C._functorch.get_interpreter_stack() or ()]


def refused(message: str) -> Callable[..., Any]:
    """A derivative that is not defined: raises RuntimeError with that message."""

    def refuse(*_: Any) -> Any:
        raise RuntimeError(f"resemb_ext: {message}")

    return refuse
