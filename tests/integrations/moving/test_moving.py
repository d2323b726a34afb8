"""What docs/moving.md says of lenskit, implicit and gensim."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import resemb_ext as rx
from tests.integrations.conftest import framework

lenskit = framework("lenskit", __file__)
implicit = framework("implicit", __file__)
word2vec = framework("gensim.models", __file__).Word2Vec


def ring(items: int) -> rx.InterestGraph:
    return rx.InterestGraph.from_csr(np.arange(items + 1), np.roll(np.arange(items), -1), np.ones(items))


@pytest.mark.moving("lenskit", "ties in leave-last-out")
def test_ties_in_leave_last_out() -> None:
    from lenskit.data import from_interactions_df
    from lenskit.splitting import LastN, crossfold_users

    frame = pd.DataFrame({"user_id": [1, 1, 1, 1], "item_id": [5, 3, 9, 7], "timestamp": [10, 15, 20, 20]})
    (theirs,) = crossfold_users(from_interactions_df(frame), 1, LastN(1, "timestamp"))
    held = [int(item) for _, items in theirs.test for item in items.ids()]
    log = rx.data.read_log(frame, user="user_id", item="item_id", time="timestamp")
    split = rx.data.split(log, how="leave-last-out")
    ours = [int(item) for item in log.items.decode(log.item[split.test])]
    assert (held, ours) == ([9], [7])


@pytest.mark.moving("implicit", "sparse arrays")
def test_sparse_arrays() -> None:
    events = sp.csr_array(np.eye(4, dtype=np.float32))
    model = implicit.als.AlternatingLeastSquares(factors=2, iterations=1, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(events, show_progress=False)
    assert any("passed csr_array" in str(warning.message) for warning in caught)
    with pytest.raises(ValueError, match="CSR sparse matrix"):
        model.recommend(0, events[[0]])
    model.recommend(0, sp.csr_matrix(events)[0])
    graph = ring(4).to_scipy()
    assert isinstance(graph, sp.csr_array) and graph.indices.dtype == np.int32
    model.fit(sp.csr_matrix(graph.astype(np.float32)), show_progress=False)


@pytest.mark.moving("implicit", "an event that stands twice")
def test_an_event_that_stands_twice() -> None:
    twice = sp.csr_matrix((np.ones(3), np.array([0, 0, 1]), np.array([0, 3])), shape=(1, 2))
    model = implicit.nearest_neighbours.ItemItemRecommender(K=2)
    model.fit(twice, show_progress=False)
    assert model.similarity.toarray().tolist() == [[4, 2], [2, 1]]
    users, items = np.zeros(3, dtype=np.int64), np.array([0, 0, 1])
    graph = rx.InterestGraph.from_events(users, items, num_items=2).to_scipy().toarray()
    once = rx.InterestGraph.from_events(users[1:], items[1:], num_items=2).to_scipy().toarray()
    assert graph[0, 1] > once[0, 1]


@pytest.mark.moving("gensim", "long histories")
def test_long_histories() -> None:
    sentences = [["a", "b"] * 5000 + ["late", "later"] * 50, ["a", "b"]]
    options = {"vector_size": 2, "min_count": 1, "epochs": 1, "sample": 0, "seed": 1, "workers": 1}
    model, start = word2vec(sentences, **options), word2vec(**options)
    start.build_vocab(sentences)
    moved = {word: not np.array_equal(model.wv[word], start.wv[word]) for word in ("a", "late")}
    assert moved == {"a": True, "late": False}
    items = np.r_[np.tile([0, 1], 5000), np.tile([2, 3], 50)]
    graph = rx.InterestGraph.from_events(np.zeros(len(items), dtype=np.int64), items, num_items=4)
    assert graph.to_scipy()[2, 3] > 0


@pytest.mark.moving("gensim", "an unknown number as key")
def test_an_unknown_number_as_key() -> None:
    model = word2vec([[7, 3, 7, 3]] * 3, vector_size=2, min_count=1)
    assert set(model.wv.key_to_index) == {3, 7}
    np.testing.assert_array_equal(model.wv[0], model.wv[model.wv.index_to_key[0]])
    log = rx.data.read_log(pd.DataFrame({"user": [1, 1], "item": [7, 3], "time": [1, 2]}))
    assert 0 not in [int(item) for item in log.items.decode(log.item)]
