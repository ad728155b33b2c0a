"""`RNNOptions`: what few users set of `RNNClassifier` and `RNNRegressor`."""

import functools
from dataclasses import dataclass
from typing import Any, TypeVar

from rnnopt.config.options import Options, with_moved

Kind = TypeVar("Kind", bound=type)


@dataclass(frozen=True, kw_only=True)
class RNNOptions(Options):
    """What few users set of `RNNClassifier` and `RNNRegressor`.

    Searches and `set_params` reach each as `options__clip`, say.

    Args:
        layers, dropout: as many layers, and the probability of a unit being zero for a whole
            sequence after each; None means the model's own, one layer without dropout for most.
        bidirectional, stem, batch_norm: a second direction in each layer, convolutions before the
            first, such as "8/4", and batch normalization of each; None means the model's own, none
            for most.
        readout: states that the answer is read from: "last", "mean", …, as `rnnopt train` has
            them; None means the last.
        subsample: steps that are averaged into one step of the network.
        every_step: whether each step has a target: y is (count, time), (count, time, outputs), or a
            list of arrays, one a sequence; and so are the predictions. None refuses y where that
            may be meant and False takes it as several numbers a sequence.
        metric: of early stopping, by scikit-learn's name, such as "f1_macro"; None means accuracy,
            or the squared error.
        batch_size: sequences a minibatch, which is padded to its own longest; None means 32, or all
            where the optimizer needs them. A warning says where it is more than there are, then all
            are taken.
        schedule: of the learning rate: "cosine" and "linear" end at zero; "constant", "plateau".
        clip: largest norm of a gradient; None for no limit.
        normalize: standardise each feature, and a regressor's targets, by the training data, in
            float64, whatever their offset and unit. Of several calls of `partial_fit` the first
            one's data count. False leaves them as they are, and refuses data of which float32
            would lose what varies.
        validation_fraction, patience: with `early_stopping` alone, the share of the sequences to
            keep aside, and the epochs without an improvement on them after which to stop.
        device: cpu, cuda or any name that torch knows.

    Example:
        >>> classifier = RNNClassifier(options=RNNOptions(clip=1.0, layers=2))
    """

    layers: int | None = None
    dropout: float | None = None
    bidirectional: bool | None = None
    stem: str | None = None
    batch_norm: bool | None = None
    readout: str | None = None
    subsample: int = 1
    every_step: bool | None = None
    metric: str | None = None
    batch_size: int | None = None
    schedule: str = "cosine"
    clip: float | None = None
    normalize: bool = True
    validation_fraction: float = 0.1
    patience: int = 10
    device: str = "cpu"


def takes_moved_options(estimator: Kind) -> Kind:
    """The class with a constructor that, for one release, takes fields of `RNNOptions` as well."""
    plain = estimator.__init__  # type: ignore[misc]

    @functools.wraps(plain)
    def __init__(self: Any, **given: Any) -> None:
        if given.keys() & RNNOptions().keys():
            options = given.pop("options", None) or RNNOptions()
            given["options"] = with_moved(RNNOptions, options, given)
        plain(self, **given)

    estimator.__init__ = __init__  # type: ignore[misc]
    return estimator
