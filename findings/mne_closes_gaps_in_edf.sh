#!/usr/bin/env bash
# mne 1.13.2: an EDF+ file with a gap is read as if there were none.
#
# EDF+D is the kind of EDF for recordings that were interrupted: each data record has a time stamp of its own. Ten
# records of one second are written, and the last five stamped 100 s later. read_raw_edf reads 10 s in one piece:
# the times after the gap are 100 s too early, without an error, a warning or an annotation. An expert expects one
# of these, as mne marks gaps of some other formats. (pyedflib 0.1.42, with which the file is made here, refuses it.)
#
# Output seen (2026-12-01):
#   last stamp 109 s; last time read 9.9 s; warnings 0; annotations 0
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 scipy==1.17.1 mne==1.13.2 pyedflib==0.1.42
cd "$folder"
venv/bin/python - <<'PY'
import re
import warnings
from pathlib import Path

import mne
import numpy as np
import pyedflib

with pyedflib.EdfWriter("whole.edf", 1, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
    header = dict(label="a", dimension="uV", sample_frequency=10, transducer="", prefilter="")
    header |= dict(physical_min=-100, physical_max=100, digital_min=-32768, digital_max=32767)
    file.setSignalHeader(0, header)
    file.writeSamples([np.arange(100.0)])
content = bytearray(Path("whole.edf").read_bytes().replace(b"EDF+C", b"EDF+D", 1))
for second in range(5, 10):
    stamp = re.search(rb"\+%d\x14\x14\x00{8}" % second, content)
    later = b"+%d\x14\x14" % (second + 100)
    content[stamp.start() : stamp.end()] = later.ljust(len(stamp[0]), b"\0")
Path("gap.edf").write_bytes(content)

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    raw = mne.io.read_raw_edf("gap.edf", preload=True, verbose="warning")
last, counts = float(raw.times[-1]), (len(said), len(raw.annotations))
print(f"last stamp 109 s; last time read {last:g} s; warnings {counts[0]}; annotations {counts[1]}")
raise SystemExit(not (abs(last - 9.9) < 1e-6 and counts == (0, 0)))
PY
