"""The property tests, run against the package as installed."""

from __future__ import annotations

import time
import traceback

import torch

from resemb_ext import _loader

from .checks import check_problem
from .problems import Problem


def selftest(device: str = "cpu", examples: int = 200) -> int:
    """Runs the operators' property tests and prints a line for each.

    Args:
        device: "cpu" or "cuda".
        examples: hypothesis examples a test.

    Returns:
        0 if all passed, else 1.

    Raises:
        ImportError: hypothesis is not installed.
        ValueError: a device that torch does not see, or examples < 1.
    """
    try:
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st
    except ImportError as error:
        raise ImportError(
            "selftest needs hypothesis: pip install 'resemb_ext[test]' or pip install hypothesis"
        ) from error
    from .strategies import problems

    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: found {device!r}; expected 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: found 'cuda', but torch sees no CUDA device; see resemb doctor")
    if examples < 1:
        raise ValueError(f"examples: found {examples}; expected at least 1")

    paths = _loader.available_isas() if device == "cpu" else ["cuda"]
    in_use = _loader.isa()
    failed = 0
    for path in paths:
        for sparse in (False, True):
            options = settings(
                max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )

            def check(problem: Problem, seed: int, sparse: bool) -> None:
                check_problem(problem, sparse=sparse, seed=seed)

            run = options(given(problems(device=device), st.integers(0, 2**31), st.just(sparse))(check))
            name = f"{path}, {'sparse' if sparse else 'dense'} gradients"
            start = time.perf_counter()
            try:
                if device == "cpu":
                    _loader.select_isa(path)
                run()
            except Exception as error:
                failed += 1
                print(f"FAILED  {name}", *traceback.format_exception_only(error), flush=True)
            else:
                seconds = time.perf_counter() - start
                print(f"passed  {name}: {examples} examples in {seconds:.1f} s", flush=True)
            finally:
                _loader.select_isa(in_use)
    return 1 if failed else 0
