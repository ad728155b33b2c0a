"""Where data files are, and how they get there: the only module that touches the network.

A file is looked for in the folder that the environment variable RNNOPT_DATA names, then in the
cache (XDG_CACHE_HOME or ~/.cache, folder rnnopt), then downloaded into the cache from the first
mirror that answers. Size and sha256 are checked before a download gets its name: no more than the
size is read, in no more than the time that a slow line takes. A redirection may not leave https.
Archives are read where they are; nothing is ever unpacked to disk.
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

# Called with (file name, bytes so far, bytes in all) during a download; the command line draws it.
listener: Callable[[str, int, int], None] = lambda name, done, total: None  # noqa: E731

here_alone = False  # whether a file that is not here is refused instead of downloaded

PATIENCE = 30.0  # seconds for a connection, and for each answer
SLOWEST = 20_000  # bytes a second, below which a download is given up
CHUNK = 1 << 18  # bytes


@contextmanager
def offline() -> Iterator[None]:
    """Inside, nothing is downloaded: a file that is not here is refused."""
    global here_alone
    before, here_alone = here_alone, True
    try:
        yield
    finally:
        here_alone = before


def find(name: str, mirrors: list[str], size: int, sha256: str) -> Path:
    """Path of the data file `name`, downloaded if need be.

    Args:
        name: path inside a data folder, such as "mnist/train-images-idx3-ubyte.gz".
        mirrors: addresses to try in turn.
        size, sha256: of the file as the mirrors serve it. A file found in RNNOPT_DATA may be packed
            differently: whoever reads it checks its contents.
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
            # A name of its own, as others may download the same.
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
    """Writes what is at `address` into a file; says what was wrong with it, None if nothing."""
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
    """Why there was no answer, in one line."""
    told = str(getattr(error, "reason", None) or error) or type(error).__name__
    return told.splitlines()[0][:200]


class OnlySafer(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to https, or from http to http; to nothing else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request for the other place; URLError if nobody should go there."""
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new != "https" and (old, new) != ("http", "http"):
            raise urllib.error.URLError(f"redirected from {old} to {new[:20]}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
