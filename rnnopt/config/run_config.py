"""What makes a run: one frozen dataclass, from which the command line is made and runs repeated."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from rnnopt.config.data_config import DataConfig
from rnnopt.config.data_files import data_name
from rnnopt.config.errors import UserError, option, unknown_name
from rnnopt.config.metric_names import metric_name
from rnnopt.config.old_names import current_budget, with_waiting
from rnnopt.config.validation import checked
from rnnopt.layers.network_options import Initialization, Readout
from rnnopt.layers.stem import parse_stem

# Settings of a model that the user does not choose one by one.
INDRNN_6: dict[str, Any] = dict(
    cell="indrnn", layers=6, batch_norm=True, dropout=0.1, initialization="indrnn"
)
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "auto": ({}, "chosen from the shape of your own data; rnn for the tasks on board"),
    "rnn": (dict(cell="rnn", nonlinearity="tanh"), "Elman network, tanh"),
    "rnn-relu": (dict(cell="rnn", nonlinearity="relu"), "Elman network, relu"),
    "lstm": (dict(cell="lstm"), "long short-term memory"),
    "gru": (dict(cell="gru"), "gated recurrent unit"),
    "indrnn": (dict(cell="indrnn"), "independently recurrent network, relu"),
    "indrnn-6": (INDRNN_6, "six IndRNN layers, batch norm, dropout 0.1, as its authors released"),
    "indrnn-6-paper": (
        INDRNN_6 | dict(magnitude=2.0, initialization="indrnn-paper"),
        "indrnn-6 with the recurrent bound and last layer that their paper describes",
    ),
}
Schedule = Literal["constant", "cosine", "linear", "plateau", "plateau-restart"]
OnNonfinite = Literal["stop", "raise", "skip", "restore"]


@dataclass(frozen=True)
class SharedConfig(DataConfig):
    """What the runs of a comparison have in common.

    Args:
        task: Task to learn: a name, or name:option=value,… (see `rnnopt list`). --data takes
            its place.
        model: Network to train, by name (see `rnnopt list`). auto is for your own data: from
            their shape it chooses the network, its size, its read-out and the budget. What you set
            yourself stays.
        lr: Learning rate. Unset: the optimizer's default.
        budget: Length of training: 30s, 5m, 2h, 20epochs or 5000gradients, each of one minibatch.
            Unset: 20epochs, or what --model auto chooses.
        batch_size: Number of sequences in a minibatch. Unset: the task's.
        hidden: Number of units in each recurrent layer. Unset: the task's.
        layers: Number of recurrent layers. Unset: the model's, which is one unless its name says
            otherwise.
        bidirectional: A second direction in each layer, from the last step to the first, with as
            many units again. It needs whole sequences: no --tbptt, no answers step by step. Unset:
            the model's, which is one direction.
        stem: Convolutions before the recurrent layers, as the width and stride of each: 8/4 or
            8/2,5/2. Each has as many channels as a layer has units, batch normalization and relu.
            It needs whole sequences, as --bidirectional does.
            Unset: the model's, which is none.
        batch_norm: Batch normalization of each layer's states, over time and batch. indrnn-6 always
            has it. Unset: the model's, which is none unless it has its own.
        dropout: Probability that a unit is zero for a whole sequence, after each layer. Unset: the
            model's, which is none unless it has its own.
        readout: States that the answer is read from. Unset: the task's, which is the last state
            unless each step has its own target.
        initialization: Initial distribution of the weights; normal is N(0, 0.01²). Unset: the
            model's.
        clip: Largest norm of a gradient; a longer one is scaled down. Unset: no clipping.
        clip_value: Largest absolute value in a gradient; a larger one is cut to it. Unset: none is
            cut.
        schedule: Course of the learning rate over the budget. cosine and linear end at zero.
            plateau multiplies it by --decay when the validation metric (or the validation loss,
            where the metric is level) has not improved for --patience epochs. plateau-restart, of
            IndRNN's authors, then also returns to the best weights, and waits half, a quarter, … as
            long.
        decay: Factor of the plateau schedules.
        patience: Number of epochs without improvement of the validation metric (or of the
            validation loss, where the metric is level). After them a plateau schedule lowers the
            learning rate; with another schedule the run ends (early stopping). Unset: 20 with a
            plateau schedule, else no early stopping.
        tbptt: Steps between updates in truncated back-propagation through time (k1). Unset: whole
            sequences. FrankWolfe takes the chunks of a sequence as its inner steps unless told
            otherwise.
        tbptt_backward: Steps that a gradient goes back in truncated back-propagation (k2). Unset:
            as many as --tbptt.
        metric: Metric by which the best weights are chosen, runs end early and are compared, named
            as scikit-learn names its scorers: balanced-accuracy, f1 (the mean over the classes; of
            two classes, of the second), auc, log-loss, rmse, r2, … Unset: the task's, which is
            accuracy, or mse in regression.
        class_weight: Weight of a class in the loss: balanced gives n/(k·count) to a class with
            count of the n training sequences, of k classes. Unset: all sequences count alike.
        warp: Augmentation of the training series: each is stretched or shrunk in time by a factor
            between exp(-warp) and exp(warp), anew in every minibatch. Unset: none, or what --model
            auto chooses.
        refit: A second fit, as long as the first, on training and validation series together. Its
            last weights are kept and tested. Unset: no, or what --model auto chooses.
        calibrate: Calibration of the probabilities of classes or labels by one temperature, from
            the validation data; the weights and the predicted classes stay.
        evaluate_every: Number of gradients between evaluations on validation data. Unset: an epoch,
            or a twentieth of the budget where that is shorter.
        watch_test: Record of the test metric at every evaluation, for comparison with publications
            that report the best of them. Nothing depends on it.
        stop_at_target: End of a run as soon as the task's target is met on the validation set.
        on_nonfinite: Reaction to a loss or gradient that is not finite: stop (the run ends as
            diverged), raise (an error that names the step), skip (that minibatch is left out) or
            restore (back to the last checkpoint, on with other minibatches; the eleventh time ends
            the run as diverged).
        device: Device to train on: cpu, cuda or any name that torch knows.
        threads: Number of processor threads of a run. Small recurrent networks are slower with
            more.
    """

    task: str = "digits-pixels"
    model: str = "auto"
    lr: float | None = None
    budget: str | None = None
    batch_size: int | None = None
    hidden: int | None = None
    layers: int | None = None
    bidirectional: bool | None = None
    stem: str | None = None
    batch_norm: bool | None = None
    dropout: float | None = None
    readout: Readout | None = None
    initialization: Initialization | None = None
    clip: float | None = None
    clip_value: float | None = None
    schedule: Schedule = "cosine"
    decay: float = 0.1
    patience: float | None = None
    tbptt: int | None = None
    tbptt_backward: int | None = None
    metric: str | None = None
    class_weight: Literal["balanced"] | None = None
    warp: float | None = None
    refit: bool | None = None
    calibrate: bool = False
    evaluate_every: int | None = None
    watch_test: bool = False
    stop_at_target: bool = False
    on_nonfinite: OnNonfinite = "stop"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None:
            object.__setattr__(self, "task", data_name(self.data))
        if self.budget is not None:
            object.__setattr__(self, "budget", current_budget(self.budget))
            Budget.parse(self.budget)
        if self.model not in MODELS:
            raise unknown_name("model", self.model, MODELS)
        counts = ("batch_size", "hidden", "layers", "evaluate_every", "threads", "tbptt")
        for name in (*counts, "tbptt_backward"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{option(name)} must be at least 1, got {value}.")
        for name in ("lr", "clip", "clip_value", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{option(name)} must be a positive number, got {value}.")
        if not 0 < self.decay < 1:
            raise UserError(f"--decay must be in (0, 1), got {self.decay}.")
        if self.tbptt_backward is not None and self.tbptt is None:
            raise UserError("--tbptt-backward needs --tbptt, the steps between updates.")
        if self.stem is not None:
            try:
                parse_stem(self.stem)
            except ValueError as error:
                raise UserError(f"--stem: {error}") from error
            if self.tbptt is not None or self.readout == "every":
                given = "--readout every" if self.tbptt is None else "--tbptt"
                raise UserError(f"--stem shortens sequences: it cannot go with {given}.")
        if self.tbptt is not None and self.bidirectional:
            raise UserError("--tbptt needs a network of one direction: leave out --bidirectional.")
        if self.tbptt is not None and self.readout == "mean":
            raise UserError("--tbptt needs --readout last or every, got mean.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"--dropout must be in [0, 1), got {self.dropout}.")
        if self.warp is not None and not 0 <= self.warp <= 1:
            raise UserError(f"--warp must be in [0, 1], got {self.warp}.")
        if self.refit and self.schedule.startswith("plateau"):
            raise UserError(
                f"--refit has nothing to validate on: it cannot go with {self.schedule}."
            )
        if not self.schedule.startswith("plateau") and self.decay != SharedConfig.decay:
            raise UserError(f"--decay needs a plateau schedule, got {self.schedule}.")
        if self.calibrate and self.data is None:
            raise UserError("--calibrate is for data of your own (--data).")
        if self.metric is not None:
            object.__setattr__(self, "metric", metric_name(self.metric))

    def to_dict(self) -> dict[str, Any]:
        """All fields, as they are saved."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Self:
        """The config that `to_dict` gave; a field that it lacks has its default."""
        return checked(with_waiting(saved), cls, "a saved config")


