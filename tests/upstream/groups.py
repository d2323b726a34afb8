"""The groups of cases, and what differs from torch: the one source of the tests and of docs/compatibility.md."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import import_module
from typing import NamedTuple

from .cases import Cases


class Difference(NamedTuple):
    """Cases in which ours do otherwise than torch's.

    Attributes:
        cases: pattern of their names, as of fnmatch.
        error: the class and a part of the message of the error that such a case ends with.
        why: for the page.
    """

    cases: str
    error: type[BaseException] | tuple[type[BaseException], ...]
    message: str
    what: str
    why: str


class Group(NamedTuple):
    """Cases of one kind.

    Attributes:
        inputs, asked: for the page: where the inputs come from, and what is asked of them.
        function: module of this folder and function that makes the cases.
    """

    inputs: str
    asked: str
    function: str
    differences: tuple[Difference, ...]

    def cases(self) -> Cases:
        """Imports torch.testing, which takes seconds."""
        module, name = self.function.split(":")
        make: Callable[[], Cases] = getattr(import_module(f".{module}", __package__), name)
        return make()

    def difference(self, case: str) -> Difference | None:
        return next((one for one in self.differences if fnmatchcase(case, one.cases)), None)


# A failed ``pytest.raises`` is no Exception.
_NOT_RAISED = BaseException
_MAX = ("mode: found 'max'", '`mode="max"`', "the largest of each column has no sum over neighbours to share")

GROUPS = {
    "modules": Group(
        "`module_db`",
        "the checks of `test_modules.py`: forward, dtype and device, pickle, train and eval, to, gradients",
        "modules:module_cases",
        (
            Difference(
                "test_gradgrad attention *",
                RuntimeError,
                "double backward through the attention link",
                'second derivatives, `link="attention"`',
                "not defined; refused",
            ),
        ),
    ),
    "NewModuleTest": Group(
        "`common_nn`",
        "`NewModuleTest` as torch runs it: gradients by differences, batched gradients, copies, casts",
        "modules:new_module_cases",
        (Difference("EmbeddingBag_max*", ValueError, *_MAX),),
    ),
    "functions": Group(
        "`op_db`",
        '`F.embedding` and `F.embedding_bag` of `weight`: outputs and gradients, `mode="max"` too',
        "functions:function_cases",
        (
            Difference(
                "* error *",
                AssertionError,
                "2-dimensional",
                "tables of one dimension",
                "there are none: a module's table is [H, D]",
            ),
        ),
    ),
    "bags": Group(
        "`op_db`",
        "`ResEmbeddingBag`: outputs and gradients",
        "functions:bag_cases",
        (Difference("max *", ValueError, *_MAX),),
    ),
    "embeddings": Group(
        "ours",
        "what `test_embedding.py` asks, test by test",
        "embeddings:embedding_cases",
        (
            Difference(
                "embedding_max_norm *", ValueError, "max_norm: not supported", "`max_norm`", "a row is of two tables"
            ),
            Difference(
                "embedding_scale_grad_by_freq *",
                ValueError,
                "scale_grad_by_freq: not supported",
                "`scale_grad_by_freq`",
                "not there",
            ),
            Difference("embedding_bag_max *", ValueError, *_MAX),
            Difference(
                "embedding_sparse_rows_in_order_of_ids *",
                AssertionError,
                "",
                "order of a sparse gradient's rows",
                "ours are unique and ascend; the sum is the same",
            ),
            Difference("embedding_of_no_rows *", ValueError, "", "a table of 0 rows", "a graph has at least one item"),
            Difference(
                "embedding_padding_idx_keeps_a_vector * False",
                AssertionError,
                "Tensor-likes are not close",
                "a padding row that is not zero",
                "a zero vector, and a warning says what is lost; with `keep_padding=True` as torch",
            ),
            Difference(
                "embedding_from_pretrained_by_class *",
                TypeError,
                "a table alone does not define one",
                "`from_pretrained`",
                "needs a graph: `from_embedding`, `from_embedding_bag`",
            ),
            Difference(
                "EmbeddingBag_per_sample_weights_failures * another dtype",
                _NOT_RAISED,
                "DID NOT RAISE",
                "`per_sample_weights` of another dtype",
                "taken; torch refuses them",
            ),
            Difference(
                "EmbeddingBag_per_sample_weights_failures * mean",
                _NOT_RAISED,
                "DID NOT RAISE",
                '`per_sample_weights` with `mode="mean"`',
                "a weighted mean; torch refuses them",
            ),
            Difference(
                "embedding_bag_out_of_bounds_idx *",
                IndexError,
                "out of range",
                "ids out of range in a bag",
                "`IndexError`, as of an embedding; torch has `RuntimeError`",
            ),
        ),
    ),
    "optimizers": Group(
        "`optim_db`",
        "SGD, Adagrad, Adam, AdamW, SparseAdam on dense gradients and on rows: steps, states, copies, hooks, rates",
        "optimizers:optimizer_cases",
        (
            Difference("* amsgrad", ValueError, "amsgrad: found True", "`amsgrad`", "no such state is kept; refused"),
            Difference("* dampening", ValueError, "dampening: found 0.5", "`dampening`", "not there; refused"),
        ),
    ),
    "optimizer errors": Group(
        "`optim_db`",
        "errors and warnings of constructors, by class",
        "optimizers:error_cases",
        (
            Difference(
                "SparseAdam complex not supported",
                _NOT_RAISED,
                "DID NOT RAISE",
                "complex parameters in place of `SparseAdam`",
                "taken with dense gradients, as by `torch.optim.Adam`",
            ),
        ),
    ),
}
