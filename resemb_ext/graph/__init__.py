"""Item-interest graphs: items that users meet close together in time, as CSR rows."""

from .events import digest_events
from .interest_graph import InterestGraph
from .options import WEIGHTINGS
from .rows import GraphRows, RowBlock

__all__ = ["WEIGHTINGS", "GraphRows", "InterestGraph", "RowBlock", "digest_events"]
