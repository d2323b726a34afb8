"""Tables of the results, in Markdown."""

from __future__ import annotations

from typing import Any

OWN_STEP = "resemb_ext, Adam in backward"  # the form of the whole step that ratios refer to


def ratio_text(timed: dict[str, Any]) -> str:
    """The ratio of a summary with its quartiles."""
    return f"{timed['ratio']:.2f} [{timed['ratio_q1']:.2f}, {timed['ratio_q3']:.2f}]"


def _title(cell: dict[str, Any]) -> str:
    return (
        f"H = {cell['items']:,}, D = {cell['dim']}, K = {cell['neighbors']}, "
        f"{cell['positions']:,} Zipf({cell['zipf']}) ids (U = {cell['unique']:,}, "
        f"V = {cell['touched_neighbors']:,})"
    )


def _rows(cell: dict[str, Any], phases: list[str]) -> list[str]:
    lines = ["| variant |" + "".join(f" {p}, ms | ratio [quartiles] |" for p in phases)]
    lines.append("|---|" + "---:|---:|" * len(phases))
    for name in cell[phases[0]]:
        row = f"| {name} |"
        for phase in phases:
            v = cell[phase].get(name)
            if v is None:  # FBGEMM's backward holds its optimizer
                row += " | |"
                continue
            row += f" {v['median_ms']:.1f} | {ratio_text(v)} |"
        lines.append(row)
    return lines


def _step_notes(cell: dict[str, Any]) -> list[str]:
    """Profile, ceiling and memory of the whole step, a line each."""
    lines = []
    for name, stages in cell["profile"].items():
        spent = ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items() if ms > 0)
        lines.append(f"Profile of {name}, ms: {spent}.")
    own = cell["step"][OWN_STEP]["median_ms"]
    forward = cell["forward"]["resemb_ext"]["median_ms"]
    if top := cell.get("ceiling"):
        rates = cell["rates"]
        lines.append(
            f"Ceiling ({cell['formula']}; measured {rates['read_gbs']:.1f}, {rates['change_gbs']:.1f} and "
            f"{rates['copy_gbs']:.1f} GB/s): forward {top['forward']:.1f} ms, of which ours reaches "
            f"{top['forward'] / forward:.0%}; step {top['step']:.1f} ms, {top['step'] / own:.0%}."
        )
    if cell["peak"]["bytes"] is not None:
        share = cell["peak"]["bytes"] / cell["peak"]["output_and_touched_rows"]
        lines.append(
            f"Peak memory of a step beyond tables and state: {cell['peak']['bytes'] / 2**20:.0f} MiB, "
            f"{share:.2f}x output + touched rows."
        )
    for name, bytes_ in cell["skipped"].items():
        lines.append(f"Skipped: {name}, which needs {bytes_ / 2**30:.1f} GiB more.")
    for name, words in cell.get("refused", {}).items():
        lines.append(f"Refused by torch: {name}: {words}")
    return lines


def table(result: dict[str, Any]) -> str:
    """Markdown: of every cell the lookup, the whole step, and what explains it."""
    lines = []
    for cell in result["cells"]:
        lines += [f"**Lookup**, {_title(cell)}", ""]
        lines += [*_rows(cell, ["forward", "forward+backward"]), ""]
        if "step" in cell:
            lines += [f"**Whole Adam step**, H = {cell['items']:,}", ""]
            lines += [*_rows(cell, ["step"]), ""]
            if "adagrad" in cell:
                lines += [f"**Whole Adagrad step**, H = {cell['items']:,}", ""]
                lines += [*_rows(cell, ["adagrad"]), ""]
            for note in _step_notes(cell):
                lines += [note, ""]
    m = result["machine"]
    lines.append(
        f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, {m['isa']} kernels, float32; medians of "
        f"{result['cells'][0]['rounds']} interleaved rounds over {result['cells'][0]['batches']} rotating "
        "batches in one process; ratio: the variant's time over resemb_ext's (in the step: that in "
        "backward) in the same round. Tables and graph lie on huge pages for all variants alike."
    )
    return "\n".join(lines)


