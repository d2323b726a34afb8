"""What docs/moving.md says of RecBole, each line by running RecBole beside ours."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import resemb_ext as rx
from resemb_ext.metrics import gauc
from tests.integrations.conftest import framework

framework("recbole", __file__)

from recbole.evaluator import Collector, Evaluator  # noqa: E402

from resemb_ext.integrations.recbole import replace_embeddings  # noqa: E402
from tests.integrations.recbole import sample  # noqa: E402

NAMES = ["user_id:token", "item_id:token", "timestamp:float"]


OTHERS = [("v", f"j{at}", at) for at in range(4)]  # whose items are the negatives of u


def of_u(loader: Any) -> Any:
    """The rows of user u in RecBole's part of the data."""
    feat = loader.dataset.inter_feat
    return feat[feat["user_id"] == loader.dataset.token2id("user_id", "u")]


def log_of(table: pd.DataFrame) -> rx.data.Log:
    return rx.data.read_log(table.set_axis([name.split(":")[0] for name in table.columns], axis=1))


def both(
    folder: Path, rows: list[tuple], model: str = "SASRec", **options: object
) -> tuple[SimpleNamespace, pd.DataFrame]:
    """RecBole's data of some events, and the events as a table."""
    table = pd.DataFrame(rows, columns=NAMES)
    return sample.prepare(model, folder, **sample.atomic(folder, "log", table), **options), table


@pytest.mark.moving("RecBole", "ids")
def test_ids_start_at_1_behind_padding_and_there_is_no_row_for_unknown_items(tmp_path: Path) -> None:
    rows = [("u", item, at) for at, item in enumerate(["b", "a", "c", "d", "a"])]
    data, table = both(tmp_path, rows)
    assert data.dataset.field2id_token["item_id"].tolist() == ["[PAD]", "b", "a", "c", "d"]
    assert data.dataset.item_num == 1 + 4
    log = log_of(table)
    assert log.num_items == 1 + 4 + 1
    assert 0 not in log.item


@pytest.mark.moving("RecBole", "padding of histories")
@pytest.mark.moving("RecBole", "long histories")
def test_histories_are_padded_behind_and_keep_the_newest_events(tmp_path: Path) -> None:
    rows = [("u", f"i{at}", at) for at in range(9)] + OTHERS
    data, table = both(tmp_path, rows, MAX_ITEM_LIST_LENGTH=3)
    tokens = data.dataset.field2id_token["item_id"]
    first, last = of_u(data.train)["item_id_list"][0], of_u(data.test)["item_id_list"][0]
    assert [tokens[i] for i in first] == ["i0", "[PAD]", "[PAD]"]
    assert [tokens[i] for i in last] == ["i5", "i6", "i7"]
    log = log_of(table)
    ours = rx.data.make_eval_samples(rx.data.split(log), "test", max_history=3, negatives=1)
    assert log.items.decode(ours.batch(slice(1)).history).tolist() == ["i5", "i6", "i7"]


@pytest.mark.moving("RecBole", "padding row")
def test_the_padding_row_is_drawn_as_others_and_trained_as_an_output_weight(tmp_path: Path) -> None:
    data = sample.prepare("SASRec", tmp_path, epochs=1)
    model = sample.build(data)
    start = model.item_embedding.weight.detach().clone()
    assert start[0].std().item() == pytest.approx(start[1:].std().item(), rel=1.0)
    sample.trainer_of(data, model).fit(data.train, verbose=False, saved=False)
    assert (model.item_embedding.weight[0] - start[0]).abs().max() > 1e-4
    graph = rx.InterestGraph.from_csr(np.zeros(6, np.int64), [], [], num_items=5)
    assert rx.ResEmbedding(graph, 4, padding_idx=0).weight[0].abs().max() == 0
    model = sample.build(data)
    replace_embeddings(model, data.train)
    torch.testing.assert_close(model.item_embedding.weight[0].detach(), start[0])


