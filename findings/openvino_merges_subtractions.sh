#!/usr/bin/env bash
# OpenVINO 2026.4.1 makes one subtraction of two that follow each other, and the answers change.
#
# A graph takes a constant off its input in two steps, Sub(1000000.0) and Sub(0.03125), each exact in
# float32 for inputs near a million. OpenVINO's CPU plugin adds the two constants at compilation; in
# float32 that is 1000000.0 again, so the second step is lost. An expert expects that a compiler keeps
# the order of floating-point operations, or offers a switch: INFERENCE_PRECISION_HINT=f32 and
# EXECUTION_MODE_HINT=ACCURACY change nothing. With an operator between the two that depends on the input
# (Where) both steps are done.
#
# Output seen (2026-11-29, onnx 1.23.2, onnxruntime 1.31.1, x86-64):
#   onnxruntime             [0.46875 0.96875]
#   openvino                [0.5 1. ]
#   openvino, Where between [0.46875 0.96875]
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
from onnx import TensorProto, checker, helper, numpy_helper


def model(apart):
    constants = {"mean": 1e6, "rest": 0.03125}
    nodes = [helper.make_node("Sub", ["x", "mean"], ["a"])]
    if apart:
        constants["zero"] = 0.0
        nodes += [helper.make_node("Greater", ["x", "zero"], ["true"]),
                  helper.make_node("Where", ["true", "a", "zero"], ["b"])]
    nodes.append(helper.make_node("Sub", ["b" if apart else "a", "rest"], ["y"]))
    graph = helper.make_graph(
        nodes, "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made.SerializeToString()


x = np.array([1000000.5, 1000001.0], np.float32)
hints = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}


def ov(content):
    return openvino.Core().compile_model(openvino.Core().read_model(content), "CPU", hints)(x)[0]


runtime = onnxruntime.InferenceSession(model(False)).run(None, {"x": x})[0]
together, apart = ov(model(False)), ov(model(True))
print("onnxruntime            ", runtime)
print("openvino               ", together)
print("openvino, Where between", apart)
as_seen = (
    np.array_equal(runtime, np.float32([0.46875, 0.96875]))
    and np.array_equal(together, np.float32([0.5, 1.0]))
    and np.array_equal(apart, runtime)
)
raise SystemExit(not as_seen)
PY
