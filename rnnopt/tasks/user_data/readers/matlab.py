"""MATLAB's .mat files: variables by the names of arrays in .npz files, X and y, X_train, …

A cell array of (time, channel) matrices is a list of series, of different lengths if need be; cells
of row vectors are series of one channel. Files of version 7.3 are HDF5 (`hdf5.py`). Those of before
are read here, by MATLAB's description "MAT-File Format": scipy's reader ends the process at some
damaged files (1.17).
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnnopt.tasks.user_data.limits import ALWAYS, PACKED, check_declared, check_memory
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.hdf5 import SIGNATURE, read_hdf5
from rnnopt.tasks.user_data.readers.npz import known, parts_of
from rnnopt.tasks.user_data.readers.variables import Variable, flat, of_cells, refuse, rows_of

HEADER = 128  # bytes
MATRIX, PACKED_ELEMENT = 14, 15  # types of elements
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
          13: "u8"}  # fmt: skip
TEXTS = {4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17  # classes
NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8",
           15: "u8"}  # fmt: skip
REFUSED = {STRUCT: "struct", OBJECT: "struct", SPARSE: "sparse", FUNCTION: "table", OPAQUE: "table"}
DAMAGED = "it is no readable .mat file, as MATLAB's save writes it: {}."


@dataclass(frozen=True)
class Matrix:
    """A variable, or the content of a cell: its name, class, sides and what they are made of."""

    name: str
    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    parts: list[tuple[int, memoryview]]


def read_mat(path: Path, columns: Columns) -> Parts:
    """Reads the series of a .mat file."""
    with path.open("rb") as file:
        start = file.read(520)
        if SIGNATURE in (start[:8], start[512:520]):
            return read_hdf5(path, columns)
        check_memory(path.stat().st_size, "the file")
        content = memoryview(start + file.read())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:HEADER]))
    if order is None:
        raise ValueError(DAMAGED.format("its header is none of the versions 5 to 7.3"))
    found, arrays = [], {}
    for kind, part in _elements(content[HEADER:], order):
        if kind == PACKED_ELEMENT:
            kind, part = next(_elements(_unpacked(part), order), (0, part))
        if kind != MATRIX:
            continue
        one = _matrix(part, order)
        if not one.name:  # of MATLAB's own
            continue
        found.append(one.name)
        if known(one.name, columns.group):
            arrays[one.name.lower()] = _variable(one.name, one, order)
    if len({name.lower() for name in found}) < len(found):
        raise ValueError("the names of its variables must differ in more than capitals.")
    return parts_of(flat(arrays), found, columns)


def _unpacked(part: memoryview) -> memoryview:
    """An element that was packed."""
    most = ALWAYS + PACKED * len(part)
    try:
        return memoryview(zlib.decompressobj().decompress(part, most))
    except zlib.error as error:
        raise ValueError(DAMAGED.format("it is damaged or cut off")) from error


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element."""
    place = 0
    while place < len(content):
        if len(content) < place + 8:
            raise ValueError(DAMAGED.format("it is damaged or cut off"))
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        if kind >> 16:  # at most four bytes, beside their size
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        end = start + size
        if end > len(content):
            raise ValueError(DAMAGED.format("it is damaged or cut off"))
        yield kind, content[start:end]
        place = end if kind == PACKED_ELEMENT else max(place + 8, -(-end // 8) * 8)


def _matrix(content: memoryview, order: str) -> Matrix:
    """What a matrix says of itself, without its values."""
    if not len(content):  # of an empty cell
        return Matrix("", 6, False, (0, 0), [(9, content)])
    parts = list(_elements(content, order))
    if len(parts) < 2 or len(parts[0][1]) < 4:
        raise ValueError(DAMAGED.format("a variable lacks its header"))
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    kind, is_complex = flags & 0xFF, bool(flags & 0x800)
    if kind == OPAQUE:  # it has no sides
        return Matrix(_name(parts[1][1]), kind, False, (), [])
    if len(parts) < 3 or parts[1][0] != 5 or len(parts[1][1]) % 4:
        raise ValueError(DAMAGED.format("a variable lacks its header"))
    shape = tuple(np.frombuffer(parts[1][1], f"{order}i4").tolist())
    if min(shape, default=-1) < 0 or len(shape) > 8:
        raise ValueError(DAMAGED.format("a variable claims a shape that none has"))
    return Matrix(_name(parts[2][1]), kind, is_complex, shape, parts[3:])


def _name(part: memoryview) -> str:
    return bytes(part).decode("ascii", "replace")[:64]


def _variable(name: str, one: Matrix, order: str) -> Variable:
    """A variable as an array, or as a list of arrays for a cell array."""
    if one.kind != CELL:
        return _array(name, one, order)
    cells = [_matrix(part, order) for kind, part in one.parts if kind == MATRIX]
    if len(cells) != math.prod(one.shape):
        raise ValueError(DAMAGED.format(f"{name!r} lacks some of its cells"))
    found = []
    for cell in cells:
        if cell.kind not in NUMBERS and cell.kind != CHAR:
            refuse(name, "nested")
        array = _array(name, cell, order)
        if cell.kind == CHAR:
            if array.size > 1:
                refuse(name, "nested")
            array = np.array(str(array[0]) if array.size else "")
        found.append(array)
    return of_cells(name, found)


def _array(name: str, one: Matrix, order: str) -> np.ndarray:
    """A matrix of numbers, or the texts (row,) of one of letters."""
    if one.kind in REFUSED:
        refuse(name, REFUSED[one.kind])
    if one.is_complex:
        refuse(name, "complex")
    if (one.kind != CHAR and one.kind not in NUMBERS) or not one.parts:
        raise ValueError(DAMAGED.format(f"{name!r} is of no known class"))
    stored, content = one.parts[0]
    count = math.prod(one.shape)
    check_declared(8 * count, 8 * len(content), name)
    if one.kind == CHAR and stored in TEXTS:
        endian = "" if stored == 16 else {"<": "-le", ">": "-be"}[order]
        letters = np.array(list(bytes(content).decode(TEXTS[stored] + endian, "replace")))
    elif stored in STORED and len(content) % np.dtype(STORED[stored]).itemsize == 0:
        letters = np.frombuffer(content, order + STORED[stored])
    else:
        raise ValueError(DAMAGED.format(f"{name!r} has values of no known type"))
    if len(letters) != count:
        raise ValueError(DAMAGED.format(f"{name!r} has {len(letters)} values for {one.shape}"))
    values = letters.reshape(one.shape, order="F")
    return rows_of(name, values) if one.kind == CHAR else values.astype(NUMBERS[one.kind])
