"""For tests and benchmarks: problems, checks against the twin, hypothesis strategies, the selftest.

`problems` and `checks` need torch alone; `strategies` and `selftest` need hypothesis
(pip install "resemb_ext[test]").
"""

from resemb_ext.testing.checks import TOLERANCE, check_problem
from resemb_ext.testing.problems import Problem, make_problem
from resemb_ext.testing.selftest import selftest

__all__ = ["TOLERANCE", "Problem", "check_problem", "make_problem", "selftest"]
