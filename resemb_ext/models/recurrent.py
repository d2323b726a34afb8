"""The recurrent unit of DIEN over histories: GRU, or AUGRU where gates are given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .histories import Segments


class GatedUnit(nn.Module):
    """GRU, and with attention AUGRU: the two layers of Zhou et al. 2019 (arXiv 1809.03672).

    r, u = sigmoid of linear maps of the input x and the state h; n = tanh(W x + r * (U h));
    h' = h + a u * (n - h), the attention a being 1 in a GRU. The order of the rows of
    ``input.weight`` and ``state.weight`` is r, u, n. ``nn.GRU`` writes 1 - u for u: its weights
    of that gate have the other sign.

    Args:
        size: D, of inputs and states alike.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input = nn.Linear(size, 3 * size)
        self.state = nn.Linear(size, 3 * size)

    def forward(self, values: Tensor, segments: Segments, attention: Tensor | None = None) -> Tensor:
        """States after each position, from a zero state.

        Args:
            values: [K, D].
            segments: the K positions' segments; a step runs on all that are as long.
            attention: [K], or None for a GRU.

        Returns:
            [K, D]. A position that is not real keeps the state before it.
        """
        gate = attention
        if segments.mask is not None:
            real = segments.mask.to(values.dtype)
            gate = real if gate is None else gate * real
        gates = None if gate is None else segments.steps(gate.unsqueeze(1))
        inputs = segments.steps(self.input(values))
        states: list[Tensor] = []
        state = values.new_zeros((inputs[0].shape[0] if inputs else 0, values.shape[1]))
        for moment, step in enumerate(inputs):
            state = state[: step.shape[0]]
            x_r, x_u, x_n = step.chunk(3, 1)
            h_r, h_u, h_n = self.state(state).chunk(3, 1)
            update = torch.sigmoid(x_u + h_u)
            if gates is not None:
                update = update * gates[moment]
            candidate = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
            state = torch.lerp(state, candidate, update)
            states.append(state)
        return segments.from_steps(states, values)
