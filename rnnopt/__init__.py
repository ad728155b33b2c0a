"""rnnopt: optimizers and tools for recurrent networks where ordinary training struggles."""

from rnnopt.optimizers.frank_wolfe import FrankWolfe as FrankWolfe
