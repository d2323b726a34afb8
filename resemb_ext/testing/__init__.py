"""For tests and benchmarks: problems, checks against the reference, hypothesis strategies, the selftest.

``problems`` and ``checks`` need torch alone; ``strategies`` and ``selftest`` need hypothesis
(pip install "resemb_ext[test]").
"""

from .checks import TOLERANCE, check_problem
from .problems import Problem, make_problem
from .selftest import selftest

__all__ = ["TOLERANCE", "Problem", "check_problem", "make_problem", "selftest"]
