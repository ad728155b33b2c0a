#!/usr/bin/env bash
# torch 2.14.1: an export with `scan` fails because of another export before it.
#
# A module that loops over time with torch's `scan` exports with a dynamic number of steps. In the same
# process, after an export of the very same module with the steps fixed, it does not: "You marked t as
# dynamic but your code specialized it to be a constant". `scan` compiles its loop by torch.compile even
# inside torch.export; probably the guards of the code compiled first are tried on the symbolic size, and
# make it the constant 12. An expert expects that exports do not depend on one another. The
# operator itself, torch.ops.higher_order.scan, is not affected; torch.compiler.reset() between helps.
#
# Output seen (2026-11-29; torch 2.10.0 and 2.13.0 do the same):
#   dynamic steps, first                   exported
#   steps fixed, batch dynamic             exported
#   dynamic steps, after that              UserError
#   dynamic steps, after compiler.reset()  exported
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from torch._higher_order_ops.scan import scan
from torch.export import Dim, export


class Sums(torch.nn.Module):
    def forward(self, x):
        def step(state, now):
            state = torch.tanh(state + now)
            return state, state.clone()

        return scan(step, torch.zeros_like(x[0]), x)[1]


def outcome(sizes):
    try:
        export(Sums(), (torch.randn(12, 4, 3),), dynamic_shapes=(sizes,))
    except Exception as error:
        return type(error).__name__
    return "exported"


fixed, dynamic = {1: Dim("b")}, {0: Dim("t"), 1: Dim("b")}
torch.compiler.reset()
lines = {"dynamic steps, first": outcome(dynamic)}
torch.compiler.reset()
lines["steps fixed, batch dynamic"] = outcome(fixed)
lines["dynamic steps, after that"] = outcome(dynamic)
torch.compiler.reset()
lines["dynamic steps, after compiler.reset()"] = outcome(dynamic)
for name, found in lines.items():
    print(f"{name:38} {found}")
raise SystemExit(list(lines.values()) != ["exported", "exported", "UserError", "exported"])
PY
