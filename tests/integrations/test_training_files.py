"""Training files of FuxiCTR as columns of ids: which files are read, and which are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from resemb_ext.integrations.training_files import Columns


def write(path: Path, **columns: list[float]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **{name: np.array(values) for name, values in columns.items()})
    else:
        pd.DataFrame(columns).to_parquet(path)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_folder_of_parts_is_read_whole_and_one_with_held_out_parts_is_refused(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"part_0.{ending}", item=[1, 2], label=[1, 0])
    write(tmp_path / f"part_1.{ending}", label=[1], item=[3])
    columns = Columns(tmp_path, ["label"])
    assert columns.ids("item").tolist() == [1, 2, 3] and columns.positive().tolist() == [True, False, True]
    write(tmp_path / f"part_2.{ending}", item=[3])
    with pytest.raises(
        ValueError, match=rf"data: \S*part_2\.{ending} has the columns item; expected those of \S*part_0"
    ):
        Columns(tmp_path, ["label"])
    for name in ("train", "valid", "test"):
        write(tmp_path / f"{name}.{ending}", item=[4], label=[1])
    with pytest.raises(ValueError, match=rf"with test\.{ending}, valid\.{ending}, which is named as held-out data"):
        Columns(tmp_path, ["label"])
    assert Columns(tmp_path / f"train.{ending}", ["label"]).ids("item").tolist() == [4]
    with pytest.raises(ValueError, match="named as held-out data"):
        Columns(tmp_path / "valid", ["label"])


@pytest.mark.parametrize("wrong", [4.0, -1.0, float("nan")])
def test_labels_are_0_or_1(wrong: float) -> None:
    columns = Columns({"item": np.arange(3), "click": np.array([0, 1, wrong])}, ["click"])
    with pytest.raises(ValueError, match=rf"click: found the label {wrong} in row 2; expected 1 where"):
        columns.positive()


def test_without_a_label_every_row_counts() -> None:
    assert Columns({"item": np.arange(3)}, ["label"]).positive().all()
