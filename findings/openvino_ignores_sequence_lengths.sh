#!/usr/bin/env bash
# OpenVINO 2026.4.1 ignores the lengths of padded sequences in RNN, GRU and LSTM, and so answers otherwise than ONNX.
#
# ONNX's recurrent operators take `sequence_lens`: the reverse direction begins at the last true step of each
# sequence, and the outputs after it are zero. OpenVINO's CPU plugin reads such a graph (and its own
# GRUSequence with seq_lengths) without a warning, begins the reverse direction at the padding, and leaves the
# outputs there as they come. An expert expects the operator's definition, or an error. With two
# ReverseSequence operators around a forward operator the answers are right.
#
# Output seen (2026-12-01, onnx 1.23.2, onnxruntime 1.31.1, x86-64), 3 true steps of 5, largest difference there:
#   RNN 1.5 GRU 0.36 LSTM 0.14
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
x, lengths = rng.normal(size=(5, 1, 2)).astype(np.float32), np.array([3], np.int32)
found = {}
for operator, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
    sizes = {"w": (1, 3 * gates, 2), "r": (1, 3 * gates, 3), "b": (1, 6 * gates)}
    constants = [
        numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name) for name, size in sizes.items()
    ]
    node = helper.make_node(operator, ["x", "w", "r", "b", "n"], ["y"], hidden_size=3, direction="reverse")
    graph = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", 2]),
         helper.make_tensor_value_info("n", TensorProto.INT32, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    runtime = onnxruntime.InferenceSession(made).run(None, {"x": x, "n": lengths})[0]
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    theirs = core.compile_model(core.read_model(made), "CPU", hints)({"x": x, "n": lengths})[0]
    found[operator] = float(np.abs(runtime - theirs)[:3].max())
print(*(f"{name} {value:.2g}" for name, value in found.items()))
raise SystemExit(not all(value > 0.01 for value in found.values()))
PY
