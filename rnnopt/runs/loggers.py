"""Logs a run's curves to TensorBoard or MLflow, beside the run folder's own metrics.jsonl.

A tracker logs each evaluation record (losses, metric, lr, seconds and epochs against gradient
evaluations) and once the run's settings as hyperparameters. When opened on a folder with records,
it first logs those missing in its log. So a run that is resumed, or was begun without a tracker,
has a complete curve.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from rnnopt.config.errors import UserError
from rnnopt.runs.files import read_json, write_json
from rnnopt.runs.folder import RunFolder
from rnnopt.training.loop import Progress

Kind = Literal["tensorboard", "mlflow"]


class Log(Protocol):
    """Destination of the curves."""

    def last_step(self) -> int:
        """The greatest step in the log, -1 in a new one."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each named curve."""

    def close(self, status: str) -> None:
        """Writes the remaining data and the status."""


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir runs` shows them.

    Args:
        path: the run folder.
    """

    def __init__(self, path: Path):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.path = path / "tensorboard"
        fresh = self.last_step() < 0
        self.writer = SummaryWriter(str(self.path))
        if fresh:
            settings = {k: _text(v) for k, v in _settings(path).items()}
            for summary in hparams(settings, {"validation_metric": math.nan}):
                self.writer._get_file_writer().add_summary(
                    summary
                )  # in this folder, not in a subfolder

    def last_step(self) -> int:
        """The greatest step in the event files."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        if not self.path.is_dir():
            return -1
        events = EventAccumulator(str(self.path), size_guidance={"scalars": 0})
        events.Reload()
        curves = events.Tags()["scalars"]
        return max((e.step for name in curves for e in events.Scalars(name)), default=-1)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each curve and flushes the file."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, status: str) -> None:
        """Closes the event file."""
        self.writer.close()


class MLflow:
    """A run in MLflow's store; the run folder's mlflow.json has its id.

    Args:
        path: the run folder.
    """

    def __init__(self, path: Path):
        from mlflow.tracking import MlflowClient

        file = path / "mlflow.json"
        with self._reached():
            self.client = MlflowClient()
            if file.exists():
                self.run_id = str(read_json(file)["run_id"])
                self.client.get_run(self.run_id)
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rnnopt")
            found = self.client.get_experiment_by_name(name)
            number = found.experiment_id if found else self.client.create_experiment(name)
            self.run_id = self.client.create_run(number, run_name=path.name).info.run_id
            for setting, value in _settings(path).items():
                self.client.log_param(self.run_id, setting, value)
        write_json(file, {"run_id": self.run_id})

    def last_step(self) -> int:
        """The greatest step of the validation metric."""
        history = self.client.get_metric_history(self.run_id, "validation_metric")
        return max((metric.step for metric in history), default=-1)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each curve."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        with self._reached():
            self.client.log_batch(self.run_id, metrics=metrics)

    def close(self, status: str) -> None:
        """Logs how the run ended."""
        ended = {"interrupted": "KILLED", "failed": "FAILED"}.get(status, "FINISHED")
        with self._reached():
            self.client.set_terminated(self.run_id, ended)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns MLflow's errors into a UserError of one sentence."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, LookupError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--log mlflow: its store cannot be used: {reason}") from error


def _settings(path: Path) -> dict[str, Any]:
    """The run's settings that are not None."""
    config = RunFolder.open(path).read_config().to_dict()
    return {name: value for name, value in config.items() if value is not None}


def _text(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else str(value)


class Trackers:
    """A listener of a run that writes its logs.

    Args:
        kinds: kinds of logs.
        path: the run folder, which need not exist yet.
    """

    def __init__(self, kinds: Sequence[Kind], path: Path):
        self.kinds, self.path = kinds, path
        self.logs: list[tuple[Log, int]] | None = None
        self.status = "failed"
        self.lost: list[str] = []  # a sentence for each abandoned log

    def __call__(self, progress: Progress) -> None:
        if progress.record and self.kinds:
            if self.logs is None:
                self._open()  # logs this record too: the folder has it
            else:
                self._add(progress.record)

    def _open(self) -> None:
        logs: list[Log] = [
            TensorBoard(self.path) if kind == "tensorboard" else MLflow(self.path)
            for kind in self.kinds
        ]
        self.logs = [(log, log.last_step()) for log in logs]
        for record in RunFolder(self.path).read_records():
            self._add(record)

    def _add(self, record: dict[str, float]) -> None:
        step = round(record["gradient_evaluations"])
        values = {
            k: v for k, v in record.items() if k != "gradient_evaluations" and math.isfinite(v)
        }
        for log, last in list(self.logs or []):
            if step > last:
                self._tell(log, partial(log.add, step, values))

    def _tell(self, log: Log, what: Callable[[], None]) -> None:
        """Writes to a log; if that fails, the log is abandoned and the training continues."""
        try:
            what()
        except UserError as error:
            self.lost.append(str(error))
            self.logs = [pair for pair in self.logs or [] if pair[0] is not log]

    def finish(self, result: dict[str, Any]) -> None:
        """Logs the test metric of a finished run."""
        self.status = result["status"]
        metric = result.get("test_metric", math.nan)
        if math.isfinite(metric):
            step = round(result["gradient_evaluations"])
            for log, _ in list(self.logs or []):
                self._tell(log, partial(log.add, step, {"final_test_metric": metric}))

    def close(self) -> None:
        """Closes the logs that were opened."""
        for log, _ in list(self.logs or []):
            self._tell(log, partial(log.close, self.status))


@contextmanager
def trackers(kinds: Sequence[Kind], path: Path) -> Iterator[Trackers]:
    """Trackers of a run, closed at its end in any case."""
    for kind in kinds:
        _check_installed(kind)
    with ExitStack() as stack:
        result = Trackers(tuple(dict.fromkeys(kinds)), path)
        stack.callback(result.close)
        yield result


def _check_installed(kind: Kind) -> None:
    try:
        if kind == "tensorboard":
            import torch.utils.tensorboard  # noqa: F401
        else:
            # MLflow would report its use over the network; that must be opt-in.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7 take four minutes
            import mlflow.tracking  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'--log {kind} needs a package that is missing: pip install "rnnopt[{kind}]".'
        ) from error
