"""FuxiCTR's own fit, evaluate and checkpoints, without us and with us."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integrations.conftest import framework

framework("fuxictr", __file__)
import torch  # noqa: E402
from fuxictr.pytorch.torch_utils import seed_everything  # noqa: E402

import resemb_ext as rx  # noqa: E402
from resemb_ext.integrations import fuxictr  # noqa: E402

from . import models  # noqa: E402

CASES = models.cases()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def no_edges(rows: int) -> rx.InterestGraph:
    return rx.InterestGraph.from_csr(np.zeros(rows + 1, np.int64), [], [], num_items=rows)


def only_itself(rows: int) -> rx.InterestGraph:
    """Each item its only neighbour; padding has none."""
    return rx.InterestGraph.from_csr(np.r_[0, 0:rows], np.arange(1, rows), np.ones(rows - 1), num_items=rows)


def fit(model, data, epochs=2):
    seed_everything(1)
    model.fit(data.load("train", shuffle=True), validation_data=data.load("valid"), epochs=epochs)
    return {part: model.evaluate(data.load(part)) for part in ("valid", "test")}


def close(got, wanted, tolerance=1e-6):
    for part, metrics in wanted.items():
        for name, value in metrics.items():
            assert got[part][name] == pytest.approx(value, abs=tolerance), (part, name)


def rows_of(data):
    return data.feature_map.features[data.item]["vocab_size"]


@pytest.mark.parametrize("kind", ["no edges", "only itself, residual frozen"])
@pytest.mark.parametrize("name", CASES)
def test_with_an_identity_graph_metrics_are_those_without_us(tmp_path, name, kind):
    case = CASES[name]
    data = case.data(tmp_path / "data")
    plain = case.build(data)
    wanted = fit(plain, data)
    model = case.build(data)
    made = no_edges(rows_of(data)) if kind == "no edges" else only_itself(rows_of(data))
    report = fuxictr.replace_embeddings(model, {data.item: made}, link="given")
    if kind != "no edges":
        for table in report:
            table.module.residual.requires_grad_(False)
    got = fit(model, data)
    close(got, wanted)
    (table,) = (t for t in report if t.dim > 1)
    moved = plain.state_dict()[f"{table.path}.weight"]
    torch.testing.assert_close(table.module.weight.detach() + 0, moved, atol=1e-5, rtol=1e-4)
    assert moved.abs().max() > 1e-3  # from a standard deviation of 1e-4: it has learnt something to compare


@pytest.mark.parametrize("name", CASES)
def test_the_real_graph_trains_and_its_weights_come_back(tmp_path, name):
    case = CASES[name]
    data = case.data(tmp_path / "data")
    model = case.build(data)
    report = fuxictr.replace_embeddings(model, {data.item: data.graph()})
    module = report.tables[0].module
    before = module.central.detach().clone(), module.residual.detach().clone()
    losses = []
    step = model.train_step
    model.train_step = lambda batch: losses.append(step(batch)) or losses[-1]
    after = fit(model, data, epochs=4)
    losses = [loss.item() for loss in losses]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert (module.central - before[0]).abs().max() > 1e-3
    assert (module.residual - before[1]).abs().max() > 1e-3

    other = case.build(data, seed=5)
    fuxictr.replace_embeddings(other, {data.item: data.graph()})
    other.load_weights(model.checkpoint)
    assert {part: other.evaluate(data.load(part)) for part in after} == after

    rx.restore_embeddings(other)
    close({part: other.evaluate(data.load(part)) for part in after}, after)
    other.save_weights(str(tmp_path / "plain.model"))
    plain = case.build(data, seed=6)
    plain.load_weights(str(tmp_path / "plain.model"))  # FuxiCTR's model without us
    close({part: plain.evaluate(data.load(part)) for part in after}, after)
