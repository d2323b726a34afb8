"""The benchmark of Spark: what was measured gave the same graphs, and the table says it."""

from benchmarks.publish import load
from benchmarks.spark import METHODS, table


def test_the_graphs_of_the_committed_result_are_the_same():
    cells = {cell["log"]: cell["runs"] for cell in load("spark")["cells"]}
    assert {"simulated, 1,000,000 events", "simulated, 10,000,000 events", "ml-1m"} <= cells.keys()
    for runs in cells.values():
        assert runs.keys() == set(METHODS) and len({(run["hash"], run["edges"]) for run in runs.values()}) == 1


def test_the_table_has_a_line_for_each_run():
    own = {"seconds": 1.234, "cpu_seconds": 2.0, "peak_mib": 5000}
    cell = {"log": "a", "options": {"num_items": 9, "window": 5}, "runs": {}}
    cell["runs"] = {"resemb_ext": own, "spark": {**own, "with_reading": 3.21}}
    machine = {"cpu": "x", "cores": 2, "pyspark": "4"}
    text = table({"machine": machine, "settings": {"threads": 2, "heap_gib": 4}, "cells": [cell]})
    assert "| a | window 5 | resemb_ext | 1.23 |  | 2.0 | 5,000 |" in text
    assert "| a | window 5 | spark | 1.23 | 3.2 | 2.0 | 5,000 |" in text
