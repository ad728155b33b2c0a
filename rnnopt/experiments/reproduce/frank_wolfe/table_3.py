"""Table III: test accuracy on HAR-2 and Noisy-HAR-2; Fig. 6 is drawn from the same runs."""

from dataclasses import replace

from rnnopt.experiments.reproduce.frank_wolfe.methods import (
    STRONGEST,
    literature,
    ours,
    rnnopts,
    row,
)
from rnnopt.experiments.reproduce.study import Column, Form, Study

CLEAN, NOISY = "HAR-2", "Noisy-HAR-2"


def printed(clean: float, noisy: float) -> dict[str, float]:
    """Accuracies of a row of the table, in percent."""
    return {CLEAN: clean, NOISY: noisy}


ROWS = (
    row("SGD (read as Adam)", "adam", printed(87.66, 74.38), shown=True),
    row("SGD (plain)", "sgd", rate_unit=100),
    row("SGD + clipping", "adam:clip=1", printed(93.36, 74.38), shown=True),
    row("TBPTT, 8 segments of 16", "adam:tbptt=16", printed(93.62, 86.20), shown=True),
    row("TBPTT, 16 segments of 8", "adam:tbptt=8"),
    row("LSTM + Adam", "adam", printed(94.40, 92.12), model="lstm"),
    row("Ours K=1", ours(1), printed(93.52, 86.04), shown=True),
    row("Ours K=5", ours(5), printed(94.11, 89.36), shown=True),
    row("Ours K=10", ours(10), printed(93.65, 89.52)),
    row("Ours K=5, p=inf", ours(5, "inf"), rate_unit=0.1),
    row("Ours + BN", ours(5), printed(94.37, 89.38), batch_norm=True),
    row("TBPTT + ours", ours(None) + ",tbptt=16", printed(94.01, 89.28)),
    row("LSTM + ours", ours(5), printed(94.95, 92.41), model="lstm"),
    row("IndRNN", "adam", printed(95.73, 91.20), model="indrnn-6"),
    row("IndRNN + ours", ours(5), printed(96.55, 92.15), model="indrnn-6"),
    *STRONGEST,
    rnnopts(),
    literature("RNN", CLEAN, 91.31),
    literature("LSTM", CLEAN, 93.65),
    literature("FastGRNN", CLEAN, 95.59),
    literature("coRNN", CLEAN, 97.2),
)
HAPT = (Column(CLEAN, "hapt2", target=0.87), Column(NOISY, "noisy-hapt2", target=0.85))
HAR = (Column(CLEAN, "har2"), Column(NOISY, "noisy-har2"))
SHARED = dict(watch_test=True)

TABLE_3 = Study(
    name="frank-wolfe/table-3",
    title="recurrent networks on activity windows, clean and noisy",
    claim="Frank-Wolfe beats Adam and TBPTT, by 15.14 points over SGD on noisy data (89.52 against"
    " 74.38); clipping helps on clean data only.",
    rows=ROWS,
    forms={
        "cpu": Form(HAPT, "30epochs", "10epochs", (3e-4, 1e-3, 3e-3), settings=SHARED),
        "full": Form(HAR, "300epochs", "60epochs", (2e-5, 2e-4, 6e-4, 1e-3), settings=SHARED),
        "quick": Form(
            HAPT,
            "8gradients",
            "4gradients",
            (1e-3, 3e-3),
            seeds=(0, 1),
            settings=SHARED,
            rows=("SGD (read as Adam)", "TBPTT, 8 segments of 16", "Ours K=5", "IndRNN"),
        ),
    },
    remarks=(
        "The cpu form trains on windows cut from the HAPT recordings (hapt2), which are not the"
        " UCI HAR files: its figures must not be quoted as UCI HAR's. The full form uses UCI"
        " HAR.",
        "Published figures are the best test accuracy of a run, single runs without seeds:"
        ' compare with "best of the run". Ours is the test accuracy at the best evaluation on'
        " validation data.",
        "Validation: four of the 21 training persons. Normalised by the training windows. After"
        " that, noise of variance two is drawn once and added. Batch 64, 80 units, MSE against"
        " 0/1.",
        "The targets are for the four validation persons, who are harder than the nine of the"
        " test data. They were lowered from 92 and 86 after runs of the tuning seed had shown"
        " that no optimizer reaches 92 there, and before the result of any reported run was"
        " known.",
        "The binomial standard error of the published figures is about 0.4 points, and larger"
        " because windows overlap by half and come from nine persons: most gaps on clean data"
        " are within it.",
    ),
    runs="frank-wolfe/table-3",
    curve="test_metric",
)
FIGURE_6 = replace(
    TABLE_3,
    name="frank-wolfe/figure-6",
    title="training loss on activity windows, clean and noisy",
    claim="the training loss of SGD goes up and down; Frank-Wolfe's falls steadily.",
)
