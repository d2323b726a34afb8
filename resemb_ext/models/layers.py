"""Layers that the models share: activations and the MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ACTIVATIONS = ("relu", "prelu", "dice", "sigmoid")


class Dice(nn.Module):
    """Data-adaptive activation of DIN (Zhou et al. 2018, arXiv 1706.06978, section 5.3).

    ``f(s) = p s + (1 - p) a s`` with ``p = sigmoid((s - mean) / sqrt(var + eps))`` per channel:
    statistics of the batch in training, their moving averages in evaluation. A batch of one row
    or none is allowed.

    Args:
        channels: size of the last dimension.
        eps: added to the variance.
        momentum: weight of the newest batch in the moving averages.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, values: Tensor) -> Tensor:
        """[N, channels] -> [N, channels]."""
        if values.shape[0] == 0:
            return values
        if self.training:
            var, mean = torch.var_mean(values, dim=0, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        p = torch.sigmoid((values - mean) * torch.rsqrt(var + self.eps))
        return values * (self.alpha + p * (1 - self.alpha))


def activation(name: str, channels: int) -> nn.Module:
    """The activation called ``name`` for ``channels`` features.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "relu":
        return nn.ReLU()
    if name == "prelu":
        return nn.PReLU(channels)
    if name == "dice":
        return Dice(channels)
    if name == "sigmoid":
        return nn.Sigmoid()
    raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, found {name!r}")


class MLP(nn.Module):
    """Linear layers with an activation after each, then one linear output.

    Args:
        features: size of the input.
        hidden: sizes of the hidden layers.
        activation_name: "relu", "prelu", "dice" or "sigmoid".
        dropout: share of hidden activations dropped in training.
    """

    def __init__(
        self, features: int, hidden: Sequence[int], activation_name: str = "prelu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, found {dropout}")
        if any(size < 1 for size in hidden):
            raise ValueError(f"hidden sizes must be positive, found {tuple(hidden)}")
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(features, size), activation(activation_name, size)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            features = size
        layers.append(nn.Linear(features, 1))
        self.layers = nn.Sequential(*layers)

    @property
    def output(self) -> nn.Module:
        """The linear layer that gives the one output."""
        return self.layers[-1]

    def forward(self, values: Tensor) -> Tensor:
        """[N, features] -> [N]."""
        return self.layers(values).squeeze(-1)
