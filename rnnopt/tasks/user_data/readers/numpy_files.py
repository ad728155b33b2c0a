"""Reads numpy's array files without trusting their headers and without unpickling.

numpy allocates the size that a header claims before it reads a value; here the claim is first
compared with the bytes in the file.
"""

import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.lib import format as npy

from rnnopt.tasks.text_files import BAD_ZIP
from rnnopt.tasks.user_data.limits import check_declared

KINDS = "biufSU"  # kinds of supported types: truth values, numbers, words
MAPPED = 1 << 26  # bytes of a file from which on it is mapped: 64 MiB
MOST_SIZES = 8  # largest number of dimensions; series have three
# Errors of numpy for invalid headers.
BAD_HEADER = (
    *BAD_ZIP, SyntaxError, TypeError, AttributeError, IndexError, MemoryError,
    tokenize.TokenError, UserWarning,
)  # fmt: skip
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_file(path: Path) -> np.ndarray:
    """The array of a .npy file; raises ValueError unless it holds numbers or words.

    A large one is mapped: only what is used is read, and none of it may be written.
    """
    stored = path.stat().st_size
    with path.open("rb") as file:
        if stored < MAPPED:
            return read_array(file, stored, path.name)
        shape, in_columns, dtype = _header(file, stored, path.name)
        order: Literal["F", "C"] = "F" if in_columns else "C"
        return np.memmap(file, dtype, "r", file.tell(), shape, order)


def read_members(path: Path, wanted: list[str]) -> dict[str, np.ndarray]:
    """Arrays of a .npz file by their names.

    Raises:
        ValueError: an array is invalid.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in wanted:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} must be packed as numpy does it, stored or deflated.")
            check_declared(member.file_size, member.compress_size, name)
            try:
                file = archive.open(member)
            except BAD_ZIP as error:
                raise ValueError(f"{name} cannot be unpacked: it is damaged or cut off.") from error
            with file:
                found[name] = read_array(file, member.file_size, name)
    return found


def names_in(path: Path) -> list[str]:
    """The names of the arrays in a .npz file.

    Raises:
        ValueError: it is not an archive, has a name twice, or its members exceed the file's size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except BAD_ZIP as error:
        raise ValueError("it is no .npz file, as numpy.savez writes it.") from error
    names = [member.filename.removesuffix(".npy") for member in members]
    if len({name.lower() for name in names}) < len(names):
        raise ValueError("the names of its arrays must differ from each other.")
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise ValueError("its arrays claim to take more room than the file has.")
    return [name for name, one in zip(names, members, strict=True) if one.filename != name]


def read_array(file: IO[bytes], stored: int, name: str) -> np.ndarray:
    """The array of an open .npy file.

    Args:
        file: the file, at its beginning.
        stored: size of the file in bytes.
        name: name of the array.

    Raises:
        ValueError: it is not such a file, has objects or records, or does not have the size that
            its header claims.
    """
    shape, in_columns, dtype = _header(file, stored, name)
    try:
        content = bytearray(file.read(stored))  # writable, so that torch can share it
        return np.frombuffer(content, dtype).reshape(shape, order="F" if in_columns else "C")
    except BAD_ZIP as error:
        raise ValueError(f"{name} cannot be unpacked: it is damaged or cut off.") from error


def _header(file: IO[bytes], stored: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array, which the size of its file bears out."""
    try:
        shape, in_columns, dtype = HEADERS[npy.read_magic(file)](file)
        there = stored - file.tell()
    except BAD_HEADER as error:
        raise ValueError(f"{name} is no array of numbers, as numpy.save writes it.") from error
    if dtype.hasobject:
        raise ValueError(
            f"{name} is no array of numbers: it holds Python objects, which are never unpickled;"
            " save series of different lengths padded, with an array named lengths."
        )
    if dtype.kind not in KINDS or dtype.subdtype or dtype.itemsize == 0:
        raise ValueError(f"{name} must hold numbers or words, got type {str(dtype)[:60]}.")
    if len(shape) > MOST_SIZES or not all(0 <= side < 2**62 for side in shape):
        raise ValueError(f"{name} claims a shape that no array has.")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != there or claimed == 0:
        got = f"{claimed:.6g} bytes, and {there} are there" if claimed else "which is nothing"
        raise ValueError(f"{name} claims shape {shape} of {dtype}: {got}.")
    return shape, in_columns, dtype
