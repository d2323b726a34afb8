"""CTR models. Each takes any embedding module: ``nn.Embedding`` or ``ResEmbedding``."""

from __future__ import annotations

from .batch import TorchBatch
from .dien import DIEN
from .din import DIN
from .dnn import DNN
from .fields import CTRModel
from .fm import FM, DeepFM
from .layers import MLP, Dice
from .pnn import PNN
from .pooling import embedding_bag
from .registry import MODELS
from .wide_deep import WideDeep

__all__ = [
    "DIEN",
    "DIN",
    "DNN",
    "FM",
    "MLP",
    "MODELS",
    "PNN",
    "CTRModel",
    "DeepFM",
    "Dice",
    "TorchBatch",
    "WideDeep",
    "embedding_bag",
]
