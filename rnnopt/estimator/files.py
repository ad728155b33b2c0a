"""From an estimator to a file for other programs, and from a run's folder to an estimator."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnopt.config.errors import UserError, without_dashes, writing
from rnnopt.config.run_config import RunConfig
from rnnopt.estimator.doubts import Seen
from rnnopt.estimator.options import RNNOptions
from rnnopt.runs.export.export import export
from rnnopt.runs.export.source import Source, divide_outputs
from rnnopt.runs.folder import write_atomically
from rnnopt.runs.prediction import TrainedModel
from rnnopt.tasks.task import LOSSES
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.training.resolve import resolve

LOSS_KINDS = {loss: kind for kind, loss in LOSSES.items()}
COMPARED = 64  # random sequences on which a file must answer as the estimator does


def preparation_of(estimator: Any) -> Preparation:
    """How a fitted estimator prepares its sequences, as runs on own data note it."""
    classes = tuple(str(one) for one in getattr(estimator, "classes_", ()))
    features = len(estimator.mean_)
    seen: Seen = estimator._seen
    return Preparation(
        kind=LOSS_KINDS[estimator._loss],
        channels=tuple(f"channel {i + 1}" for i in range(features)),
        classes=classes,
        missing="error",
        padded=False,
        subsample=estimator._options().subsample,
        fill=(0.0,) * features,
        mean=tuple(estimator.mean_.tolist()),
        deviation=tuple(estimator.scale_.tolist()),
        target_mean=() if classes else tuple(estimator.target_mean_.tolist()),
        target_deviation=(1.0,) if classes else tuple(estimator.target_scale_.tolist()),
        steps=-(-seen.longest // estimator._options().subsample),
        shortest=seen.shortest,
        longest=seen.longest,
        each_step=estimator.every_step_,
    )


def write_onnx(estimator: Any, path: Path) -> None:
    """Writes an ONNX file of raw sequences (batch, time, feature) to probabilities or numbers.

    Raises:
        ValueError: it would answer otherwise than the estimator, or cannot be written; a package is
            missing.
    """
    p = preparation_of(estimator)
    lengths = torch.full((COMPARED,), p.longest)
    rng = torch.Generator().manual_seed(0)
    raw = torch.randn(COMPARED, p.longest, len(p.channels), generator=rng, dtype=torch.float64)
    raw = raw * torch.tensor(p.deviation).double() + torch.tensor(p.mean).double()
    model = estimator.model_
    device = next(model.parameters()).device
    source = Source(
        model.cpu(),
        {"input_size": len(p.channels)},
        p,
        estimator._loss,
        RunConfig(task=type(estimator).__name__),
        {},
        {},
    )
    try:
        content = export(source, "onnx", (raw, lengths), "random sequences").content
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
    except UserError as error:
        raise ValueError(without_dashes(str(error))) from error
    finally:
        model.to(device)


def open_trained(path: Path, kinds: tuple[str, ...]) -> TrainedModel:
    """The network of a finished run on own data; ValueError for another one."""
    try:
        trained = TrainedModel.open(path)
    except UserError as error:
        raise ValueError(without_dashes(str(error))) from error
    if trained.preparation.kind not in kinds:
        wanted = " or ".join(kinds)
        raise ValueError(
            f"{path} must be a run of {wanted}, got one of {trained.preparation.kind}."
        )
    if trained.preparation.lags:
        raise ValueError(f"{path} is a run with feedback: rnnopt predict simulates with it.")
    return trained


def arguments_of(trained: TrainedModel, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of an estimator's constructor that has the settings of a run.

    Args:
        trained: of the run.
        names: fields of `RNNOptions` that a run's config has too.
    """
    config = resolve(trained.config)
    chosen = {name: getattr(config, name) for name in names}
    schedules = {"plateau-restart": "plateau"}
    rest = dict(
        subsample=trained.preparation.subsample,
        schedule=schedules.get(config.schedule, config.schedule),
        metric=config.metric,
        every_step=trained.preparation.each_step or None,
    )
    return dict(
        model=config.model,
        hidden=trained.settings.get("hidden_size", config.hidden or 64),
        optimizer=config.optimizer,
        lr=config.lr,
        options=RNNOptions(**chosen | rest | {"device": "cpu"}),
    )


def take_over(estimator: Any, trained: TrainedModel) -> None:
    """Makes an estimator one that was fitted as the run was trained."""
    p, model = trained.preparation, trained.model
    divide_outputs(model.output, p.temperature)  # its probabilities are the run's calibrated ones
    estimator.model_ = model
    estimator.mean_, estimator.scale_ = np.array(p.mean), np.array(p.deviation)
    estimator.n_features_in_, estimator.columns_are_steps_ = len(p.channels), False
    estimator.every_step_ = p.each_step
    estimator._seen = Seen(p.shortest, p.longest, True, False)
    estimator.n_iter_, estimator.loss_curve_ = 0, []
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    bounds = [getattr(layer, "recurrent_bound", None) for layer in model.recurrent]
    estimator._ended = dict(model=weights, optimizer=None, bounds=bounds)
