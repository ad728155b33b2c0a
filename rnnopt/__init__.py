"""rnnopt: optimizers and tools for recurrent networks where ordinary training struggles."""

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

__version__ = "0.1.0"
