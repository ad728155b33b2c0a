"""`RNNRegressor`: sequences to numbers, as scikit-learn has it."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_array, check_is_fitted

from rnnopt.config.data_config import Kind
from rnnopt.estimator.base import RecurrentEstimator
from rnnopt.estimator.every_step import numbers_of, scored, together
from rnnopt.estimator.given import Given
from rnnopt.estimator.options import takes_moved_options
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.moments import check_plain, moments, standardized
from rnnopt.tasks.task import Loss
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.step_targets import StepTargets


@takes_moved_options
@dataclass(kw_only=True, eq=False, repr=False)
class RNNRegressor(RegressorMixin, RecurrentEstimator):
    """Recurrent network that gives each sequence one or several numbers.

    Args:
        all of `Settings`: model, hidden, optimizer, epochs, …

    Attributes:
        target_mean_, target_scale_: what the targets (output,) are standardised by in training.
        model_, n_iter_, loss_curve_, n_features_in_, feature_names_in_, …: as there.

    Example:
        >>> regressor = RNNRegressor(model="lstm", epochs=20, random_state=0)
        >>> regressor.fit(X, y).predict(X)  # X: (count, time, features), y: (count,)
    """

    _kinds: ClassVar[tuple[Kind, ...]] = ("regression",)

    @property
    def _loss(self) -> Loss:
        return "mse"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """One pass through X and y."""
        return self._partial_fit(X, y, sample_weight, lengths)

    def predict(self, X: ArrayLike, lengths: ArrayLike | None = None) -> np.ndarray:
        """The numbers (count,), or (count, outputs) if y was so.

        With a target at every step (count, time), or (count, time, outputs) if there are several,
        or a list of arrays for sequences of different lengths.
        """
        check_is_fitted(self, "model_")
        if self.every_step_:
            scale, mean = self.target_scale_, self.target_mean_
            found = [one.numpy() * scale + mean for one in self._step_outputs(X, lengths)]
            return together([one[:, 0] for one in found] if len(mean) == 1 else found)
        outputs = self._outputs(X, lengths).numpy() * self.target_scale_ + self.target_mean_
        return outputs[:, 0] if self._flat else outputs

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> float:
        """R², the share of the variance that is explained, of sequences or of true steps."""
        check_is_fitted(self, "model_")
        if self.every_step_:
            numbers = numbers_of(self._step_truth(X, y, lengths))
            answers = [one.reshape(len(one), -1) for one in self.predict(X, lengths)]
            true, found, each = scored(numbers, answers, sample_weight)
            return r2_score(true, found, sample_weight=each)
        return r2_score(y, self.predict(X, lengths), sample_weight=sample_weight)

    def _read_targets(self, y: ArrayLike, anew: bool, classes: np.ndarray | None) -> np.ndarray:
        if y is None:
            raise ValueError("RNNRegressor requires y to be passed, but the target y is None.")
        numbers = check_array(y, ensure_2d=False, allow_nd=True, dtype=np.float64, input_name="y")
        if numbers.ndim > 2:
            raise ValueError(
                f"y must be (count,) or (count, outputs), got {numbers.shape}; targets at every"
                " step need RNNOptions(every_step=True)."
            )
        columns = numbers.reshape(len(numbers), -1)
        if anew:
            self._flat: bool = numbers.ndim == 1
        elif columns.shape[1] != len(self.target_mean_):
            raise ValueError(
                f"y must have {len(self.target_mean_)} outputs as before, got {columns.shape[1]}."
            )
        return columns

    def _read_step_targets(
        self, steps: StepTargets, anew: bool, classes: np.ndarray | None
    ) -> np.ndarray:
        if not anew and len(steps.names) != len(self.target_mean_):
            raise ValueError(
                f"y must have {len(self.target_mean_)} outputs as before, got {len(steps.names)}."
            )
        self._flat = len(steps.names) == 1
        return numbers_of(steps)

    def _take_targets(self, preparation: Preparation) -> None:
        self.target_mean_ = np.array(preparation.target_mean)
        self.target_scale_ = np.array(preparation.target_deviation)
        self._flat = len(self.target_mean_) == 1

    def _measure(self, given: Given) -> None:
        super()._measure(given)
        if self.every_step_:
            self.target_mean_, self.target_scale_ = self._step_moments(given.targets)
            return
        each = list(given.targets[:, None])  # as if a sequence of one step
        self.target_mean_, self.target_scale_ = self._moments(each, given.weights)

    def _step_moments(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (output,) over all steps with a target."""
        rows = targets.reshape(-1, targets.shape[-1])
        if not self._options().normalize:
            return np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        found = [moments([column[~np.isnan(column)][:, None]]) for column in rows.T]
        mean, scale = (np.concatenate(part) for part in zip(*found, strict=True))
        return mean, scale

    def _check_plain(self, given: Given) -> None:
        super()._check_plain(given)
        if not self.every_step_:
            check_plain([given.targets], "y")

    def _standardized(self, given: Given) -> Examples:
        mean, scale = self.target_mean_, self.target_scale_
        if self.every_step_:
            numbers = torch.from_numpy((given.targets - mean) / scale).float()
            return replace(super()._standardized(given), targets=numbers)
        targets = standardized([given.targets], mean, scale, "y")[0][0]
        return replace(super()._standardized(given), targets=targets)

    def _output_size(self) -> int:
        return len(self.target_mean_)
