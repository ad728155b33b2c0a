"""What --log promises: TensorBoard's and MLflow's own readers give back the run, resumed or not."""

import json
import math
import sys
import warnings
from pathlib import Path

import pytest

from rnnopt.cli.main import main
from rnnopt.runs.folder import RunFolder

TINY = ["--task", "counting:length=3", "--hidden", "3", "--budget", "20gradients"]
TINY += ["--evaluate-every", "5", "--optimizer", "adam:eps=1e-7", "--lr", "0.01"]
RUN = Path("run")
CURVES = {
    "train_loss",
    "validation_loss",
    "validation_metric",
    "lr",
    "seconds",
    "epochs",
    "fraction",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """MLflow's store, which takes seconds to make."""
    return tmp_path_factory.mktemp("mlflow") / "store.db"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch, store):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the two libraries are not ours to mend
        yield tmp_path


def train(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", "run", "--quiet", *arguments])
    return ended.value.code


def interrupt_after(monkeypatch, evaluations):
    """Makes the next run end as if by Ctrl-C, after so many evaluations."""
    from rnnopt.runs import runner

    usual = runner.Training.run

    def run(self, stop_requested):
        monkeypatch.setattr(runner.Training, "run", usual)
        return usual(self, lambda: self.closure.gradient_evaluations >= evaluations)

    monkeypatch.setattr(runner.Training, "run", run)


def read_tensorboard():
    """{curve: [(step, value), …]} and the hyperparameters, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator("run/tensorboard", size_guidance={"scalars": 0})
    events.Reload()
    curves = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    found = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = HParamsPluginData.FromString(found).session_start_info.hparams
    return {k: [(e.step, e.value) for e in v] for k, v in curves.items()}, settings


def read_mlflow():
    """{curve: [(step, value), …]} and the run, as MLflow reads them."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    run = client.get_run(json.loads((RUN / "mlflow.json").read_text())["run_id"])
    curves = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {k: [(m.step, m.value) for m in v] for k, v in curves.items()}, run


def assert_curves_are_the_records(curves, exact):
    folder = RunFolder.open(RUN)
    records = folder.read_records()
    assert curves.keys() == CURVES | {"final_test_metric"}
    for name in CURVES:
        expected = [
            (round(r["gradient_evaluations"]), r[name]) for r in records if math.isfinite(r[name])
        ]
        assert len(expected) >= 4
        assert [step for step, _ in curves[name]] == [step for step, _ in expected]
        values = [value for _, value in curves[name]]
        tolerance = 0 if exact else 1e-6  # TensorBoard keeps single precision
        assert values == pytest.approx([v for _, v in expected], rel=tolerance, abs=1e-12)
    ((_, metric),) = curves["final_test_metric"]
    assert metric == pytest.approx(folder.read_result()["test_metric"], rel=1e-6)


@pytest.mark.parametrize("resumed", [False, True])
def test_tensorboard_has_every_record_once_and_the_settings(monkeypatch, resumed):
    pytest.importorskip("tensorboard")
    if resumed:
        interrupt_after(monkeypatch, 12)
        assert train(*TINY, "--log", "tensorboard") == 130
        assert train("--resume", "--log", "tensorboard") == 0
    else:
        assert train(*TINY, "--log", "tensorboard") == 0
    curves, settings = read_tensorboard()
    assert_curves_are_the_records(curves, exact=False)
    assert settings["optimizer"].string_value == "adam:eps=1e-7"
    assert settings["lr"].number_value == 0.01
    assert settings["hidden"].number_value == 3


@pytest.mark.parametrize("resumed", [False, True])
def test_mlflow_has_every_record_once_and_the_settings(monkeypatch, resumed):
    pytest.importorskip("mlflow")
    if resumed:
        interrupt_after(monkeypatch, 12)
        assert train(*TINY, "--log", "mlflow") == 130
        assert read_mlflow()[1].info.status == "KILLED"
        assert train("--resume", "--log", "mlflow") == 0
    else:
        assert train(*TINY, "--log", "mlflow") == 0
    curves, run = read_mlflow()
    assert_curves_are_the_records(curves, exact=True)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer"] == "adam:eps=1e-7"
    assert run.data.params["lr"] == "0.01"
    assert "clip" not in run.data.params  # it is not set


def test_a_run_that_was_begun_without_a_log_gets_a_whole_one(monkeypatch):
    pytest.importorskip("tensorboard")
    interrupt_after(monkeypatch, 12)
    assert train(*TINY) == 130
    assert not (RUN / "tensorboard").exists()
    assert train("--resume", "--log", "tensorboard") == 0
    assert_curves_are_the_records(read_tensorboard()[0], exact=False)


def test_records_after_the_checkpoint_are_not_logged_twice(monkeypatch):
    # A run that was killed has logged more than its checkpoint knows; the rest is made again.
    pytest.importorskip("tensorboard")
    saved = []
    usual = RunFolder.write_checkpoint
    monkeypatch.setattr(
        RunFolder, "write_checkpoint", lambda self, state: saved or saved.append(usual(self, state))
    )
    interrupt_after(monkeypatch, 12)
    assert train(*TINY, "--log", "tensorboard") == 130
    monkeypatch.setattr(RunFolder, "write_checkpoint", usual)
    assert train("--resume", "--log", "tensorboard") == 0
    curves, _ = read_tensorboard()
    # The clock alone differs in what was made again.
    curves["seconds"] = [
        (round(r["gradient_evaluations"]), r["seconds"]) for r in RunFolder(RUN).read_records()
    ]
    assert_curves_are_the_records(curves, exact=False)


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_written(
    monkeypatch, capsys, workplace, kind
):
    missing = "torch.utils.tensorboard" if kind == "tensorboard" else "mlflow.tracking"
    monkeypatch.setitem(sys.modules, missing, None)
    assert train(*TINY, "--log", kind) == 2
    assert f'pip install "rnnopt[{kind}]"' in capsys.readouterr().err
    assert not list(workplace.iterdir())


def test_a_store_that_cannot_be_used_is_told_in_one_sentence(monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    assert train(*TINY, "--log", "mlflow") == 2
    error = capsys.readouterr().err
    assert "--log mlflow" in error
    assert "Traceback" not in error


def test_a_store_that_is_lost_on_the_way_does_not_end_the_training(monkeypatch, capsys):
    pytest.importorskip("mlflow")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def refuse(*arguments, **options):
        raise MlflowException("the server went away")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    assert train(*TINY, "--log", "mlflow") == 0
    error = capsys.readouterr().err
    assert error.count("the server went away") == 1
    assert len(RunFolder.open(RUN).read_records()) == 5


def test_tracking_changes_nothing_in_the_run(workplace):
    pytest.importorskip("tensorboard")
    assert train(*TINY, "--log", "tensorboard") == 0
    logged = RunFolder.open(RUN).read_records()
    (workplace / "run").rename(workplace / "logged")
    assert train(*TINY) == 0
    plain = RunFolder.open(RUN).read_records()
    for record in logged + plain:
        del record["seconds"]
    assert str(logged) == str(plain)
