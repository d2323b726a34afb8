"""DIN: deep interest network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from resemb_ext._registration_activation import local_activation
from resemb_ext._transforms import transformed

from .batch import TorchBatch
from .fields import CTRModel
from .histories import Histories, Jagged
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
        if self._fits_operator(query, keys, histories):
            return self._in_one(query, keys, histories, pool=False)[0]
        w_query, w_key, w_diff, w_product = self.first.weight.chunk(4, dim=1)
        by_query = torch.addmm(self.first.bias, query, (w_query + w_diff).t())
        by_key = keys @ (w_key - w_diff).t()
        product = histories.samples.expand(query) * histories.pair(keys)
        both = histories.pair(by_key) + histories.samples.expand(by_query)
        return self.rest(self.activation(torch.addmm(both, product, w_product.t())))

    def pool(self, query: Tensor, keys: Tensor, histories: Histories) -> Tensor:
        """The sum of each sample's keys by their scores.

        Args:
            query, keys, histories: as of ``forward``.

        Returns:
            [B, D].
        """
        if self._fits_operator(query, keys, histories):
            return self._in_one(query, keys, histories, pool=True)[1]
        weight = self(query, keys, histories)
        return histories.samples.sum(histories.pair(keys) * weight.unsqueeze(1))

    @property
    def _has_dice(self) -> bool:
        return any(isinstance(module, Dice) for module in self.modules())

    def _fits_operator(self, query: Tensor, keys: Tensor, histories: Histories) -> bool:
        """Whether one operator computes it all: the CPU's, for one hidden layer with PReLU or ReLU.

        Compilers and torch.func get what they can see through.
        """
        output = self.rest.output
        modules: tuple[nn.Module, ...] = (self.activation, self.rest, self.rest.layers, output)
        if (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or not isinstance(histories.samples, Jagged)
            or type(self.activation) not in (nn.PReLU, nn.ReLU)
            or type(output) is not nn.Linear
            or output.bias is None
            or len(self.rest.layers) != 1
            or any(hooks for m in modules for hooks in _hooks(m))
        ):
            return False
        tensors = (query, keys, *self.parameters())
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        return (
            all(type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" for t in tensors)
            and keys.dtype in (torch.float32, torch.float64)
            and all(t.dtype == keys.dtype for t in tensors)
            and not torch.is_autocast_enabled("cpu")
            and not transformed(*tensors)
            and not (histories.shared and learns)
        )

    def _in_one(self, query: Tensor, keys: Tensor, histories: Histories, pool: bool) -> tuple[Tensor, Tensor]:
        assert isinstance(histories.samples, Jagged)
        w_query, w_key, w_diff, w_product = self.first.weight.chunk(4, dim=1)
        by_query = torch.addmm(self.first.bias, query, (w_query + w_diff).t())
        slope = self.activation.weight if isinstance(self.activation, nn.PReLU) else w_key.new_zeros(1)
        out = self.rest.output
        assert isinstance(out, nn.Linear)
        scores, pooled = local_activation(
            keys,
            query,
            histories.first,
            histories.samples.bounds,
            by_query,
            w_key - w_diff,
            w_product,
            slope.expand(w_key.shape[0]),
            out.weight.squeeze(0),
            out.bias,
            pool,
        )
        return scores, pooled


def _hooks(module: nn.Module) -> tuple[Mapping, ...]:
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


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
        if self.softmax:
            weight = histories.samples.softmax(self.attention(query, keys, histories))
            interest = histories.samples.sum(histories.pair(keys) * weight.unsqueeze(1))
        else:
            interest = self.attention.pool(query, keys, histories)
        return self.mlp(torch.cat([interest, query, *self.profile(batch)], dim=1))
