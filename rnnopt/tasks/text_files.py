"""Tables of numbers in text files, from a folder or directly from a zip archive."""

import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from rnnopt.config.errors import UserError

LARGEST = 1 << 26  # largest file in bytes, also unpacked: four times the largest of UCI HAR
# Errors of zipfile for broken or encrypted archives, or an unknown compression.
BAD_ZIP = (
    zipfile.BadZipFile, zlib.error, RuntimeError, struct.error, EOFError, OverflowError, KeyError,
    ValueError, lzma.LZMAError,
)  # fmt: skip


class TextFiles:
    """The text files of a folder, or of a zip archive, without unpacking it to disk.

    Args:
        path: the folder or the archive.
        top: name of a folder inside that may contain the files.
    """

    def __init__(self, path: Path, top: str):
        self.path, self.top = path, top

    def table(self, name: str, columns: int, rows: int | None = None) -> Any:
        """The numbers of a file as a numpy array (rows, columns) of doubles."""
        import numpy as np

        lines = [line.split() for line in self.text(name).splitlines()]
        lines = [line for line in lines if line]
        wrong = [len(line) for line in lines if len(line) != columns]
        if wrong or not lines or rows not in (None, len(lines)):
            got = f"{wrong[0]} in a row" if wrong else f"{len(lines)} rows"
            many = "rows" if rows is None else f"{rows} rows"
            raise UserError(
                f"{self._where(name)} must hold {many} of {columns} numbers, got {got}."
            )
        try:
            numbers = np.array(lines, dtype=np.float64)
        except ValueError as error:
            raise UserError(f"{self._where(name)} must hold numbers, but {error}.") from error
        if not np.isfinite(numbers).all():
            raise UserError(f"{self._where(name)} must hold finite numbers, got NaN or infinity.")
        return numbers

    def integers(self, name: str, columns: int, rows: int | None = None) -> Any:
        """The integers of a file as a numpy array (rows, columns)."""
        numbers = self.table(name, columns, rows)
        if (numbers % 1 != 0).any() or abs(numbers).max() > 1 << 31:
            raise UserError(f"{self._where(name)} must hold integers, got other numbers.")
        return numbers.astype("int64")

    def text(self, name: str) -> str:
        """The text of a file: UTF-8, or UTF-16 as on one mirror of UCI HAR."""
        try:
            content = self._content(name)
        except (OSError, *BAD_ZIP) as error:
            raise UserError(f"{self._where(name)} cannot be read: {error}.") from error
        encoding = "utf-8-sig"
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            encoding = "utf-16"  # this mark determines the byte order
        elif b"\0" in content[:2]:  # no mark: one of the two bytes of a digit is zero
            encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            raise UserError(f"{self._where(name)} must be text, but {error}.") from error

    def _content(self, name: str) -> bytes:
        """The bytes of a file; raises an error if there are too many."""
        if self.path.is_dir():
            paths = [self.path / name, self.path / self.top / name]
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                raise UserError(f"{self.path} must hold {name}, which is missing.")
            with open(path, "rb") as file:
                content = file.read(LARGEST + 1)
        else:
            with self._archive() as archive:
                inside = set(archive.namelist())
                member = next((m for m in (name, f"{self.top}/{name}") if m in inside), None)
                if member is None:
                    raise UserError(f"{self.path} must hold {name}, which is missing.")
                size = archive.getinfo(member).file_size
                if size > LARGEST:
                    raise OSError(f"it unpacks to {size} bytes, and {LARGEST} are allowed")
                with archive.open(member) as file:  # the declared size may be false
                    content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise OSError(f"it has more than the {LARGEST} bytes allowed")
        return content

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, *BAD_ZIP) as error:
            raise UserError(f"{self.path} must be a folder or zip file, but {error}.") from error

    def _where(self, name: str) -> str:
        return f"{name} in {self.path}"
