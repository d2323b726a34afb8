"""What the figures of a cell are held against: each aim with what was found."""

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
    SPARSE_ADAM,
    STEP,
    STEP_BF16,
    UNIQUE,
)

#: Most scratch, in integers a position or touched edge: O(P + min(P, H) K) with a constant that is a bound.
MOST_INTEGERS = 9.0
SMALL_P = 500_000  # below it the step may take more than the bytes' time


def _best(found: dict[str, float], start: str) -> tuple[str, float] | None:
    ours = "resemb_ext"
    names = [n for n in found if n.startswith(start) and ours not in n]
    name = min(names, key=lambda n: found[n], default=None)
    return None if name is None else (name, found[name])


def targets(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Aims of a timed cell.

    Returns:
        Dicts with "what", "wanted" (text), "found" (number, or None where a part is missing), "met" (None
        where there is no number) and, of comparisons with the best of several, "against".
    """
    ms = {n: v["ms"] for n, v in cell["variants"].items() if "ms" in v}
    result: list[dict[str, Any]] = []

    def aim(
        what: str, found: float | None, low: float | None = None, high: float | None = None, against: str = ""
    ) -> None:
        wanted = f">= {low}" if low is not None else f"<= {high}" if high is not None else "reported"
        met = None
        if found is not None and (low is not None or high is not None):
            met = bool((low is None or found >= low) and (high is None or found <= high))
        entry = {"what": what, "wanted": wanted, "found": None if found is None else round(found, 3), "met": met}
        result.append({**entry, "against": against} if against else entry)

    def ratio(over: str, under: str) -> float | None:
        return ms[over] / ms[under] if over in ms and under in ms else None

    kernel = cell.get("stages_of_unique_ids", {}).get("forward")
    gather = ms.get(GATHER_SUM)
    aim("gather-sum over the same list / lookup kernel", gather / kernel if kernel and gather else None, low=0.8)
    aim(
        "compulsory bytes' time / whole Adam step",
        cell["compulsory_ms"]["step"] / ms[STEP] if STEP in ms else None,
        low=0.25 if cell["P"] < SMALL_P else 0.4,
    )
    for start, what, low, high in (
        ("step: res", "best torch step of Res-embedding / ours", 5.0, None),
        ("step: plain", "ours / best plain step", None, None),
    ):
        best = _best(ms, start)
        if best is None or STEP not in ms:
            aim(what, None, low, high)
        else:
            value = best[1] / ms[STEP] if start == "step: res" else ms[STEP] / best[1]
            aim(what, value, low, high, best[0])
    own = cell.get("stages", {})
    for peer, stage in ((UNIQUE, "dedupe"), (EDGE_SORT, "transpose")):
        if peer in ms and own.get(stage):
            aim(f"{peer} / stage {stage} of ours", ms[peer] / own[stage])
    aim("ours / plain with SparseAdam", ratio(STEP, SPARSE_ADAM), high=0.7)
    aim("float32 / bfloat16 lookup", ratio(LOOKUP, LOOKUP_BF16), low=1.5)
    aim("float32 / bfloat16 step", ratio(STEP, STEP_BF16), low=1.2)
    aim("attention / average link, forward + backward", ratio(ATTENTION, AVERAGE), high=2.0)
    if "din" in cell:
        per_s = {n: v["samples_per_s"] for n, v in cell["din"]["variants"].items() if "samples_per_s" in v}
        others = [per_s[n] for n in din.GATHER if n in per_s]
        aim("DIN, ours / gather form", per_s[din.OWN] / max(others) if din.OWN in per_s and others else None, low=3.0)
    if "memory" in cell:
        aim(
            "scratch of a step, integers of 4 bytes / (P + min(P, H) K)",
            cell["memory"].get("share"),
            high=MOST_INTEGERS,
        )
    return result
