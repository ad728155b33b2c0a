"""Fig. 4: a vanilla RNN on Pixel- and Permute-MNIST, with and without truncation."""

from rnnopt.experiments.reproduce.frank_wolfe.methods import (
    STRONGEST,
    ours,
    rnnopts,
    row,
)
from rnnopt.experiments.reproduce.study import Column, Form, Study

PIXEL, PERMUTE = "Pixel-MNIST", "Permute-MNIST"
LONG = (Column(PIXEL, "mnist-pixels"), Column(PERMUTE, "mnist-permuted"))
TRUNCATED = ("TBPTT, 4 segments", "TBPTT + ours, K=4", "TBPTT + ours, K=1")
# Not in the paper: the same network, whose recurrent matrix begins as a random orthogonal one.
ORTHOGONAL = tuple(
    row(f"{label}, orthogonal start", optimizer, shown=shown, initialization="orthogonal")
    for label, optimizer, shown in (
        ("SGD + clipping", "adam:clip=1", False),
        ("SOAP", "soap", True),
        ("rnnopt FrankWolfe", "frank-wolfe", True),
    )
)

FIGURE_4 = Study(
    name="frank-wolfe/figure-4",
    title="one layer of 128 tanh units on MNIST, a pixel a step",
    claim=(
        "SGD converges hardly or not at all; TBPTT helps on Permute, only slightly and"
        " unsteadily on Pixel; Frank-Wolfe is faster and steadier on both, and with TBPTT ends"
        " higher (curves only)."
    ),
    rows=(
        row("SGD (read as Adam)", "adam", shown=True),
        row("SGD + clipping", "adam:clip=1"),
        row("TBPTT, 4 segments", "adam", shown=True, tbptt=196),
        row("Ours K=1", ours(1), shown=True),
        row("Ours K=5", ours(5), shown=True),
        row("TBPTT + ours, K=4", ours(None), shown=True, tbptt=196),
        row("TBPTT + ours, K=1", ours(1), tbptt=196),
        *STRONGEST[:2],
        rnnopts(),
        *ORTHOGONAL,
    ),
    forms={
        "cpu": Form(
            LONG,
            "10epochs",
            "2epochs",
            (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            seeds=(0, 1, 2),
            settings=dict(watch_test=True, evaluate_every=446),  # an epoch
        ),
        "full": Form(
            LONG,
            "100epochs",
            "10epochs",
            (2e-5, 2e-4, 6e-4, 1e-3),
            seeds=(0, 1, 2),
            settings=dict(device="cuda", watch_test=True),
        ),
        "quick": Form(
            (Column(PIXEL, "mnist-pixels:pool=7"),),
            "4gradients",
            "2gradients",
            (1e-3, 3e-3),
            seeds=(0, 1),
            settings=dict(watch_test=True),
            rows=("SGD (read as Adam)", *TRUNCATED[:2]),
            changes={label: dict(tbptt=4) for label in TRUNCATED},
        ),
    },
    remarks=(
        "The cpu form has all 784 steps, 128 units and minibatches of 128; its 10 epochs stand for"
        " the curves' length, which is not given. 2 epochs are for each learning rate: a rate"
        " that is best over 2 epochs need not be over 10, as SOAP's from an orthogonal start on"
        " Permute.",
        "Each segment's last output is scored against the label; the next segment starts from"
        " the detached state. With Frank-Wolfe one segment is one inner step.",
    ),
    curve="test_metric",
)
