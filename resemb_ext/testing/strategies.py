"""Hypothesis strategies for lookup problems, and settings."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from .attention import AttentionProblem, make_attention
from .problems import Problem, make_problem

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Widths below, at, above and between vector sizes and register blocks.
DIMS = (1, 2, 3, 4, 7, 8, 9, 16, 18, 31, 32, 33, 64, 65, 72, 100, 128, 130)


def examples(count: int) -> settings:
    """Settings of a test that may share fixtures among its examples.

    Args:
        count: of examples where the profile has 100, as hypothesis does by default; another profile
            makes proportionally more or fewer, but 3 where ``count`` allows it.
    """
    profile = settings.default
    assert profile is not None  # hypothesis loads one at import
    return settings(
        max_examples=max(min(count, 3), count * profile.max_examples // 100),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@st.composite
def problems(
    draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES, device: str = "cpu", max_positions: int = 700
) -> Problem:
    """Lookups and bags: any dtype and width, duplicates, padding, empty rows and bags, no ids."""
    num_items = draw(st.integers(1, 40) | st.integers(1, 2000), label="num_items")
    padding_idx = draw(st.none() | st.integers(0, num_items - 1), label="padding_idx")
    bags = draw(st.none() | st.integers(1, 30), label="bags")
    mode = draw(st.sampled_from(["sum", "mean"]), label="mode")
    dtype = draw(st.sampled_from(dtypes), label="dtype")
    weights = [torch.float32, torch.float16, *([torch.float64] if dtype == torch.float64 else [])]
    return make_problem(
        num_items=num_items,
        dim=draw(st.sampled_from(DIMS), label="dim"),
        positions=draw(st.integers(0, 20) | st.integers(0, max_positions), label="positions"),
        neighbors=draw(st.integers(0, 25), label="neighbors"),
        id_exponent=draw(st.sampled_from([0.0, 1.05, 2.0]), label="id_exponent"),
        neighbor_exponent=draw(st.sampled_from([0.0, 1.3]), label="neighbor_exponent"),
        vary=draw(st.booleans(), label="vary"),
        padding_idx=padding_idx,
        padding_share=draw(st.sampled_from([0.0, 0.3, 1.0]), label="padding_share"),
        bags=bags,
        mode=mode,
        sample_weights=bags is not None and draw(st.booleans(), label="sample_weights"),
        dtype=dtype,
        weights_dtype=draw(st.sampled_from(weights), label="weights_dtype"),
        id_dtype=draw(st.sampled_from([torch.int64, torch.int32]), label="id_dtype"),
        neighbor_dtype=draw(st.sampled_from([torch.int32, torch.int64]), label="neighbor_dtype"),
        device=device,
        seed=draw(st.integers(0, 2**31), label="seed"),
    )


@st.composite
def attention_problems(draw: st.DrawFn, device: str = "cpu") -> AttentionProblem:
    """Lookups and bags under the attention link: any dtype, width and number of heads."""
    heads = draw(st.sampled_from([1, 1, 2, 3, 5]), label="heads")
    width = draw(st.sampled_from([1, 2, 3, 7, 8, 16, 18, 32, 33, 64, 72, 130]), label="width")
    bags = draw(st.none() | st.integers(1, 20), label="bags")
    num_items = draw(st.integers(1, 40) | st.integers(1, 600), label="num_items")
    return make_attention(
        num_items=num_items,
        dim=heads * width,
        heads=heads,
        positions=draw(st.integers(0, 20) | st.integers(0, 500), label="positions"),
        neighbors=draw(st.integers(0, 20), label="neighbors"),
        exponent=draw(st.sampled_from([0.0, 1.3]), label="exponent"),
        bags=bags,
        mode=draw(st.sampled_from(["sum", "mean"]), label="mode"),
        samples=bags is not None and draw(st.booleans(), label="samples"),
        padding_idx=draw(st.none() | st.integers(0, num_items - 1), label="padding_idx"),
        dropout=draw(st.sampled_from([0.0, 0.0, 0.4]), label="dropout"),
        dtype=draw(st.sampled_from(DTYPES), label="dtype"),
        id_dtype=draw(st.sampled_from([torch.int64, torch.int32]), label="id_dtype"),
        neighbor_dtype=draw(st.sampled_from([torch.int32, torch.int64]), label="neighbor_dtype"),
        device=device,
        seed=draw(st.integers(0, 2**31), label="seed"),
    )
