"""Every optimizer by name: ours, those of torch.optim, and the strongest of today."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnopt.admm.trainer import ADMM
from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.options import parameters_of
from rnnopt.config.specs import call_with, is_dotted_class, is_import_path, parse
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.optimizers import baselines
from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe
from rnnopt.optimizers.quasi_newton.adaqn import AdaQN
from rnnopt.optimizers.quasi_newton.asnaq import ASNAQ
from rnnopt.optimizers.quasi_newton.bfgs import BFGS, LBFGS
from rnnopt.optimizers.quasi_newton.naq import LNAQ, NAQ
from rnnopt.optimizers.quasi_newton.options import PRESETS
from rnnopt.tasks import TASKS
from rnnopt.tasks.user_data.readers import READERS
from rnnopt.training.imported import build, load


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer by name.

    Args:
        build: (params, lr=…, options) → optimizer; its own lr is the rate unless told otherwise.
        summary: one line for people.
        named: whether `build` takes (name, tensor) pairs.
        of_model: whether `build` takes (model, loss) in place of params.
    """

    build: Callable[..., Any]
    summary: str
    named: bool = False
    of_model: bool = False

    @property
    def lr(self) -> float:
        """Learning rate unless told otherwise; UserError if there is none."""
        default = parameters_of(self.build)["lr"].default
        if not isinstance(default, int | float) or not 0 < default < math.inf:
            name = getattr(self.build, "__name__", "the optimizer")  # a partial has none
            raise UserError(f"{name} has no default for lr: give --lr.")
        return float(default)

    @property
    def positional(self) -> int:
        """How many arguments of `build` come before its options."""
        return 2 if self.of_model else 1


def adam_of_indrnn(
    params: Iterable[tuple[str, Tensor]], lr: float = 2e-4, weight_decay: float = 1e-4
) -> torch.optim.Adam:
    """Adam as released with IndRNN: L2 on all but recurrent weights and biases.

    Args:
        params: (name, tensor) pairs.
        lr: learning rate.
        weight_decay: coupled, of input and read-out weights and batch norm's gains.
    """
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a finite number >= 0, got {weight_decay}.")
    decayed: list[tuple[str, Tensor]] = []
    spared: list[tuple[str, Tensor]] = []
    for name, p in params:
        (spared if "weight_hh" in name or "bias" in name else decayed).append((name, p))
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared},
    ]
    return torch.optim.Adam([g for g in groups if g["params"]], lr=lr)


# Those that this library defines have the lr of their signature, torch's own get one here.
# frank-wolfe, adam and muon have what learnt best in benchmarks/choose_defaults.py; Adam's
# relatives share its own.
OPTIMIZERS: dict[str, OptimizerEntry] = {
    "frank-wolfe": OptimizerEntry(
        FrankWolfe, "Frank-Wolfe steps in a small ball that is learnt from the gradients"
    ),
    "asnaq": OptimizerEntry(ASNAQ, "quasi-Newton with look-ahead, curvature from stored gradients"),
    "asnaq-paper": OptimizerEntry(
        partial(ASNAQ, lr=1e-2, options=PRESETS["paper"]), "asnaq as its paper prints it"
    ),
    "asnaq-authors": OptimizerEntry(
        partial(ASNAQ, lr=1e-2, options=PRESETS["authors_code"]), "asnaq as its authors' code"
    ),
    "adaqn": OptimizerEntry(AdaQN, "quasi-Newton, curvature from stored gradients"),
    "bfgs": OptimizerEntry(BFGS, "quasi-Newton with a line search, the whole data at each step"),
    "lbfgs": OptimizerEntry(LBFGS, "bfgs from the last pairs of weight and gradient changes"),
    "naq": OptimizerEntry(NAQ, "BFGS with Nesterov's look-ahead"),
    "lnaq": OptimizerEntry(LNAQ, "LBFGS with Nesterov's look-ahead"),
    "admm": OptimizerEntry(
        ADMM, "ridge solves without an autograd graph; Elman, LSTM and GRU layers", of_model=True
    ),
    "sgd": OptimizerEntry(partial(torch.optim.SGD, lr=1e-1), "stochastic gradient descent"),
    "momentum": OptimizerEntry(
        partial(torch.optim.SGD, lr=1e-2, momentum=0.9), "gradient descent with momentum 0.9"
    ),
    "adagrad": OptimizerEntry(torch.optim.Adagrad, "rates from the sum of squared gradients"),
    "rmsprop": OptimizerEntry(
        partial(torch.optim.RMSprop, lr=1e-3), "rates from the mean of squared gradients"
    ),
    "adam": OptimizerEntry(
        partial(torch.optim.Adam, lr=3e-3), "adaptive moments; the paper's baseline"
    ),
    "indrnn-adam": OptimizerEntry(
        adam_of_indrnn, "Adam as released with IndRNN, L2 on some weights", named=True
    ),
    "adamw": OptimizerEntry(
        partial(torch.optim.AdamW, lr=3e-3), "Adam with decoupled weight decay"
    ),
    "nadam": OptimizerEntry(partial(torch.optim.NAdam, lr=3e-3), "Adam with Nesterov momentum"),
    "muon": OptimizerEntry(
        baselines.MuonWithAdamW, "orthogonalised momentum for matrices, AdamW for the rest"
    ),
    "soap": OptimizerEntry(baselines.soap, "Adam in Shampoo's eigenbasis (extra: baselines)"),
    "psgd-kron": OptimizerEntry(
        baselines.psgd_kron, "learnt Kronecker preconditioner (extra: baselines)"
    ),
    "schedule-free": OptimizerEntry(
        baselines.ScheduleFreeAdamW,
        "AdamW that averages its weights instead of a schedule (extra: baselines)",
    ),
}