@dataclass(frozen=True)
class RunConfig(SharedConfig):
    """One training run: the settings of SharedConfig, an optimizer and a seed.

    Args:
        optimizer: Optimizer: a name, or name:option=value,… such as
            frank-wolfe:norm=inf,inner_steps=5. The options lr, clip, clip_value, schedule, decay,
            patience, batch_size, tbptt and tbptt_backward may stand there too.
        seed: Seed of the initial weights and of the order of the minibatches.
    """

    optimizer: str = "frank-wolfe"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed must be in 0 … 2^63 - 1, got {self.seed}.")


@dataclass(frozen=True)
class Budget:
    """How long to train: `amount` of `unit` "seconds", "epochs" or "gradient_evaluations"."""

    amount: float
    unit: Literal["seconds", "epochs", "gradient_evaluations"]

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """The budget that a text such as 30s, 20epochs or 5000gradients names."""
        match = re.fullmatch(
            r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|epochs?|gradients?|evaluations?)\s*", text
        )
        if not match or not 0 < float(match[1]) < 1e15:
            raise UserError(
                f"budget must read like 30s, 5m, 2h, 20epochs or 5000gradients, got {text!r}."
            )
        amount, unit = float(match[1]), match[2]
        if unit in ("s", "m", "h"):
            return cls(amount * {"s": 1, "m": 60, "h": 3600}[unit], "seconds")
        return cls(amount, "epochs" if unit.startswith("epoch") else "gradient_evaluations")
