"""A copy of a folder of runs on another file system, such as s3://bucket/folder, by fsspec.

Workers that do not see the command's folder put each run there at its checkpoints, and continue a
run from there. The command brings home what its folder lacks, and puts its own files there.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rnnopt.config.errors import UserError
from rnnopt.experiments.result_files import FILES
from rnnopt.runs.checkpoints import CHECKPOINT, PREVIOUS
from rnnopt.runs.files import write_atomically
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.metrics import NAME as METRICS

# In the order of writing: what a checkpoint needs before it, and with the settings it is a run.
OF_RUN = (*FILES[:-2], PREVIOUS, CHECKPOINT, *FILES[-2:])
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss")
EVERY = 5.0  # seconds between two copies of a run that goes on


class Mirror:
    """Copies files between a folder of this machine and one of fsspec.

    Args:
        url: the folder, such as s3://bucket/folder, gs://…, file:///shared/folder.

    Raises:
        UserError: there is no such file system, or it does not answer.
    """

    def __init__(self, url: str):
        import fsspec

        if "://" not in url:
            raise UserError(f"--mirror must be a URL such as s3://bucket/folder, got {url!r}.")
        self.url = url.rstrip("/")
        try:
            self._files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except Exception as error:  # of any library behind fsspec
            raise UserError(f"--mirror {url} cannot be used: {_reason(error)}.") from error
        # These have no folders; s3fs would make a bucket of a name that is misspelt.
        self._has_buckets = url.partition("://")[0] in BUCKETS
        self._copied: dict[Path, tuple[int, int]] = {}  # times and sizes of what was put there
        self._next = 0.0

    def of(self, name: str) -> "Mirror":
        """The mirror of a folder below, named with slashes."""
        return Mirror(f"{self.url}/{name}" if name != "." else self.url)

    def names(self) -> list[str]:
        """Its files, with slashes, relative to it."""
        with self._answers():
            if not self._files.exists(self._root):
                return []
            root = PurePosixPath(self._files._strip_protocol(self._root))
            found = self._files.find(self._root)
            return sorted(str(PurePosixPath(one).relative_to(root)) for one in found)

    def check_bucket(self) -> None:
        """Raises UserError if the bucket of an object store does not exist."""
        bucket = self._root.lstrip("/").partition("/")[0]
        if self._has_buckets:
            with self._answers():
                known = self._files.exists(bucket)
            if not known:
                raise UserError(f"--mirror {self.url}: there is no bucket {bucket!r}.")

    def fetch(self, folder: Path) -> None:
        """Brings home the runs that went further there, and other files that are missing here."""
        names = self.names()
        runs = {str(PurePosixPath(name).parent) for name in names if _file(name) == "config.json"}
        for run in runs:
            if self.of(run)._is_ahead(folder / run):
                for name in OF_RUN:
                    self._bring(f"{run}/{name}" if run != "." else name, names, folder)
        for name in names:
            if str(PurePosixPath(name).parent) not in runs and not (folder / name).exists():
                self._bring(name, names, folder)

    def _is_ahead(self, run: Path) -> bool:
        """Whether a run went further there than here."""
        if not (run / "config.json").exists():
            return True
        if RunFolder(run).is_over():
            return False
        own = run / METRICS
        lines = own.read_bytes().count(b"\n") if own.exists() else 0
        with self._answers():
            there = f"{self._root}/{METRICS}"
            found = self._files.cat_file(there) if self._files.exists(there) else b""
        return bool(found.count(b"\n") > lines or not lines)

    def _bring(self, name: str, names: list[str], folder: Path) -> None:
        if name in names:
            with self._answers():
                content = self._files.cat_file(f"{self._root}/{name}")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, content)

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

    def put(self, folder: Path) -> None:
        """Copies all of a folder there but the runs that went further there."""
        runs = {path.parent for path in folder.rglob("config.json")}
        for run in runs:
            there = self.of(run.relative_to(folder).as_posix())
            if not there.names() or not there._is_ahead(run):
                there.put_run(run, now=True)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.parent not in runs and path.name != "lock":
                self._put(path, path.relative_to(folder).as_posix())

    def _put(self, path: Path, name: str) -> None:
        try:
            content, facts = path.read_bytes(), path.stat()
        except FileNotFoundError:
            return
        if self._copied.get(path) == (facts.st_mtime_ns, facts.st_size):
            return
        with self._answers():
            target = f"{self._root}/{name}"
            if self._has_buckets:  # a whole object or none
                self._files.pipe_file(target, content)
            else:  # a process may be killed while it writes
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(f"{target}.part", content)
                self._files.mv(f"{target}.part", target)
        self._copied[path] = facts.st_mtime_ns, facts.st_size

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UserError(f"--mirror {self.url} does not answer: {_reason(error)}.") from error


def _file(name: str) -> str:
    return PurePosixPath(name).name


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def no_mirror(path: Path) -> str | None:
    """The mirror of a run folder where there is none."""
    return None


@contextmanager
def mirrored(
    out: Path | None, url: str | None, resume: bool
) -> Iterator[Callable[[Path], str | None]]:
    """Keeps a folder and its mirror alike: fetches at the start, puts at the end.

    Args:
        out: the command's folder.
        url: of the mirror; None does nothing.
        resume: whether the mirror may hold files already.

    Yields:
        The URL of the mirror of a run folder below `out`.

    Raises:
        UserError: there is no `out`, or the mirror holds files and `resume` is false.
    """
    if url is None:
        yield no_mirror
        return
    if out is None:
        raise UserError("--mirror needs --out, the folder of which it is the copy.")
    mirror = Mirror(url)
    mirror.check_bucket()
    if not resume and mirror.names():
        raise UserError(
            f"--mirror {url} already holds files: continue with --resume or choose another."
        )
    mirror.fetch(out)
    try:
        yield lambda path: f"{mirror.url}/{path.relative_to(out).as_posix()}"
    finally:
        if out.is_dir():
            mirror.put(out)
