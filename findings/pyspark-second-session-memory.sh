#!/usr/bin/env bash
# pyspark 4.3.0, Java 17, Python 3.11: spark.driver.memory of a second session in one process, after the first was
# stopped.
#
# Expected: as stop() ends the session, the next one has the heap that it asks for, or an error or warning says that it
#           has not.
# Seen: stop() leaves Java running, and the next session uses it. Its configuration shows the new memory, and the heap
#       keeps the old size, without a word. So a small session, say of a test, makes a large one run out of memory.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "pyspark==4.3.0"
cd "$place"
TMPDIR=$place venv/bin/python - <<'PY' 2> "$place/log"
from pyspark.sql import SparkSession


def heap(memory: str) -> tuple[str, int]:
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.memory", memory).getOrCreate()
    told = spark.sparkContext.getConf().get("spark.driver.memory")
    mib = spark.sparkContext._jvm.java.lang.Runtime.getRuntime().maxMemory() >> 20
    spark.stop()
    return told, mib


first, second = heap("600m"), heap("1500m")
print(first, second)
assert first[0] == "600m" and second[0] == "1500m", "the behaviour has changed"
assert first[1] == second[1] <= 600, "the behaviour has changed"
PY
