"""What docs/moving.md says of FuxiCTR, each line by running FuxiCTR beside ours."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integrations.conftest import framework

framework("fuxictr", __file__)
import polars as pl  # noqa: E402
import torch  # noqa: E402
from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.metrics import evaluate_metrics, gAUC  # noqa: E402
from fuxictr.preprocess import FeatureProcessor  # noqa: E402
from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MaskedAveragePooling  # noqa: E402

import resemb_ext as rx  # noqa: E402
from resemb_ext.metrics import gauc  # noqa: E402

SEQUENCE = {"name": "clicks", "dtype": "str", "type": "sequence", "active": True, "share_embedding": "item"}
ITEM = {"name": "item", "dtype": "str", "type": "categorical", "active": True}
ROWS = {"item": ["a", "b", "c", "d"], "clicks": ["", "a", "a^b", "a^b^c"], "clk": [0.0, 1.0, 0.0, 1.0]}


def processed(tmp_path, rows, later=None, **sequence):
    """Ids of rows after FuxiCTR has learnt its vocabulary from them; of ``later`` where given."""
    label = {"name": "clk", "dtype": "float"}
    cols = [ITEM, {**SEQUENCE, **sequence}]
    processor = FeatureProcessor(feature_cols=cols, label_col=label, dataset_id="d", data_root=str(tmp_path))
    processor.fit(processor.preprocess(pl.LazyFrame(rows)))
    batch = pl.DataFrame(later or rows).to_dict(as_series=False)
    return processor.feature_map, processor.transform(batch), processor.processor_dict["item::tokenizer"].vocab


@pytest.mark.moving("FuxiCTR", "padding of histories")
def test_padding_stands_behind_by_default_and_in_front_where_asked(tmp_path):
    _, behind, vocab = processed(tmp_path, ROWS)
    assert behind["clicks"][1].tolist() == [vocab["a"], 0, 0]
    _, front, _ = processed(tmp_path, ROWS, padding="pre")
    assert front["clicks"][1].tolist() == [0, 0, vocab["a"]]


@pytest.mark.moving("FuxiCTR", "long histories")
@pytest.mark.parametrize(("padding", "kept"), [("post", ["a", "b"]), ("pre", ["b", "c"])])
def test_a_long_history_is_cut_on_the_side_that_is_padded(tmp_path, padding, kept):
    _, batch, vocab = processed(tmp_path, ROWS, max_len=2, padding=padding)
    assert batch["clicks"][3].tolist() == [vocab[item] for item in kept]


@pytest.mark.moving("FuxiCTR", "long histories")
def test_ours_keeps_the_newest_events():
    log = rx.data.read_log(
        {"user_id": [1] * 6 + [2] * 4, "item_id": [*range(10, 16), *range(20, 24)], "timestamp": [*range(10)]}
    )
    test = rx.data.make_eval_samples(rx.data.split(log), "test", max_history=2, negatives=1)
    assert log.items.decode(test.batch(slice(1)).history).tolist() == [13, 14]


@pytest.mark.moving("FuxiCTR", "out-of-vocabulary")
def test_index_0_pads_and_the_last_index_is_out_of_vocabulary(tmp_path):
    later = {"item": ["d", "new"], "clicks": ["a^other", ""], "clk": [0.0, 0.0]}
    fmap, batch, vocab = processed(tmp_path, ROWS, later)
    rows = fmap.features["item"]["vocab_size"]
    assert (vocab["__PAD__"], vocab["__OOV__"]) == (0, rows - 1)
    assert fmap.features["item"]["padding_idx"] == 0
    assert batch["item"] == [vocab["d"], rows - 1]
    assert batch["clicks"].tolist() == [[vocab["a"], rows - 1, 0], [0, 0, 0]]
    log = rx.data.read_log({"user_id": [1, 1, 2], "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]})
    assert log.items.encode(["a", "new"])[0].tolist() == [1, log.num_items - 1]  # ours: the same places


def test_the_mean_of_a_history_divides_by_its_events():
    vectors = torch.tensor([[[2.0], [4.0], [0.0]], [[0.0], [0.0], [0.0]]])
    torch.testing.assert_close(MaskedAveragePooling()(vectors), torch.tensor([[3.0], [0.0]]))
    graph = rx.InterestGraph.from_csr([0, 0, 0, 0], [], [], num_items=3)
    emb = rx.ResEmbedding(graph, 1, padding_idx=0, link="given")
    with torch.no_grad():
        emb.residual.copy_(torch.tensor([[0.0], [2.0], [4.0]]))
    torch.testing.assert_close(emb.bag(torch.tensor([[1, 2, 0], [0, 0, 0]])), torch.tensor([[3.0], [0.0]]))


@pytest.mark.moving("FuxiCTR", "mean of a history")
def test_mean_pooling_takes_a_vector_that_sums_to_zero_for_padding():
    vectors = torch.tensor([[[3.0, -3.0], [1.0, 1.0]]])
    torch.testing.assert_close(MaskedAveragePooling()(vectors), torch.tensor([[4.0, -2.0]]))  # not [2, -1]


def scores(seed):
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 12, 200)
    return users, rng.integers(0, 2, 200) * (users % 4 > 0), rng.integers(0, 8, 200) / 8  # ties, and users of one class


@pytest.mark.moving("FuxiCTR", "gAUC")
@pytest.mark.parametrize("seed", range(5))
def test_gauc_is_ours_up_to_the_rounding_of_sums(seed):
    users, labels, values = scores(seed)
    theirs = evaluate_metrics(labels.astype(float), values, ["gAUC"], users)["gAUC"]
    assert theirs == pytest.approx(gauc(labels, values, users), rel=1e-15, abs=0)


def test_gauc_weights_users_by_rows_and_leaves_out_users_of_one_class():
    assert gAUC(np.array([1.0, 1.0]), np.array([0.3, 0.2])) == (0, 0)
    assert gAUC(np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.5, 0.1])) == (0.75 * 3, 3)  # a tie counts 1/2


@pytest.mark.moving("FuxiCTR", "empty history")
def test_an_empty_history_gives_zeros():
    attention = DIN_Attention(4).eval()
    history, mask = torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool)
    assert attention(torch.randn(1, 4), history, mask).abs().max() == 0
    assert MaskedAveragePooling()(history).abs().max() == 0
    graph = rx.InterestGraph.from_csr([0, 0, 0], [], [], num_items=2)
    assert rx.ResEmbedding(graph, 4, padding_idx=0).bag(torch.zeros(1, 3, dtype=torch.int64)).abs().max() == 0


@pytest.mark.moving("FuxiCTR", "start of tables")
def test_tables_start_at_a_ten_thousandth_and_padding_at_zero():
    fmap = FeatureMap("d", ".")
    fmap.features["item"] = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 2000}
    table = FeatureEmbeddingDict(fmap, 16).embedding_layers["item"].weight
    assert table[0].abs().max() == 0
    assert table[1:].std().item() == pytest.approx(1e-4, rel=0.05)
    graph = rx.InterestGraph.from_csr(np.zeros(2001, np.int64), [], [], num_items=2000)
    assert rx.ResEmbedding(graph, 16).central.std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.moving("FuxiCTR", "CSV with polars 2")
def test_csv_stops_on_polars_2_and_parquet_works(tmp_path):
    label = {"name": "clk", "dtype": "float"}
    processor = FeatureProcessor([ITEM, SEQUENCE], label, dataset_id="d", data_root=str(tmp_path))
    frame = pl.DataFrame(ROWS)
    frame.write_csv(tmp_path / "train.csv")
    frame.write_parquet(tmp_path / "train.parquet")
    with pytest.raises(TypeError, match="dtypes"):
        processor.read_data(str(tmp_path / "train.csv"), data_format="csv")
    assert processor.read_data(str(tmp_path / "train.parquet"), data_format="parquet").collect().equals(frame)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,a,1\n1,b,2\n")
    assert len(rx.data.read_log(tmp_path / "log.csv")) == 2
