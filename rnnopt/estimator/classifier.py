"""`RNNClassifier`: sequences to classes, as scikit-learn has it."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import assert_all_finite, column_or_1d

from rnnopt.estimator.base import RecurrentEstimator
from rnnopt.estimator.options import takes_moved_options
from rnnopt.tasks.task import Loss
from rnnopt.tasks.user_data.checks import ONE_EACH, rows_of_classes


@takes_moved_options
@dataclass(kw_only=True, eq=False, repr=False)
class RNNClassifier(ClassifierMixin, RecurrentEstimator):
    """Recurrent network that gives each sequence a class.

    Args:
        class_weight: how much each class counts: None, by its sequences; "balanced", all classes
            the same; or a dictionary from class to weight.
        and all of `RecurrentEstimator`: model, hidden, optimizer, epochs, …

    Attributes:
        classes_: the classes, sorted.
        model_, n_iter_, loss_curve_, n_features_in_, feature_names_in_, …: as there.

    Example:
        >>> classifier = RNNClassifier(model="gru", epochs=20, random_state=0)
        >>> classifier.fit(X, y).predict(X)  # X: (count, time, features)
    """

    class_weight: Literal["balanced"] | dict | None = None

    _loss: ClassVar[Loss] = "cross-entropy"

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> Self:
        """One pass through X and y; the first call needs `classes`, all that will ever come."""
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit cannot tell how common classes are: class_weight must be None or a"
                " dictionary, got 'balanced'."
            )
        given = None if classes is None else unique_labels(classes)
        known = self.classes_ if hasattr(self, "model_") else given
        if known is None:
            raise ValueError("the first call of partial_fit needs classes, got none.")
        if given is not None and not np.array_equal(given, known):
            raise ValueError(f"classes must be those of the first call, {known}, got {given}.")
        return self._partial_fit(X, y, sample_weight, lengths, known)

    def predict(self, X: ArrayLike, lengths: ArrayLike | None = None) -> np.ndarray:
        """The class of each sequence."""
        places = self.predict_proba(X, lengths).argmax(1)
        return self.classes_[places]

    def predict_proba(self, X: ArrayLike, lengths: ArrayLike | None = None) -> np.ndarray:
        """Probabilities (count, classes), in the order of `classes_`."""
        return self._outputs(X, lengths).softmax(1).numpy()

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> float:
        """Accuracy."""
        return accuracy_score(y, self.predict(X, lengths), sample_weight=sample_weight)

    def _read_targets(self, y: ArrayLike, anew: bool, classes: np.ndarray | None) -> np.ndarray:
        _refuse_rows(y)
        names: np.ndarray = column_or_1d(y, warn=True)
        assert_all_finite(names, input_name="y")
        if names.dtype == object and any(name is None for name in names):
            raise ValueError("y must name a class for every sequence, got None.")
        check_classification_targets(names)
        if anew:
            self.classes_ = np.unique(names) if classes is None else classes
        places = np.searchsorted(self.classes_, names).clip(max=len(self.classes_) - 1)
        unknown = self.classes_[places] != names
        if unknown.any():
            new = np.unique(names[unknown])
            raise ValueError(f"y must have the classes {self.classes_} alone, got {new} too.")
        return places

    def _output_size(self) -> int:
        return len(self.classes_)

    def _weights(self, sample_weight: ArrayLike | None, targets: np.ndarray) -> np.ndarray | None:
        weights = super()._weights(sample_weight, targets)
        if self.class_weight is None:
            return weights
        present = np.unique(targets)
        each = np.ones(len(self.classes_))
        each[present] = compute_class_weight(
            self.class_weight, classes=self.classes_[present], y=self.classes_[targets]
        )
        return each[targets] * (1 if weights is None else weights)


def _refuse_rows(y: ArrayLike) -> None:
    """Raises ValueError, which says what to do instead, for several classes a sequence."""
    try:
        classes = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
    except ValueError:  # lists of labels, of different lengths
        raise ValueError(
            f"y must have one class a sequence, got rows of different lengths: {ONE_EACH}."
        ) from None
    if classes.ndim == 2 and classes.shape[1] > 1:
        sentence = rows_of_classes(classes, "y")
        raise ValueError(f"{sentence}; RNNRegressor takes rows of numbers to predict.")
