"""rnnopt: optimizers and tools for recurrent networks where ordinary training struggles."""

from rnnopt.gradient_flow import GradientFlow as GradientFlow
from rnnopt.layers.elman import ElmanRNN as ElmanRNN
from rnnopt.layers.indrnn import IndRNN as IndRNN
from rnnopt.layers.sequence_model import SequenceModel as SequenceModel
from rnnopt.optimizers.frank_wolfe import FrankWolfe as FrankWolfe

__version__ = "0.1.0"
