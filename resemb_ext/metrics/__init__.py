"""Metrics of CTR models: AUC, gAUC, logloss, and the aggregation radius of embeddings."""

from .radius import AggregationRadius, aggregation_radius
from .ranking import GroupAUC, auc, gauc, logloss, user_aucs

__all__ = ["AggregationRadius", "GroupAUC", "aggregation_radius", "auc", "gauc", "logloss", "user_aucs"]
