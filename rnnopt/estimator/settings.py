"""Settings of the estimators: scikit-learn's parameters, and the `RunConfig` that they make."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator

from rnnopt.config.errors import UserError, without_dashes
from rnnopt.config.options import with_moved
from rnnopt.config.run_config import RunConfig
from rnnopt.estimator.options import RNNOptions
from rnnopt.training.resolve import check_conflicts

# Settings that are a run's as they stand.
CONFIGURED = ("model", "hidden", "optimizer", "lr")
REST = (  # of the options
    "layers", "dropout", "bidirectional", "stem", "batch_norm", "readout", "batch_size", "clip",
    "device",
)  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class Settings(BaseEstimator):
    """What an estimator is told before it sees data.

    Args:
        model: "rnn", "gru", "lstm", "indrnn", … (`rnnopt list` names them all).
        hidden: units of each recurrent layer.
        optimizer: "name" or "name:option=value,…", any that `rnnopt list` names; bfgs and its
            like work on all data at each step, admm trains Elman, LSTM and GRU layers.
        lr: learning rate; None means the optimizer's default.
        epochs: passes through the data, at the most with `early_stopping`.
        early_stopping: keep a tenth of the sequences aside, stop once their accuracy or squared
            error (or the metric of the options) has not improved for ten epochs, and keep the best
            weights. Where the accuracy is level, a lower loss on these sequences is an improvement.
        warm_start: `fit` goes on with the network and optimizer where the last one ended.
        layout: "time-first" for sequences of (time, features); "time-last" for (features, time),
            as aeon and sktime have them. Tables (count, time) are the same in both.
        random_state: seed of weights, order and dropout; the same results for the same seed,
            machine and number of threads.
        verbose: draw a progress bar with loss, metric and time left.
        options: the rest, such as RNNOptions(clip=1.0); None for its defaults. Its fields are
            parameters too, by names such as `options__clip`.
    """

    model: str = "rnn"
    hidden: int = 64
    optimizer: str = "frank-wolfe"
    lr: float | None = None
    epochs: int = 100
    early_stopping: bool = False
    warm_start: bool = False
    layout: str = "time-first"
    random_state: int | np.random.RandomState | None = None
    verbose: bool = False
    options: RNNOptions | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """As scikit-learn's; with `deep` also the fields of the options."""
        params = super().get_params(deep)
        if deep and (self.options is None or isinstance(self.options, RNNOptions)):
            rest = dict(**(self.options or RNNOptions()))
            params |= {f"options__{name}": value for name, value in rest.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """As scikit-learn's; options__clip=1 leaves options that others share as they are."""
        rest = {name: params.pop(name) for name in [*params] if name.startswith("options__")}
        moved = {name: params.pop(name) for name in RNNOptions().keys() & params.keys()}
        super().set_params(**params)
        for name, value in rest.items():
            field = name.removeprefix("options__")
            known = RNNOptions().keys()
            if field not in known:
                raise ValueError(f"invalid parameter {name!r}: RNNOptions has {', '.join(known)}.")
            self.options = replace(self._options(), **{field: value})
        if moved:
            self.options = with_moved(RNNOptions, self._options(), moved)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        moved = {name: state.pop(name) for name in RNNOptions().keys() & state.keys()}
        super().__setstate__(dict(options=RNNOptions(**moved)) | state)  # of an earlier version

    def _options(self) -> RNNOptions:
        if self.options is None:
            return RNNOptions()
        if not isinstance(self.options, RNNOptions):
            raise ValueError(f"options must be RNNOptions(…) or None, got {self.options!r}.")
        return self.options

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        return tags

    def _config(self, epochs: int, schedule: str, seed: int) -> RunConfig:
        counts = dict(epochs=epochs, patience=self._options().patience)
        for name, value in (counts | dict(subsample=self._options().subsample)).items():
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        settings = {name: getattr(self, name) for name in CONFIGURED}
        settings |= {name: getattr(self._options(), name) for name in REST}
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in settings.items()}
        run = dict(
            budget=f"{epochs}epochs", schedule=schedule, seed=seed, threads=torch.get_num_threads()
        )
        try:
            config = RunConfig.from_dict(plain | run)
            check_conflicts(config)
            return config
        except UserError as error:
            raise ValueError(without_dashes(str(error))) from error
