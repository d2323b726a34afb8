"""DIEN: deep interest evolution network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch import TorchBatch
from .din import LocalActivation
from .fields import CTRModel
from .histories import Histories
from .layers import MLP
from .recurrent import GatedUnit


class DIEN(CTRModel):
    """Deep Interest Evolution Network, Zhou et al. 2019 (arXiv 1809.03672).

    A GRU over the history gives a state of interest at each event; the attention between target
    and states, a softmax over the history, gates the update of a second GRU (AUGRU), whose last
    state is the interest in the target. The attention's score is DIN's activation unit, as in the
    authors' code, where the paper writes a bilinear form. An empty history is a zero vector.

    In training, the states also have to tell the next event from one that was not chosen (the
    auxiliary loss, see ``auxiliary_loss``). Those negatives are ``batch.history_negative``
    where given; else each is an event of another place in the batch's histories, so popular items
    are drawn more often, and one that equals the next item is left out. They are told apart by an MLP over
    [state, event], as in the authors' code, where the paper writes a sigmoid of their product; the loss is the
    mean over positive and negative pairs, half of the paper's sum of both.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``CTRModel``.
        hidden: sizes of the output MLP's hidden layers.
        attention_hidden: sizes of the attention MLP's hidden layers.
        activation: "relu", "prelu", "dice" or "sigmoid", in the output and attention MLPs.
        dropout: share of the output MLP's hidden activations dropped in training.
        auxiliary_weight: factor of the auxiliary loss; 0 leaves it and its MLP out.
        auxiliary_hidden: sizes of the hidden layers of its MLP, which are sigmoids.

    Raises:
        ValueError: ``auxiliary_weight`` is negative.
    """

    def __init__(
        self,
        item_embedding: nn.Module,
        *,
        category_embedding: nn.Module | None = None,
        user_embedding: nn.Module | None = None,
        context_embeddings: Sequence[nn.Module] = (),
        dense: int = 0,
        hidden: Sequence[int] = (64, 32),
        attention_hidden: Sequence[int] = (36,),
        activation: str = "prelu",
        dropout: float = 0.0,
        auxiliary_weight: float = 1.0,
        auxiliary_hidden: Sequence[int] = (100, 50),
    ) -> None:
        super().__init__(item_embedding, category_embedding, user_embedding, context_embeddings, dense)
        if not auxiliary_weight >= 0:
            raise ValueError(f"auxiliary_weight must be at least 0, found {auxiliary_weight}")
        self.auxiliary_weight = auxiliary_weight
        size = self.event_size
        self.extractor = GatedUnit(size)
        self.attention = LocalActivation(size, attention_hidden, activation)
        self.evolution = GatedUnit(size)
        self.mlp = MLP(2 * size + self.profile_size, hidden, activation, dropout)
        self.auxiliary = MLP(2 * size, auxiliary_hidden, "sigmoid") if auxiliary_weight else None
        self._pending: Tensor | None = None

    def logits(self, batch: TorchBatch) -> Tensor:
        contrast = self.auxiliary is not None and self.training and torch.is_grad_enabled()
        given = contrast and batch.history_negative is not None
        keys, query, *negatives = self.events(batch, given)
        histories = Histories.of(batch, self.padding_idx)
        keys = histories.keep(keys)
        states = self.extractor(keys, histories.segments)
        if contrast:
            self._pending = self._contrast(batch, histories, keys, states, negatives)
        attention = histories.samples.softmax(self.attention(query, states, histories))
        evolved = self.evolution(histories.pair(states), histories.samples, attention)
        interest = histories.samples.last(evolved)
        return self.mlp(torch.cat([interest, query, *self.profile(batch)], dim=1))

    def auxiliary_loss(self) -> Tensor | None:
        """The auxiliary loss of the last forward in training, times its weight; given out once.

        The mean binary cross entropy over all pairs (state, next event), which are positive, and
        (state, negative). Add it to the loss of the logits before ``backward``.

        Returns:
            a scalar; None with ``auxiliary_weight=0``, or where none is due.
        """
        loss, self._pending = self._pending, None
        return None if loss is None else loss * self.auxiliary_weight

    def _contrast(
        self, batch: TorchBatch, histories: Histories, keys: Tensor, states: Tensor, given: list[Tensor]
    ) -> Tensor:
        assert self.auxiliary is not None
        valid = histories.segments.followed()
        if given:
            negatives = histories.keep(given[0])
        else:
            count = keys.shape[0]
            drawn = torch.randint(max(count, 1), (count,), device=keys.device)
            ids = histories.keep(batch.history.reshape(-1))
            negatives, other = keys.index_select(0, drawn), ids.index_select(0, drawn)
            valid = valid & (other != ids)[1:]
            if histories.segments.mask is not None:
                valid = valid & histories.segments.mask.index_select(0, drawn)[1:]
        before = states[:-1]
        chosen = self.auxiliary(torch.cat([before, keys[1:]], dim=1))
        unchosen = self.auxiliary(torch.cat([before, negatives[1:]], dim=1))
        # -log sigmoid(s) where the event was chosen, -log sigmoid(-s) where not.
        losses = (F.softplus(-chosen) + F.softplus(unchosen)) / 2
        weight = valid.to(losses.dtype)
        return (losses * weight).sum() / weight.sum().clamp(min=1)
