#!/usr/bin/env bash
# onnxruntime 1.31.1: a DequantizeLinear of constants is computed at every call, and one that is transposed
# makes a valid graph that is refused.
#
# int8 weights with a scale for each row go into a product: MatMul(Relu(x), DequantizeLinear(q, s)) + b. An expert
# expects constants to be folded when the graph is loaded, as a Cast and a Mul of the same are. But the
# DequantizeLinear is still there in the optimised graph, unless session.disable_quant_qdq is set. With a Transpose
# behind it, and Relu(x) also an output through Identity, the graph, which onnx's checker passes and which
# runs without optimisation, is not loaded: "Node input 'r' is not a graph input, initializer, or output of a
# previous node".
#
# Output seen (2026-12-01):
#   DequantizeLinear             loaded, DequantizeLinear left: 1
#   Cast and Mul                 loaded, Cast left: 0
#   DequantizeLinear, Transpose  Node input 'r' is not a graph input
#   the same, not optimised      loaded
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper


def model(kind, transposed=False):
    node = helper.make_node
    constants = {"q": np.ones((4, 4), np.int8), "s": np.ones((4, 1), np.float32), "b": np.ones(4, np.float32)}
    nodes = [node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["state"])]
    if kind == "DequantizeLinear":
        constants["s"] = np.ones(4, np.float32)
        nodes.append(node("DequantizeLinear", ["q", "s"], ["w"], axis=0))
    else:
        nodes += [node("Cast", ["q"], ["c"], to=TensorProto.FLOAT), node("Mul", ["c", "s"], ["w"])]
    if transposed:
        nodes.append(node("Transpose", ["w"], ["t"], perm=[1, 0]))
    nodes += [node("MatMul", ["r", "t" if transposed else "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("x", "y", "state")]
    arrays = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], arrays)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made.SerializeToString()


def left(content, operator, level="ORT_ENABLE_EXTENDED"):
    options = ort.SessionOptions()
    options.optimized_model_filepath = "loaded.onnx"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return sum(node.op_type == operator for node in onnx.load("loaded.onnx").graph.node)


kept, folded = left(model("DequantizeLinear"), "DequantizeLinear"), left(model("Cast"), "Cast")
print("DequantizeLinear             loaded, DequantizeLinear left:", kept)
print("Cast and Mul                 loaded, Cast left:", folded)
said = ""
try:
    left(model("DequantizeLinear", True), "Relu")
except Exception as error:
    said = str(error)
start = said.find("Node input")
print("DequantizeLinear, Transpose ", said[start : start + 36] if said else "loaded")
left(model("DequantizeLinear", True), "Relu", "ORT_DISABLE_ALL")
print("the same, not optimised      loaded")
raise SystemExit(not (kept == 1 and folded == 0 and "is not a graph input" in said))
PY
