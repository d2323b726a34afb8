#!/usr/bin/env bash
# openvino 2026.4.1 on a CPU, onnx 1.20, Python 3.11: an ONNX model whose input are int64 ids, as every exported
# recommender has, and which compares them with a bound.
#
# Expected: the ONNX type of the input is int64, so Less compares 64-bit numbers.
# Seen: the CPU plugin keeps only the low 32 bits of int64 inputs before the first operator runs, without a warning.
#       2^31 + 5 becomes negative and 2^32 + 5 becomes 5, so a test of the range inside the graph judges other numbers
#       than were given. The model still reports an int64 input. Hashed ids of 64 bits have to be brought into the
#       table's range before they are handed to the model.
#
# Exit code 0: the behaviour is still as above. 1: it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q "openvino==2026.4.1" "onnx>=1.18,<2" "numpy<3"
cd "$place"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [helper.make_node("Less", ["ids", "bound"], ["below"])],
    "range",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
    [helper.make_tensor_value_info("below", TensorProto.BOOL, ["n"])],
    [numpy_helper.from_array(np.array(100), "bound")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "range.onnx")
model = ov.Core().compile_model("range.onnx", "CPU")
assert model.input(0).element_type == ov.Type.i64
ids = np.array([5, 500, 2**31 + 5, 2**32 + 5, 2**32 + 500])
found = model([ids])[0].tolist()
print(dict(zip(ids.tolist(), found, strict=True)))
assert found == [True, False, True, True, False], "the behaviour has changed"
PY
