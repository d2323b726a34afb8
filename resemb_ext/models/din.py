"""DIN: deep interest network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .fields import CTRModel
from .histories import Histories
from .layers import MLP, Dice
from .layers import activation as make_activation


class LocalActivation(nn.Module):
    """Attention of DIN: one score per (target, history position), from an MLP.

    The MLP's input is [q, k, q - k, q * k]; its first layer is a linear map of four parts, so
    ``W [q, k, q - k, q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k)``: the part in q is computed
    once per sample, that in k once per history position, and the concatenation is never built. The paper
    draws an outer product of q and k beside them; q - k and q * k are what its authors' code has.

    Args:
        features: size D of q and k.
        hidden: sizes of the hidden layers; at least one.
        activation: "prelu" or "dice" (the paper's two), or "relu" or "sigmoid".
    """

    def __init__(self, features: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("attention_hidden must name at least one layer, found ()")
        self.first = nn.Linear(4 * features, hidden[0])
        self.activation = make_activation(activation, hidden[0])
        self.rest = MLP(hidden[0], hidden[1:], activation)

    def forward(self, query: Tensor, keys: Tensor, histories: Histories) -> Tensor:
        """Scores of the pairs.

        Args:
            query: [B, D].
            keys: [K, D], each history vector once.
            histories: B samples, K positions, Q pairs.

        Returns:
            [Q].

        Raises:
            ValueError: Dice in training on padded histories: padding would enter its statistics.
        """
        if self.training and histories.samples.mask is not None and self._has_dice:
            raise ValueError(
                "Dice cannot train on padded histories, whose padding would enter its statistics: "
                "give jagged histories with offsets"
            )
        w_query, w_key, w_diff, w_product = self.first.weight.chunk(4, dim=1)
        by_query = torch.addmm(self.first.bias, query, (w_query + w_diff).t())
        by_key = keys @ (w_key - w_diff).t()
        product = histories.samples.expand(query) * histories.pair(keys)
        both = histories.pair(by_key) + histories.samples.expand(by_query)
        return self.rest(self.activation(torch.addmm(both, product, w_product.t())))

    @property
    def _has_dice(self) -> bool:
        return any(isinstance(module, Dice) for module in self.modules())


class DIN(CTRModel):
    """Deep Interest Network, Zhou et al. 2018 (arXiv 1706.06978).

    The history is pooled with weights that depend on the target: the output of an MLP on
    [q, k, q - k, q * k], where q is the target's vector and k a history item's. As in the paper
    the weights are not normalised; ``softmax=True`` does so. Padding ids inside a history are
    left out, and an empty history is a zero vector.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``CTRModel``. q and k are item and category side by side.
        hidden: sizes of the output MLP's hidden layers.
        attention_hidden: sizes of the attention MLP's hidden layers.
        activation: "relu", "prelu", "dice" or "sigmoid", in both MLPs.
        dropout: share of the output MLP's hidden activations dropped in training.
        softmax: normalise the weights of a history to sum to 1.
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
        softmax: bool = False,
    ) -> None:
        super().__init__(item_embedding, category_embedding, user_embedding, context_embeddings, dense)
        self.softmax = softmax
        self.attention = LocalActivation(self.event_size, attention_hidden, activation)
        self.mlp = MLP(2 * self.event_size + self.profile_size, hidden, activation, dropout)

    def logits(self, batch: TorchBatch) -> Tensor:
        keys, query = self.events(batch)
        histories = Histories.of(batch, self.padding_idx)
        keys = histories.keep(keys)
        weight = self.attention(query, keys, histories)
        if self.softmax:
            weight = histories.samples.softmax(weight)
        interest = histories.samples.sum(histories.pair(keys) * weight.unsqueeze(1))
        return self.mlp(torch.cat([interest, query, *self.profile(batch)], dim=1))
