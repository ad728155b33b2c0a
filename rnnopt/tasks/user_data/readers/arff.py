"""The .arff format of Weka, and of the UEA archive: a line per series.

    @attribute steps relational        several channels, each a line of the attribute's text,
      @attribute s1 numeric            or without it one channel, an attribute per step
      @attribute s2 numeric
    @end steps
    @attribute label {up,down}         the last nominal attribute; numeric where --label names it
    @data
    "1,2\\n3,4",up

A `?` is a missing value, and as the label of all series it means that there is none. Scipy reads
these files too, but not nominal values in quotes, nor texts (1.17).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rnnopt.tasks.user_data.readers.columns import LABELS, Columns, Parts, find, to_numbers
from rnnopt.tasks.user_data.readers.tables import from_table
from rnnopt.tasks.user_data.recordings import Recordings, TableSchema, recordings

NUMERIC = ("numeric", "real", "integer")
QUOTED = re.compile(r"""'((?:[^'\\]++|\\.)*+)'|"((?:[^"\\]++|\\.)*+)\"""", re.DOTALL)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
NAMES = {"n": "\n", "r": "\r", "t": "\t"}  # of characters behind a backslash


@dataclass(frozen=True)
class Header:
    """The attributes of a file.

    Args:
        kinds: type of each attribute by its name: numeric, nominal, relational, or another word.
        inner: names of the attributes of the relational one: the steps of a channel.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    inner: list[str] = field(default_factory=list)


def read_arff(path: Path, columns: Columns) -> Parts:
    """Reads the series of an .arff file."""
    lines = enumerate(path.read_text("utf-8-sig").splitlines(), start=1)
    used = ((i, one.strip()) for i, one in lines)
    used = ((i, one) for i, one in used if one and not one.startswith("%"))
    header = _header(used)
    rows = []
    for number, line in used:
        if line.startswith("{"):
            raise ValueError(
                f"line {number} is sparse, and only dense ones are read (Weka converts by the"
                " filter SparseToNonSparse)."
            )
        cells = _cells(line, number)
        if len(cells) != len(header.kinds):
            raise ValueError(f"line {number} needs {len(header.kinds)} cells, got {len(cells)}.")
        rows.append(cells)
    if not rows:
        raise ValueError("data need at least one series, got none.")
    names = list(header.kinds)
    table = {name: np.array([row[i] for row in rows], object) for i, name in enumerate(names)}
    nominal = [name for name in names if header.kinds[name] == "nominal"]
    label = find(names, None, LABELS) or (nominal[-1] if nominal else None)
    if columns.unlabelled or (label and columns.label is None and _unknown(table[label])):
        columns = replace(columns, unlabelled=True)
        table.pop(label or "", None)
    relational = [name for name in names if header.kinds[name] == "relational"]
    if relational:
        found = _of_channels(table, relational, header, label, columns)
        return _declared(found, header), None
    if not columns.unlabelled and not columns.optional and columns.label is None:
        if label is None:
            raise ValueError("no attribute is nominal, as labels are: name one with --label.")
        columns = replace(columns, label=label)
    return _declared(from_table(table, columns), header), None


def _declared(data: Recordings, header: Header) -> Recordings:
    """The series with the kind of their targets: a nominal label is a class, even if a number."""
    label = None if data.table is None else data.table.label
    nominal = data.targets is not None and header.kinds.get(str(label)) == "nominal"
    return replace(data, kind="classification") if nominal else data


def _unknown(cells: np.ndarray) -> bool:
    return all(cell == "?" for cell in cells)


def _header(lines: Iterator[tuple[int, str]]) -> Header:
    """The attributes up to the line @data; leaves the lines after it."""
    header, within = Header(), ""
    for number, line in lines:
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        word = word.lower()
        if word == "@data":
            if within:
                raise ValueError(f"the attribute {within!r} needs a line @end, got none.")
            return header
        if word == "@attribute":
            name, kind = _attribute(rest.strip(), number)
            if name in (header.inner if within else header.kinds):
                raise ValueError(f"line {number}: there are two attributes {name!r}.")
            if within:
                if kind != "numeric":
                    raise ValueError(f"line {number}: steps must be numeric, {name!r} is {kind}.")
                header.inner.append(name)
            else:
                header.kinds[name] = kind
                within = name if kind == "relational" else ""
        elif word == "@end" and within:
            within = ""
        elif word != "@relation":
            raise ValueError(f"line {number} must begin with @attribute, @relation or @data.")
    raise ValueError("an .arff file needs a line @data, got none.")


def _attribute(text: str, number: int) -> tuple[str, str]:
    """The name of an attribute and its type."""
    quoted = QUOTED.match(text)
    name = _plain(quoted) if quoted else (text.split() or [""])[0].partition("{")[0]
    kind = text[quoted.end() if quoted else len(name) :].strip()
    if not kind:
        raise ValueError(f"line {number}: an attribute needs a name and a type.")
    if kind.startswith("{"):
        return name, "nominal"
    word = kind.split()[0].lower()
    return name, "numeric" if word in NUMERIC else word[:40]


def _cells(line: str, number: int) -> list[str]:
    """The cells of a line, without their quotes."""
    if "'" not in line and '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    cells, place = [], 0
    while True:
        place += len(line) - place - len(line[place:].lstrip())
        quoted = QUOTED.match(line, place)
        if quoted:
            cells.append(_plain(quoted))
            end = quoted.end()
        else:
            end = line.find(",", place)
            end = len(line) if end < 0 else end
            cells.append(line[place:end].strip())
            if cells[-1][:1] in ("'", '"'):
                raise ValueError(f"line {number}: a quote is not closed.")
        rest = line[end:].lstrip()
        if not rest:
            return cells
        if rest[0] != ",":
            raise ValueError(f"line {number} needs a comma after a quote, got {rest[:20]!r}.")
        place = len(line) - len(rest) + 1


def _plain(quoted: re.Match[str]) -> str:
    """What stands between quotes."""
    text = quoted[1] if quoted[1] is not None else quoted[2]
    return ESCAPED.sub(lambda one: NAMES.get(one[1], one[1]), text)


def _of_channels(
    table: dict[str, np.ndarray],
    relational: list[str],
    header: Header,
    label: str | None,
    columns: Columns,
) -> Recordings:
    """The series of a relational attribute: a line per channel, a step per attribute inside."""
    if len(relational) > 1:
        raise ValueError(f"one attribute may be relational, got {', '.join(relational[:5])}.")
    wanted = columns.label and find(list(table), columns.label, (), columns.optional)
    label = None if columns.unlabelled else wanted or label
    series, steps = [], len(header.inner)
    for i, text in enumerate(table[relational[0]], start=1):
        channels = [
            to_numbers(line.split(","), f"series {i}, channel {k}")
            for k, line in enumerate(text.strip().splitlines(), start=1)
        ]
        wrong = [len(one) for one in channels if len(one) != steps]
        if wrong or not channels:
            got = f"a channel of {wrong[0]}" if wrong else "no channel"
            raise ValueError(f"series {i} needs {steps} steps, as declared, got {got}.")
        series.append(np.stack(channels, 1))
    targets = None if label is None or label not in table else table[label]
    data = recordings(series, targets)
    left = [name for name in table if name not in (relational[0], label)]
    notes = (f"left out: {', '.join(left)}",) if left else ()
    return replace(data, table=TableSchema("wide", label), notes=notes)
