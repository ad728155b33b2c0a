#!/usr/bin/env bash
# torch's Optimizer.load_state_dict turns a text in the state of a weight into a spent generator.
#
# Expected: a text that an optimizer keeps in self.state[p], such as the name of a phase, comes back
# from state_dict and load_state_dict as it was, as numbers and None do. Seen with torch 2.13.0: what
# comes back is an object <generator ...>, without a warning, for the loader rebuilds every iterable of
# a state by calling its type with a generator, and str(generator) is the generator's own description.
# The same text in param_groups is kept. torch.save and torch.load(weights_only=True) keep both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
cat > "$folder/check.py" <<'PYTHON'
import torch

weight = torch.nn.Parameter(torch.zeros(2))
first, second = (torch.optim.SGD([weight], lr=0.1) for _ in range(2))
first.state[weight] = {"phase": "warm", "steps": 3, "nothing": None}
first.param_groups[0]["phase"] = "warm"
saved = first.state_dict()
assert saved["state"][0]["phase"] == "warm"
second.load_state_dict(saved)
found = second.state[weight]
print("torch", torch.__version__, {name: repr(value)[:60] for name, value in found.items()})
assert found["steps"] == 3 and found["nothing"] is None
assert second.param_groups[0]["phase"] == "warm"
assert isinstance(found["phase"], str) and "generator object" in found["phase"], "texts are kept now"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
