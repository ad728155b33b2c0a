#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_dynamic stores an LSTM's weights as int8, and leaves those of a GRU or RNN float32.
#
# The same sizes, one layer of 64 units, go through quantize_dynamic(weight_type=QInt8). The LSTM becomes
# DynamicQuantizeLSTM of com.microsoft, a quarter of the bytes. The GRU and the RNN come back as they were. Nothing
# says so: the one warning, to run pre-processing before, is the same for all three. An expert expects an error or
# a warning that names the operators left out.
#
# Output seen (2026-12-01):
#   LSTM  bytes 74892 -> 19144
#   GRU   bytes 56203 -> 56289
#   RNN   bytes 18825 -> 18911
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
cd "$folder"
venv/bin/python - <<'PY'
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

ratios = {}
for operator, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    rng = np.random.default_rng(0)
    shapes = {"w": (1, 64 * gates, 9), "r": (1, 64 * gates, 64)}
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=64)], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "a.onnx")
    quantize_dynamic("a.onnx", "b.onnx", weight_type=QuantType.QInt8)
    before, after = os.path.getsize("a.onnx"), os.path.getsize("b.onnx")
    print(f"{operator:5} bytes {before} -> {after}")
    ratios[operator] = after / before
raise SystemExit(not (ratios["LSTM"] < 0.3 and min(ratios["GRU"], ratios["RNN"]) > 0.95))
PY
