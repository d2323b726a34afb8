"""Item vectors by skip-gram over users' histories (Barkan & Koenigstein 2016), through gensim."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
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


def pieces(events: Sequence[Any], longest: int, window: int) -> Iterator[Sequence[Any]]:
    """A history in pieces, each beginning with the last ``window`` events of the one before.

    Every pair of events at most ``window`` apart is in a piece. The pairs within the repeated events are in
    two: window (window - 1) / 2 of them at each cut. With sampling, gensim drops frequent events before it
    looks for neighbours, and a pair that only then comes within the window may be cut.

    Args:
        events: of one user.
        longest: most events of a piece, > window.
        window: events that are repeated.
    """
    for begin in range(0, max(len(events) - window, 1), longest - window):
        yield events[begin : begin + longest]


def item_vectors(log: Log, dim: int, seed: int) -> np.ndarray:
    """A vector for each item with events, from the order of each user's events.

    One thread, so that the seed fixes the result. gensim ignores what follows a sentence's first 10,000
    events, so longer histories come to it in ``pieces``.

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
        from gensim.models.word2vec import MAX_WORDS_IN_BATCH, Word2Vec
    except ImportError:
        raise ImportError('item2vec needs gensim, which is not installed: pip install "resemb_ext[study]"') from None
    words = log.item.astype(str).tolist()
    histories = (words[a:b] for a, b in itertools.pairwise(log.user_start.tolist()) if b > a)
    sentences = [piece for one in histories for piece in pieces(one, MAX_WORDS_IN_BATCH, OPTIONS["window"])]
    model = Word2Vec(sentences, vector_size=dim, seed=seed, workers=1, **OPTIONS)
    vectors = np.zeros((log.num_items, dim), dtype=np.float32)
    vectors[[int(word) for word in model.wv.index_to_key]] = model.wv.vectors
    return vectors
