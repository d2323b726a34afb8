"""``resemb neighbors``: the items whose vectors are nearest to one's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS

EXAMPLES = """examples:
  resemb neighbors runs/first B000142FVW
  resemb neighbors runs/first 42 --k 20 --metric ip --arm res --seed 0
  resemb neighbors served/items.table 42 --index items.usearch

Of a run, a bundle of resemb export --table, or a table. Similarities are exact, also those of the items that an index
finds; rx.serving.Table.export_index writes one. Of a run that has a graph, the weight of the neighbour in it is shown.
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``neighbors``."""
    parser = subparsers.add_parser(
        "neighbors",
        help=COMMANDS["neighbors"],
        description="Shows the items whose vectors are nearest to an item's.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="RUN|TABLE", type=Path, help="run folder, bundle, or file of a table")
    parser.add_argument("item", metavar="ITEM", help="raw item id; a row number where the table has no raw ids")
    parser.add_argument("--k", type=int, default=10, help="how many (default: 10)")
    parser.add_argument(
        "--metric",
        choices=("cos", "ip", "l2"),
        default="cos",
        help="cosine, inner product, squared distance (default: cos)",
    )
    parser.add_argument("--index", type=Path, metavar="FILE", help="of export_index, made of this version of the table")
    parser.add_argument("--arm", choices=("plain", "res"), help="of a run (default: the best on validation)")
    parser.add_argument("--seed", type=int, metavar="N", help="of a run (default: the best on validation)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_neighbors)


def _run_neighbors(args: argparse.Namespace) -> int:
    """Runs ``resemb neighbors``."""
    from resemb_ext.serving.finding import searched
    from resemb_ext.serving.neighbors import nearest, open_index

    found = searched(args.source, args.arm, args.seed)
    row = found.row_of(args.item)
    index = None if args.index is None else open_index(args.index)
    near = nearest(found.vectors, row, args.k, metric=args.metric, index=index)
    weights = found.graph_weights(row)
    entries = [
        {
            "row": number,
            "item": found.raw_id(number),
            "similarity": similarity,
            "graph_weight": None if weights is None else weights.get(number, 0.0),
        }
        for number, similarity in zip(near.rows.tolist(), near.similarity.tolist(), strict=True)
    ]
    if args.json:
        print(
            json.dumps({"item": found.raw_id(row), "row": row, "metric": args.metric, "neighbors": entries}, indent=2)
        )
        return 0
    print(f"item {args.item} (row {row}) of {found.what}: nearest by {args.metric}")
    for entry in entries:
        name = entry["row"] if entry["item"] is None else entry["item"]
        weight = "" if weights is None else f"  graph {entry['graph_weight']:<10.4g}"
        print(f"{entry['similarity']:>12.6f}{weight}  {name}")
    return 0
