"""The paper's methods and their competitors as settings of runs."""

from typing import Any

from rnnopt.experiments.reproduce.frank_wolfe.methods import rnnopts
from rnnopt.experiments.reproduce.study import Row

# The algorithm with the options as the paper prints them (PRESETS["paper"]). `clear` is no option
# any more; it stands here so that a reproduction begun with it goes on.
PAPER = "asnaq:second_gradient=true,clear=all,update_every=5,fisher_memory=100,scaling=history"
PRINTED_RATE = 0.01
# "All weights are initialised with random normal distribution with zero mean and 0.01 deviation."
PRINTED: dict[str, Any] = dict(initialization="normal", schedule="constant")
TUNED: dict[str, Any] = dict(schedule="cosine")


def printed(label: str, optimizer: str, **settings: Any) -> Row:
    """A row with the paper's learning rate and initialisation, not tuned."""
    return Row(
        f"{label}, as printed",
        dict(optimizer=optimizer, **PRINTED, **settings),
        shown=True,
        rate=PRINTED_RATE,
    )


def tuned(
    label: str, optimizer: str, rate_unit: float = 1.0, shown: bool = False, **settings: Any
) -> Row:
    """A row whose learning rate is tuned, with torch's initialisation and a cosine schedule."""
    return Row(label, dict(optimizer=optimizer, **TUNED, **settings), {}, rate_unit, shown)


ROWS = (
    printed("aSNAQ", PAPER),
    printed("adaQN", "adaqn"),
    printed("Adam", "adam"),
    printed("Adagrad", "adagrad"),
    tuned("Adam, tuned", "adam", shown=True),
    tuned("RMSprop, tuned", "rmsprop"),
    tuned("Muon, tuned", "muon"),
    tuned("aSNAQ, tuned", PAPER, rate_unit=10),
    tuned("rnnopt ASNAQ", "asnaq", rate_unit=10, shown=True),
    rnnopts(**TUNED),
)
REMARKS = (
    "As printed: constant learning rate 0.01, weights drawn from N(0, 0.01²). The paper gives one"
    " learning rate and does not state whether the other methods used it too. Tuned: from three"
    " learning rates on, ten times as large for ASNAQ, whose rate is the length of a step in"
    " the space of all weights; torch's initialisation; cosine schedule.",
    "aSNAQ as in the paper takes two gradients per step, rnnopt ASNAQ one. A forward pass alone"
    " counts as a third of a gradient evaluation.",
)
EQUAL = "Every row has the same number of gradient evaluations; the paper draws curves over epochs."
