"""Executes runs on a Dask cluster: hands them out, follows them, brings their files home.

As many runs are under way as the cluster has workers, so that a worker that dies takes one run with
it. The scheduler gives that run to another worker, which continues it from its checkpoint if it
sees the command's folder, and otherwise begins anew. The files of each run come home as it ends:
nothing is computed twice when a worker dies later.
"""

import itertools
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Self

from rnnopt.config.errors import UserError, writing
from rnnopt.experiments import cluster
from rnnopt.experiments.inputs import inputs_of
from rnnopt.experiments.job import Job, processors
from rnnopt.experiments.mirrored import no_mirror
from rnnopt.experiments.queues import Queue, died
from rnnopt.experiments.result_files import write_files
from rnnopt.experiments.worker import OtherVersions, execute, halt, versions

if TYPE_CHECKING:
    from distributed import Client, Future

Tell = Callable[[list[Job]], None]
OFTEN = 0.25  # seconds between two looks at the cluster
LONELY = 5.0  # seconds without a worker after which that is said
GATHER = 10.0  # seconds to wait for the files of a run that has ended
END = 30.0  # seconds for interrupted runs to save themselves
TOKEN = ".rnnopt-cluster"  # file by which a worker finds out whether it sees the command's folder


class Engine:
    """Executes jobs on a cluster, which it closes at its own end.

    A cluster of this machine is opened for the first jobs, another one at once.

    Args:
        workers: number of runs at once; 0 means one a worker, or on this machine one a processor.
        address: the cluster, see `cluster.opened`; None means this machine.
        dashboard: whether to open Dask's page.
        say: called with a sentence that names the page.
        threads: number of threads of a run.
        mirror: the URL at which a run folder is mirrored, or None.

    Raises:
        UserError: `workers` is negative, or the address cannot be one.
    """

    def __init__(
        self,
        workers: int,
        address: str | None = None,
        dashboard: bool = False,
        say: Callable[[str], None] = lambda line: None,
        threads: int = 1,
        mirror: Callable[[Path], str | None] = no_mirror,
    ):
        if workers < 0:
            raise UserError(f"--workers must be at least 0, got {workers}.")
        cluster.check(address)
        if address is None:
            workers = workers or max(1, processors() // threads)
        self.workers, self.address, self.dashboard, self.say = workers, address, dashboard, say
        self.mirror = mirror
        self.command = uuid.uuid4().hex  # names this command on workers that serve several
        self._stack = ExitStack()
        self._client: Client | None = None
        self._token: Path | None = None
        self._news: deque[dict[str, Any]] = deque()
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._under_way: dict[Future, Job] = {}
        self._by_name: dict[str, Job] = {}
        self._numbers = itertools.count()
        self._halted, self._asked, self._size = -OFTEN, -1.0, 0
        self._alone: float | None = time.monotonic()  # since when the cluster has no worker

    def __enter__(self) -> Self:
        if self.address is not None:
            self._open(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def work(self, jobs: list[Job], tell: Tell, stop: Event) -> list[str]:
        """Executes jobs; those whose folders exist are resumed, finished ones left as they are.

        Args:
            jobs: the jobs.
            tell: called with the jobs a few times per second, to show their progress.
            stop: set it to interrupt; current runs save themselves, the others never begin.

        Returns:
            One sentence for each job that failed.
        """
        todo = Queue(jobs)
        if todo.left() and not stop.is_set():
            self.run(todo, todo.left(), lambda: tell(jobs), stop)
        return todo.failures

    def run(self, todo: Queue, most: int, tell: Callable[[], None], stop: Event) -> None:
        """Executes the jobs of a queue, at most `most` at once; the rest as in `work`."""
        client = self._open(most)
        try:
            while self._under_way or todo.left():
                if stop.is_set():
                    todo.close()
                    self._halt([self.command])
                todo.poll()
                while len(self._under_way) < min(most, self._slots(client)):
                    job = todo.take()
                    if job is None:
                        break
                    self._submit(client, job)
                done = self._some()
                self._read_news(todo)
                with suppress(UserError):  # its own worker reports a damaged folder
                    tell()
                for future in done:
                    self._finish(todo, future, stop)
        except (OSError, CancelledError) as error:  # Dask's, or of a disk
            lost = ConnectionError, TimeoutError, CancelledError
            if isinstance(error, lost) or type(error).__name__ == "CommClosedError":
                raise self._lost() from error
            raise
        finally:
            self._end()

    # -- the cluster -------------------------------------------------------------------------------

    def _open(self, most: int) -> "Client":
        """The client, connected at the first call."""
        before, self._size = self._size, max(self._size, min(self.workers, most))
        if self._client is None:
            opening = cluster.opened(self._size, self.address, self.dashboard)
            self._client = self._stack.enter_context(opening)
            self._client.subscribe_topic(self.command, lambda event: self._news.append(event[1]))
            if self.dashboard:
                self.say(f"dashboard: {self._client.dashboard_link}")
        elif self.address is None and self._size > before:
            self._client.cluster.scale(self._size)
        return self._client

    def _slots(self, client: "Client") -> int:
        """Number of runs at once; asks a scheduler of others once a second."""
        now = time.monotonic()
        if self.address is not None and now > self._asked + 1.0:
            self._asked, self._size = now, len(client.scheduler_info(n_workers=-1)["workers"])
            if self._size:
                self._alone = now
            elif self._alone is not None and now > self._alone + LONELY:
                self.say(f"waiting for a worker of --cluster {self.address}")
                self._alone = None  # it is said once
        return self.workers or self._size

    # -- runs --------------------------------------------------------------------------------------

    def _submit(self, client: "Client", job: Job) -> None:
        from dask._task_spec import Task

        name = f"run-{self.command}-{next(self._numbers)}"
        order: dict[str, Any] = {
            "run": name,
            "command": self.command,
            "config": job.config.to_dict(),
            "path": str(job.path),
            "versions": versions(),
        }
        if url := self.mirror(job.path):
            order["mirror"] = url
        if self.address is not None:
            order |= {"path": str(job.path.resolve()), "folder": str(Path.cwd())}
            order |= {"token": self._token_beside(job), "inputs": inputs_of(job.config)}
        # Such a task waits at the scheduler for a free worker, never at a worker behind a long run.
        task = Task(name, execute, order, _data_producer=True)
        (future,) = client.get({name: task}, [name], sync=False)
        self._under_way[future], self._by_name[name] = job, job
        future.add_done_callback(self._ended.put)

    def _token_beside(self, job: Job) -> str:
        """The file by which workers find the command's folder, beside the first run."""
        if self._token is None:
            self._token = job.path.resolve().parent / f"{TOKEN}-{self.command}"
            with writing(self._token):
                self._token.parent.mkdir(parents=True, exist_ok=True)
                self._token.touch()
            self._stack.callback(self._token.unlink, missing_ok=True)
        return str(self._token)

    def _some(self) -> list["Future"]:
        """The runs that end within a quarter of a second."""
        done = []
        with suppress(queue.Empty):
            done.append(self._ended.get(timeout=OFTEN))
            while True:
                done.append(self._ended.get_nowait())
        return done

    def _read_news(self, todo: Queue) -> None:
        """Hands the evaluations of runs to the queue; interrupts those that it gives up."""
        while self._news:
            news = self._news.popleft()
            job = self._by_name.get(news["run"])
            if job is None:  # it is over
                continue
            job.live.update(news)
            if "record" in news and todo.record(job, news["record"]):
                self._halt([news["run"]], workers=[news["worker"]])

    def _finish(self, todo: Queue, future: "Future", stop: Event) -> None:
        """Brings a run home and tells the queue."""
        job, error = self._under_way[future], None
        if future.status == "cancelled":
            raise self._lost()
        if future.status == "error":
            error = future.exception()
        else:
            try:
                files = future.result(timeout=GATHER)
                if files is not None:
                    write_files(job.path, files)
            except TimeoutError:  # its worker died before it sent the files: another does it again
                future.add_done_callback(self._ended.put)
                return
            except UserError as failure:  # its folder cannot be written
                error = failure
        del self._under_way[future], self._by_name[str(future.key)]
        future.release()
        job.live.over = True
        if isinstance(error, OtherVersions):
            raise error
        todo.ended(job, None if died(error) and stop.is_set() else error)

    def _lost(self) -> UserError:
        place = "its scheduler" if self.address is None else f"--cluster {self.address}"
        return UserError(
            f"{place} was lost: current runs are saved where their folder is shared; the same"
            " command continues (compare: with --resume)."
        )

    def _halt(self, names: list[str], workers: list[str] | None = None) -> None:
        """Interrupts runs; where no workers are given on all, those too that joined just now."""
        assert self._client is not None
        if workers or time.monotonic() > self._halted + OFTEN:
            self._client.run(partial(halt, names), workers=workers, on_error="ignore")
            self._halted = self._halted if workers else time.monotonic()

    def _end(self) -> None:
        """After an error: interrupts what is under way and waits until it is saved."""
        if not self._under_way or self._client is None or self._client.status != "running":
            return
        self._halt([self.command])
        limit = time.monotonic() + END
        while self._under_way and time.monotonic() < limit:
            for future in self._some():
                self._under_way.pop(future, None)
        self._client.cancel(list(self._under_way), force=True)
        self._under_way.clear()
