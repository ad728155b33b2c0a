"""metrics.jsonl: a line per evaluation on validation data, each with its own checksum."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from rnnopt.config.old_names import RECORD, renamed
from rnnopt.runs.checksums import Damaged, with_check, without_check
from rnnopt.runs.files import finite

Record = dict[str, float]
NAME = "metrics.jsonl"


@dataclass(frozen=True)
class History:
    """The content of the file.

    Args:
        records: records of the lines before the first damaged one.
        damage: the damaged line and its fault; "" if all lines are as written.
    """

    records: list[Record]
    damage: str = ""

    def lack(self, wanted: int) -> str:
        """Why records are missing; "" if there are `wanted`."""
        if len(self.records) >= wanted:
            return ""
        return self.damage or f"cut short, must have {wanted} lines, got {len(self.records)}"


def read_history(path: Path, required: bool) -> History:
    """The records of a run folder, without an incomplete last line from a crash.

    Args:
        path: the run folder.
        required: whether each line must have a checksum.
    """
    try:
        content = (path / NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return History([])
    *lines, _ = content.split(b"\n")  # the rest after the last line end is incomplete
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = without_check(dict(json.loads(line)), required)
        except Damaged as error:
            return History(records, f"line {number} is damaged: {error}")
        except (ValueError, TypeError, RecursionError):
            start = line[:40].decode(errors="replace")
            return History(records, f"line {number} must be JSON, got {start!r}")
        numbers = {k: math.nan if v is None else v for k, v in record.items()}
        records.append(renamed(numbers, RECORD))
    return History(records)


def as_lines(records: list[Record]) -> bytes:
    """The lines of records; NaN and infinity become null, because JSON does not have them."""
    rows = (with_check(finite(record)) for record in records)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
