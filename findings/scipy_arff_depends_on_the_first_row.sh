#!/usr/bin/env bash
# scipy 1.17.1: whether arff.loadarff reads a quoted class depends on the order of the rows.
#
# An ARFF file declares the classes {u,'v w'}; the second has a blank and so needs quotes. With 'v w' in the first
# row of data the file is read. With u in the first row it is refused: "'v w' value not in ('u', 'v w')". The sign of
# quotation is guessed from the first row alone. In double quotes both orders are read. An expert expects the rows of a
# table to be independent of each other.
#
# Output seen (2026-12-01):
#   'v w' first: v w, u
#   u first: ValueError
#   u first, double quotes: u, v w
#
# Exit code: 0 while that is so, 1 when it is no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet numpy==2.4.6 scipy==1.17.1
cd "$folder"
venv/bin/python - <<'PY'
import io

from scipy.io import arff


def read(quote, rows):
    head = "@relation r\n@attribute c {u,'v w'}\n@attribute x numeric\n@data\n"
    text = (head + "".join(f"{row}\n" for row in rows)).replace("'", quote)
    try:
        return ", ".join(bytes(value).decode() for value in arff.loadarff(io.StringIO(text))[0]["c"])
    except ValueError:
        return "ValueError"


found = []
for name, quote, rows in (
    ("'v w' first", "'", ("'v w',2", "u,1")),
    ("u first", "'", ("u,1", "'v w',2")),
    ("u first, double quotes", '"', ("u,1", "'v w',2")),
):
    found.append(read(quote, rows))
    print(f"{name}: {found[-1]}")
raise SystemExit(found != ["v w, u", "ValueError", "u, v w"])
PY
