"""The attention benchmark's own parts, on a small cell."""

import pytest
import torch

from benchmarks import din_attention
from benchmarks.report import din_attention_table


@pytest.mark.full
def test_a_cell_checks_and_times_both_forms(monkeypatch):
    monkeypatch.setattr(din_attention, "BATCH", 8)
    monkeypatch.setattr(din_attention, "LONGEST", 5)
    cells = [din_attention.cell(form, 4, (3,), rounds=1) for form in ("jagged", "padded")]
    assert cells[1]["pairs"] == 40 > cells[0]["pairs"] > 0
    for one in cells:
        assert set(one["forward"]) == {"split", "concatenated"}
        kept = {name: one["memory"][name]["saved_mb"] for name in one["memory"]}
        assert set(kept) == {"split", "concatenated"}
    about = {"cpu": "a CPU", "threads": 1, "torch": "2"}
    text = din_attention_table({"machine": about, "batch": 8, "longest": 5, "rounds": 1, "cells": cells})
    assert text.count("\n| ") == 5 and "| padded | 4 | [3] | 40 | concatenated |" in text


def test_saved_bytes_counts_a_storage_once():
    weight = torch.ones(1000, requires_grad=True)
    # exp keeps its result, mul both factors: the one that exp kept already, and itself twice.
    assert din_attention.saved_bytes(lambda: (y := weight.exp()) * y) == 4000
