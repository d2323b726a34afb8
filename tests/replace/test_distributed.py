"""Models that are made ready for several processes are refused, whichever way they are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import resemb_ext as rx
from tests.replace.models import Model, inputs, refused, ring

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp(group: None) -> None:
    model = Model()
    wrapped = DistributedDataParallel(model)
    refused(ValueError, "model: found DistributedDataParallel.*before wrapping", wrapped, {"item": ring()})
    refused(ValueError, "tables.item: found DistributedDataParallel.*before wrapping", model, {"item": ring()})
    del wrapped
    rx.replace_embeddings(model, {"item": ring()})
    wrapped = DistributedDataParallel(model)
    wrapped(*inputs()).backward()
    assert model.tables["item"].central.grad.any()
    with pytest.raises(ValueError, match=r"tables.item: found DistributedDataParallel"):
        rx.restore_embeddings(model)


def test_sharded_tables(group: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model = Model()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    refused(ValueError, "FSDPModel.*before wrapping", model, {"item": ring()})
    other = Model()
    weight: Any = DTensor.from_local(other.tables["item"].weight.detach(), init_device_mesh("cpu", (1,)))
    other.tables["item"].weight = nn.Parameter(weight)
    refused(TypeError, "tables.item: its weight is a DTensor", other, {"item": ring()})


def test_parameters_of_another_kind() -> None:
    class Quantised(torch.Tensor):
        """As torchao's."""

    model = Model()
    model.tables["item"].weight = nn.Parameter(torch.ones(12, 4).as_subclass(Quantised))
    refused(TypeError, "tables.item: its weight is a Quantised", model, {"item": ring()})
