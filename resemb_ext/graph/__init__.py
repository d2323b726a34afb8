"""Item-interest graphs: items that users meet close together in time, as CSR rows."""

from ._events import digest_events
from .interest_graph import InterestGraph

__all__ = ["InterestGraph", "digest_events"]
