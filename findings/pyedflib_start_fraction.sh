#!/usr/bin/env bash
# pyedflib 0.1.42: the fraction of a second of a recording's start is written ten times as large, or not at all.
#
# EDF+ keeps the fraction of the start in the first time stamp of the file. EdfWriter.setStartdatetime(…, 0.05 s)
# writes a stamp of 0.5 s. Half a second, or any fraction from 0.1 s on, is written as 0, without an error or a
# warning. EdfReader.getStartdatetime divides by ten again, so a round trip of 0.05 s looks right, and half a
# second that another program wrote is read as 0.05 s. An expert expects microseconds of a datetime to be kept, or
# refused; recordings that are joined by their start times are off by up to a second.
#
# Output seen (2026-12-01):
#   asked 0.05 s: in the file +0.5000000, read back 0.05
#   asked 0.5 s: in the file +0, read back 0.0
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 pyedflib==0.1.42
cd "$folder"
venv/bin/python - <<'PY'
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pyedflib

found = []
for microseconds in (50_000, 500_000):
    with pyedflib.EdfWriter("a.edf", 1, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        header = dict(label="a", dimension="uV", sample_frequency=10, transducer="", prefilter="")
        header |= dict(physical_min=-100, physical_max=100, digital_min=-32768, digital_max=32767)
        file.setSignalHeader(0, header)
        file.setStartdatetime(datetime(2026, 1, 2, 3, 4, 5, microseconds))
        file.writeSamples([np.arange(100.0)])
    stamp = re.search(rb"(\+0[.\d]*)\x14\x14", Path("a.edf").read_bytes())[1].decode()
    with pyedflib.EdfReader("a.edf") as file:
        back = file.getStartdatetime().microsecond / 1e6
    print(f"asked {microseconds / 1e6:g} s: in the file {stamp}, read back {back}")
    found.append((float(stamp), back))
raise SystemExit(found != [(0.5, 0.05), (0.0, 0.0)])
PY
