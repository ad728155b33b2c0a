"""`RNNClassifier`: sequences to classes, as scikit-learn has it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d

from rnnopt.config.data_config import Kind
from rnnopt.config.errors import UserError, without_dashes
from rnnopt.estimator.base import RecurrentEstimator
from rnnopt.estimator.every_step import classes_from, classes_of, places_of, scored, together
from rnnopt.estimator.labels import labels_of
from rnnopt.estimator.options import takes_moved_options
from rnnopt.tasks.choices import with_choices
from rnnopt.tasks.task import Loss, Task
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.step_targets import StepTargets


@takes_moved_options
@dataclass(kw_only=True, eq=False, repr=False)
class RNNClassifier(ClassifierMixin, RecurrentEstimator):
    """Recurrent network that gives each sequence a class, or each of several labels or not.

    Args:
        class_weight: how much each class counts: None, by its sequences; "balanced", all classes
            the same; or a dictionary from class to weight.
        and all of `Settings`: model, hidden, optimizer, epochs, …

    Attributes:
        classes_: the classes, sorted; of several labels the columns of y, 0, 1, ….
        multilabel_: whether y was (count, labels) of 0 and 1.
        model_, n_iter_, loss_curve_, n_features_in_, feature_names_in_, …: as there.

    Example:
        >>> classifier = RNNClassifier(model="gru", epochs=20, random_state=0)
        >>> classifier.fit(X, y).predict(X)  # X: (count, time, features)
    """

    class_weight: Literal["balanced"] | dict | None = None

    multilabel_ = False  # until `fit` is given several labels a sequence
    _kinds: ClassVar[tuple[Kind, ...]] = ("classification", "multilabel")

    @property
    def _loss(self) -> Loss:
        return "binary-cross-entropy" if self.multilabel_ else "cross-entropy"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

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
        """The class of each sequence, or of each step: (count, time), or a list of arrays.

        Of several labels 0 or 1 for each, (count, labels).
        """
        likely = self.predict_proba(X, lengths)
        if self.multilabel_:
            return (likely > 0.5).astype(int)
        if not self.every_step_:
            return self.classes_[likely.argmax(1)]
        return together([self.classes_[one.argmax(1)] for one in likely])

    def predict_proba(self, X: ArrayLike, lengths: ArrayLike | None = None) -> np.ndarray:
        """Probabilities (count, classes), in the order of `classes_`.

        Of several labels the probability of each, (count, labels). With a target at every step
        (count, time, classes), or a list of arrays (time, classes) for sequences of different
        lengths.
        """
        check_is_fitted(self, "model_")
        if self.every_step_:
            return together([one.softmax(1).numpy() for one in self._step_outputs(X, lengths)])
        outputs = self._outputs(X, lengths)
        return (outputs.sigmoid() if self.multilabel_ else outputs.softmax(1)).numpy()

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> float:
        """Accuracy, of sequences or of the steps with a target.

        Of several labels it is the share of sequences with all of them right (subset accuracy).
        """
        check_is_fitted(self, "model_")
        if self.every_step_:
            steps, found = self._step_truth(X, y, lengths), self.predict(X, lengths)
            known = np.isin(classes_of(steps), self.classes_)
            if not known.all():
                raise ValueError(f"y must have the classes {self.classes_} alone.")
            true, answers, sample_weight = scored(
                places_of(steps, self.classes_), list(found), sample_weight
            )
            return accuracy_score(self.classes_[true], answers, sample_weight=sample_weight)
        return accuracy_score(y, self.predict(X, lengths), sample_weight=sample_weight)

    def _read_targets(self, y: ArrayLike, anew: bool, classes: np.ndarray | None) -> np.ndarray:
        labels = labels_of(y)
        if not anew and self.multilabel_ != (labels is not None):
            before = "several labels" if self.multilabel_ else "one class"
            raise ValueError(f"y must have {before} a sequence, as before.")
        self.multilabel_ = labels is not None
        if labels is not None:
            return self._read_labels(labels, anew, classes)
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

    def _read_labels(
        self, labels: np.ndarray, anew: bool, classes: np.ndarray | None
    ) -> np.ndarray:
        """Several labels a sequence, as the network learns them."""
        if self.class_weight is not None:
            raise ValueError(
                "class_weight is for one class a sequence: with several labels pass sample_weight."
            )
        if anew:
            self.classes_ = np.arange(labels.shape[1]) if classes is None else classes
        if labels.shape[1] != len(self.classes_):
            raise ValueError(f"y must have {len(self.classes_)} labels, got {labels.shape[1]}.")
        return labels

    def _read_step_targets(
        self, steps: StepTargets, anew: bool, classes: np.ndarray | None
    ) -> np.ndarray:
        self.multilabel_ = False
        if anew:
            self.classes_ = classes_of(steps) if classes is None else classes
        return places_of(steps, self.classes_)

    def _take_targets(self, preparation: Preparation) -> None:
        self.multilabel_ = preparation.kind == "multilabel"
        names = preparation.classes
        self.classes_ = np.array(names) if self.multilabel_ else classes_from(names)

    def _weighed(self, task: Task) -> Task:
        if self.class_weight is None or not self.every_step_:
            return task
        chosen = self.class_weight
        if chosen != "balanced":
            places = {str(name): str(place) for place, name in enumerate(self.classes_)}
            chosen = {places.get(str(name), str(name)): w for name, w in chosen.items()}
        try:
            return with_choices(task, class_weight=chosen)
        except UserError as error:
            raise ValueError(without_dashes(str(error))) from error

    def _output_size(self) -> int:
        return len(self.classes_)

    def _weights(self, sample_weight: ArrayLike | None, targets: np.ndarray) -> np.ndarray | None:
        weights = super()._weights(sample_weight, targets)
        if self.class_weight is None or targets.ndim > 1:  # of each step: the task weighs them
            return weights
        present = np.unique(targets)
        each = np.ones(len(self.classes_))
        each[present] = compute_class_weight(
            self.class_weight, classes=self.classes_[present], y=self.classes_[targets]
        )
        return each[targets] * (1 if weights is None else weights)
