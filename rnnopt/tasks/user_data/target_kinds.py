"""What the targets are: classes, several labels or numbers, of series or of steps."""

import numpy as np

from rnnopt.config.data_config import Kind
from rnnopt.tasks.user_data.checks import MANY_CLASSES, refuse_unlikely, rows_of_classes
from rnnopt.tasks.user_data.labels import labels_of, names_of
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.step_targets import StepTargets
from rnnopt.tasks.user_data.words import number_name


def kind_of(data: Recordings, chosen: Kind | None) -> Kind:
    """The kind of targets: as passed, else as declared in the file, else as they look.

    Raises:
        ValueError: they cannot be of the kind passed, or look like both kinds.
    """
    targets = data.targets
    if data.steps is not None:
        return kind_of_steps(data.steps, chosen or data.kind)
    assert targets is not None
    numeric = targets.dtype.kind == "f"
    kind = chosen or data.kind
    if kind == "regression":
        numbers_of(targets)
    if kind == "multilabel":
        labels_of(targets)
    if kind == "classification" and targets.ndim != 1:
        raise ValueError(f"{rows_of_classes(targets)}.")
    if kind is not None:
        return kind
    if targets.ndim != 1:
        refuse_unlikely(data, targets)
        return "regression"
    if numeric and (targets != np.round(targets)).any():
        return "regression"
    different = len(np.unique(targets))
    # More classes than MANY, and on average fewer than two series per class.
    if numeric and different > MANY_CLASSES and 2 * different > len(targets):
        raise ValueError(
            f"the {len(targets)} targets are {different} different whole numbers: pass the kind,"
            " classification or regression."
        )
    return "classification"


def kind_of_steps(steps: StepTargets, chosen: Kind | None) -> Kind:
    """The kind of targets at every step: as passed, else words and few whole numbers are classes.

    Raises:
        ValueError: they cannot be of the kind passed.
    """
    if chosen == "multilabel":
        labels_of(None)
    if chosen == "regression" and steps.words:
        raise ValueError(f"regression needs numbers as targets, got {steps.words[0]!r}.")
    if chosen == "classification" and len(steps.names) > 1:
        names = ", ".join(steps.names)
        raise ValueError(f"a step has one class, got {len(steps.names)} targets: {names}.")
    if chosen is not None or steps.words:
        return chosen or "classification"
    present = steps.present
    whole = len(steps.names) == 1 and bool((present == np.round(present)).all())
    few = whole and len(np.unique(present)) <= MANY_CLASSES
    return "classification" if few else "regression"


def classes_of(data: Recordings, kind: Kind) -> tuple[str, ...]:
    """The names of the classes of series or steps, or of several labels; () in regression."""
    if kind == "regression":
        return ()
    if kind == "multilabel":
        return names_of(data)
    if data.steps is not None:
        return data.steps.classes
    assert data.targets is not None
    return class_names(data.targets)


def class_names(targets: np.ndarray) -> tuple[str, ...]:
    """The names of the classes, in the order of numbers or of the alphabet."""
    return tuple(label_names(np.unique(targets)))


def label_names(targets: np.ndarray) -> list[str]:
    """The name of each target's class; that of 1.0 is "1"."""
    if targets.dtype.kind == "f":
        return [number_name(one) for one in targets.tolist()]
    return [str(one) for one in targets.tolist()]


def numbers_of(targets: np.ndarray) -> np.ndarray:
    """Targets as (count, outputs) numbers; ValueError if they are words."""
    if targets.dtype.kind != "f":
        raise ValueError(f"regression needs numbers as targets, got {str(targets.ravel()[0])!r}.")
    return targets.reshape(len(targets), -1)
