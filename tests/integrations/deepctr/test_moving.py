"""What docs/moving.md says of DeepCTR-Torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("deepctr_torch", __file__)

from deepctr_torch.callbacks import Callback  # noqa: E402
from deepctr_torch.inputs import SparseFeat  # noqa: E402
from deepctr_torch.layers.sequence import SequencePoolingLayer  # noqa: E402

from resemb_ext.integrations import deepctr  # noqa: E402
from resemb_ext.integrations.deepctr_samples import check_rows  # noqa: E402
from tests.integrations.deepctr.sample import columns, fit, model, quiet, samples  # noqa: E402


@pytest.mark.moving("DeepCTR-Torch", "padding of histories")
def test_padding_of_histories() -> None:
    made = model("DeepFM", l2_reg_embedding=0.1)
    table = made.embedding_dict["item"]
    assert table.padding_idx is None and table.weight[0].any()
    before = table.weight[0].detach().clone()
    fit(made, epochs=1)
    assert table.weight[0].norm() < before.norm()  # its only gradient
    x, y = samples()
    kept = table.weight[0].detach().clone()
    deepctr.replace_embeddings(made, deepctr.item_graph(columns(), x, y, user="user"))
    torch.testing.assert_close(table(torch.tensor(0)), kept)


@pytest.mark.moving("DeepCTR-Torch", "which places are masked")
def test_which_places_are_masked() -> None:
    vectors = torch.tensor([[[1.0], [2.0], [4.0]]])
    by_length = SequencePoolingLayer("sum", supports_masking=False)([vectors, torch.tensor([[2]])])
    by_id = SequencePoolingLayer("sum", supports_masking=True)([vectors, torch.tensor([[7, 0, 9]]) != 0])
    assert (by_length.item(), by_id.item()) == (3, 5)
    x = {"user": [1], "item": [6], "hist_item": [[3, 4, 5, 0, 0, 0]], "length": [2]}
    graph = deepctr.item_graph(columns(), {name: np.array(values) for name, values in x.items()}, window=1)
    edges = graph.to_scipy().tocoo()
    assert {(a, b) for a, b in zip(edges.row, edges.col, strict=True) if a != b} == {(3, 4), (4, 3)}


@pytest.mark.moving("DeepCTR-Torch", "mean of a history")
def test_mean_of_a_history() -> None:
    pool = SequencePoolingLayer("mean", supports_masking=False)
    vectors = torch.tensor([[[1.0], [3.0]], [[1.0], [3.0]]])
    assert pool([vectors, torch.tensor([[2], [0]])]).flatten().tolist() == [2, 0]
    graph = rx.InterestGraph.from_csr([0, 0, 1, 2], [2, 1], [1.0, 1.0])
    table = rx.ResEmbedding(graph, 1, padding_idx=0)
    bags = table.bag(torch.tensor([1, 2]), torch.tensor([0, 2]), mode="mean")
    torch.testing.assert_close(bags, torch.stack([table(torch.tensor([1, 2])).mean(0), torch.zeros(1)]))


@pytest.mark.moving("DeepCTR-Torch", "ids above 2^24")
def test_ids_above_2_24() -> None:
    from deepctr_torch.models import WDL

    seen: list[int] = []
    with quiet():
        made = WDL([], [SparseFeat("item", 3, 2)], dnn_hidden_units=(2,), device="cpu")
        table = made.embedding_dict["item"]
        table.register_forward_pre_hook(lambda module, ids: (seen.extend(ids[0].flatten().tolist()), ids[0] * 0)[1])
        made.predict({"item": np.array([2**24 + 1])})
    assert seen == [2**24]
    with pytest.raises(ValueError, match="rounded to others"):
        check_rows(2**24 + 2, "item")
    check_rows(2**24 + 1, "item")


@pytest.mark.moving("DeepCTR-Torch", "training mode after validation")
def test_training_mode_after_validation() -> None:
    class Modes(Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[bool] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.seen.append(self.model.training)

    without, validated = Modes(), Modes()
    fit(model("DIN"), epochs=3, callbacks=[without])
    fit(model("DIN"), epochs=3, callbacks=[validated], validation_data=samples("valid"))
    assert without.seen == [True, True, True]
    assert validated.seen == [True, False, False]


@pytest.mark.moving("DeepCTR-Torch", "loss")
def test_loss_is_summed() -> None:
    made = model("DIN", l2_reg_embedding=0.0)
    x, y = samples()
    steps = []
    made.compile(torch.optim.SGD(made.parameters(), lr=0.0), "binary_crossentropy")
    table = made.embedding_dict["item"].weight
    table.register_hook(lambda gradient: steps.append(gradient.norm()))
    made.eval()  # the same batch statistics of Dice
    for times in (1, 2):
        twice = {name: np.concatenate([values[:8]] * times) for name, values in x.items()}
        matrix = torch.tensor(np.concatenate([v.reshape(8 * times, -1) for v in twice.values()], 1)).float()
        loss = made.loss_func(made(matrix).squeeze(1), torch.tensor(np.concatenate([y[:8]] * times)), reduction="sum")
        loss.backward()
    assert float(steps[1] / steps[0]) == pytest.approx(2, rel=1e-4)
    calls = []
    made.loss_func = lambda scores, wanted, reduction: (calls.append(reduction), scores.sum())[1]
    fit(made, epochs=1)
    assert set(calls) == {"sum"}
