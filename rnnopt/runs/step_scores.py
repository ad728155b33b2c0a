"""How good the outputs at every step are: scores per output, in the units of the data.

Classes: accuracy, the mean of the classes' recalls, and the mean negative log-likelihood. Numbers:
the root mean squared error (RMSE); NRMSE, divided by the range of the true values; and the fit of
system identification, 100 (1 - ‖y - ŷ‖ / ‖y - ȳ‖) percent. Forecasts: mean squared, absolute and
scaled absolute error (MASE, see `forecasting`), beside those of the naive forecasts on the same
steps. Steps without a target do not count.
"""

import numpy as np
import torch
from torch import Tensor, nn

from rnnopt.tasks.examples import NO_CLASS, Examples
from rnnopt.tasks.free_run import FreeRun
from rnnopt.tasks.pieces import answered
from rnnopt.tasks.user_data.forecasting import naive
from rnnopt.tasks.user_data.preparation import Preparation

AT_ONCE = 4096  # steps whose forecasts are scored together
Rows = dict[str, dict[str, float]]  # scores by name, for each output, channel or method


@torch.no_grad()
def step_outputs(
    model: nn.Module, examples: Examples, device: torch.device, free: FreeRun | None = None
) -> list[np.ndarray]:
    """A network's outputs (time, output) at the true steps of each sequence, as it gives them.

    Args:
        model: network in evaluation mode with an output at every step.
        examples: input sequences; their targets are not used.
        device: device of the network.
        free: how the network runs free; None means that its inputs are given.
    """
    found: dict[int, list[np.ndarray]] = {}
    for index, _, given, batch in answered(model, examples, device, free):
        outputs = given.cpu().numpy()
        for i, place in enumerate(index.tolist()):
            time = len(outputs) if batch.lengths is None else int(batch.lengths[i])
            found.setdefault(place, []).append(outputs[:time, i].copy())
    return [np.concatenate(found[i]) for i in range(len(examples))]


def predictions_of(preparation: Preparation, outputs: Tensor) -> np.ndarray:
    """What a network's outputs (count, output) say.

    Probabilities (count, class), of several labels that of each, or numbers (count, output) in the
    units of the data.
    """
    if preparation.kind == "classification":
        return (outputs / preparation.temperature).softmax(1).numpy()
    if preparation.kind == "multilabel":
        return (outputs / preparation.temperature).sigmoid().numpy()
    scale, shift = np.array(preparation.target_deviation), np.array(preparation.target_mean)
    return outputs.numpy() * scale + shift


