"""The table of the comparison, from its JSON."""

from __future__ import annotations

from typing import Any

from benchmarks.frameworks.settings import SIDES


def frameworks_table(result: dict[str, Any]) -> str:
    """Markdown: a table for each log."""
    lines = []
    for log in result["logs"]:
        lines += [
            f"**{log['log']}**, {log['items']:,} items, {log['samples']:,} samples with {log['mean_history']:.1f} events of "
            f"history on average",
            "",
            "| side | CPU, us a sample | wall, us a sample | CPU over ours [quartiles] | wall over ours | data, share | peak, MiB |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for side, found in log["sides"].items():
            low, middle, high = found["cpu_ratio"]
            name = SIDES[side] + (f" {found['version']}" if found["version"] else "")
            lines.append(
                f"| {name} | {found['cpu_us']:,.1f} | {found['wall_us']:,.1f} | {middle:.1f} [{low:.1f}, {high:.1f}] | "
                f"{found['wall_ratio'][1]:.1f} | {found['data_share']:.0%} | {found['peak_mib']:,} |"
            )
        lines.append("")
    about, log = result["machine"], result["logs"][0]
    lines.append(
        f"{about['cpu']}, {log['threads']} thread{'s' if log['threads'] > 1 else ''}, torch {about['torch']}; medians of "
        f"{log['rounds']} rounds in drawn order, each side in a process of its own. D = {result['dim']}, one hidden layer of "
        f"{result['hidden'][0]} in both parts, batches of {log['batch_size']:,}. CPU counts loader workers. Data: CPU of "
        "loading the batches alone, over that of the epoch. Peak: resident set of the process, data included."
    )
    return "\n".join(lines)
