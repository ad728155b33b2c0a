#!/usr/bin/env bash
# scikit-learn's log_loss depends on the type of the probabilities: in float32 it has a ceiling.
#
# Expected: float32 holds 1e-12 well, so a true class with that probability costs 27.6 nats in either
# type. Seen with scikit-learn 1.9.1: 27.6 in float64, 15.9 in float32, without a warning: values are
# clipped at the machine epsilon of their type, 1.2e-7 for float32, not at the smallest number that
# it holds. A network that answers in float32 looks better than the same answers in float64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "scikit-learn==1.9.1" "numpy==2.4.6" 2>/dev/null
cat > "$folder/check.py" <<'PYTHON'
import numpy as np
import sklearn
from sklearn.metrics import log_loss

true = [0, 1]
answers = np.array([[1e-12, 1 - 1e-12], [1e-12, 1 - 1e-12]])
same = answers.astype(np.float32)
assert float(same[0, 0]) > 0 and np.isclose(same[0, 0], 1e-12, rtol=1e-6)  # float32 holds it
losses = {kind.__name__: 2 * log_loss(true, answers.astype(kind)) for kind in (np.float64, np.float32)}
print("scikit-learn", sklearn.__version__, {name: round(loss, 2) for name, loss in losses.items()})
assert abs(losses["float64"] - 27.63) < 0.01, "float64 is clipped elsewhere now"
assert abs(losses["float32"] - 15.94) < 0.01, "float32 is not clipped at its epsilon any more"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