def answers_of(preparation: Preparation, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Probabilities (time, class), or numbers (time, output) in the units of the data."""
    return [predictions_of(preparation, torch.from_numpy(one)) for one in outputs]


def step_scores(
    preparation: Preparation, answers: list[np.ndarray], truth: list[np.ndarray]
) -> Rows:
    """The scores of answers to the steps of some series.

    Args:
        preparation: preparation of the run.
        answers: as `answers_of` gives them.
        truth: true classes (time,), -1 for none, or numbers (time, output), NaN for none.
    """
    given, true = np.concatenate(answers), np.concatenate(truth)
    if preparation.kind == "classification":
        return {"all steps": _class_scores(given, true)}
    rows = {}
    for i, name in enumerate(preparation.outputs_named):
        there = ~np.isnan(true[:, i])
        if there.any():
            rows[name] = number_scores(given[there, i], true[there, i])
    return rows


def number_scores(given: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """RMSE, NRMSE by the range and fit in percent of numbers (count,); NaN if nothing varies."""
    rmse = float(np.sqrt(np.mean((given - true) ** 2)))
    spread, width = float(true.std()), float(np.ptp(true))
    return {
        "RMSE": rmse,
        "NRMSE": rmse / width if width > 0 else float("nan"),
        # Rounding may give a constant a spread.
        "fit %": 100 * (1 - rmse / spread) if width > 0 and spread > 0 else float("nan"),
    }


def _class_scores(given: np.ndarray, true: np.ndarray) -> dict[str, float]:
    given, true = given[true != NO_CLASS], true[true != NO_CLASS]
    right = given.argmax(1) == true
    recalls = [right[true == one].mean() for one in np.unique(true)]
    found = {"accuracy": float(right.mean()), "balanced accuracy": float(np.mean(recalls))}
    known = np.flatnonzero(true < given.shape[1])  # new data may have other classes
    if len(known):
        likely = np.maximum(given[known, true[known]], 1e-30)
        found["log loss"] = float(-np.log(likely).mean())
    return found


def forecast_scores(
    preparation: Preparation,
    answers: list[np.ndarray],
    truth: list[np.ndarray],
    series: list[np.ndarray],
) -> Rows:
    """The scores of forecasts, and of the naive ones, for each channel.

    Args:
        preparation, answers, truth: as in `step_scores`.
        series: the series (time, channel) in the units of the data.
    """
    errors = ForecastErrors(preparation)
    for given, true, one in zip(answers, truth, series, strict=True):
        errors.add(given, true, one, np.arange(len(one)))
    return errors.rows()


class ForecastErrors:
    """Sums of the errors of forecasts and of the naive ones, series by series or part by part.

    Args:
        preparation: preparation of the run.
    """

    def __init__(self, preparation: Preparation):
        self.p = p = preparation
        self.seasons = {"naive": 1} | ({} if p.season is None else {"seasonal naive": p.season})
        # Of each method and channel the number of targets, sum of squares, sum of errors.
        self.sums = {name: np.zeros((3, len(p.forecasts))) for name in ("network", *self.seasons)}

    def add(self, given: np.ndarray, true: np.ndarray, one: np.ndarray, steps: np.ndarray) -> None:
        """Adds forecasts from some steps of a series.

        Args:
            given, true: forecasts and targets (step, horizon · channel) in the units of the data.
            one: the series (time, channel).
            steps: (step,) the steps that they are from.
        """
        there = ~np.isnan(true).all(1)
        given, true, steps = given[there], true[there], steps[there]
        values = one[:, list(self.p.forecasts)]
        shape = (-1, self.p.horizon, len(self.p.forecasts))
        for name, total in self.sums.items():
            if name != "network":
                given = naive(values, self.p.horizon, self.seasons[name], steps)
            errors = np.abs(given - true).reshape(shape)
            total += [(~np.isnan(errors)).sum((0, 1)), np.nansum(errors**2, (0, 1)),
                      np.nansum(errors, (0, 1))]  # fmt: skip

    def rows(self) -> Rows:
        """The scores of each channel and method."""
        p, rows = self.p, {}
        for i, place in enumerate(p.forecasts):
            for method, (counts, squares, absolute) in self.sums.items():
                if counts[i]:
                    name = method if len(p.forecasts) == 1 else f"{p.channels[place]}: {method}"
                    mae = float(absolute[i] / counts[i])
                    mse = float(squares[i] / counts[i])
                    rows[name] = {"MSE": mse, "MAE": mae, "MASE": mae / p.naive_errors[i]}
        return rows


def scores_alone(
    preparation: Preparation, model: nn.Module, examples: Examples, device: torch.device
) -> Rows:
    """The scores of a network's answers to examples with targets at every step.

    Those of forecasts are summed part by part, so that a long series needs little memory.
    """
    if not preparation.horizon:
        return scores_of(preparation, model, examples, device)[1]
    errors = ForecastErrors(preparation)
    lengths = examples.lengths
    true = [examples.steps] * len(examples) if lengths is None else lengths.tolist()
    series = [one * preparation.deviation + preparation.mean for one in _inputs(examples, true)]
    for index, start, outputs, batch in answered(model, examples, device):
        found, targets = outputs.cpu().numpy(), batch.targets.cpu().numpy()
        for i, place in enumerate(index.tolist()):
            time = len(found) if batch.lengths is None else int(batch.lengths[i])
            first = 0 if batch.ignored is None else min(int(batch.ignored[i]), time)
            for begin in range(first, time, AT_ONCE):
                rows = slice(begin, min(begin + AT_ONCE, time))
                given = answers_of(preparation, [found[rows, i]])[0]
                wanted = targets[i, rows] * np.array(preparation.target_deviation)
                steps = np.arange(start + rows.start, start + rows.stop)
                errors.add(given, wanted + preparation.target_mean, series[place], steps)
    return errors.rows()


def scores_of(
    preparation: Preparation, model: nn.Module, examples: Examples, device: torch.device
) -> tuple[list[np.ndarray], Rows]:
    """A network's answers to examples with targets at every step, and their scores."""
    free = preparation.free_run
    answers = answers_of(preparation, step_outputs(model, examples, device, free))
    lengths = [len(one) for one in answers]
    targets = examples.targets.cpu()
    if examples.ignored is not None:
        steps = torch.arange(targets.shape[1])
        targets = targets.masked_fill((steps < examples.ignored[:, None])[..., None], torch.nan)
    truth = true_targets(preparation, targets, lengths)
    if free is not None:
        ahead = answers_of(preparation, step_outputs(model, examples, device))
        return answers, _fed_back_scores(preparation, answers, ahead, truth)
    if not preparation.horizon:
        return answers, step_scores(preparation, answers, truth)
    series = [one * preparation.deviation + preparation.mean for one in _inputs(examples, lengths)]
    return answers, forecast_scores(preparation, answers, truth, series)


def _fed_back_scores(
    preparation: Preparation,
    simulated: list[np.ndarray],
    predicted: list[np.ndarray],
    truth: list[np.ndarray],
) -> Rows:
    """The scores of the free run, and of the prediction one step ahead from measured outputs."""
    rows = {"free run": simulated, "one step ahead": predicted}
    scored = {how: step_scores(preparation, answers, truth) for how, answers in rows.items()}
    names = scored["free run"]
    return {f"{name}, {how}": one[name] for name in names for how, one in scored.items()}


def true_targets(preparation: Preparation, targets: Tensor, lengths: list[int]) -> list[np.ndarray]:
    """The targets of each series' true steps: classes (time,), or numbers (time, output)."""
    rows = [one[:length].numpy() for one, length in zip(targets, lengths, strict=True)]
    if preparation.kind == "classification":
        return rows
    scale, shift = np.array(preparation.target_deviation), np.array(preparation.target_mean)
    return [one * scale + shift for one in rows]


def _inputs(examples: Examples, lengths: list[int]) -> list[np.ndarray]:
    """The stored inputs of each series, (time, channel)."""
    stored = examples.inputs.cpu()
    if stored.ndim == 3:
        return [one[:length].numpy() for one, length in zip(stored, lengths, strict=True)]
    return [one.numpy() for one in stored.split(lengths)]


def lines_of(rows: Rows) -> list[str]:
    """The scores as lines of text, aligned; each begins with the name of its row."""
    if not rows:
        return []
    columns = list(next(iter(rows.values())))
    wide = max(map(len, rows))
    cells = {name: [f"{one[column]:.4g}" for column in columns] for name, one in rows.items()}
    width = {
        column: max(len(column), *(len(one[i]) for one in cells.values()))
        for i, column in enumerate(columns)
    }
    head = " " * wide + "".join(f"  {column:>{width[column]}}" for column in columns)
    return [head] + [
        f"{name:<{wide}}"
        + "".join(f"  {cell:>{width[column]}}" for cell, column in zip(one, columns, strict=True))
        for name, one in cells.items()
    ]
