"""Where data files are, and how they get there: the only module that touches the network.

A file is looked for in the folder that the environment variable RNNOPT_DATA names, then in the
cache (XDG_CACHE_HOME or ~/.cache, folder rnnopt), then downloaded into the cache from the first
mirror that answers. Size and sha256 are checked before a download gets its name.
"""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rnnopt.errors import UserError

# Called with (file name, bytes so far, bytes in all) during a download; the command line draws it.
listener: Callable[[str, int, int], None] = lambda name, done, total: None  # noqa: E731


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
        _download(path, mirrors, size, sha256)
    return path


def _download(path: Path, mirrors: list[str], size: int, sha256: str) -> None:
    failures = []
    for address in mirrors:
        try:
            content = _read(address, path.name, size)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{address}: {getattr(error, 'reason', None) or error}")
            continue
        got = hashlib.sha256(content).hexdigest()
        if got != sha256:
            failures.append(f"{address}: sha256 must be {sha256}, got {got}")
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}.") from error
        return
    raise UserError(
        f"{path.name} could not be downloaded ({'; '.join(failures)}). Put it at {path}, or at the"
        " same place inside a folder named by RNNOPT_DATA."
    )


def _write(path: Path, content: bytes) -> None:
    """Writes under a name of its own, as others may download the same, and renames it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
        try:
            temporary.write(content)
            temporary.flush()
            os.chmod(temporary.name, 0o644)
            os.replace(temporary.name, path)
        except BaseException:
            os.unlink(temporary.name)
            raise


def _read(address: str, name: str, size: int) -> bytes:
    """The content at `address`, which must have exactly `size` bytes."""
    with urllib.request.urlopen(address, timeout=30) as response:
        content = bytearray()
        while chunk := response.read(1 << 18):
            content += chunk
            listener(name, len(content), size)
            if len(content) > size:
                break
    if len(content) != size:
        more = "more" if len(content) > size else str(len(content))
        raise OSError(f"size must be {size} bytes, got {more}")
    return bytes(content)
