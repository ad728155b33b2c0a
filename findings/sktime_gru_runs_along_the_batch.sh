#!/usr/bin/env bash
# sktime's GRUClassifier runs along the series of a minibatch, not along time.
#
# Expected: a fitted classifier reads each series from its first step to its last, and gives a series
# the same class whatever other series it is asked about in the same call. Seen with sktime 1.2.0 and
# torch 2.13.0: its data come as (batch, time, channel), and its `nn.GRU` has `batch_first=False`, so
# it takes the series of a minibatch for the steps. The answer then depends on the series before it
# in the call, and on no step but the last: all others may be replaced. GRUFCNNClassifier has the same
# GRU beside its convolutions. There is no warning. `batch_first=True` is right in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "sktime==1.2.0" "torch==2.13.0" "numpy==2.4.6" 2>/dev/null
cat > "$folder/check.py" <<'PYTHON'
import numpy as np
import sktime
import torch
from sktime.classification.deep_learning.gru import GRUClassifier, GRUFCNNClassifier

generator = np.random.default_rng(0)
X, y = generator.normal(size=(16, 2, 10)), np.arange(16) % 2  # (series, channel, time)
other_past = X.copy()
other_past[:, :, :-1] = generator.normal(size=(16, 2, 9))  # all steps but the last are others
kinds = dict(GRU=(GRUClassifier, dict(hidden_dim=8, n_layers=1)), FCN=(GRUFCNNClassifier, dict(hidden_dim=8, gru_layers=1)))
moved = {}
for name, (kind, options) in kinds.items():
    for first in (False, True):
        model = kind(num_epochs=20, batch_first=first, random_state=0, **options).fit(X, y)
        together = model.predict_proba(X)
        alone = np.concatenate([model.predict_proba(one[None]) for one in X])
        moved[name, first] = (
            float(abs(together - alone).max()), float(abs(together - model.predict_proba(other_past)).max())
        )
print("sktime", sktime.__version__, "torch", torch.__version__)
for (name, first), (neighbours, past) in moved.items():
    print(f"{name}, batch_first={first}: largest change of a probability without the other series {neighbours:.1g},"
          f" with other steps before the last {past:.1g}")
assert moved["GRU", False][0] > 0.01 and moved["FCN", False][0] > 0.001, "series are by themselves now"
assert moved["GRU", False][1] == 0, "it sees the steps before the last now"
assert moved["GRU", True][0] < 1e-5 and moved["GRU", True][1] > 1e-3, "batch_first=True is not right either"
assert moved["FCN", True][0] < 1e-5, "batch_first=True is not right either"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
