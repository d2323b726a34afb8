"""Checkpoints of some ranks, read by others and by one process; files that are missing or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

import resemb_ext as rx
from resemb_ext.distributed.rows import Dealt
from resemb_ext.distributed.shards import write_shards
from resemb_ext.distributed.whole import inner
from tests.distributed.worlds import OPTIMIZERS, Case, Model, batches, share
from tests.processes import on_ranks

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

CASES = [
    Case("average", "Adam"),
    Case("attention", "rowwise state"),
    Case("gcn", "global decay"),
    Case("given", "row bias", dtype=torch.bfloat16),
]
STEPS = 6


def _made(case: Case) -> tuple[Any, Any]:
    model: Any = Model(case)
    if dist.is_initialized():
        model = rx.distributed.shard(model)
    optimizer = OPTIMIZERS[case.optimizer](model.parameters())
    if case.optimizer == "global decay":
        optimizer.attach(model)
    return model, optimizer


def _steps(model: Any, optimizer: Any, first: int, past: int) -> None:
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    for batch in batches(STEPS)[first:past]:
        size = len(batch["label"])
        part = share(batch, size * rank // ranks, size * (rank + 1) // ranks)
        optimizer.zero_grad()
        found = model(part)
        ((found - part["label"].to(found.dtype)).square().sum() * ranks / size).backward()
        optimizer.step()


def _save(folder: str) -> None:
    for number, case in enumerate(CASES):
        model, optimizer = _made(case)
        _steps(model, optimizer, 0, 3)
        rx.distributed.save(model, f"{folder}/{number}", optimizer, {"step": 3})
        rx.distributed.gather(model, f"{folder}/{number}.safetensors")


def _go_on(folder: str, out: str) -> None:
    for number, case in enumerate(CASES):
        torch.manual_seed(number)
        model, optimizer = _made(case)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        assert rx.distributed.load(model, f"{folder}/{number}", optimizer) == {"step": 3}
        _steps(model, optimizer, 3, STEPS)
        rx.distributed.gather(model, f"{out}/{number}.safetensors")
    if dist.is_initialized():
        _wrong(folder)


def _wrong(folder: str) -> None:
    """What is refused, on every rank by the same line."""
    model, optimizer = _made(CASES[0])
    rank = dist.get_rank()
    if rank == 0:
        for name, spoil in (("missing", Path.unlink), ("damaged", lambda p: p.write_bytes(b"x" + p.read_bytes()[1:]))):
            place = Path(f"{folder}/{name}")
            place.mkdir()
            for file in Path(f"{folder}/0").iterdir():
                (place / file.name).write_bytes(file.read_bytes())
            spoil(place / "__1_0.distcp")
    dist.barrier()
    other = _made(CASES[1])[0]
    wrong = [
        (f"{folder}/missing", model, None, "lacks the file __1_0.distcp of its checkpoint"),
        (f"{folder}/damaged", model, None, "__1_0.distcp is damaged: its sha256 is not that in SHA256SUMS"),
        (f"{folder}/none", model, None, "is no checkpoint of torch.distributed.checkpoint"),
        (f"{folder}/0", other, None, "model: other tensors than in"),
        (f"{folder}/0", model, rx.optim.Adam(inner(model).top.parameters()), "optimizer: is over other parameters"),
    ]
    for path, loads, steps, message in wrong:
        with pytest.raises((OSError, ValueError), match=message) as caught:
            rx.distributed.load(loads, path, steps)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"path: .* is not empty"):
        rx.distributed.save(model, f"{folder}/0", optimizer)
    with pytest.raises(OSError, match="cannot write the checkpoint"):
        rx.distributed.save(model, f"{folder}/0.safetensors/under", optimizer)


def _whole(case: Case, past: int) -> dict[str, torch.Tensor]:
    model, optimizer = _made(case)
    _steps(model, optimizer, 0, past)
    if case.optimizer == "global decay":
        optimizer.catch_up()
    return dict(model.state_dict())


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_save_on_two_ranks_load_on_three_and_on_one(tmp_path: Path) -> None:
    for name in ("2", "3", "saved", "three", "one"):
        (tmp_path / name).mkdir()
    saved = str(tmp_path / "saved")
    on_ranks(2, tmp_path / "2", _save, saved)
    on_ranks(3, tmp_path / "3", _go_on, saved, str(tmp_path / "three"))
    _go_on(saved, str(tmp_path / "one"))
    for number, case in enumerate(CASES):
        close = 2e-2 if case.dtype == torch.bfloat16 else 1e-5
        for folder, past in ((tmp_path / "saved", 3), (tmp_path / "three", STEPS), (tmp_path / "one", STEPS)):
            expected, found = _whole(case, past), load_file(folder / f"{number}.safetensors")
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=0, atol=close, msg=f"{folder.name} {case} {name}")
        expected = _whole(case, 3)
        # Others read it too: names and shapes are those of one process.
        read = {f"model.{name}": torch.empty_like(value) for name, value in expected.items()}
        dcp.load(read, checkpoint_id=tmp_path / "saved" / str(number), no_dist=True)
        for name, value in expected.items():
            torch.testing.assert_close(read[f"model.{name}"], value, rtol=0, atol=close)


def test_one_process(tmp_path: Path) -> None:
    model, optimizer = _made(CASES[0])
    _steps(model, optimizer, 0, 3)
    rx.distributed.save(model, tmp_path / "saved", optimizer)
    other, stepped = _made(CASES[0])
    assert rx.distributed.load(other, tmp_path / "saved", stepped) is None
    _steps(model, optimizer, 3, STEPS)
    _steps(other, stepped, 3, STEPS)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    rx.distributed.gather(other, tmp_path / "file.safetensors", {"what": "a model"})
    for name, value in load_file(tmp_path / "file.safetensors").items():
        assert torch.equal(other.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"optimizer: .* holds none"):
        rx.distributed.save(model, tmp_path / "alone")
        rx.distributed.load(model, tmp_path / "alone", optimizer)
    write_shards(tmp_path / "others", {"a": torch.ones(2)}, {}, None)
    with pytest.raises(ValueError, match=r"is no checkpoint of rx\.distributed\.save"):
        rx.distributed.load(model, tmp_path / "others")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_blocks_of_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tables of many blocks, whose chunks are ranges of rows."""
    monkeypatch.setattr("resemb_ext.distributed.rows.BLOCK_BYTES", 100)
    values = {"t": Dealt(torch.arange(41 * 6.0).reshape(41, 6), rx.distributed.Deal(41, 1, 0))}
    assert values["t"].bounds()[:2] == [(0, 4), (4, 8)] and values["t"].bounds()[-1] == (40, 41)
    write_shards(tmp_path / "t", values, {}, None)
    metadata = dcp.FileSystemReader(tmp_path / "t").read_metadata()
    assert len(metadata.state_dict_metadata["t"].chunks) == 11  # type: ignore[union-attr]
    read = {"t": torch.empty(41, 6)}
    dcp.load(read, checkpoint_id=tmp_path / "t", no_dist=True)
    assert torch.equal(read["t"], values["t"].part)
