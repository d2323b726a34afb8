"""Item vectors by skip-gram over users' histories (Barkan & Koenigstein 2016), through gensim."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from resemb_ext.data import Log

#: Options of gensim's Word2Vec: skip-gram with 5 negatives, the window of the interest graph.
OPTIONS: dict[str, Any] = {
    "sg": 1,
    "negative": 5,
    "ns_exponent": 0.75,
    "window": 3,
    "min_count": 1,
    "sample": 1e-3,
    "epochs": 20,
}


def item_vectors(log: Log, dim: int, seed: int) -> np.ndarray:
    """A vector for each item with events, from the order of each user's events.

    One thread, so that the seed fixes the result.

    Args:
        log: training events.
        dim: D.
        seed: of skip-gram.

    Returns:
        float32 [H, D]; rows of zeros for items without events.

    Raises:
        ImportError: gensim is not installed.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise ImportError('item2vec needs gensim, which is not installed: pip install "resemb_ext[study]"') from None
    words = log.item.astype(str).tolist()
    sentences = [words[a:b] for a, b in itertools.pairwise(log.user_start.tolist()) if b > a]
    model = Word2Vec(sentences, vector_size=dim, seed=seed, workers=1, **OPTIONS)
    vectors = np.zeros((log.num_items, dim), dtype=np.float32)
    vectors[[int(word) for word in model.wv.index_to_key]] = model.wv.vectors
    return vectors
