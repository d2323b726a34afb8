"""A model whose tables are dealt over ranks and whose other parameters are the same on all."""

from __future__ import annotations

import contextlib
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .wire import Wire


class ShardedModel(nn.Module):
    """What ``rx.distributed.shard`` gives: call it as the model, and train as under DistributedDataParallel.

    Attributes:
        module: the model, with dealt tables. Its parameters are those for an optimizer.
    """

    def __init__(
        self, module: nn.Module, wire: Wire, group: dist.ProcessGroup | None, tables: list[str], options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.module = module
        self._wire = wire
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, tables)
        ignored = set(tables)
        others = any(p.requires_grad for name, p in module.named_parameters() if name not in ignored)
        # Not a submodule: names of parameters are then those of one wrapper. DDP refuses a model with nothing to do.
        self._parallel = [DistributedDataParallel(module, process_group=group, **options)] if others else []

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Calls the model; on an error lets the other ranks know why this one ends."""
        with self._wire.faults.telling("the model's forward pass"):
            return (self._parallel[0] if self._parallel else self.module)(*inputs, **options)

    def train(self, mode: bool = True) -> ShardedModel:
        """As of nn.Module."""
        super().train(mode)
        for parallel in self._parallel:
            parallel.train(mode)
        return self

    def no_sync(self) -> contextlib.AbstractContextManager[Any]:
        """As of DistributedDataParallel, to accumulate gradients; those of tables are sent in every backward all the same."""
        return self._parallel[0].no_sync() if self._parallel else contextlib.nullcontext()

    def traffic(self) -> dict[str, int]:
        """Bytes that this rank has sent to others for its tables, by kind, and "all" of them.

        Kinds are "counts", "ids", "lists" (of neighbours), "rows" and "gradients". What DistributedDataParallel sends
        is not among them.
        """
        return {**self._wire.sent, "all": sum(self._wire.sent.values())}
