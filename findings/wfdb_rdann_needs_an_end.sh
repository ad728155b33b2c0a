#!/usr/bin/env bash
# wfdb 4.3.1: rdann(sampfrom=…) has an effect only beside sampto.
#
# rdrecord(sampfrom=500) reads a record from sample 500 on. An expert expects rdann(sampfrom=500) to read the
# annotations from there on. It reads all of them. With sampto=1000, the end of the record, those before 500 are gone.
# With shift_samps=True and no sampto they stay, at negative samples, which numpy takes as counted from the end.
#
# Output seen (2026-12-01), annotations at 100, 400, 600 and 900:
#   sampfrom=500: [100 400 600 900]
#   sampfrom=500, sampto=1000: [600 900]
#   sampfrom=500, shift_samps=True: [-400 -100 100 400]
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 pandas==3.1.1 wfdb==4.3.1
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import wfdb

signal = np.sin(np.arange(1000) / 9)[:, None]
wfdb.wrsamp("r", fs=100, units=["mV"], sig_name=["a"], p_signal=signal, fmt=["16"])
wfdb.wrann("r", "atr", np.array([100, 400, 600, 900]), symbol=["N"] * 4)
assert len(wfdb.rdrecord("r", sampfrom=500).p_signal) == 500
found = []
for options in (dict(), dict(sampto=1000), dict(shift_samps=True)):
    samples = wfdb.rdann("r", "atr", sampfrom=500, **options).sample.tolist()
    said = ", ".join(f"{name}={value}" for name, value in dict(sampfrom=500, **options).items())
    print(f"{said}: [{' '.join(map(str, samples))}]")
    found.append(samples)
raise SystemExit(found != [[100, 400, 600, 900], [600, 900], [-400, -100, 100, 400]])
PY
