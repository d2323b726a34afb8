"""Models by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .dien import DIEN
from .din import DIN
from .dnn import DNN
from .fields import CTRModel
from .fm import FM, DeepFM
from .pnn import PNN
from .wide_deep import WideDeep

#: Models by the name that the command line and configurations use.
MODELS: Mapping[str, type[CTRModel]] = MappingProxyType(
    {"dnn": DNN, "din": DIN, "fm": FM, "wide_deep": WideDeep, "deepfm": DeepFM, "pnn": PNN, "dien": DIEN}
)
