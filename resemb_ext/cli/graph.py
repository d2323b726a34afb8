"""``resemb graph``: build an interest graph from a log, describe it, show its rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS
from resemb_ext.graph import InterestGraph
from resemb_ext.runtime.files import check_out

from .graph_build import add_build
from .graph_common import add_log, command, print_table, read

EXAMPLES = """examples:
  resemb graph build --data events.parquet --split leave-last-out --out graph.npz
  resemb graph build --data huge.parquet --stream --memory 4G --before 1700000000 --out graph.npz
  resemb graph mix week.npz:2 year.npz --top-k 20 --out graph.npz
  resemb graph stats graph.npz
  resemb graph neighbors graph.npz B000142FVW --data events.parquet
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``graph`` with its own subcommands to the command line's parsers."""
    parser = subparsers.add_parser(
        "graph",
        help=COMMANDS["graph"],
        description="Builds an interest graph from a log, describes it, or shows a row of it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="graph_command", metavar="COMMAND", required=True)
    add_build(commands)
    mix = command(
        commands,
        "mix",
        "make one graph of several over the same items",
        "resemb graph mix week.npz:2 year.npz --top-k 20 --out graph.npz",
    )
    mix.add_argument(
        "graphs", metavar="GRAPH[:SHARE]", nargs="+", help="file written by graph build, and its share (default: 1)"
    )
    mix.add_argument("--top-k", type=int, metavar="K", help="heaviest other items kept in a row (default: all)")
    mix.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    mix.set_defaults(run=_run_mix)
    stats = command(commands, "stats", "describe a graph", "resemb graph stats graph.npz --json")
    stats.add_argument("graph", metavar="GRAPH", type=Path, help="file written by graph build")
    stats.add_argument("--json", action="store_true", help="print JSON")
    stats.set_defaults(run=_run_stats)
    near = command(
        commands,
        "neighbors",
        "list an item's row, heaviest first",
        "resemb graph neighbors graph.npz 42\n  resemb graph neighbors graph.npz B000142FVW --data events.parquet",
    )
    near.add_argument("graph", metavar="GRAPH", type=Path, help="file written by graph build")
    near.add_argument("item", metavar="ITEM", help="row number, or with --data a raw item id")
    add_log(near, required=False, purpose="the log the graph was built from: show raw item ids")
    near.add_argument("--json", action="store_true", help="print JSON")
    near.set_defaults(run=_run_neighbors)


def _run_mix(args: argparse.Namespace) -> int:
    """``resemb graph mix``."""
    files, shares = [], []
    for text in args.graphs:
        name, colon, share = text.rpartition(":")
        if not colon or Path(text).is_file():
            name, share = text, "1"
        try:
            shares.append(float(share))
        except ValueError:
            raise ValueError(f"GRAPH[:SHARE]: the share in {text!r} is {share!r}, expected a number") from None
        files.append(Path(name))
    check_out(args.out, files)
    graph = InterestGraph.mixed([InterestGraph.load(path) for path in files], shares, top_k=args.top_k)
    graph.save(args.out)
    print(f"{args.out}: {graph.num_items:,} items, {graph.num_edges:,} entries")
    return 0


def _run_stats(args: argparse.Namespace) -> int:
    """``resemb graph stats``."""
    graph = InterestGraph.load(args.graph)
    stats = graph.stats()
    if args.json:
        print(json.dumps({**stats, "hash": graph.hash, "meta": graph.meta}, indent=2))
    else:
        print_table(stats)
        for name, value in graph.meta.get("options", {}).items():
            print(f"option {name:<17} {value}")
    return 0


def _run_neighbors(args: argparse.Namespace) -> int:
    """``resemb graph neighbors``."""
    graph = InterestGraph.load(args.graph)
    ids = None
    if args.data is not None:
        log = read(args)
        if log.num_items != graph.num_items:
            raise ValueError(
                f"--data {args.data} has {log.num_items} item rows, the graph {graph.num_items};"
                " expected the log that the graph was built from"
            )
        if graph.same_items(log.items) is False:
            raise ValueError(
                f"--data {args.data} numbers its items otherwise than the graph's log;"
                " expected the log that the graph was built from"
            )
        ids = log.items
    row = _row(args.item, graph, ids)
    begin, end = graph.indptr[row], graph.indptr[row + 1]
    entries = sorted(
        zip(graph.neighbors[begin:end].tolist(), graph.weights[begin:end].tolist(), strict=True),
        key=lambda entry: (-entry[1], entry[0]),
    )
    names = [_name(neighbor, ids) for neighbor, _ in entries]
    if args.json:
        listed = [
            {"row": neighbor, "item": name, "weight": weight}
            for (neighbor, weight), name in zip(entries, names, strict=True)
        ]
        degree = float(graph.degree[row])
        print(json.dumps({"row": row, "degree": degree, "neighbors": listed}, indent=2))
        return 0
    print(f"item {args.item} (row {row}): {len(entries)} entries, degree {graph.degree[row]:g}")
    for (neighbor, weight), name in zip(entries, names, strict=True):
        own = "  (itself)" if neighbor == row else ""
        print(f"{neighbor:>10}  {weight:<12g} {name if ids is not None else ''}{own}".rstrip())
    return 0


def _row(text: str, graph: InterestGraph, ids: Any) -> int:
    if ids is not None:
        raw = [text] if ids.values.dtype == object else [_whole(text, "a raw item id")]
        row = int(ids.encode(raw)[0][0])
        if row == ids.oov:
            raise ValueError(f"ITEM: the log has no item {text!r}")
        return row
    row = _whole(text, "a row number; give --data to name an item by its raw id")
    if not 0 <= row < graph.num_items:
        raise IndexError(f"ITEM is {row}, expected a row in [0, {graph.num_items})")
    return row


def _whole(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"ITEM is {text!r}, expected {what}") from None


def _name(row: int, ids: Any) -> Any:
    if ids is None or not 1 <= row <= len(ids):
        return None
    return ids.decode([row]).tolist()[0]
