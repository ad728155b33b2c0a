"""Several labels a sequence, as scikit-learn has them: rows of 0 and 1, a column a label."""

import warnings
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.checks import rows_of_classes


def labels_of(y: Any) -> np.ndarray | None:
    """Labels (count, labels) of 0 and 1 in float32; None if y has one axis or one column.

    Args:
        y: an array, a list of rows, or scipy's sparse matrix.

    Raises:
        ValueError: rows of different lengths, or of anything but 0 and 1.
    """
    try:
        rows = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
    except ValueError:  # lists of labels, of different lengths
        raise ValueError(
            "y must have one class a sequence, or rows of 0 and 1 of one length, got rows of"
            " different lengths: scikit-learn's MultiLabelBinarizer makes such rows of lists."
        ) from None
    if rows.ndim != 2 or rows.shape[1] == 1 or not rows.size:
        return None
    if rows.dtype.kind not in "biuf" or not np.isin(rows, (0, 1)).all():
        sentence = rows_of_classes(rows, "y")
        raise ValueError(f"{sentence}; RNNRegressor takes rows of numbers to predict.")
    if (rows.sum(1) == 1).all():
        warnings.warn(
            "the rows of y have a single 1 each and are taken for several labels: if they are"
            " classes, give one class a sequence, y.argmax(1).",
            stacklevel=6,  # at the call of `fit`
        )
    return rows.astype(np.float32)
