"""Figs. 1 to 3: counting, MNIST by rows and MNIST by pixels with one layer of tanh units."""

from rnnopt.experiments.reproduce.asnaq.methods import EQUAL, REMARKS, ROWS
from rnnopt.experiments.reproduce.study import Column, Form, Study

RATES = (1e-3, 3e-3, 1e-2)
QUICK_ROWS = ("aSNAQ, as printed", "adaQN, as printed", "rnnopt ASNAQ")

FIGURE_1 = Study(
    name="asnaq/figure-1",
    title="counting the ones in binary strings of 20 steps, one layer of 24 tanh units",
    claim="far better than adaQN and Adagrad; faster than Adam at first, then close (curves over 75"
    " epochs).",
    rows=ROWS,
    forms={
        "cpu": Form((Column("Counting", "counting"),), "15000gradients", "5000gradients", RATES),
        "full": Form(
            (Column("Counting", "counting"),),
            "30000gradients",
            "15000gradients",
            (1e-4, 3e-4, *RATES),
        ),
        "quick": Form(
            (Column("Counting", "counting"),),
            "12gradients",
            "6gradients",
            RATES[:2],
            seeds=(0, 1),
            rows=QUICK_ROWS,
        ),
    },
    remarks=(
        *REMARKS,
        EQUAL,
        "Every epoch draws 10,000 new strings, 50 per batch. 15,000 gradient evaluations are 75"
        " epochs of a method with one gradient per step and about 35 of aSNAQ with two; the full"
        " form has all 75. Always predicting 10 has an error of 5. The text states cross-entropy"
        " but the figure shows squared errors; here the network has one linear output with"
        " squared error.",
    ),
)
FIGURE_2 = Study(
    name="asnaq/figure-2",
    title="MNIST by rows, one layer of 100 tanh units",
    claim=(
        "Adagrad is poor; aSNAQ is above Adagrad and adaQN, almost on par with Adam (curves"
        " over 35 epochs)."
    ),
    rows=ROWS,
    forms={
        "cpu": Form((Column("MNIST", "mnist-rows"),), "10epochs", "1000gradients", RATES),
        "full": Form(
            (Column("MNIST", "mnist-rows"),), "31220gradients", "4460gradients", RATES,
            settings=dict(device="cuda"),
        ),
        "quick": Form(
            (Column("MNIST", "mnist-rows"),),
            "12gradients",
            "6gradients",
            RATES[:2],
            seeds=(0, 1),
            rows=QUICK_ROWS,
        ),
    },
    remarks=(
        *REMARKS,
        "The cpu form has ten epochs, so aSNAQ with both gradients has twice the gradient"
        " evaluations. Batch 128; 3,000 of the training images are kept for validation.",
    ),
)  # fmt: skip
FIGURE_3 = Study(
    name="asnaq/figure-3",
    title="MNIST by pixels, one layer of 100 tanh units",
    claim=(
        "Adam and Adagrad are poor; aSNAQ is clearly ahead of all, though low overall (curves"
        " over 35 epochs)."
    ),
    rows=ROWS,
    forms={
        "cpu": Form(
            (Column("MNIST", "mnist-pixels"),),
            "5epochs",
            "1epochs",
            RATES,
            seeds=(0, 1, 2),
            settings=dict(hidden=100, evaluate_every=223),  # half an epoch
        ),
        "full": Form(
            (Column("MNIST", "mnist-pixels"),),
            "31220gradients",
            "4460gradients",
            RATES,
            seeds=(0, 1, 2),
            settings=dict(device="cuda", hidden=100),
        ),
        "quick": Form(
            (Column("MNIST", "mnist-pixels:pool=7"),),
            "12gradients",
            "6gradients",
            RATES[:2],
            seeds=(0, 1),
            settings=dict(hidden=100),
            rows=QUICK_ROWS,
        ),
    },
    remarks=(
        *REMARKS,
        "The cpu form has all 784 steps, and 5 epochs of minibatches of 128 instead of 35, so aSNAQ"
        " with both gradients has twice the gradient evaluations. The largest class is 11.35 % of"
        " the test images.",
    ),
)
