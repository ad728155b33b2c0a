"""Beyond the paper: LSTM and GRU, its stated future work, and an ablation of its parts."""

from rnnopt.experiments.reproduce.asnaq.methods import PAPER, tuned
from rnnopt.experiments.reproduce.study import Column, Form, Study

RATES = (1e-3, 3e-3, 1e-2)
COUNTING, ROWS_OF_IMAGES = Column("Counting", "counting"), Column("MNIST rows", "mnist-rows")
TASKS = (
    COUNTING,
    ROWS_OF_IMAGES,
    Column("Adding, T=50", "adding:length=50"),
    Column("Activity", "hapt2"),
)

GATED = Study(
    name="asnaq/gated",
    title="aSNAQ on LSTM and GRU",
    claim="left for future work.",
    rows=tuple(
        tuned(f"{cell.upper()}, {label}", optimizer, rate_unit=unit, shown=True, model=cell)
        for cell in ("lstm", "gru")
        for label, optimizer, unit in (
            ("Adam", "adam", 1.0),
            ("aSNAQ as in the paper", PAPER, 10.0),
            ("rnnopt ASNAQ", "asnaq", 10.0),
            ("rnnopt FrankWolfe", "frank-wolfe", 1.0),
        )
    ),
    forms={
        "cpu": Form((COUNTING, ROWS_OF_IMAGES), "2000gradients", "700gradients", RATES),
        "full": Form(
            (COUNTING, ROWS_OF_IMAGES), "30000gradients", "5000gradients", RATES,
            settings=dict(device="cuda"),
        ),
        "quick": Form(
            (COUNTING,), "8gradients", "4gradients", RATES[:2], seeds=(0, 1),
            rows=("LSTM, Adam", "LSTM, rnnopt ASNAQ"),
        ),
    },
    remarks=(
        "One layer, as many units as the task's own tanh network; learning rates tuned for all.",
    ),
)  # fmt: skip

# Each part of the printed algorithm is switched off in turn; then this library's own variant.
PARTS = Study(
    name="asnaq/parts",
    title="which part of aSNAQ earns its cost",
    claim="claims that each part helps and measures none.",
    rows=(
        tuned("as in the paper", PAPER, rate_unit=10, shown=True),
        tuned("without the Fisher memory", f"{PAPER},memory=0", rate_unit=10, shown=True),
        tuned("without normalisation", f"{PAPER},normalize=false", shown=True),
        tuned("without look-ahead", f"{PAPER},lookahead=false", rate_unit=10),
        tuned("without error control", f"{PAPER},error_control=false", rate_unit=10, shown=True),
        tuned(
            "without the second gradient",
            PAPER.replace("second_gradient=true", "second_gradient=false"),
            rate_unit=10,
            shown=True,
        ),
        tuned(
            "averages of 20 steps",
            PAPER.replace("update_every=5", "update_every=20"),
            rate_unit=10,
        ),
        tuned("differences as curvature", f"{PAPER},curvature=difference", rate_unit=10),
        tuned("rnnopt ASNAQ", "asnaq", rate_unit=10, shown=True),
    ),
    forms={
        "cpu": Form(TASKS, "2000gradients", "1000gradients", RATES),
        "full": Form(TASKS, "20000gradients", "5000gradients", (3e-4, *RATES, 3e-2)),
        "quick": Form(
            (COUNTING,), "12gradients", "6gradients", RATES[:2], seeds=(0, 1),
            rows=("as in the paper", "without normalisation", "rnnopt ASNAQ"),
        ),
    },
    remarks=(
        "Every row has the same number of learning rates, in the cpu form 0.01, 0.03 and 0.1, a"
        " tenth of that without normalisation, a cosine schedule and the same number of gradient"
        " evaluations: a variant with one gradient per step takes twice the steps. Without the"
        " Fisher memory there are no pairs.",
    ),
)  # fmt: skip
