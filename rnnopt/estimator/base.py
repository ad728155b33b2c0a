"""What classifier and regressor share: data, training and continuing.

The data become a `Task`, the settings a `RunConfig`; the loop is that of rnnopt/training/loop.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor

from rnnopt.config.data_config import Kind
from rnnopt.config.run_config import RunConfig
from rnnopt.estimator.doubts import Seen
from rnnopt.estimator.every_step import read_steps, refuse_steps
from rnnopt.estimator.given import Given, read_weights
from rnnopt.estimator.holding_out import kept_and_aside, read_groups
from rnnopt.estimator.one_run import build_task, train
from rnnopt.estimator.sequences import padded_steps, read_sequences, seen_by
from rnnopt.estimator.settings import REST, Settings
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.moments import check_plain, moments, standardized
from rnnopt.tasks.pieces import outputs_of
from rnnopt.tasks.task import Loss, Task
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.series import pool
from rnnopt.tasks.user_data.step_targets import StepTargets


@dataclass(kw_only=True, eq=False, repr=False)
class RecurrentEstimator(Settings):
    """What `RNNClassifier` and `RNNRegressor` share; its arguments are those of `Settings`.

    Attributes:
        model_: the `SequenceModel`, with the weights that predict.
        n_features_in_: features a step; of a table (count, time), its columns.
        feature_names_in_: names of a table's columns, where they are strings.
        n_iter_, loss_curve_: epochs done; mean training loss of each.
        validation_curve_: with `early_stopping`, accuracy or squared error after each epoch.
        mean_, scale_: what each feature is standardised by.
    """

    every_step_ = False  # of an estimator that an earlier version fitted

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Trains the network, from new weights unless `warm_start`.

        Args:
            X: (count, time), (count, time, features), or a list of arrays (time, features).
            y: (count,); of a regressor also (count, outputs), of a classifier also several labels a
                sequence, (count, labels) of 0 and 1. With RNNOptions(every_step=True) one
                for each step: (count, time), (count, time, outputs), or a list of arrays; NaN, None
                and empty words are missing targets, which do not count.
            sample_weight: (count,), how much each sequence counts.
            lengths: (count,), true steps of padded sequences.
            groups: (count,), the person, machine, … that each sequence is of: `early_stopping`
                keeps whole groups aside. `set_fit_request(groups=True)` routes them here from
                scikit-learn's cross-validation and searches.

        Raises:
            ValueError: data or settings that do not fit; the longest sequence's minibatch does not
                fit in memory; training diverges.
        """
        anew = not (self.warm_start and hasattr(self, "model_"))
        return self._fit(X, y, sample_weight, lengths, anew, self.epochs, groups=groups)

    def _partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        lengths: ArrayLike | None,
        classes: np.ndarray | None = None,
    ) -> Self:
        if self.early_stopping:
            raise ValueError("partial_fit needs early_stopping=False, got True.")
        anew = not hasattr(self, "model_")
        return self._fit(X, y, sample_weight, lengths, anew, 1, "constant", classes)

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        lengths: ArrayLike | None,
        anew: bool,
        epochs: int,
        schedule: str | None = None,
        classes: np.ndarray | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        random = check_random_state(self.random_state)
        config = self._config(
            epochs, schedule or self._options().schedule, int(random.randint(2**31 - 1))
        )
        before = dict(self.__dict__)
        try:
            partial = schedule is not None  # a part of the data may be a small one
            given = self._read(X, y, sample_weight, lengths, groups, anew, classes)
            self._learn(given, anew, config, random, not partial)
        except BaseException:  # an estimator that was refused its data still is what it was
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _read(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        lengths: ArrayLike | None,
        groups: ArrayLike | None,
        anew: bool,
        classes: np.ndarray | None,
    ) -> Given:
        """The data, checked; notes what they look like."""
        sequences = read_sequences(self, X, lengths, layout=self.layout, reset=anew)
        every_step = bool(self._options().every_step)
        if not anew and every_step != self.every_step_:
            raise ValueError(f"every_step must be {self.every_step_} as before, got {every_step}.")
        self.every_step_ = every_step
        if every_step:
            if self._options().subsample > 1:
                raise ValueError(
                    "subsample must be 1 with every_step=True: each step has a target."
                )
            steps = read_steps(y, sequences)
            targets = self._read_step_targets(steps, anew, classes)
        else:
            targets = self._read_targets(y, anew, classes)
            check_consistent_length(sequences, targets)
            if self._options().every_step is None:
                refuse_steps(targets.shape, {len(one) for one in sequences})
        seen = Seen.of(sequences, padded_steps(X, self.layout), lengths is not None)
        before = None if anew else seen_by(self)
        self._seen = seen if before is None else before.with_more(seen)
        weights = self._weights(sample_weight, targets)
        given = Given(self._pooled(sequences), targets, weights, read_groups(groups, targets))
        return given.counted()

    def _learn(
        self,
        given: Given,
        anew: bool,
        config: RunConfig,
        random: np.random.RandomState,
        warn: bool,
    ) -> None:
        parts = self._split(given, random) if self.early_stopping else [given]
        if anew:
            self._measure(parts[0])
        if not self._options().normalize:
            self._check_plain(parts[0])
        examples = [self._standardized(part) for part in parts]
        metric = self._options().metric
        task = build_task(examples, self._loss, self._output_size(), config.seed, metric)
        task = self._weighed(task)
        outcome = train(
            config,
            task,
            None if anew else self._ended,
            self._options().patience if self.early_stopping else None,
            type(self).__name__ if self.verbose else None,
            warn,
        )
        self.model_: SequenceModel = outcome.model
        self._ended: dict[str, Any] = outcome.ended
        self.n_iter_: int = outcome.epochs + (0 if anew else self.n_iter_)
        self.loss_curve_: list[float] = ([] if anew else self.loss_curve_) + outcome.losses
        if self.early_stopping:
            self.validation_curve_ = outcome.metrics

    # -- what differs ------------------------------------------------------------------------------

    @property
    def _loss(self) -> Loss:
        """What the network is trained by."""
        raise NotImplementedError

    def _read_targets(self, y: ArrayLike, anew: bool, classes: np.ndarray | None) -> np.ndarray:
        """What the network is to learn: numbers of classes (count,), or (count, outputs)."""
        raise NotImplementedError

    def _read_step_targets(
        self, steps: StepTargets, anew: bool, classes: np.ndarray | None
    ) -> np.ndarray:
        """The same of each step: classes (count, time), or numbers (count, time, outputs)."""
        raise NotImplementedError

    def _output_size(self) -> int:
        raise NotImplementedError

    def _weights(self, sample_weight: ArrayLike | None, targets: np.ndarray) -> np.ndarray | None:
        """How much each sequence counts; None where all count alike."""
        return read_weights(sample_weight, targets)

    def _weighed(self, task: Task) -> Task:
        """The task, its classes weighted where the sequences cannot be."""
        return task

    # -- the data ----------------------------------------------------------------------------------

    def _measure(self, given: Given) -> None:
        """Notes by what the features are standardised."""
        self.mean_, self.scale_ = self._moments(given.sequences, given.weights)

    def _moments(
        self, series: Sequence[np.ndarray], weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (feature,) over the true steps, or 0 and 1 without `normalize`."""
        if self._options().normalize:
            return moments(series, weights)
        features = series[0].shape[1]
        return np.zeros(features), np.ones(features)

    def _check_plain(self, given: Given) -> None:
        """Raises ValueError where float32 would lose what varies in data that stay as they are."""
        check_plain(given.sequences)

    def _standardized(self, given: Given) -> Examples:
        """The sequences as the network sees them."""
        inputs, lengths = standardized(given.sequences, self.mean_, self.scale_)
        weights = None
        if given.weights is not None:  # of mean 1, so that float32 holds them whatever their unit
            weights = torch.from_numpy(given.weights / given.weights.mean()).float()
        return Examples(inputs, torch.tensor(given.targets), lengths, weights=weights)

    def _split(self, given: Given, random: Any) -> list[Given]:
        """Training and validation data."""
        share = self._options().validation_fraction
        if not 0 < share < 1:
            raise ValueError(f"validation_fraction must be in (0, 1), got {share}.")
        places = kept_and_aside(given.targets, given.groups, share, random)
        return [given.select(part) for part in places]

    def _pooled(self, sequences: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The sequences with the steps averaged that make one step of the network."""
        width = self._options().subsample
        return sequences if width == 1 else [pool(one, width) for one in sequences]

    def _examples(self, X: ArrayLike, lengths: ArrayLike | None) -> Examples:
        """Sequences to answer, as the network sees them."""
        check_is_fitted(self, "model_")
        sequences = read_sequences(self, X, lengths, layout=self.layout, reset=False)
        inputs, true = standardized(self._pooled(sequences), self.mean_, self.scale_)
        return Examples(inputs, torch.zeros(len(sequences)), true)

    def _outputs(self, X: ArrayLike, lengths: ArrayLike | None) -> Tensor:
        """The network's outputs (count, output)."""
        examples = self._examples(X, lengths)
        return outputs_of(self.model_, examples, torch.device(self._options().device))

    def _step_outputs(self, X: ArrayLike, lengths: ArrayLike | None) -> list[Tensor]:
        """The network's outputs (time, output) at the steps of each sequence."""
        from rnnopt.runs.step_scores import step_outputs

        device = torch.device(self._options().device)
        found = step_outputs(self.model_, self._examples(X, lengths), device)
        return [torch.from_numpy(one) for one in found]

    def _step_truth(self, X: ArrayLike, y: ArrayLike, lengths: ArrayLike | None) -> StepTargets:
        """The targets of each step, to score answers by."""
        return read_steps(y, read_sequences(self, X, lengths, layout=self.layout, reset=False))

    # -- files -------------------------------------------------------------------------------------

    def export_onnx(self, path: str | Path) -> None:
        """Writes the network and its preparation of sequences as an ONNX file.

        The file takes raw `inputs` (batch, time, features) and `lengths` (batch,), and answers with
        probabilities, in the order of `classes_`, or numbers. It needs the extra `export`, and is
        written only if it answers as this estimator does.

        Raises:
            ValueError: it does not, or cannot be written.
        """
        check_is_fitted(self, "model_")
        from rnnopt.estimator.files import write_onnx

        write_onnx(self, Path(path))

    @classmethod
    def from_pretrained(cls, run: str | Path) -> Self:
        """An estimator with the network of a finished run of `rnnopt train --data`.

        It predicts as `rnnopt predict` does, of series without missing values. With
        `warm_start=True` its `fit` goes on from these weights.

        Args:
            run: folder of the run.

        Raises:
            ValueError: it holds no finished run on own data, or one of another kind.
        """
        from rnnopt.estimator.files import arguments_of, open_trained, take_over

        trained = open_trained(Path(run), cls._kinds)
        estimator = cls(**arguments_of(trained, REST[:-1]))
        take_over(estimator, trained)
        estimator._take_targets(trained.preparation)
        return estimator

    _kinds: ClassVar[tuple[Kind, ...]]  # of runs that `from_pretrained` takes

    def _take_targets(self, preparation: Preparation) -> None:
        """Notes the classes of a run, or by what its targets are standardised."""
        raise NotImplementedError
