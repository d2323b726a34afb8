"""What torch.fx, TorchScript and the compiler see of an embedding over a graph."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import fx, nn

_MODES = torch._C._TorchDispatchModeKey


def fake(tensor: Any) -> bool:
    """Whether what is made of a tensor has a shape alone: under FakeTensorMode."""
    return torch._C._get_dispatch_mode(_MODES.FAKE) is not None or type(tensor).__name__ == "FakeTensor"


def without_numbers(tensor: Any) -> bool:
    """Whether a tensor and what is made of it have no numbers: under FakeTensorMode, and on the meta device."""
    return tensor.is_meta or fake(tensor)


def traced(table: Any) -> bool:
    """Whether a program is being made of what is called, with this parameter of a module in it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return isinstance(table, fx.Proxy) or torch._C._get_dispatch_mode(_MODES.PROXY) is not None  # of make_fx


class Traceable(nn.Module):
    """The part of an embedding over a graph that stays whole where torch.fx traces a model, as the layers of torch.nn do."""

    # The method that does what ``forward`` of the package's own class does.
    _own_forward: ClassVar[str]

    def _forward_node(self, tracer: Any, *args: Any) -> fx.Proxy:
        """``forward`` in the graph of a tracer; of a subclass with a forward of its own, what that calls by super."""
        if type(self).forward.__module__.startswith("resemb_ext.nn."):
            return tracer.create_proxy("call_module", self._path(tracer), args, {})
        return self._node(tracer, self._own_forward, *args)

    def _node(self, tracer: Any, method: str, *args: Any) -> fx.Proxy:
        """A call of a method of this module in the graph of a tracer."""
        module = tracer.create_proxy("get_attr", self._path(tracer), (), {})
        return tracer.create_proxy("call_method", method, (module, *args), {})

    def _path(self, tracer: Any) -> str:
        try:
            path = tracer.path_of_module(self)
        except NameError:
            path = ""
        if not path:
            raise TypeError(
                f"torch.fx: traces models that hold a {type(self).__name__}, not one alone; wrap it in nn.Sequential"
            )
        return path

    def __prepare_scriptable__(self) -> Any:
        raise RuntimeError(
            f"torch.jit.script: does not take a {type(self).__name__}; script the model with its plain table, "
            "model.item = model.item.to_plain(), or use torch.export"
        )
