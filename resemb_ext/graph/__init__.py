"""Item-interest graphs: items that users meet close together in time, as CSR rows."""

from .interest_graph import InterestGraph

__all__ = ["InterestGraph"]
