"""Keeps a command's folder and its mirror alike.

The runs that went further in the mirror come home at the start. The command's own files (settings,
a sweep's database, tables) come home if only the mirror's have changed since both were alike: the
folder's file `STATE` has their SHA-256 of that time. So no clock decides. In the mirror that file
is its mark. The own files go there as runs begin, and everything at the end.
"""

import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePosixPath

from rnnopt.config.errors import UserError, writing
from rnnopt.experiments.mirror import EVERY, PART, Mirror, runs_of
from rnnopt.runs.files import json_bytes, write_atomically

STATE = ".rnnopt-mirror.json"
URL = re.compile(r"\w[\w+.-]+:/")  # of a path, which has one slash left
PROGRESS = ("comparison.json", "sweep.db")  # a table is written again, these are not


def no_mirror(path: Path) -> str | None:
    """The mirror of a run folder where there is none."""
    return None


@contextmanager
def mirrored(
    out: Path | None, url: str | None, resume: bool
) -> Iterator[Callable[[Path], str | None]]:
    """Keeps a folder and its mirror alike: fetches at the start, puts as runs begin and at the end.

    A command that is refused before its first run changes nothing there.

    Args:
        out: the command's folder.
        url: of the mirror; None does nothing.
        resume: whether the mirror may hold a command's files already.

    Yields:
        The URL of the mirror of a run folder below `out`, to be asked for as the run begins.

    Raises:
        UserError: there is no `out`, it is a URL, it is the mirror or one is in the other, or the
            mirror holds files that are others' or, if `resume` is false, any.
    """
    if out is not None and URL.match(str(out)):
        raise UserError(
            f"--out must be a folder of this machine, got {out}: give --out FOLDER, and the URL as"
            " --mirror."
        )
    if url is None:
        yield no_mirror
        return
    if out is None:
        raise UserError("--mirror needs --out, the folder of which it is the copy.")
    own = Own(out, Mirror(url))
    own.fetch(resume)
    try:
        yield own.url_of
    except BaseException:
        if own.begun:
            with suppress(UserError):  # the first error is the one to tell
                own.put_all()
        raise
    own.put_all()


class Own:
    """The command's side of a mirror.

    Args:
        out: the command's folder.
        mirror: its mirror.
    """

    def __init__(self, out: Path, mirror: Mirror):
        self.out, self.mirror = out, mirror
        self.begun = False  # whether files were put there
        self._next = 0.0
        self._alike: dict[str, str] = {}  # SHA-256 of own files when they were the same in both

    def fetch(self, resume: bool) -> None:
        """Brings home what went further there; see `mirrored`."""
        self._check_apart()
        self.mirror.check()
        names = set(self.mirror.sizes())
        if names and not resume:
            raise UserError(
                f"--mirror {self.mirror.shown} already holds files: continue with --resume or"
                " choose another."
            )
        if names and STATE not in names:
            raise UserError(
                f"--mirror {self.mirror.shown} must be empty or a mirror of rnnopt's, it holds"
                " other files."
            )
        runs = set(runs_of(names))
        outside = [one for one in names if str(PurePosixPath(one).parent) not in runs]
        found = self._newer(sorted(set(outside) - {STATE}))
        self.mirror.fetch(self.out, names)
        if found:
            with writing(self.out):
                for name, content in found.items():
                    (self.out / name).parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(self.out / name, content)
            self._keep_state()

    def _newer(self, names: list[str]) -> dict[str, bytes]:
        """The own files that are missing here, or changed only there since both were alike."""
        saved = self.out / STATE
        try:
            self._alike = json.loads(saved.read_bytes()) if saved.exists() else {}
        except ValueError:  # damaged
            self._alike = {}
        found = {}
        for name in names:
            if PurePosixPath(name).name == "lock":
                continue
            content = self.mirror.read(name)
            here = _digest(_content(path)) if (path := self.out / name).exists() else None
            there, before = _digest(content), self._alike.get(name)
            if here in (None, before, there):
                self._alike[name] = there
                if there != here:
                    found[name] = content
            elif there != before and path.name in PROGRESS:
                raise UserError(
                    f"{path} and its copy in --mirror {self.mirror.shown} have both changed: remove"
                    " one of them, or choose another --out."
                )
        return found

    def url_of(self, run: Path) -> str:
        """The URL of a run's mirror. Puts the command's own files there every few seconds.

        The first time that must succeed; later a mirror may be away for a while.
        """
        if not self.begun or time.monotonic() > self._next:
            try:
                self.put_own()
            except UserError:
                if not self.begun:
                    raise
            self.begun, self._next = True, time.monotonic() + EVERY
        return f"{self.mirror.url}/{run.relative_to(self.out).as_posix()}"

    def put_all(self) -> None:
        """Puts everything there that changed here."""
        if self.out.is_dir():
            self.put_own()
            self.mirror.put_runs(self.out)

    def put_own(self) -> None:
        """Puts the command's own files there that changed."""
        if not self.begun:
            self.mirror.write(STATE, json_bytes({}))  # the mark of a mirror, before anything else
        before = dict(self._alike)
        for name in own_files(self.out):
            with suppress(FileNotFoundError):
                content = _content(self.out / name)
                digest = _digest(content)
                if self._alike.get(name) != digest:
                    self.mirror.write(name, content)
                    self._alike[name] = digest
        if self._alike != before:
            self._keep_state()

    def _keep_state(self) -> None:
        with writing(self.out / STATE):
            write_atomically(self.out / STATE, json_bytes(self._alike))

    def _check_apart(self) -> None:
        """Raises UserError if one of the folder and its mirror is in the other."""
        root = self.mirror.local()
        if root is None:
            return
        here, there = self.out.resolve(), root.resolve()
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise UserError(
                f"--mirror {self.mirror.shown} must be outside of --out {self.out}, and --out"
                " outside of it."
            )


def own_files(out: Path) -> list[str]:
    """The files of a folder outside of its runs, with slashes, without those of a moment."""
    found = []
    for place, folders, files in os.walk(out):
        if "config.json" in files:
            folders.clear()
            continue
        folders.sort()
        kept = (one for one in files if one != "lock" and not one.startswith("."))
        kept = (one for one in kept if not one.endswith((PART, "-journal", "-wal", "-shm")))
        found += [(Path(place) / one).relative_to(out).as_posix() for one in sorted(kept)]
    return found


def _content(path: Path) -> bytes:
    """The bytes of a file; those of a database that is in use as of one moment.

    SQLite reads its own: a file that this process opens and closes beside it loses its locks.
    """
    if path.suffix != ".db":
        return path.read_bytes()
    try:
        with closing(sqlite3.connect(path)) as database:
            return database.serialize()
    except sqlite3.Error as error:
        raise UserError(f"{path} is not a readable database: {error}.") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
