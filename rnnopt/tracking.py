"""Keeps a run's curves with TensorBoard or MLflow, beside the run folder's own metrics.jsonl.

A tracker is told each evaluation record: losses, metric, lr, seconds and epochs against gradient
evaluations, and once the run's settings as hyperparameters. One that is opened on a folder with
records first logs those that its log lacks, so a run that goes on, or was begun without, has one
whole curve.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from rnnopt.errors import UserError
from rnnopt.run_folder import RunFolder, read_json, write_json
from rnnopt.training import Progress

Kind = Literal["tensorboard", "mlflow"]


class Log(Protocol):
    """Where curves go."""

    def last_step(self) -> int:
        """The greatest step in the log, -1 in a new one."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each named curve."""

    def close(self, status: str) -> None:
        """Writes what is left."""


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
                self.writer._get_file_writer().add_summary(summary)  # in this folder, not below it

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
        """Adds a point to each curve, readable at once."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, status: str) -> None:
        """Ends the event file."""
        self.writer.close()


class MLflow:
    """A run in MLflow's store; its id stands in the run folder's mlflow.json.

    Args:
        path: the run folder.
    """

    def __init__(self, path: Path):
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        file = path / "mlflow.json"
        try:
            self.client = MlflowClient()
            if file.exists():
                self.run_id = str(read_json(file)["run_id"])
                self.client.get_run(self.run_id)
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rnnopt")
            experiment = self.client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self.client.create_experiment(name)
            run = self.client.create_run(number, run_name=path.name)
            self.run_id = run.info.run_id
            for setting, value in _settings(path).items():
                self.client.log_param(self.run_id, setting, value)
        except (MlflowException, LookupError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--log mlflow: the run of {file} cannot be kept: {reason}") from error
        write_json(file, {"run_id": self.run_id})

    def last_step(self) -> int:
        """The greatest step of the validation metric."""
        history = self.client.get_metric_history(self.run_id, "validation_metric")
        return max((metric.step for metric in history), default=-1)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each curve."""
        from mlflow.entities import Metric

        now = _milliseconds()
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self, status: str) -> None:
        """Tells how the run ended."""
        ended = {"interrupted": "KILLED", "failed": "FAILED"}.get(status, "FINISHED")
        self.client.set_terminated(self.run_id, ended)


def _milliseconds() -> int:
    return int(1000 * time.time())


def _settings(path: Path) -> dict[str, Any]:
    """The run's settings that are set."""
    config = RunFolder.open(path).read_config().to_dict()
    return {name: value for name, value in config.items() if value is not None}


def _text(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else str(value)


class Trackers:
    """Listens to a run and tells its logs.

    Args:
        kinds: which logs to keep.
        path: the run folder, which need not stand yet.
    """

    def __init__(self, kinds: Sequence[Kind], path: Path):
        self.kinds, self.path = kinds, path
        self.logs: list[tuple[Log, int]] | None = None
        self.status = "failed"

    def __call__(self, progress: Progress) -> None:
        if progress.record and self.kinds:
            if self.logs is None:
                self._open()  # and logs this record too: the folder has it
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
        step = round(record["evaluations"])
        values = {k: v for k, v in record.items() if k != "evaluations" and math.isfinite(v)}
        for log, last in self.logs or []:
            if step > last:
                log.add(step, values)

    def finish(self, result: dict[str, Any]) -> None:
        """Logs the test metric of a run that is over."""
        self.status = result["status"]
        if "test_metric" in result and math.isfinite(result["test_metric"]):
            for log, _ in self.logs or []:
                log.add(round(result["evaluations"]), {"final_test_metric": result["test_metric"]})

    def close(self) -> None:
        """Closes the logs that were opened."""
        for log, _ in self.logs or []:
            log.close(self.status)


@contextmanager
def trackers(kinds: Sequence[Kind], path: Path) -> Iterator[Trackers]:
    """Trackers of a run, closed at the end whatever ends it."""
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
            # MLflow would report its use over the network; only who asks for that shall have it.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
            import mlflow.tracking  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'--log {kind} needs a package that is missing: pip install "rnnopt[{kind}]".'
        ) from error
