"""The table of DIN in RecBole for its page."""

from __future__ import annotations

from statistics import mean
from typing import Any


def din_table(result: dict[str, Any]) -> str:
    """Markdown: GAUC, NDCG and training time of the arms, in RecBole's words."""
    gain, timed = result["gain"], result["time"]
    lines = ["| item table | learning rate | test GAUC, 3 seeds | mean | NDCG@10, mean |", "|---|---:|---|---:|---:|"]
    for arm, found in gain["arms"].items():
        gauc = [run["test"]["gauc"] for run in found["runs"]]
        ndcg = mean(run["test"]["ndcg@10"] for run in found["runs"])
        values = ", ".join(f"{value:.4f}" for value in gauc)
        lines.append(f"| {arm} | {found['rate']:g} | {values} | {mean(gauc):.4f} | {ndcg:.4f} |")
    difference = [mean(gain["gain"][name]) for name in ("gauc", "ndcg@10")]
    seeds = ", ".join(f"{value:+.4f}" for value in gain["gain"]["gauc"])
    lines.append(f"| gain | | {seeds} | {difference[0]:+.4f} | {difference[1]:+.4f} |")
    lines += ["", "| training | CPU seconds of an epoch | over plain |", "|---|---:|---:|"]
    for arm, seconds in timed["cpu_seconds"].items():
        lines.append(f"| {arm} | {seconds:.1f} | {timed['ratio_to_plain'][arm]:.2f} |")
    machine = result["machine of time"]
    lines += ["", f"{machine['cpu']}, {machine['threads']} thread, torch {machine['torch']}."]
    return "\n".join(lines)
