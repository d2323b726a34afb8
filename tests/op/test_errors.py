"""Bad input: the error's type, and that it names the argument, what was found and what is expected."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import resemb_ext
from resemb_ext import functional

H, D = 5, 4
GRAPH = (torch.tensor([0, 1, 2, 2, 2, 2]), torch.tensor([1, 0]), torch.tensor([1.0, 1.0]))
TABLES = (torch.randn(H, D), torch.randn(H, D))


def look_up(ids, tables=TABLES, graph=GRAPH, **options):
    return functional.res_embedding(ids, *tables, *graph, **options)


def pool(ids, offsets, **options):
    return functional.res_embedding_bag(ids, offsets, *TABLES, *GRAPH, **options)


@pytest.mark.parametrize("bad", [5, -1, 2**40])
def test_bad_id_names_first_and_position(bad: int) -> None:
    ids = torch.zeros(50_000, dtype=torch.int64)
    ids[[31_000, 45_000]] = bad
    with pytest.raises(IndexError, match=rf"id {bad} at position 31000 .* expected ids in \[0, 5\)"):
        look_up(ids)


@pytest.mark.operators("raise_faults")
def test_nothing_is_left_to_raise_on_the_cpu() -> None:
    with pytest.raises(IndexError):
        look_up(torch.tensor([H]))
    torch.ops.resemb_ext.raise_faults(TABLES[0])


def test_bad_id_in_bag() -> None:
    with pytest.raises(IndexError, match="id 7 at position 2"):
        pool(torch.tensor([1, 2, 7]), torch.tensor([0, 1]))


def test_bad_id_under_compile() -> None:
    compiled = torch.compile(look_up, fullgraph=True, backend="aot_eager")
    with pytest.raises(IndexError, match="id 9 at position 1"):
        compiled(torch.tensor([1, 9]))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ((GRAPH[0], torch.tensor([1, 5]), GRAPH[2]), "row of item 1 leaves the arrays or names"),
        ((torch.tensor([0, 9, 9, 9, 9, 9]), *GRAPH[1:]), "row of item 0 leaves the arrays"),
        ((torch.tensor([0, 2, 1, 1, 1, 1]), *GRAPH[1:]), "row of item 1 leaves the arrays"),
        ((torch.tensor([-(2**62), 2**62, 2, 2, 2, 2]), *GRAPH[1:]), "row of item 0 leaves"),
    ],
)
def test_malformed_graph(graph, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        look_up(torch.tensor([0, 1, 2]), graph=graph)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: look_up(torch.tensor([1.0])), TypeError, "ids: found torch.float32; expected a tensor of int64"),
        (lambda: look_up([1]), TypeError, "ids: found list; expected a tensor of int64 or int32"),
        (lambda: look_up(torch.tensor([1]), padding_idx=5), ValueError, "padding_idx: found 5"),
        (lambda: look_up(torch.tensor([1]), padding_idx=-6), ValueError, "padding_idx: found -6"),
        (lambda: look_up(torch.tensor([1]), out_dtype=torch.float64), ValueError, "out_dtype"),
        (lambda: look_up(torch.tensor([1]), out_dtype=torch.int32), ValueError, "out_dtype: dtype Int"),
        (
            lambda: look_up(torch.tensor([1]), (torch.randn(H, D), torch.randn(H, D + 1))),
            ValueError,
            r"residual: shape \[5, 5\] does not fit; expected \[5, 4\]",
        ),
        (
            lambda: look_up(torch.tensor([1]), (torch.randn(H, D), torch.randn(H, D).double())),
            ValueError,
            "residual: dtype differs",
        ),
        (
            lambda: look_up(torch.tensor([1]), (torch.randn(H + 1, D), torch.randn(H + 1, D))),
            ValueError,
            r"central: shape \[6, 4\] does not fit; expected \[5, 4\]",
        ),
        (
            lambda: look_up(torch.tensor([1]), graph=(GRAPH[0], GRAPH[1], torch.ones(3))),
            ValueError,
            r"weights: shape \[3\] does not fit; expected \[2\]",
        ),
        (
            lambda: look_up(torch.tensor([1]), graph=(GRAPH[0].int(), *GRAPH[1:])),
            ValueError,
            "indptr: expected dtype int64",
        ),
        (lambda: pool(torch.tensor([1]), torch.tensor([0]), mode="max"), ValueError, "mode: found 'max'"),
        (
            lambda: pool(torch.tensor([1, 2]), torch.tensor([1])),
            ValueError,
            "offsets: run from 1 to 2; expected 0 to 2",
        ),
        (lambda: pool(torch.tensor([1, 2]), torch.tensor([0, 2, 1])), ValueError, "offsets: fall from 2 to 1 at 2"),
        (
            lambda: pool(torch.tensor([1, 2]), torch.tensor([0]), per_sample_weights=torch.ones(3)),
            ValueError,
            "per_sample_weights: shape",
        ),
        (
            lambda: pool(torch.tensor([1]), torch.tensor([0]), per_sample_weights=torch.ones(1).int()),
            TypeError,
            "per_sample_weights: found torch.int32",
        ),
        (lambda: pool(torch.tensor([1]), [0]), TypeError, "offsets: found list; expected a tensor"),
        (
            lambda: pool(torch.tensor([1]), torch.tensor([0]), per_sample_weights=[1.0]),
            TypeError,
            "per_sample_weights: found list; expected a tensor",
        ),
        (lambda: pool(torch.tensor([1]), None), ValueError, "ids: 1 dimensions without offsets"),
    ],
)
def test_messages(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("rule", [-1, 5, 2**32])
def test_an_unknown_rule(rule: int) -> None:
    rows, values, state = torch.tensor([1]), torch.ones(1, D), (None,) * 5
    with pytest.raises(ValueError, match="rule: unknown"):
        torch.ops.resemb_ext.update_rows_(TABLES[0].clone(), *state, rows, values, [0.0] * 7, [rule] + [0] * 7)


def test_dtypes_that_were_found() -> None:
    ops, rows = torch.ops.resemb_ext, torch.tensor([0, 1])
    with pytest.raises(ValueError, match="indptr: expected dtype int64, found int32"):
        ops.distinct_neighbors(rows, GRAPH[0].int(), GRAPH[1])
    with pytest.raises(ValueError, match="weights: expected dtype float32, float64 or float16, found bfloat16"):
        look_up(rows, graph=(*GRAPH[:2], GRAPH[2].bfloat16()))
    momentum, moments = [0.0] * 7, torch.zeros(H, D, dtype=torch.float64)
    with pytest.raises(ValueError, match="first: expected dtype float32, found float64"):
        ops.update_rows_(
            TABLES[0].clone(), moments, None, None, None, None, rows, torch.ones(2, D), momentum, [1] + [0] * 7
        )


def copy_package(folder: Path, *, operators: bool) -> Path:
    source = Path(resemb_ext.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", *([] if operators else ["_C*.so"]))
    shutil.copytree(source, folder / "resemb_ext", ignore=ignore)
    return folder


def import_error(folder: Path, prelude: str = "pass") -> str:
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); sys.meta_path = [f for f in sys.meta_path "
        f"if 'editable' not in str(f).lower()]; {prelude}; import resemb_ext"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.full
def test_import_of_an_unbuilt_source_tree(tmp_path: Path) -> None:
    message = import_error(copy_package(tmp_path, operators=False))
    assert message.startswith("ImportError: resemb_ext, for torch>=2.11, has no compiled operators")
    assert f"torch {torch.__version__} is running" in message
    assert "pip install -e ." in message


@pytest.mark.full
def test_import_with_a_torch_too_old(tmp_path: Path) -> None:
    folder = copy_package(tmp_path, operators=True)
    message = import_error(folder, "import torch; torch.__version__ = '2.9.1'")
    assert "needs torch>=2.11" in message and "torch 2.9.1 is running" in message
    assert "pip install 'torch>=2.11'" in message


@pytest.mark.full
def test_import_of_operators_that_do_not_load(tmp_path: Path) -> None:
    folder = copy_package(tmp_path, operators=True)
    library = next((folder / "resemb_ext").glob("_C*.so"))
    library.write_bytes(b"not a library")
    message = import_error(folder)
    assert message.startswith("ImportError: resemb_ext was built with torch")
    assert "do not load with torch" in message and "Remedy" in message


@pytest.mark.full
def test_import_of_operators_from_an_older_source(tmp_path: Path) -> None:
    folder = copy_package(tmp_path, operators=True)
    older = "import types; sys.modules['resemb_ext._C'] = types.SimpleNamespace(__file__='_C.abi3.so')"
    message = import_error(folder, older)
    assert message.startswith("ImportError: resemb_ext: the operators in _C.abi3.so were built from an older source")
    assert "pip install ." in message
