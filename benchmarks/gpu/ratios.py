"""Ratios of a timed cell: ours to the forms of plain PyTorch, to what memory asks, and to ours in other settings."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu import din
from benchmarks.gpu.variants import (
    ATTENTION,
    AVERAGE,
    EDGE_SORT,
    GATHER_SUM,
    LOOKUP,
    LOOKUP_BF16,
    LOOKUP_HALF_WEIGHTS,
    SPARSE_ADAM,
    STEP,
    STEP_BF16,
    STEP_BF16_COMPACT,
    STEP_COMPACT,
    UNIQUE,
)


def _best(found: dict[str, float], start: str) -> str | None:
    names = [n for n in found if n.startswith(start) and "resemb_ext" not in n]
    return min(names, key=lambda n: found[n], default=None)


def ratios(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Ratios of what a cell measured.

    Returns:
        Dicts with "what", "found" (number, or None where a part is missing) and, of comparisons with the
        best of several, "against", its name.
    """
    ms = {n: v["ms"] for n, v in cell["variants"].items() if "ms" in v}
    result: list[dict[str, Any]] = []

    def tell(what: str, over: float | None, under: float | None, against: str | None = None) -> None:
        found = round(over / under, 3) if over and under else None
        result.append({"what": what, "found": found} | ({"against": against} if against else {}))

    kernel = cell.get("stages_of_unique_ids", {}).get("forward")
    tell("gather-sum over the same list / lookup kernel", ms.get(GATHER_SUM), kernel)
    tell("compulsory bytes' time / whole Adam step", cell["compulsory_ms"]["step"], ms.get(STEP))
    res, plain = (_best(ms, start) for start in ("step: res", "step: plain"))
    tell("best torch step of Res-embedding / ours", ms.get(res or ""), ms.get(STEP), res)
    tell("ours / best plain step", ms.get(STEP), ms.get(plain or ""), plain)
    own = cell.get("stages", {})
    for baseline, stage in ((UNIQUE, "dedupe"), (EDGE_SORT, "transpose")):
        if baseline in ms and own.get(stage):
            tell(f"{baseline} / stage {stage} of ours", ms[baseline], own[stage])
    tell("ours / plain with SparseAdam", ms.get(STEP), ms.get(SPARSE_ADAM))
    tell("float32 / bfloat16 lookup", ms.get(LOOKUP), ms.get(LOOKUP_BF16))
    tell("lookup with link weights in float32 / float16", ms.get(LOOKUP), ms.get(LOOKUP_HALF_WEIGHTS))
    tell("float32 / bfloat16 step", ms.get(STEP), ms.get(STEP_BF16))
    tell("step with float32 / compact state", ms.get(STEP), ms.get(STEP_COMPACT))
    tell("float32 step / bfloat16 tables with compact state", ms.get(STEP), ms.get(STEP_BF16_COMPACT))
    tell("attention / average link, forward + backward", ms.get(ATTENTION), ms.get(AVERAGE))
    if "din" in cell:
        per_s = {n: v["samples_per_s"] for n, v in cell["din"]["variants"].items() if "samples_per_s" in v}
        others = [per_s[n] for n in din.GATHER if n in per_s]
        tell("DIN, ours / gather form, samples a second", per_s.get(din.OWN), max(others, default=None))
    if "memory" in cell:
        tell("scratch of a step, integers of 4 bytes / (P + min(P, H) K)", cell["memory"].get("share"), 1.0)
    return result
