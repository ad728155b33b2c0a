"""The Frank-Wolfe RNN optimizer: `optimizer.py` is the algorithm, the rest its parts."""

from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe as FrankWolfe
from rnnopt.optimizers.frank_wolfe.options import PRESETS as PRESETS
