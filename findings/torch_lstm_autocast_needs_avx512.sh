#!/usr/bin/env bash
# torch.nn.LSTM cannot run under CPU autocast on processors without AVX-512; nn.GRU and nn.RNN can.
#
# Expected: autocast changes the precision of products, and a layer that has no such products runs in
# another precision; if the three recurrent layers differ, the LSTM, which has oneDNN's fused code, is
# the best supported. Seen with torch 2.13.0 and oneDNN limited to AVX2 (as on any processor without
# AVX-512): GRU and RNN run, in bfloat16 and float16 both; the LSTM raises RuntimeError "could not create
# a primitive descriptor", also without gradients. Converted with .to(bfloat16), outside autocast, the
# same LSTM runs. A model trained under autocast on one machine cannot even be evaluated on another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
cat > "$folder/check.py" <<'PYTHON'
import torch
from torch import nn


def outcome(layer, x, dtype, autocast):
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=autocast):
            return str(layer(x)[0].dtype)
    except RuntimeError as error:
        return str(error).split(" for ")[0]


found = {}
for kind in (nn.LSTM, nn.GRU, nn.RNN):
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(5, 2, 3)
        found[kind.__name__, dtype, "autocast"] = outcome(kind(3, 8), x, dtype, True)
        found[kind.__name__, dtype, "converted"] = outcome(kind(3, 8).to(dtype), x.to(dtype), dtype, False)
print("torch", torch.__version__, torch.backends.mkldnn.is_available() and "with oneDNN")
for what, result in found.items():
    print(*what, "->", result)
refused = {what for what, result in found.items() if "could not create a primitive descriptor" in result}
assert refused == {("LSTM", dtype, "autocast") for dtype in (torch.bfloat16, torch.float16)}, refused
PYTHON
ONEDNN_MAX_CPU_ISA=AVX2 "$folder/venv/bin/python" "$folder/check.py"
