#!/usr/bin/env bash
# sigmf 1.14.0: read_samples gives float32 for every data type, also for 32-bit integers and float64.
#
# A file of ri32_le holds 2^30 + 1. With autoscale=False, which asks for the numbers as they are, an expert expects
# this integer, or a float that can hold it. It comes back as 2^30. A file of rf64_le comes back as float32, too.
# Neither says so.
#
# Output seen (2026-12-01):
#   ri32_le: float32, 1073741825 is read as 1073741824
#   rf64_le: float32, 1/3 is off by 9.9e-09
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 sigmf==1.14.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import sigmf


def read(name, kind, values):
    values.tofile(f"{name}.sigmf-data")
    info = {"core:datatype": kind, "core:sample_rate": 10.0, "core:version": "1.2.0"}
    made = sigmf.SigMFFile(global_info=info)
    made.set_data_file(f"{name}.sigmf-data")
    made.add_capture(0)
    made.tofile(f"{name}.sigmf-meta")
    return sigmf.sigmffile.fromfile(f"{name}.sigmf-meta", autoscale=False).read_samples()


whole = read("a", "ri32_le", np.array([2**30 + 1, 5], np.int32))
real = read("b", "rf64_le", np.array([1 / 3, 5]))
off = abs(float(real[0]) - 1 / 3)
print(f"ri32_le: {whole.dtype}, {2**30 + 1} is read as {int(whole[0])}")
print(f"rf64_le: {real.dtype}, 1/3 is off by {off:.2g}")
wide = (whole.dtype, real.dtype) != (np.float32, np.float32)
raise SystemExit(wide or int(whole[0]) != 2**30 or not 1e-9 < off < 1e-7)
PY
