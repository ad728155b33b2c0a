"""The Frank-Wolfe RNN optimizer: `optimizer.py` has the algorithm, the other files its parts."""

from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe as FrankWolfe
from rnnopt.optimizers.frank_wolfe.options import PRESETS as PRESETS
from rnnopt.optimizers.frank_wolfe.options import FrankWolfeOptions as FrankWolfeOptions
