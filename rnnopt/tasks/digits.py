"""Real 8 x 8 handwritten digits that ship with scikit-learn, without a download.

1,797 images of the test part of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin
and Kaynak 1998), read row by row (8 steps of 8 features) or pixel by pixel (64 steps of one).
"""

import torch

from rnnopt.tasks.examples import Examples, split_examples, standardize
from rnnopt.tasks.task import Task


def _digits(name: str, summary: str, steps: int, target: float) -> Task:
    from sklearn.datasets import load_digits  # slow to import: only when the task is built

    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).float().view(len(images), steps, -1)
    examples = Examples(inputs, torch.from_numpy(labels).long())
    train, validation, test = standardize(split_examples(examples, [1200, 200, 397], seed=0))
    return Task(
        name=name,
        summary=summary,
        input_size=inputs.shape[2],
        output_size=10,
        loss="cross-entropy",
        target=target,
        train=train,
        validation=validation,
        test=test,
        epoch_size=len(train),
        hidden_size=64,
        batch_size=64,
    )


def digits_rows() -> Task:
    """Digits, with a row of 8 pixels per step."""
    return _digits("digits-rows", "8 x 8 handwritten digits, a row per step (8 steps)", 8, 0.95)


def digits_pixels() -> Task:
    """Digits, with one pixel per step."""
    return _digits(
        "digits-pixels", "8 x 8 handwritten digits, a pixel per step (64 steps)", 64, 0.9
    )
