"""What torch.fx and TorchScript see of ResEmbedding."""

from __future__ import annotations

from typing import Any

from torch import fx, nn


class Traceable(nn.Module):
    """The part of ResEmbedding that stays whole where torch.fx traces a model, as the layers of torch.nn do."""

    def _node(self, tracer: Any, method: str, *args: Any) -> fx.Proxy:
        """A call of this module, or of a method of it, in the graph of a tracer."""
        try:
            path = tracer.path_of_module(self)
        except NameError:
            path = ""
        if not path:
            raise TypeError("torch.fx: traces models that hold a ResEmbedding, not one alone; wrap it in nn.Sequential")
        if method == "forward":
            return tracer.create_proxy("call_module", path, args, {})
        return tracer.create_proxy("call_method", method, (tracer.create_proxy("get_attr", path, (), {}), *args), {})

    def __prepare_scriptable__(self) -> Any:
        raise RuntimeError(
            "torch.jit.script: does not take a ResEmbedding; script the model with its plain table, "
            "model.item = model.item.to_embedding(), or use torch.export"
        )