@pytest.mark.moving("RecBole", "times")
def test_times_are_float32_so_that_epoch_seconds_are_128_apart(tmp_path: Path) -> None:
    rows = [("u", f"i{at}", 1_600_000_000 + at) for at in range(200)]
    data, table = both(tmp_path, rows)
    kept = data.dataset.inter_feat["timestamp"]
    assert kept.dtype == torch.float32
    assert kept.diff().unique().tolist() == [0, 128]
    assert np.diff(log_of(table).time).tolist() == [1] * 199
    near, _ = both(tmp_path / "near", [(user, item, at - 1_600_000_000) for user, item, at in rows])
    assert near.dataset.inter_feat["timestamp"].diff().unique().tolist() == [1]


@pytest.mark.moving("RecBole", "ties in leave-last-out")
def test_the_later_row_is_held_out_among_times_that_round_to_the_same(tmp_path: Path) -> None:
    rows = [("u", item, 1_600_000_000 + at) for item, at in (("a", 0), ("b", 1), ("d", 3), ("c", 2))]
    data, table = both(tmp_path, rows + OTHERS)
    tokens = data.dataset.field2id_token["item_id"]
    assert tokens[of_u(data.test)["item_id"].item()] == "c", "the last row, though not the last event"

    def held_out(events: pd.DataFrame) -> str:
        log = log_of(events)
        samples = rx.data.make_eval_samples(rx.data.split(log, how="leave-last-out"), "test", negatives=1)
        return log.items.decode(samples.target[samples.label == 1])[0]

    assert held_out(table) == "d"
    assert held_out(table.assign(**{"timestamp:float": 1_600_000_000})) == "c"


@pytest.mark.moving("RecBole", "GAUC")
def test_gauc_weights_users_by_positives(tmp_path: Path) -> None:
    """Users of 1, 3 and 2 positives among 3, 4 and 2 items; the last has no negatives and is left out; ties count 1/2."""
    data = sample.prepare("DIN", tmp_path, metrics=["GAUC"])
    labels = [[1, 0, 0], [1, 1, 1, 0], [1, 1]]
    scores = [[0.2, 0.9, 0.2], [0.8, 0.1, 0.3, 0.3], [0.3, 0.4]]
    table = torch.full((3, 5), -np.inf)
    positive = [(user, at + 1) for user, row in enumerate(labels) for at, label in enumerate(row) if label]
    for user, row in enumerate(scores):
        table[user, 1 : 1 + len(row)] = torch.tensor(row)
    collector = Collector(data.config)
    users, items = torch.tensor(positive).T
    collector.eval_batch_collect(table, None, users, items)
    theirs = Evaluator(data.config).evaluate(collector.get_data_struct())["gauc"]
    auc = [0.25, 0.5]  # (0 + 1/2) / 2; (1 + 0 + 1/2) / 3
    assert theirs == pytest.approx((1 * auc[0] + 3 * auc[1]) / 4)
    rows = np.concatenate([[user] * len(row) for user, row in enumerate(labels)])
    ours = gauc(np.concatenate(labels), np.concatenate(scores), rows)
    assert ours == pytest.approx((3 * auc[0] + 4 * auc[1]) / 7)


@pytest.mark.moving("RecBole", "opening a checkpoint")
def test_checkpoints_are_refused_by_torch_unless_its_variable_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sample.prepare("BPR", tmp_path, epochs=1)
    trainer = sample.trainer_of(data, sample.build(data))
    trainer.fit(data.train, verbose=False)
    assert trainer.evaluate(data.test)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    with pytest.raises(Exception, match="Weights only load failed"):
        trainer.evaluate(data.test)


@pytest.mark.moving("RecBole", "resuming DIN")
def test_a_resumed_din_trains_on_without_its_tables(tmp_path: Path) -> None:
    def moved(res: bool) -> float:
        data = sample.prepare("DIN", tmp_path)
        trainers = []
        for _ in range(2):
            model = sample.build(data)
            if res:
                replace_embeddings(model, data.train)
            trainers.append(sample.trainer_of(data, model))
        trainers[0].epochs = 1
        trainers[0].fit(data.train, verbose=False)
        trainers[1].resume_checkpoint(trainers[0].saved_model_file)
        table: nn.Embedding = trainers[1].model.embedding_layer.token_embedding_table["item"].embedding
        before = table.weight.detach().clone()
        trainers[1].fit(data.train, verbose=False, saved=False)
        assert set(trainers[1].train_loss_dict) == {1}
        return (table.weight.detach() - before).abs().max().item()

    assert moved(res=False) == 0.0
    assert moved(res=True) > 1e-3
