"""Item-interest graphs: items that users meet close together in time, as CSR rows."""

from ._events import digest_events
from ._options import WEIGHTINGS
from .interest_graph import InterestGraph

__all__ = ["WEIGHTINGS", "InterestGraph", "digest_events"]
