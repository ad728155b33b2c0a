"""Fig. 3: training loss of the adding task, T = 100."""

from rnnopt.experiments.reproduce.frank_wolfe.methods import (
    STRONGEST,
    ours,
    rnnopts,
    row,
)
from rnnopt.experiments.reproduce.study import Column, Form, Study

SHARED = dict(evaluate_every=200)

FIGURE_3 = Study(
    name="frank-wolfe/figure-3",
    title="the adding task over 100 steps, one layer of 128 tanh units",
    claim="Frank-Wolfe converges after a reasonable number of iterations while SGD has lost the"
    " ability to learn (curves only).",
    rows=(
        row("SGD (read as Adam)", "adam", shown=True),
        row("SGD (plain)", "sgd", rate_unit=100),
        row("SGD + clipping", "adam:clip=1", shown=True),
        row("Ours K=1", ours(1), shown=True),
        row("Ours K=5", ours(5), shown=True),
        *STRONGEST,
        rnnopts(),
    ),
    forms={
        "cpu": Form(
            (Column("Adding, T=100", "adding"),),
            "6000gradients",
            "3000gradients",
            (3e-4, 1e-3, 3e-3),
            settings=SHARED,
        ),
        "full": Form(
            tuple(Column(f"Adding, T={n}", f"adding:length={n}") for n in (100, 200, 400)),
            "20000gradients",
            "10000gradients",
            (2e-5, 2e-4, 6e-4, 1e-3, 3e-3),
            settings=SHARED,
        ),
        "quick": Form(
            (Column("Adding, T=10", "adding:length=10"),),
            "8gradients",
            "4gradients",
            (1e-3, 3e-3),
            seeds=(0, 1),
            settings=dict(evaluate_every=4),
            rows=("SGD (read as Adam)", "Ours K=5", "rnnopt FrankWolfe"),
        ),
    },
    remarks=(
        "The target is the sum of the two marked numbers, as in the code that the paper cites;"
        " the paper's text describes the sum of all numbers between the marks"
        " (`adding:answer=between`).",
        "Always predicting 1 has an error of 0.167. Batch 50, new sequences in every batch.",
    ),
)