# Names that are gone: the rate that runs had unless told otherwise, and what to use.
REMOVED = {"frank-wolfe-long": (3e-2, "use frank-wolfe with its default options")}


def entry_of(name: str) -> OptimizerEntry:
    """The optimizer of that name or import path.

    Raises:
        UserError: there is none, or none any more.
    """
    if is_import_path(name):
        return OptimizerEntry(load(name), "of another package, or of a file")
    place = name.partition(",")[0]
    if place.endswith(".py"):
        raise UserError(
            f"an optimizer in a file must read {place}:Class, with options after a comma:"
            f" {place}:Class,option=value."
        )
    if name in REMOVED:
        raise UserError(f"optimizer {name!r} is gone: {REMOVED[name][1]}.")
    if is_dotted_class(place):
        raise UserError(
            "an optimizer of a package must read package.module:Class, such as torch.optim:Adam,"
            f" got {name}: is it {':'.join(place.rsplit('.', 1))}?"
        )
    if name not in OPTIMIZERS:
        paths = ("package.module:Class", "file.py:Class")
        raise unknown_name("optimizer", name, (*OPTIMIZERS, *paths), _other_option(name))
    return OPTIMIZERS[name]


def _other_option(name: str) -> str | None:
    """The option of the command line that a name is for, if it is that of a task or of data."""
    if name in TASKS:
        return f"--task {name}"
    return f"--data {name}" if Path(name).suffix.lower() in READERS else None


def lr_of(name: str) -> float:
    """The learning rate of its runs unless told otherwise, also of an optimizer that is gone."""
    return REMOVED[name][0] if name in REMOVED else entry_of(name).lr


def build_learner(
    specification: str, model: SequenceModel, loss: str, lr: float | None = None
) -> Any:
    """The optimizer of "name" or "name:option=value,…" for a model.

    Args:
        specification: such as "frank-wolfe:norm=spectral,inner_steps=1".
        model: what to train.
        loss: of the task, as `Task` names it.
        lr: learning rate; None means the optimizer's default here.
    """
    return _build(specification, list(model.named_parameters()), (model, loss), lr)


def build_optimizer(
    specification: str, params: list[tuple[str, Tensor]], lr: float | None = None
) -> Any:
    """The same for (name, tensor) pairs; ValueError for an optimizer that needs the model."""
    return _build(specification, params, None, lr)


def _build(
    specification: str,
    params: list[tuple[str, Tensor]],
    model_and_loss: tuple[SequenceModel, str] | None,
    lr: float | None,
) -> Any:
    name, options = parse(specification)
    entry = entry_of(name)
    if lr is not None:
        options.setdefault("lr", lr)
    arguments: tuple[Any, ...] = (params if entry.named else [p for _, p in params],)
    if entry.of_model:
        if model_and_loss is None:
            raise UserError(f"optimizer {name!r} is built with a model: use rnnopt.ADMM.")
        arguments = model_and_loss
    make = partial(call_with, "optimizer", name, entry.build, options, *arguments)
    return build(name, make, options) if is_import_path(name) else make()
