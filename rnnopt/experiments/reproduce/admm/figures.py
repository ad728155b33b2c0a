"""Figs. 2 to 6: ADMM beside gradient methods on MNIST by rows and on text."""

from dataclasses import replace

from rnnopt.experiments.reproduce.study import Column, Form, Row, Study

RATES = (1e-3, 3e-3, 1e-2)
MNIST = Column("MNIST rows", "mnist-rows")
LENGTHS = (10, 25, 50, 100)
INNER_PENALTIES = (1.0, 0.1, 1e-2, 1e-4, 1e-8)


def row(
    label: str, optimizer: str, unit: float = 1.0, shown: bool = True, model: str = "rnn"
) -> Row:
    """A method; its rates are the grid's times `unit`."""
    settings = dict(optimizer=optimizer, schedule="cosine", model=model)
    return Row(label, settings, {}, unit, shown)


ADMM = row("rnnopt ADMM", "admm", 300)
SGD = row("SGD", "sgd", 100)
ADAM = row("Adam", "adam")
# Not in the paper.
STRONGEST = (row("SOAP", "soap"), row("rnnopt FrankWolfe", "frank-wolfe"))
REMARKS = (
    "ADMM is the default variant, trajectory and weights in turn: a step is one forward and one"
    " backward pass over a minibatch and counts as one gradient evaluation. Its grid"
    " of learning rates is 300 times Adam's.",
    "The published curves show a loss of the auxiliary output, which has seen the label; here"
    " every number is that of the network, run forward.",
)

FIGURE_2 = Study(
    name="admm/figure-2",
    title="MNIST by rows, ADMM and gradient methods",
    claim="ADMM is the fastest, smoothest and lowest in training and test loss.",
    rows=(
        ADMM,
        SGD,
        ADAM,
        row("Momentum", "momentum", 10),
        row("RMSProp", "rmsprop"),
        row("AdaGrad", "adagrad", 10),
        *STRONGEST,
    ),
    forms={
        "cpu": Form(
            (MNIST,), "1784gradients", "446gradients", RATES, seeds=tuple(range(10))
        ),
        "full": Form(
            (MNIST,), "20epochs", "3epochs", (3e-4, *RATES, 3e-2), seeds=tuple(range(10))
        ),
        "quick": Form(
            (MNIST,), "12gradients", "6gradients", RATES[:2], seeds=(0, 1),
            rows=("rnnopt ADMM", "Adam"),
        ),
    },
    remarks=(
        *REMARKS,
        "Ten seeds, as in Fig. 4, which is drawn from the same runs.",
        "Tuning has a quarter of the reported minibatches, which is too short for SOAP: at 3e-3 it"
        " has 98.0 (docs/experiment-log.md).",
    ),
)  # fmt: skip
FIGURE_4 = replace(
    FIGURE_2,
    name="admm/figure-4",
    title="spread over ten repeats, MNIST by rows",
    claim="the band of ADMM over ten repeats is too small to be seen.",
    runs="admm/figure-2",
)
FIGURE_3 = Study(
    name="admm/figure-3",
    title="text, sensitivity to the length of the input",
    claim="ADMM is nearly immune to the length of the input, SGD is not (curves only).",
    rows=(ADMM, SGD, ADAM, *STRONGEST),
    forms={
        "cpu": Form(
            tuple(Column(f"Metamorphosis, N={n}", f"metamorphosis:length={n}") for n in LENGTHS),
            "1000gradients",
            "300gradients",
            (3e-3, 1e-2, 3e-2),
        ),
        "full": Form(
            tuple(
                Column(f"{name}, N={n}", f"{task}:length={n}")
                for name, task in (
                    ("Metamorphosis", "metamorphosis"), ("Shakespeare", "tinyshakespeare")
                )
                for n in LENGTHS
            ),
            "10000gradients",
            "2000gradients",
            RATES,
        ),
        "quick": Form(
            (Column("Metamorphosis, N=10", "metamorphosis:length=10"),),
            "8gradients", "4gradients", RATES[:2], seeds=(0, 1),
            rows=("rnnopt ADMM", "Adam"),
        ),
    },
    remarks=(
        *REMARKS,
        "Nats per character on test text. On the whole text a model that knows only the"
        " frequencies has 2.956, one that knows the previous character 2.282.",
    ),
)  # fmt: skip


GATED = Study(
    name="admm/gated",
    title="ADMM on LSTM and GRU",
    claim="has neither cell; here the gates' pre-activations are relaxed.",
    rows=tuple(
        row(f"{cell.upper()}, {label}", optimizer, unit, model=cell)
        for cell in ("lstm", "gru")
        for label, optimizer, unit in (
            ("rnnopt ADMM", "admm", 300),
            ("Adam", "adam", 1),
            ("rnnopt FrankWolfe", "frank-wolfe", 1),
        )
    ),
    forms={
        "cpu": Form(
            (MNIST, Column("Metamorphosis, N=25", "metamorphosis:length=25")),
            "1000gradients", "300gradients", RATES,
        ),
        "full": Form(
            (MNIST, Column("Metamorphosis, N=100", "metamorphosis:length=100")),
            "10000gradients", "2000gradients", RATES,
        ),
        "quick": Form(
            (MNIST,), "4gradients", "2gradients", RATES[:2], seeds=(0, 1),
            rows=("LSTM, rnnopt ADMM", "GRU, rnnopt ADMM"),
        ),
    },
    remarks=(*REMARKS, "One layer, as many units as the task's own tanh network."),
)  # fmt: skip


def inner_penalty_rows(proximal_weight: float) -> tuple[Row, ...]:
    """Exact blocks on minibatches with ν from large to small."""
    options = f"variant=blocks,proximal_weight={proximal_weight}"
    return tuple(
        Row(
            f"blocks, ν = {value:g}",
            dict(optimizer=f"admm:{options},inner_penalty={value:g}", schedule="constant"),
            shown=True,
            rate=0.3,
        )
        for value in INNER_PENALTIES
    )


NU_REMARKS = (
    "Exact block minimisers on minibatches; each starts from a forward pass with multipliers 0.",
    "A small ν cuts the signal to earlier steps, because the force of a violated equation is ν"
    " times its residual. Only the read-out and the last step learn.",
)
FIGURE_6 = Study(
    name="admm/figure-6",
    title="MNIST by rows, block-wise ADMM, penalty ν of the inner steps",
    claim="large ν learns later and less steadily.",
    rows=inner_penalty_rows(1.0),
    forms={
        "cpu": Form((MNIST,), "30gradients", "30gradients", RATES),
        "full": Form((MNIST,), "3epochs", "1epochs", RATES),
        "quick": Form(
            (MNIST,), "2gradients", "2gradients", RATES, seeds=(0, 1),
            rows=("blocks, ν = 1", "blocks, ν = 1e-08"),
        ),
    },
    remarks=NU_REMARKS,
)  # fmt: skip
TEXT = Column("Metamorphosis, N=25", "metamorphosis:length=25")
FIGURE_5 = replace(
    FIGURE_6,
    name="admm/figure-5",
    title="text, block-wise ADMM, penalty ν of the inner steps",
    claim="large ν is worse, small ones are all the same.",
    forms={
        "cpu": Form((TEXT,), "30gradients", "30gradients", RATES),
        "full": Form((TEXT,), "3epochs", "1epochs", RATES),
        "quick": Form(
            (TEXT,), "2gradients", "2gradients", RATES, seeds=(0, 1),
            rows=("blocks, ν = 1", "blocks, ν = 1e-08"),
        ),
    },
)  # fmt: skip
