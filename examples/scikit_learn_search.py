"""scikit-learn: `RNNClassifier` in a pipeline, and a cross-validated search of its settings.

X is (count, time, features), or a list of arrays of different lengths. aeon's layout,
(count, channels, time), needs `layout="time-last"`.
"""

import sys

from digits import digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from rnnopt import RNNClassifier


def centred(images):
    """Each image with mean 0."""
    return images - images.mean((1, 2), keepdims=True)


def main(quick: bool) -> None:
    """Searches for the model and the optimizer, prints the best and its accuracy."""
    (inputs, targets), (test_inputs, test_targets) = (
        [tensor.numpy() for tensor in part.tensors] for part in digits(quick)
    )
    classifier = RNNClassifier(epochs=10 if quick else 30, random_state=0)
    search = GridSearchCV(
        make_pipeline(FunctionTransformer(centred), classifier),
        {
            "rnnclassifier__model": ["rnn", "gru"],
            "rnnclassifier__optimizer": ["frank-wolfe", "adam"],
        },
        cv=3,
    )
    search.fit(inputs, targets)
    print(f"best: {search.best_params_}")
    print(f"test accuracy {search.score(test_inputs, test_targets):.3f}")


if __name__ == "__main__":
    main("--quick" in sys.argv)
