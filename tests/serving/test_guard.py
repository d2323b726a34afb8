"""The rule for bad ids: eager, exported in every runtime, and in front of torch's quantised operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.serving import GuardedEmbedding
from resemb_ext.serving.guard import check_ids, in_table
from resemb_ext.serving.writing import write_programs
from resemb_ext.testing.strategies import examples
from tests.serving.runtimes import HAS_ONNX, NARROW, RUNTIMES, WIDE, ids_of, scorer

ROWS, OOV = 12, 11


@examples(60)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 15), max_size=20), st.integers(0, OOV))
def test_ids_outside_are_the_row_that_is_named(ids, oov):
    expected = [i if 0 <= i < ROWS else oov for i in ids]
    assert in_table(torch.tensor(ids, dtype=torch.int64), ROWS, oov).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_the_shape_and_dtype_of_ids_stay(dtype):
    ids = torch.tensor([[0, -1, 5], [ROWS, 11, 2**31 - 1]], dtype=dtype)
    found = in_table(ids, ROWS, OOV)
    assert found.dtype == dtype and found.tolist() == [[0, 11, 5], [11, 11, 11]]


def test_without_such_a_row_the_first_bad_id_is_named():
    check_ids(torch.tensor([0, 11]), ROWS)
    check_ids(torch.empty(0, dtype=torch.int64), ROWS)
    for ids, words in (
        ([3, -1, 99], "ids: -1 at position 1; the table has 12 rows and no out-of-vocabulary row"),
        ([[3, 4], [12, -1]], "ids: 12 at position 2;"),
        ([2**62], "ids: 4611686018427387904 at position 0;"),
    ):
        with pytest.raises(IndexError, match=words):
            check_ids(torch.tensor(ids), ROWS)


def table():
    torch.manual_seed(0)
    return torch.nn.Embedding(ROWS, 4, padding_idx=0)


def test_a_guarded_table_reads_or_refuses():
    plain = table()
    guarded = GuardedEmbedding(plain, oov=OOV)
    torch.testing.assert_close(guarded(torch.tensor([3, *WIDE])), plain(torch.tensor([3, *[OOV] * len(WIDE)])))
    refuses = GuardedEmbedding(plain)
    assert torch.equal(refuses(torch.tensor([3])), plain(torch.tensor([3])))
    with pytest.raises(IndexError, match="ids: 12 at position 1"):
        refuses(torch.tensor([3, 12]))
    assert "oov=11" in repr(guarded)


def test_what_cannot_be_guarded_is_refused():
    with pytest.raises(TypeError, match=r"table: found Linear; expected nn.Embedding, as to_embedding\(\) gives"):
        GuardedEmbedding(torch.nn.Linear(2, 2))
    for oov in (12, -1):
        with pytest.raises(ValueError, match=f"oov: found {oov}; expected one of the table's 12 rows"):
            GuardedEmbedding(table(), oov=oov)
    with pytest.raises(Exception, match="oov: found None; an exported or compiled table needs a row"):
        torch.export.export(GuardedEmbedding(table()), (torch.tensor([1]),))


class Target(torch.nn.Module):
    """A guarded table under the name of an input that exports have."""

    def __init__(self):
        super().__init__()
        self.guarded = GuardedEmbedding(table(), oov=OOV)

    def forward(self, target):
        return self.guarded(target).sum(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    module = Target().eval().requires_grad_(False)
    ids = [{"target": torch.tensor([3, 5, -1])}, {"target": torch.tensor([2])}]
    free = {"target": {0: torch.export.Dim("batch", min=1)}}
    write_programs(module, ids, free, folder, onnx=HAS_ONNX)
    return module, folder


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_exported_table_holds_the_rule(exported, runtime):
    module, folder = exported
    ids = ids_of(runtime)
    found = scorer(runtime, folder)({"target": torch.tensor([4, *ids])})
    torch.testing.assert_close(found, module(torch.tensor([4, *[OOV] * len(ids)])))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_rule_in_front_of_torchs_quantised_operators(bits):
    """They have none of their own: what they do with such an id is not said anywhere."""
    vectors = torch.randn(ROWS, 8)
    pack, unpack, look_up = {
        8: ("byte_prepack", "byte_unpack", "byte_rowwise_offsets"),
        4: ("4bit_prepack", "4bit_unpack", "4bit_rowwise_offsets"),
    }[bits]
    rows = getattr(torch.ops.quantized, f"embedding_bag_{pack}")(vectors)
    expected = getattr(torch.ops.quantized, f"embedding_bag_{unpack}")(rows)
    ids = torch.tensor([4, ROWS, *NARROW, *WIDE])
    found = getattr(torch.ops.quantized, f"embedding_bag_{look_up}")(
        rows, in_table(ids, ROWS, OOV), torch.arange(len(ids)), mode=0, include_last_offset=False
    )
    torch.testing.assert_close(found, expected[[4, *[OOV] * (len(ids) - 1)]], rtol=1e-5, atol=1e-6)


def test_a_res_embedding_refuses_bad_ids_by_name():
    graph = rx.InterestGraph.from_csr(np.array([0, 0, 1, 2]), np.array([2, 1]))
    emb = rx.ResEmbedding(graph, 4, padding_idx=0)
    for bad in (-1, 3, 2**40):
        with pytest.raises(IndexError, match=str(bad)):
            emb(torch.tensor([1, bad]))
