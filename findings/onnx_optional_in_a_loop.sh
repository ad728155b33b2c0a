#!/usr/bin/env bash
# torch 2.13.0, onnx 1.23.2, onnxruntime 1.31.1: a scripted loop that asks whether an optional argument is
# there exports to an ONNX graph that no runtime loads.
#
# A traced module calls a scripted function with a loop over time and an argument Optional[Tensor], known at
# the time of the export. torch.onnx.export(dynamo=False) ends without an error or a warning about it. With
# None given, onnx's own checker and onnxruntime refuse the graph ("Invalid tensor data type 0"). With a tensor
# given, the checker even passes it, and onnxruntime still refuses. An expert expects the test `is None`,
# whose outcome is known, to be folded away, or the export to fail. The same loop with a plain Tensor works.
#
# Output seen (2026-11-30):
#   optional, None given        checker: refuses   onnxruntime: refuses
#   optional, a tensor given    checker: passes    onnxruntime: refuses
#   a plain tensor              checker: passes    onnxruntime: runs
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
cd "$folder"
cat > loops.py <<'PY'
import io
from typing import Optional

import onnx
import onnxruntime
import torch


@torch.jit.script
def optional(x: torch.Tensor, valid: Optional[torch.Tensor]) -> torch.Tensor:
    state = torch.zeros_like(x[0])
    states = []
    for t in range(x.shape[0]):
        new = torch.tanh(x[t] + state)
        state = new if valid is None else torch.where(valid[t], new, state)
        states.append(state)
    return torch.stack(states)


@torch.jit.script
def plain(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    state = torch.zeros_like(x[0])
    states = []
    for t in range(x.shape[0]):
        state = torch.where(valid[t], torch.tanh(x[t] + state), state)
        states.append(state)
    return torch.stack(states)


class Model(torch.nn.Module):
    def __init__(self, loop, masked):
        super().__init__()
        self.loop, self.masked = loop, masked

    def forward(self, x):
        return self.loop(x, x > 0 if self.masked else None)


def outcome(action, done):
    try:
        action()
    except Exception:
        return "refuses"
    return done


results = []
for name, loop, masked in (
    ("optional, None given", optional, False),
    ("optional, a tensor given", optional, True),
    ("a plain tensor", plain, True),
):
    buffer, x = io.BytesIO(), torch.randn(4, 2)
    torch.onnx.export(
        Model(loop, masked), (x,), buffer, dynamo=False, opset_version=17,
        input_names=["x"], dynamic_axes={"x": {0: "t"}},
    )
    content = buffer.getvalue()

    def run():
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": x.numpy()})[0]
        assert abs(found - Model(loop, masked)(x).numpy()).max() < 1e-5

    model = onnx.load_from_string(content)
    found = outcome(lambda: onnx.checker.check_model(model, full_check=True), "passes"), outcome(run, "runs")
    print(f"{name:27} checker: {found[0]:9} onnxruntime: {found[1]}")
    results.append(found)
raise SystemExit(results != [("refuses", "refuses"), ("passes", "refuses"), ("passes", "runs")])
PY
venv/bin/python -W ignore loops.py 2>loops.err || { code=$?; tail -3 loops.err >&2; exit $code; }