def din_table(result: dict[str, Any]) -> str:
    """Markdown: DIN end to end, a table a log."""
    lines = []
    for log in result["logs"]:
        lines += [
            f"**DIN on {log['log']}**, {log['items']:,} items, {log['samples']:,} samples an epoch, batches of "
            f"{log['batch_size']:,}, D = {log['dim']}",
            "",
            "| variant | samples/s | time over ours [quartiles] | data, s | forward | backward | optimizer | evaluation |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, v in log["variants"].items():
            low, middle, high = v["ratio"]
            parts = " | ".join(f"{seconds:.2f}" for seconds in v["epoch_s"].values())
            lines.append(f"| {name} | {v['samples_per_s']:,} | {middle:.2f} [{low:.2f}, {high:.2f}] | {parts} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def attention_table(result: dict[str, Any]) -> str:
    """Markdown: the machine, then the attention link by its heads, a table a cell; ratios are to the average link."""
    m = result["machine"]
    lines = [
        f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, {m['isa']} kernels; "
        f"{result['cells'][0]['rounds']} interleaved rounds.",
        "",
    ]
    for cell in result["cells"]:
        lines += [
            f"**H = {cell['items']:,}**: U = {cell['unique']:,}, V = {cell['touched_neighbors']:,}",
            "",
            "| link | forward, ms | to average [quartiles] | forward+backward, ms | to average [quartiles] |",
            "|---|---:|---|---:|---|",
        ]
        for name in cell["forward"]:
            row = f"| {name} |"
            for phase in ("forward", "forward+backward"):
                v = cell[phase][name]
                row += f" {v['median_ms']:.1f} | {ratio_text(v)} |"
            lines.append(row)
        lines.append("")
    return "\n".join(lines).rstrip()


def din_attention_table(result: dict[str, Any]) -> str:
    """Markdown: DIN's attention unit with its first layer split, and as a concatenation."""
    about = result["machine"]
    lines = [
        f"B = {result['batch']:,} histories of at most {result['longest']} events; {about['cpu']}, "
        f"{about['threads']} threads, torch {about['torch']}, {result['rounds']} interleaved rounds; ratio: to "
        "split, in the same round. Kept: what autograd holds for backward.",
        "",
        "| histories | D | hidden | pairs | form | forward, ms | forward+backward, ms | ratio [quartiles] | peak, MiB | kept, MiB |",
        "|---|---:|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for one in result["cells"]:
        for name, memory in one["memory"].items():
            step = one["forward+backward"][name]
            lines.append(
                f"| {one['form']} | {one['features']} | {one['hidden']} | {one['pairs']:,} | {name} | "
                f"{one['forward'][name]['median_ms']:.1f} | {step['median_ms']:.1f} | "
                f"{ratio_text(step)} | "
                f"{memory['peak_mb']:.0f} | {memory['saved_mb']:.0f} |"
            )
    return "\n".join(lines)


def din_versions_table(result: dict[str, Any]) -> str:
    """Markdown: training DIN with the code of one commit and of another."""
    about, first = result["machine"], result["cells"][0]
    lines = [
        f"Embedding {first['arm']}, D = {first['dim']}, batches of {first['batch_size']:,}; old is commit {result['against']}. "
        f"{about['cpu']}, torch {about['torch']}; medians of {first['rounds']} rounds of {first['steps']} steps in turns. AUC "
        f"is of validation after {first['epochs']} epoch of the same seed.",
        "",
        "| log | threads | old, samples a second | new | ratio [quartiles] | old, CPU us a sample | new | old, AUC | new |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in result["cells"]:
        old, new, (low, middle, high) = cell["old"], cell["new"], cell["ratio"]
        lines.append(
            f"| {cell['log']} | {cell['threads']} | {old['samples_per_s']:,} | {new['samples_per_s']:,} | "
            f"{middle:.2f} [{low:.2f}, {high:.2f}] | {old['cpu_us_per_sample']:.1f} | {new['cpu_us_per_sample']:.1f} | "
            f"{old['after_epochs']['auc']:.4f} | {new['after_epochs']['auc']:.4f} |"
        )
    return "\n".join(lines)


def lazy_table(result: dict[str, Any]) -> str:
    """Markdown: test AUC of dense and lazy Adam, and the paired difference."""
    lines = [
        "| log, model, L2 | embedding | dense Adam, AUC | lazy Adam, AUC | lazy - dense [90 % interval] |",
        "|---|---|---:|---:|---|",
    ]
    for found in result["comparisons"]:
        l2 = "none" if found["options"] else "default"
        for arm, difference in found["lazy_minus_dense"].items():
            dense, lazy = (sum(v) / len(v) for v in found["auc"][arm].values())
            low, high = difference["low"], difference["high"]
            interval = "" if low is None else f" [{low:+.4f}, {high:+.4f}]"
            lines.append(
                f"| {found['log']}, {found['model']}, {l2} | {arm} | {dense:.4f} | {lazy:.4f} | "
                f"{difference['mean']:+.4f}{interval} |"
            )
    return "\n".join(lines)
