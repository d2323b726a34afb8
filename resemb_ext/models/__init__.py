"""CTR models. Each takes any embedding module: ``nn.Embedding`` or ``ResEmbedding``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from .batch import TorchBatch
from .din import DIN
from .dnn import DNN
from .layers import MLP, Dice
from .pooling import embedding_bag

#: Models by the name that the command line and configurations use.
MODELS: Mapping[str, type[nn.Module]] = MappingProxyType({"dnn": DNN, "din": DIN})

__all__ = ["DIN", "DNN", "MLP", "MODELS", "Dice", "TorchBatch", "embedding_bag"]
