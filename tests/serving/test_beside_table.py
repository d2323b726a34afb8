"""Models without their item table: the same scores from the rows of a batch, in every runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import resemb_ext as rx
from resemb_ext.models import DNN, MODELS, TorchBatch, WideDeep
from resemb_ext.serving.beside_table import ModuleBesideTable, example_inputs, free_sizes, item_tables, layers_digest
from resemb_ext.serving.writing import write_programs
from tests.serving.runtimes import HAS_ONNX, RUNTIMES, ids_of, scorer

ITEMS, LONGEST, DIM = 30, 4, 4


def embedding(rows=ITEMS, dim=DIM, padding_idx=0):
    return torch.nn.Embedding(rows, dim, padding_idx=padding_idx)


def model_of(name, category=True, item=None):
    torch.manual_seed(0)
    options = {"activation": "dice"} if name in ("din", "dien") else {}
    model = MODELS[name](item or embedding(), **({"category_embedding": embedding(5)} if category else {}), **options)
    for value in model.parameters():  # first-order weights start at zero
        if not value.any():
            torch.nn.init.normal_(value)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module._fill_padding_idx_with_zero()
    return model.eval().requires_grad_(False)


def some_batch(rows):
    """Item numbers of a batch, local numbers of the same, and which item each row is."""
    draw = np.random.default_rng(1)
    items = np.concatenate([[0, ITEMS - 1], draw.permutation(np.arange(1, ITEMS - 1))[: rows - 2]])
    target = torch.from_numpy(draw.integers(1, rows, 6))
    history = torch.from_numpy(draw.integers(0, rows, (6, LONGEST)))
    history[2] = 0
    return torch.from_numpy(items), target, history


def inputs_of(model, module, items, target, history, category):
    inputs = {"rows": model.item_embedding(items), "target": target, "history": history}
    if module.categories:
        inputs["category"] = category[items]
    if module.weights is not None:
        inputs["weights"] = model.get_submodule(module.weights)(items)
    return {name: value.detach() for name, value in inputs.items()}


@pytest.mark.parametrize("category", [True, False])
@pytest.mark.parametrize("name", list(MODELS))
def test_rows_of_a_batch_give_the_models_scores(name, category):
    model = model_of(name, category)
    module = ModuleBesideTable(model).eval()
    assert (module.weights is not None) == (name in ("fm", "deepfm", "wide_deep"))
    of_item = torch.arange(ITEMS) % 5
    items, target, history = some_batch(12)
    batch = TorchBatch(
        target=items[target],
        history=items[history],
        target_category=of_item[items[target]] if category else None,
        history_category=of_item[items[history]] if category else None,
    )
    found = module(**inputs_of(model, module, items, target, history, of_item))
    torch.testing.assert_close(found, model(batch), rtol=1e-4, atol=1e-5)


def test_the_model_stays_as_it_was_and_its_table_is_left_out():
    graph = rx.InterestGraph.from_csr(np.r_[0, 0, np.arange(1, ITEMS)], np.r_[2:ITEMS, 1])
    item = rx.ResEmbedding(graph, DIM, padding_idx=0)
    model = model_of("fm", item=item)
    module = ModuleBesideTable(model)
    assert model.item_embedding is item and not module.model.item_embedding.weight.any()
    assert max(value.shape[0] for value in module.state_dict().values() if value.dim()) < ITEMS


def test_the_digest_of_layers_is_that_of_all_but_the_items():
    model = model_of("fm")
    digest = layers_digest(model)
    with torch.no_grad():
        model.item_embedding.weight[3] += 1
        model.first_order.item.weight[3] += 1
    assert layers_digest(model) == digest
    grown = model_of("fm", item=embedding(ITEMS + 5))
    for name, value in model.category_embedding.state_dict().items():
        grown.category_embedding.state_dict()[name].copy_(value)
    grown.first_order.category.load_state_dict(model.first_order.category.state_dict())
    grown.first_order.bias.copy_(model.first_order.bias)
    assert layers_digest(grown) == digest
    for part in (model.category_embedding.weight, model.first_order.bias, model.first_order.category.weight):
        part.reshape(-1)[-1] += 1
        assert layers_digest(model) != digest
        part.reshape(-1)[-1] -= 1
    assert layers_digest(model_of("dnn")) != layers_digest(model_of("pnn"))


def test_further_tables_are_refused_by_name():
    class Biased(DNN):
        def __init__(self, item):
            super().__init__(item)
            self.bias = embedding(ITEMS, 1)

    with pytest.raises(ValueError, match="bias is a further table of 30 rows, and whether it has one for each item is"):
        item_tables(Biased(embedding()))
    twice = WideDeep(embedding())
    twice.more = type(twice.wide)(twice)
    with pytest.raises(ValueError, match=r"since wide.item and more.item are two"):
        item_tables(twice)
    for model, words in (
        (DNN(embedding(), user_embedding=embedding()), "takes user"),
        (DNN(embedding(padding_idx=None)), "padding_idx 0 to be exported, found None"),
    ):
        with pytest.raises(ValueError, match=words):
            ModuleBesideTable(model)
    model = DNN(embedding())
    with torch.no_grad():
        model.mlp.layers[0].bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"mlp.layers.0.bias holds values that are not finite"):
        ModuleBesideTable(model)


@pytest.fixture(
    scope="module", params=["fm", *(pytest.param(name, marks=pytest.mark.full) for name in ("din", "dien"))]
)
def programs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    model = model_of(request.param)
    module = ModuleBesideTable(model).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    some = [example_inputs(module, LONGEST, draw, rows, samples) for rows, samples in ((7, 5), (3, 1))]
    write_programs(module, some, dict(free_sizes(some[0])), folder, onnx=HAS_ONNX)
    return model, module, folder


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_row_numbers_and_categories_outside_are_the_unseen_ones(programs, runtime):
    model, module, folder = programs
    score = scorer(runtime, folder)
    of_item = torch.arange(ITEMS) % 5
    items, target, history = some_batch(9)
    inside = inputs_of(model, module, items, target, history, of_item)
    inside["target"][0] = inside["history"][1, 0] = inside["history"][2, 1] = 1
    inside["category"][4] = 4
    expected = module(**inside)
    for bad in (*ids_of(runtime), 9):
        outside = {name: value.clone() for name, value in inside.items()}
        outside["target"][0] = outside["history"][1, 0] = outside["history"][2, 1] = bad
        outside["category"][4] = bad
        torch.testing.assert_close(score(outside), expected, rtol=1e-4, atol=1e-5)
    padded = {**inside, "history": inside["history"].masked_fill(inside["history"] == 1, 0)}
    assert (score(padded) - expected).abs().max() > 1e-4  # such a number is no padding
