"""rnnopt: optimizers and tools for recurrent networks where ordinary training struggles.

What stands here is imported when it is asked for: the command `rnnopt` then starts without torch,
whose import takes a second, and can be interrupted quietly.
"""

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from rnnopt.config.version import VERSION

if TYPE_CHECKING:
    from rnnopt.admm.options import ADMMOptions as ADMMOptions
    from rnnopt.admm.trainer import ADMM as ADMM
    from rnnopt.diagnostics.gradient_flow import GradientFlow as GradientFlow
    from rnnopt.estimator import RNNClassifier as RNNClassifier
    from rnnopt.estimator import RNNOptions as RNNOptions
    from rnnopt.estimator import RNNRegressor as RNNRegressor
    from rnnopt.layers.elman import ElmanRNN as ElmanRNN
    from rnnopt.layers.gru import GRU as GRU
    from rnnopt.layers.indrnn import IndRNN as IndRNN
    from rnnopt.layers.lstm import LSTM as LSTM
    from rnnopt.layers.sequence_model import SequenceModel as SequenceModel
    from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe as FrankWolfe
    from rnnopt.optimizers.frank_wolfe.options import FrankWolfeOptions as FrankWolfeOptions
    from rnnopt.optimizers.quasi_newton.adaqn import AdaQN as AdaQN
    from rnnopt.optimizers.quasi_newton.asnaq import ASNAQ as ASNAQ
    from rnnopt.optimizers.quasi_newton.bfgs import BFGS as BFGS
    from rnnopt.optimizers.quasi_newton.bfgs import LBFGS as LBFGS
    from rnnopt.optimizers.quasi_newton.naq import LNAQ as LNAQ
    from rnnopt.optimizers.quasi_newton.naq import NAQ as NAQ
    from rnnopt.optimizers.quasi_newton.options import AdaQNOptions as AdaQNOptions
    from rnnopt.optimizers.quasi_newton.options import ASNAQOptions as ASNAQOptions

__version__ = VERSION

PLACES = {
    "ADMM": "admm.trainer",
    "ADMMOptions": "admm.options",
    "ASNAQ": "optimizers.quasi_newton.asnaq",
    "ASNAQOptions": "optimizers.quasi_newton.options",
    "AdaQN": "optimizers.quasi_newton.adaqn",
    "AdaQNOptions": "optimizers.quasi_newton.options",
    "BFGS": "optimizers.quasi_newton.bfgs",
    "ElmanRNN": "layers.elman",
    "FrankWolfe": "optimizers.frank_wolfe.optimizer",
    "FrankWolfeOptions": "optimizers.frank_wolfe.options",
    "GRU": "layers.gru",
    "GradientFlow": "diagnostics.gradient_flow",
    "IndRNN": "layers.indrnn",
    "LBFGS": "optimizers.quasi_newton.bfgs",
    "LNAQ": "optimizers.quasi_newton.naq",
    "LSTM": "layers.lstm",
    "NAQ": "optimizers.quasi_newton.naq",
    "SequenceModel": "layers.sequence_model",
}
ESTIMATORS = (
    "RNNClassifier",
    "RNNOptions",
    "RNNRegressor",
)  # these need scikit-learn, the rest does not
__all__ = [  # written out, for type checkers
    "ADMM",
    "ASNAQ",
    "BFGS",
    "GRU",
    "LBFGS",
    "LNAQ",
    "LSTM",
    "NAQ",
    "ADMMOptions",
    "ASNAQOptions",
    "AdaQN",
    "AdaQNOptions",
    "ElmanRNN",
    "FrankWolfe",
    "FrankWolfeOptions",
    "GradientFlow",
    "IndRNN",
    "SequenceModel",
]  # fmt: skip

# Modules that were documented under another name; until version 0.3.
MOVED = {
    "rnnopt.memory": "rnnopt.training.malloc",
    "rnnopt.optimizers.asnaq": "rnnopt.optimizers.quasi_newton.asnaq",
}


class _Moved(MetaPathFinder, Loader):
    """Imports a module of `MOVED` from where it is now, with a warning."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: Any) -> None:
        old = module.__name__
        warnings.warn(f"{old} is now {MOVED[old]}.", DeprecationWarning, stacklevel=2)
        sys.modules[old] = import_module(MOVED[old])


sys.meta_path.append(_Moved())


def __getattr__(name: str) -> Any:
    """Imports a public name, or a module of the package, that is asked for."""
    if name in PLACES:
        value = getattr(import_module(f"rnnopt.{PLACES[name]}"), name)
        globals()[name] = value
        return value
    if name in ESTIMATORS:
        return _estimator(name)
    if name.isidentifier() and not name.startswith("_"):
        try:
            return import_module(f"rnnopt.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"rnnopt.{name}":
                raise
    raise AttributeError(f"module 'rnnopt' has no attribute {name!r}")


def _estimator(name: str) -> Any:
    try:
        estimator = import_module("rnnopt.estimator")
    except ImportError as error:
        needed = 'pip install "rnnopt[estimator]"'
        raise ImportError(f"{name} needs scikit-learn and rich: {needed} ({error}).") from error
    return getattr(estimator, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES, *ESTIMATORS})
