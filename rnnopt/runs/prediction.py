"""Predictions of a trained network for new series: class probabilities, or numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.config.metric_names import metric_name
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.step_scores import Rows, answers_of, predictions_of, scores_of, step_outputs
from rnnopt.tasks.examples import Examples, are_present, select
from rnnopt.tasks.metrics import metric_of
from rnnopt.tasks.pieces import outputs_of
from rnnopt.tasks.user_data.feedback import unmeasured
from rnnopt.tasks.user_data.labels import labels_of, macro_f1
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.splits import members
from rnnopt.tasks.user_data.target_kinds import label_names, numbers_of


@dataclass(frozen=True)
class TrainedModel:
    """The network of a finished run on the user's own data, with the best weights.

    Args:
        model: network in evaluation mode, on the CPU.
        preparation: preparation of the series.
        config: config of the run.
        settings: arguments of the model.
    """

    model: SequenceModel
    preparation: Preparation
    config: RunConfig
    settings: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self:
        """The network of a run folder.

        Raises:
            UserError: not a run folder, or the run is not finished or not on the user's own data.
        """
        folder = RunFolder.open(path)
        config = folder.read_config()
        if config.data is None:
            raise UserError(
                f"{path} must be a run on data of your own (train --data), it learnt {config.task}."
            )
        data, weights = folder.read_data(), folder.read_weights()
        try:
            preparation = Preparation.from_dict(data["preparation"])
            settings = data["model"]
            if isinstance(settings, dict) and settings.pop("last_layer_remembers", False):
                settings["initialization"] = "indrnn-paper"  # saved by an earlier version
            model = network(settings, weights)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, UserError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path} does not hold the network it describes: {reason}") from error
        return cls(model.eval(), preparation, config, settings)

    def answer_steps(self, data: Recordings) -> tuple[list[np.ndarray], Rows]:
        """Answers (time, class or output) for each step of each series, and their scores.

        Without labels there are no scores. With past outputs among the inputs, a series of which
        none was measured runs free from its first step.

        Raises:
            ValueError: the series do not have the shape of the training data.
        """
        p = self.preparation
        inputs, lengths = p.stored(data)
        there = data.steps is not None
        targets = p.targets(data, needed=False) if there else torch.zeros(len(data))
        free = p.free_run  # other targets that are ignored are missing in them
        ignored = None if free is None else p.ignored(data)
        examples = Examples(inputs, targets, lengths, ignored=ignored)
        cpu = torch.device("cpu")
        first = 0 if free is None else free.start
        if not there or not bool(are_present(targets[:, first:]).any()):
            answers = answers_of(p, step_outputs(self.model, examples, cpu, free))
            found: Rows = {}
        else:
            answers, found = scores_of(p, self.model, examples, cpu)
        if free is not None and (bare := unmeasured(data, p.lags)):
            own = select(examples, torch.tensor(bare))
            at_once = replace(free, start=0)
            simulated = answers_of(p, step_outputs(self.model, own, cpu, at_once))
            for place, one in zip(bare, simulated, strict=True):
                answers[place] = one
        return answers, found

    def answer(self, data: Recordings) -> np.ndarray:
        """Probabilities (count, classes), or numbers (count, outputs) at the targets' scale.

        Of several labels it is the probability of each (count, labels). If the network has outputs
        at every step, the last one is used.

        Raises:
            ValueError: the series do not have the shape of the training data.
        """
        inputs, lengths = self.preparation.stored(data)
        examples = Examples(inputs, torch.zeros(len(data)), lengths)
        return predictions_of(
            self.preparation, outputs_of(self.model, examples, torch.device("cpu"))
        )


def network(settings: Any, weights: Any) -> SequenceModel:
    """The network of saved settings with saved weights.

    No memory for it is allocated before the weights are known to have its size.

    Raises:
        ValueError: settings and weights do not belong to the same network.
        TypeError: a setting has the wrong type.
    """
    if not isinstance(weights, dict) or not all(map(_is_whole, weights.values())):
        raise ValueError("the weights must be tensors by name.")
    if not isinstance(settings, dict) or not 1 <= settings.get("layers", 1) <= len(weights):
        raise ValueError("the settings must have no more layers than there are weights.")
    with torch.device("meta"):
        needed = SequenceModel(**settings).state_dict()
    shapes = {name: weight.shape for name, weight in weights.items()}
    if shapes != {name: weight.shape for name, weight in needed.items()}:
        raise ValueError("the weights are of another network than the settings.")
    model = SequenceModel(**settings)
    model.load_state_dict(weights)
    return model


def _is_whole(weight: Any) -> bool:
    """Whether it is a tensor with all its entries stored."""
    return isinstance(weight, Tensor) and weight.layout == torch.strided and weight.is_contiguous()


def scores(preparation: Preparation, answers: np.ndarray, data: Recordings) -> dict[str, float]:
    """Scores of the predictions, by name.

    A label that is not one of the run's classes counts as a wrong prediction, and does not enter
    the mean negative log-likelihood.

    Args:
        preparation: preparation of the run.
        answers: predictions of `TrainedModel.answer`.
        data: labelled series.
    """
    assert data.targets is not None
    if preparation.kind == "classification":
        true = preparation.positions(data.targets)
        right = answers.argmax(1) == true
        recalls = [right[index].mean() for index in members(data.targets)]
        known = np.flatnonzero(true >= 0)
        found = {"accuracy": right.mean(), "balanced accuracy": np.mean(recalls)}
        if len(known):
            likely = answers[known, true[known]]
            found["log loss"] = 0.0 - np.log(np.maximum(likely, 1e-30)).mean()  # never -0.0
        return {name: float(value) for name, value in found.items()}
    if preparation.kind == "multilabel":
        true, likely = labels_of(data.targets) > 0.5, answers > 0.5
        if true.shape != likely.shape:
            raise ValueError(f"series need {likely.shape[1]} labels, got {true.shape[1]}.")
        return {
            "subset accuracy": float((true == likely).all(1).mean()),
            "macro F1": macro_f1(true, likely),
            "accuracy of a label": float((true == likely).mean()),
        }
    numbers = numbers_of(data.targets)
    if numbers.shape != answers.shape:
        raise ValueError(f"targets need {answers.shape[1]} numbers, got {numbers.shape[1]}.")
    errors = answers - numbers
    spread = ((numbers - numbers.mean(0)) ** 2).sum()
    found = {"root mean squared error": np.sqrt((errors**2).mean())}
    found["mean absolute error"] = np.abs(errors).mean()
    if spread > 0:
        found["R²"] = 1 - (errors**2).sum() / spread
    return {name: float(value) for name, value in found.items()}


def own_metric(trained: TrainedModel, answers: np.ndarray, data: Recordings) -> dict[str, float]:
    """The metric that the run was told to take, by name; {} without one.

    Args:
        trained: the run's network.
        answers: its answers.
        data: labelled series.
    """
    p, name = trained.preparation, trained.config.metric
    if name is None:
        return {}
    try:
        targets = p.targets(data)
    except ValueError:  # a class that the run does not know
        return {}
    if p.kind == "regression":
        outputs = (answers - np.array(p.target_mean)) / np.array(p.target_deviation)
    elif p.kind == "multilabel":
        likely = answers.astype(np.float64).clip(1e-12, 1 - 1e-12)
        outputs = np.log(likely / (1 - likely))
    else:
        outputs = np.log(answers.astype(np.float64).clip(1e-300))
    name = metric_name(name)
    return {name: metric_of(name, torch.from_numpy(outputs), targets, None)}


def step_rows(
    preparation: Preparation, answers: list[np.ndarray], data: Recordings
) -> tuple[list[str], Iterator[list[str]]]:
    """Headings and lines of a table of predictions at every step: a line per series and step.

    Windows also have their start and end in the recording, as in `rows`.
    """
    p, steps = preparation, data.steps
    # A window's steps are counted from 1 in it; start and end are those of `rows`.
    headings = ["series", "step"] if data.spans is None else ["series", "start", "end", "step"]
    one = len(p.outputs_named) == 1
    if steps is not None:
        headings += ["label"] if one else [f"label {name}" for name in p.outputs_named]
    if p.classes:
        headings += ["predicted", *(f"probability of {name}" for name in p.classes)]
    else:
        headings += ["predicted"] if one else [f"predicted {name}" for name in p.outputs_named]
    return headings, _step_lines(p, answers, data)


def _step_lines(p: Preparation, answers: list[np.ndarray], data: Recordings) -> Iterator[list[str]]:
    steps = data.steps
    for i, its in enumerate(answers):
        name = data.names[i] if data.names else str(i + 1)
        span = [] if data.spans is None else [str(one) for one in data.spans[i, 1:].tolist()]
        for step, answer in enumerate(its):
            line = [name, *span, str(step + 1)]
            if steps is not None:
                values = steps.values[i][step]
                line += steps.labels(values) if p.classes else map(_number, values)
            if p.classes:
                line += [p.classes[answer.argmax()], *(f"{value:.6g}" for value in answer)]
            else:
                line += map(_number, answer)
            yield line


def _number(value: float) -> str:
    """A number for a table; "" if it is missing."""
    return "" if np.isnan(value) else f"{value:.9g}"


def rows(
    preparation: Preparation, answers: np.ndarray, data: Recordings
) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of a table of predictions."""
    count = len(answers)
    names: Sequence[str] = data.names or [str(i + 1) for i in range(count)]
    headings, columns = ["series"], [list(names)]
    if data.spans is not None:  # steps of the recording, counted from 0, the end not included
        headings += ["start", "end"]
        columns += [[str(step) for step in data.spans[:, i].tolist()] for i in (1, 2)]
    width = 1 if data.targets is None or data.targets.ndim == 1 else data.targets.shape[1]
    if data.targets is not None:
        several = [f"label {i + 1}" for i in range(width)]
        if preparation.kind == "multilabel" and width == len(preparation.classes):
            several = [f"label {name}" for name in preparation.classes]
        headings += ["label"] if width == 1 else several
        columns += [label_names(one) for one in data.targets.reshape(count, -1).T]
    if preparation.kind == "classification":
        headings += ["predicted", *(f"probability of {name}" for name in preparation.classes)]
        columns.append([preparation.classes[i] for i in answers.argmax(1)])
        columns += [[f"{p:.6g}" for p in column] for column in answers.T]
    elif preparation.kind == "multilabel":
        for name, column in zip(preparation.classes, answers.T, strict=True):
            headings += [f"predicted {name}", f"probability of {name}"]
            columns += [[str(int(p > 0.5)) for p in column], [f"{p:.6g}" for p in column]]
    else:
        outputs = answers.shape[1]
        headings += (
            ["predicted"] if outputs == 1 else [f"predicted {i + 1}" for i in range(outputs)]
        )
        columns += [[f"{value:.9g}" for value in column] for column in answers.T]
    return headings, [list(row) for row in zip(*columns, strict=True)]
