"""Finds and downloads data files: the only module that uses the network.

A file is searched in the folder that the environment variable RNNOPT_DATA names, then in the cache
(XDG_CACHE_HOME or ~/.cache, folder rnnopt). Otherwise it is downloaded into the cache from the
first mirror that answers. Size and SHA-256 are checked before a download gets its name; it may not
exceed that size or the time of a slow connection. A redirection may not leave https. Archives are
read in place; nothing is ever unpacked to disk.
"""

import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from rnnopt.config.errors import UserError, writing

# Called with (file name, bytes so far, total bytes) during a download; the command line shows it.
listener: Callable[[str, int, int], None] = lambda name, done, total: None  # noqa: E731

here_alone = False  # whether a missing file raises an error instead of being downloaded

PATIENCE = 30.0  # seconds for a connection, and for each answer
SLOWEST = 20_000  # bytes per second; a slower download is aborted
CHUNK = 1 << 18  # bytes


@contextmanager
def offline() -> Iterator[None]:
    """Disables downloads inside the block: a missing file raises UserError."""
    global here_alone
    before, here_alone = here_alone, True
    try:
        yield
    finally:
        here_alone = before


def find(name: str, mirrors: list[str], size: int, sha256: str) -> Path:
    """Path of the data file `name`, downloaded if necessary.

    Args:
        name: path inside a data folder, such as "mnist/train-images-idx3-ubyte.gz".
        mirrors: addresses to try in turn.
        size, sha256: of the file on the mirrors. A file found in RNNOPT_DATA may be packed
            differently: the code that reads it checks its contents.
    """
    chosen = os.environ.get("RNNOPT_DATA")
    if chosen:
        folder = Path(chosen)
        if not folder.is_dir():
            raise UserError(f"RNNOPT_DATA must name a folder, got {chosen!r}.")
        if (folder / name).is_file():
            return folder / name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rnnopt"
    path = cache / name
    if not path.is_file():
        if here_alone:
            raise UserError(f"{path.name} is not on this machine.")
        _download(path, mirrors, size, sha256)
    return path


def _download(path: Path, mirrors: list[str], size: int, sha256: str) -> None:
    failures = []
    for address in mirrors:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A unique name, because other processes may download the same file.
            temporary = tempfile.NamedTemporaryFile(dir=path.parent, delete=False)  # noqa: SIM115
        try:
            with writing(path):
                with temporary:
                    failure = _fetch(address, temporary, path.name, size, sha256)
                if failure is None:
                    os.chmod(temporary.name, 0o644)
                    os.replace(temporary.name, path)
                    return
            failures.append(f"{address}: {failure}")
        finally:
            Path(temporary.name).unlink(missing_ok=True)
    raise UserError(
        f"{path.name} could not be downloaded ({'; '.join(failures)}). Put it at {path}, or at the"
        " same place inside a folder named by RNNOPT_DATA."
    )


def _fetch(address: str, file: IO[bytes], name: str, size: int, sha256: str) -> str | None:
    """Downloads `address` into a file; returns what was wrong, or None."""
    digest, done = hashlib.sha256(), 0
    latest = time.monotonic() + PATIENCE + size / SLOWEST
    try:
        response = urllib.request.build_opener(OnlySafer).open(address, timeout=PATIENCE)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _reason(error)
    with response:
        while done <= size:
            try:
                chunk = response.read1(min(CHUNK, size + 1 - done))
            except (OSError, http.client.HTTPException, ValueError) as error:
                return _reason(error)
            if not chunk:
                break
            if time.monotonic() > latest:
                return f"slower than {SLOWEST // 1000} KB a second: {done} of {size} bytes came"
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            listener(name, min(done, size), size)
    if done != size:
        return f"size must be {size} bytes, got {'more' if done > size else done}"
    got = digest.hexdigest()
    return None if got == sha256 else f"sha256 must be {sha256}, got {got}"


def _reason(error: Exception) -> str:
    """The reason for a failure, in one line."""
    message = str(getattr(error, "reason", None) or error) or type(error).__name__
    return message.splitlines()[0][:200]


class OnlySafer(urllib.request.HTTPRedirectHandler):
    """Follows only redirections to https, or from http to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request for the new address; raises URLError if it is not allowed."""
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new != "https" and (old, new) != ("http", "http"):
            raise urllib.error.URLError(f"redirected from {old} to {new[:20]}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
