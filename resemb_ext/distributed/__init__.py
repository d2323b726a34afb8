"""Tables dealt over the ranks of torch.distributed: models whose tables outgrow one machine."""

from .checkpoints import load, save
from .deal import Deal
from .faults import RankError
from .gather import gather
from .model import ShardedModel
from .modules import ShardedEmbedding, ShardedEmbeddingBag, ShardedResEmbedding, ShardedResEmbeddingBag
from .sharding import shard
from .tables import ShardedTable, tables

__all__ = [
    "Deal",
    "RankError",
    "ShardedEmbedding",
    "ShardedEmbeddingBag",
    "ShardedModel",
    "ShardedResEmbedding",
    "ShardedResEmbeddingBag",
    "ShardedTable",
    "gather",
    "load",
    "save",
    "shard",
    "tables",
]
