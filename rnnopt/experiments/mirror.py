"""A copy of a folder of runs on another file system, such as s3://bucket/folder, by fsspec.

Workers that do not see the command's folder put each run there at its checkpoints, and continue a
run from there. What the command itself does with it is in `mirrored`.
"""

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from rnnopt.config.errors import UserError, writing
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.result_files import FILES
from rnnopt.runs.checkpoints import CHECKPOINT, PREVIOUS
from rnnopt.runs.files import write_atomically
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.metrics import NAME as METRICS

# In the order of writing: what a checkpoint needs before it, and with the settings it is a run.
OF_RUN = (*FILES[:-2], PREVIOUS, CHECKPOINT, *FILES[-2:])
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss")
PART = ".part"  # end of the name of a file that is being written
EVERY = 5.0  # seconds between two copies of a run that goes on
AT_ONCE = 16  # runs that are asked for at once, where the file system can


class Mirror:
    """Copies files between a folder of this machine and one of fsspec.

    Args:
        url: the folder, such as s3://bucket/folder, gs://…, file:///shared/folder.

    Raises:
        UserError: it names no folder, there is no such file system, or it does not answer.
    """

    def __init__(self, url: str):
        import fsspec

        self.url, self.shown = url.rstrip("/"), without_secrets(url.rstrip("/"))
        protocol, mark, folder = url.partition("://")
        if not mark or not folder.strip("/") or "::" in url:
            raise UserError(
                f"--mirror must be a URL such as s3://bucket/folder, got {without_secrets(url)!r}."
            )
        try:
            self.files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except Exception as error:  # of any library behind fsspec
            reason = self._reason(error)
            raise UserError(f"--mirror {self.shown} cannot be used: {reason}.") from error
        # These have no folders; s3fs would make a bucket of a name that is misspelt.
        self._has_buckets = protocol in BUCKETS
        self._copied: dict[Path, tuple[int, int]] = {}  # times and sizes of what was put there
        self._next = 0.0

    def of(self, name: str) -> "Mirror":
        """The mirror of a folder below, named with slashes."""
        return Mirror(f"{self.url}/{name}" if name != "." else self.url)

    def check(self) -> None:
        """Raises UserError if it is a file, or its bucket does not exist."""
        bucket = self._root.lstrip("/").partition("/")[0]
        with self._answers():
            known = not self._has_buckets or self.files.exists(bucket)
            file = known and self.files.isfile(self._root)
        if not known:
            raise UserError(
                f"--mirror {self.shown}: there is no bucket {bucket!r}, or its server does not"
                " answer."
            )
        if file:
            raise UserError(f"--mirror {self.shown} must be a folder, it is a file.")

    def sizes(self) -> dict[str, int | None]:
        """Its files, with slashes, relative to it, and their bytes.

        Raises:
            UserError: a name would be outside of a folder that it is copied to.
        """
        with self._answers():
            if not self.files.exists(self._root):
                return {}
            root = self.files._strip_protocol(self._root).rstrip("/") + "/"
            found = self.files.find(self._root, detail=True)
        sizes = {}
        for path, facts in sorted(found.items()):
            name = path.removeprefix(root)
            if not name or name.endswith(("/", PART)):  # a folder's mark, or half a file
                continue
            if path == name or {"", ".", ".."} & set(name.split("/")) or re.search(r"[\\\0]", name):
                raise UserError(f"--mirror {self.shown} holds {path!r}, no name below a folder.")
            sizes[name] = facts.get("size")
        return sizes

    def local(self) -> Path | None:
        """Its folder if that is of this machine, else None."""
        return Path(self._root) if "file" in self._protocols() else None

    def _protocols(self) -> tuple[str, ...]:
        named = self.files.protocol
        return (named,) if isinstance(named, str) else tuple(named)

    def read(self, name: str) -> bytes:
        """The content of a file there, b"" if there is none."""
        with self._answers():
            path = f"{self._root}/{name}"
            return bytes(self.files.cat_file(path)) if self.files.exists(path) else b""

    # -- runs ------------------------------------------------------------------------------------

    def fetch(self, folder: Path, names: Collection[str] | None = None) -> None:
        """Brings home the runs that went further there.

        Args:
            folder: the folder whose mirror this is.
            names: the files there; None asks for them.

        Raises:
            UserError: a run has other settings there than here, and nothing was changed; or a file
                cannot be written.
        """
        known = set(self.sizes() if names is None else names)
        ahead: list[str] = []

        def look(run: str) -> None:
            if self._is_ahead(run, folder):
                ahead.append(run)

        self._each(look, runs_of(known))
        self._each(lambda run: self._bring(run, known, folder), ahead)

    def _is_ahead(self, run: str, folder: Path) -> bool:
        """Whether a run went further there than here; raises UserError if it is another."""
        here = folder / run
        if not (here / "config.json").exists():
            return True
        there = self.read(f"{run}/config.json")
        if there and not _same((here / "config.json").read_bytes(), there):
            raise UserError(
                f"--mirror {self.shown} holds {run} with other settings than {here}: choose another"
                " --out or --mirror."
            )
        if RunFolder(here).is_over():
            return False
        lines = _lines((here / METRICS).read_bytes()) if (here / METRICS).exists() else 0
        return _lines(self.read(f"{run}/{METRICS}")) > lines or not lines

    def _bring(self, run: str, known: set[str], folder: Path) -> None:
        """Reads a run against the order of writing: what was written before a file is there."""
        content = {}
        for name in reversed(OF_RUN):
            path = name if run == "." else f"{run}/{name}"
            if path in known:
                content[name] = self.read(path)
        with writing(folder / run):
            (folder / run).mkdir(parents=True, exist_ok=True)
            for name in OF_RUN:
                if name in content:
                    write_atomically(folder / run / name, content[name])

    def put_run(self, run: Path, now: bool = False) -> None:
        """Copies what changed of a run folder there, not more often than every few seconds.

        Args:
            run: the run folder, whose mirror this is.
            now: whether to copy at once.
        """
        if now or time.monotonic() > self._next:
            for name in OF_RUN:
                self._put(run / name, name)
            self._next = time.monotonic() + EVERY

    def put_runs(self, folder: Path) -> None:
        """Copies the runs of a folder there, but those that went further there."""
        sizes = self.sizes()

        def put(run: str) -> None:
            here = folder / run
            files = [name for name in OF_RUN if (here / name).exists()]
            there = {name: sizes.get(name if run == "." else f"{run}/{name}") for name in files}
            if there["config.json"] is not None:
                if RunFolder(here).is_over() and all(
                    there[name] == (here / name).stat().st_size for name in files
                ):
                    return  # its worker, or an earlier command, has put it there
                if self._is_ahead(run, folder):
                    return
            self.of(run).put_run(here, now=True)

        runs = (path.parent for path in folder.rglob("config.json"))
        self._each(put, sorted(run.relative_to(folder).as_posix() for run in runs))

    def _put(self, path: Path, name: str) -> None:
        try:
            facts = path.stat()  # before: what is written after it is put the next time
            if self._copied.get(path) == (facts.st_mtime_ns, facts.st_size):
                return
            content = path.read_bytes()
        except FileNotFoundError:
            return
        self.write(name, content)
        self._copied[path] = facts.st_mtime_ns, facts.st_size

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file there as a whole."""
        with self._answers():
            target = f"{self._root}/{name}"
            if self._has_buckets:  # a whole object or none
                self.files.pipe_file(target, content)
                return
            part = f"{target}-{os.getpid()}{PART}"  # a process may be killed while it writes
            self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            try:
                self.files.pipe_file(part, content)
                self.files.mv(part, target)
            except BaseException:
                with suppress(Exception):  # it has the same cause
                    self.files.rm_file(part)
                raise

    def _each(self, do: Callable[[str], None], runs: Iterable[str]) -> None:
        """Does something with each run; with several at once where requests may be."""
        if not self.files.async_impl:
            for run in runs:
                do(run)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(do, runs):
                pass

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            reason = self._reason(error)
            raise UserError(f"--mirror {self.shown} does not answer: {reason}.") from error

    def _reason(self, error: Exception) -> str:
        """What an error says, in a line, without the user and password of the URL."""
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        for secret in _secrets(self.url):
            text = text.replace(secret, "***")
        return text


def runs_of(names: Iterable[str]) -> list[str]:
    """The folders of the runs among the names of files."""
    paths = map(PurePosixPath, names)
    return sorted({str(path.parent) for path in paths if path.name == "config.json"})


def without_secrets(url: str) -> str:
    """A URL without the user, password and signature that it may have."""
    return re.sub(r"//[^/]*@", "//", url).partition("?")[0]


def _secrets(url: str) -> list[str]:
    """The parts of a URL that nobody else may read, the longest first."""
    found = re.search(r"//([^/]*)@", url)
    user = found[1] if found else ""
    query = url.partition("?")[2]
    parts = [user, user.partition(":")[2], query, *re.findall(r"=([^&]*)", query)]
    return sorted(filter(None, parts + [unquote(part) for part in parts]), key=len, reverse=True)


def _same(here: bytes, there: bytes) -> bool:
    """Whether two config.json are of one run."""
    if here == there:
        return True
    try:
        return RunConfig.from_dict(json.loads(here)) == RunConfig.from_dict(json.loads(there))
    except (TypeError, ValueError, AttributeError, RecursionError, UserError):
        return False


def _lines(content: bytes) -> int:
    return content.count(b"\n")
