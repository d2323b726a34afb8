#!/usr/bin/env bash
# duckdb 2.0.1, pyarrow 26.0.1, Python 3.11: hashes of 128 bits (UHUGEINT, as md5_number gives them) handed to Arrow, which
# polars, pandas by Arrow and every other reader of the C stream go through.
#
# Expected: Arrow has no unsigned integers of 128 bits, so values beyond its decimals raise, or come as text or bytes.
# Seen: the column comes as decimal128(38, 0) with the bits reinterpreted as signed. From 2^127 on numbers are negative:
#       2^128 - 1 becomes -1, without an error or a warning. fetchall() gives the right ones. Half of all md5 hashes are
#       that large. A cast to VARCHAR keeps them.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "duckdb==2.0.1" "pyarrow==26.0.1"
cd "$place"
venv/bin/python - <<'PY'
import duckdb
import pyarrow as pa

query = f"SELECT unnest(['1', '{2**127}', '{2**128 - 1}'])::UHUGEINT AS hash"
right = [row[0] for row in duckdb.sql(query).fetchall()]
stream = pa.RecordBatchReader.from_stream(duckdb.sql(query))
kind, seen = stream.schema.field("hash").type, [int(value) for value in stream.read_all()["hash"].to_pylist()]
print(right, kind, seen)
assert right == [1, 2**127, 2**128 - 1], "the behaviour has changed"
assert kind == pa.decimal128(38, 0) and seen == [1, -(2**127), -1], "the behaviour has changed"
PY
