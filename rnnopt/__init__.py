"""rnnopt: optimizers and tools for recurrent networks where ordinary training struggles."""

from typing import TYPE_CHECKING, Any

from rnnopt.admm.trainer import ADMM as ADMM
from rnnopt.gradient_flow import GradientFlow as GradientFlow
from rnnopt.layers.elman import ElmanRNN as ElmanRNN
from rnnopt.layers.indrnn import IndRNN as IndRNN
from rnnopt.layers.sequence_model import SequenceModel as SequenceModel
from rnnopt.optimizers.adaqn import AdaQN as AdaQN
from rnnopt.optimizers.asnaq import ASNAQ as ASNAQ
from rnnopt.optimizers.bfgs import BFGS as BFGS
from rnnopt.optimizers.bfgs import LBFGS as LBFGS
from rnnopt.optimizers.frank_wolfe import FrankWolfe as FrankWolfe
from rnnopt.optimizers.naq import LNAQ as LNAQ
from rnnopt.optimizers.naq import NAQ as NAQ

if TYPE_CHECKING:
    from rnnopt.estimator import RNNClassifier as RNNClassifier
    from rnnopt.estimator import RNNRegressor as RNNRegressor

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports the estimators when they are asked for: they need scikit-learn, the rest does not."""
    if name not in ("RNNClassifier", "RNNRegressor"):
        raise AttributeError(f"module 'rnnopt' has no attribute {name!r}")
    try:
        from rnnopt import estimator
    except ImportError as error:
        needed = 'pip install "rnnopt[estimator]"'
        raise ImportError(f"{name} needs scikit-learn and rich: {needed} ({error}).") from error
    return getattr(estimator, name)
