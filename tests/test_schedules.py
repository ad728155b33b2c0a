"""What the plateau schedules promise: when they decay, where they go back to, how they go on.

The schedules over the budget are promised in test_training.py.
"""

import pytest
import torch
from same_runs import records_on_the_way
from stepping import through_a_file

from rnnopt import SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.training.build import build_training
from rnnopt.training.schedules import Plateau

# What the runs rely on, whatever the defaults are.
EXPLICIT = "momentum=0.9,nesterov=False,average=None,scale=entry"


def make():
    """A model and its optimizer, which has a state after `train`."""
    torch.manual_seed(0)
    model = SequenceModel(1, 3, 1, batch_norm=True)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def train(model, optimizer, steps=1):
    rng = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 5, 1, generator=rng)).square().mean().backward()
        optimizer.step()


def everything(model, optimizer):
    """Copies of all weights, statistics and of the optimizer's state."""
    found = [value.clone() for value in model.state_dict().values()]
    for state in optimizer.state_dict()["state"].values():
        found += [value.clone() for value in state.values()]
    return found


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


def decays_at(plateau, epochs, improved=(), every=1):
    """The epochs at which it decays when it looks every so many and these are improvements."""
    model, optimizer = make()
    found = []
    for epoch in range(0, epochs + 1, every):
        before = plateau.decays
        plateau.after_evaluation(epoch, epoch in (0, *improved), model, optimizer)
        found += [epoch] * (plateau.decays - before)
    return found


# -- when it decays -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("improved", "every", "expected"),
    [
        # Three epochs after the last improvement or decay.
        ((), 1, [3, 6, 9, 12]),
        ((2,), 1, [5, 8, 11]),
        ((3, 4), 1, [7, 10]),
        # A look every other epoch: the first that is at least three later.
        ((), 2, [4, 8, 12]),
        ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), 1, []),
    ],
)
def test_it_decays_after_three_epochs_without_an_improvement(improved, every, expected):
    plateau = Plateau(0.5, 3)
    assert decays_at(plateau, 12, improved, every) == expected
    assert plateau.factor == 0.5 ** len(expected)
    assert plateau.best == {}


@pytest.mark.parametrize(
    ("patience", "expected"),
    [
        # int(p / 2^n + 1/2): 10, 5, 2.5 → 3, 1.25 → 1, 0.625 → 1, then never less than 1.
        (10, [10, 15, 18, 19, 20, 21, 22]),
        # 7, 3.5 → 4, 1.75 → 2, 0.875 → 1.
        (7, [7, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]),
        (1, list(range(1, 23))),
    ],
)
def test_with_restarts_the_patience_halves(patience, expected):
    plateau = Plateau(0.5, patience, restart=True)
    assert decays_at(plateau, 22) == expected
    assert plateau.factor == 0.5 ** len(expected)
    assert plateau.decays == len(expected)


def test_without_restarts_the_patience_stays():
    assert decays_at(Plateau(0.1, 10), 40) == [10, 20, 30, 40]


def test_parts_of_an_epoch_count():
    model, optimizer = make()
    plateau = Plateau(0.1, 0.5)
    factors = []
    for epochs in (0, 0.25, 0.5, 0.75, 1.0):
        plateau.after_evaluation(epochs, epochs == 0, model, optimizer)
        factors.append(plateau.factor)
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("per_epoch", [3, 7, 10, 49, 1000])
@pytest.mark.parametrize("restart", [False, True])
def test_rounding_neither_delays_nor_hastens_a_decay(per_epoch, restart):
    # With 10 batches an epoch and a look each batch 41 is 30 batches, three epochs, after batch 11,
    # but 4.1 - 1.1 is rounded to just below 3.
    model, optimizer = make()
    for best in (per_epoch - 1, per_epoch, per_epoch + 1, 5 * per_epoch + 2):
        plateau = Plateau(0.1, 3, restart)
        for batch in (*range(best, best + per_epoch), best + 3 * per_epoch - 1):
            plateau.after_evaluation(batch / per_epoch, batch == best, model, optimizer)
            assert plateau.decays == 0
        plateau.after_evaluation((best + 3 * per_epoch) / per_epoch, False, model, optimizer)
        assert plateau.decays == 1


# -- where it goes back to ------------------------------------------------------------------------


def test_a_restart_goes_back_to_the_best_weights_and_optimizer_to_the_bit():
    model, optimizer = make()
    plateau = Plateau(0.1, 2, restart=True)
    train(model, optimizer)
    plateau.after_evaluation(0, True, model, optimizer)
    train(model, optimizer, 2)
    best = everything(model, optimizer)
    plateau.after_evaluation(1, True, model, optimizer)
    train(model, optimizer, 3)
    plateau.after_evaluation(2, False, model, optimizer)
    assert not equal(everything(model, optimizer), best)  # waits
    train(model, optimizer, 4)
    plateau.after_evaluation(3, False, model, optimizer)
    assert equal(everything(model, optimizer), best)
    # What is kept is not what is trained: a second time it is the same again.
    train(model, optimizer, 5)
    plateau.after_evaluation(4, False, model, optimizer)
    assert plateau.decays == 2
    assert equal(everything(model, optimizer), best)


def test_a_plain_plateau_leaves_the_weights():
    model, optimizer = make()
    plateau = Plateau(0.1, 1)
    plateau.after_evaluation(0, True, model, optimizer)
    train(model, optimizer)
    before = everything(model, optimizer)
    plateau.after_evaluation(1, False, model, optimizer)
    assert plateau.decays == 1
    assert equal(everything(model, optimizer), before)


def test_the_state_goes_through_a_file_in_mid_wait():
    plateaus = []
    for interrupted in (False, True):
        model, optimizer = make()
        plateau = Plateau(0.1, 4, restart=True)
        seen = []
        for epoch in range(15):
            train(model, optimizer)
            plateau.after_evaluation(epoch, epoch in (0, 1), model, optimizer)
            if interrupted and epoch in (3, 6):  # two epochs into the first wait, one into the next
                state = through_a_file(plateau.state_dict())
                plateau = Plateau(0.1, 4, restart=True)
                plateau.load_state_dict(state)
            seen.append((plateau.factor, plateau.decays, plateau.waiting_since))
        plateaus.append((seen, everything(model, optimizer)))
    assert plateaus[0][0] == plateaus[1][0]
    assert plateaus[0][0][-1][1] == 9  # decays at 5, 7, 8, 9, …, 14
    assert equal(plateaus[0][1], plateaus[1][1])


# -- in a run -------------------------------------------------------------------------------------


def make_task():
    """40 sequences of 4 random numbers; their sum is asked for."""
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 4, 1, generator=rng)
    examples = [Examples(inputs[a:b], inputs[a:b].sum(1)) for a, b in ((0, 40), (40, 50), (50, 60))]
    return Task("sums", "", 1, 1, "mse", -1.0, *examples, 40, 4, 8)


def build(schedule, optimizer="adam:lr=0.5", **options):
    """Five batches an epoch, a look at each; a rate at which it gets worse now and then."""
    settings = dict(model="gru", hidden=4, budget="6epochs", evaluate_every=1, batch_norm=True)
    if schedule.startswith("plateau"):
        settings |= dict(decay=0.5, patience=0.5)
    config = RunConfig(**settings | options, optimizer=optimizer, schedule=schedule)
    return build_training(config, make_task())


def test_a_run_decays_as_its_records_tell():
    run = build("plateau")
    records = [progress.record for progress in run.run() if progress.record]
    # The rule once more, over the records: no look before three is half an epoch later.
    best, since, factor = float("inf"), 0, 1.0
    rates = [0.5]  # at the start no step was taken yet
    for k, record in enumerate(records):
        if record["validation_metric"] < best:
            best, since = record["validation_metric"], k
        elif k - since >= 3:
            factor, since = factor / 2, k
        rates.append(0.5 * factor)
    assert factor <= 1 / 4
    assert [record["lr"] for record in records] == rates[:-1]
    assert run.plateau.factor == factor


def test_a_restart_in_a_run_goes_on_from_the_best_weights():
    run = build("plateau-restart")
    for progress in run.run():
        if (
            progress.record
            and run.plateau.waiting_since == progress.epochs
            and (run.best["gradient_evaluations"] != progress.gradient_evaluations)
        ):
            for name, value in run.model.state_dict().items():
                assert torch.equal(value, run.best_weights[name]), name
    assert run.plateau.decays >= 2


@pytest.mark.parametrize("schedule", ["plateau", "plateau-restart"])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        pytest.param("adam:lr=0.5", {}, marks=pytest.mark.full),
        pytest.param(
            f"frank-wolfe:norm=spectral,inner_steps=3,lr=0.5,{EXPLICIT}", {}, marks=pytest.mark.full
        ),
        (f"frank-wolfe:norm=spectral,lr=0.5,{EXPLICIT}", dict(tbptt=2)),
    ],
)
def test_a_run_goes_on_bit_for_bit(schedule, optimizer, options):
    whole = build(schedule, optimizer, **options)
    expected = records_on_the_way(whole)
    assert whole.plateau.decays > 1
    for stop_at in (3, 8, 10, 17):
        first = build(schedule, optimizer, **options)
        records = records_on_the_way(first, lambda first=first, n=stop_at: first.closure.calls == n)
        later = build(schedule, optimizer, **options)
        later.load_state_dict(through_a_file(first.state_dict()))
        records += records_on_the_way(later)
        assert repr(records) == repr(expected)
        one, other = later.model.state_dict(), whole.model.state_dict()
        assert equal(list(one.values()), list(other.values()))
        assert (later.plateau.factor, later.plateau.decays, later.plateau.waiting_since) == (
            whole.plateau.factor, whole.plateau.decays, whole.plateau.waiting_since,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "factor", "patience"),
    [("adam", 0.5, 0.5), ("adam:decay=0.25,patience=7", 0.25, 7), ("adam:patience=3", 0.5, 3)],
)
def test_decay_and_patience_may_stand_with_the_optimizer(optimizer, factor, patience):
    plateau = build("plateau", optimizer).plateau
    assert (plateau.decay, plateau.patience, plateau.restart) == (factor, patience, False)
    assert build("constant", "adam:schedule=plateau-restart").plateau.restart
    assert build("constant").plateau is None
    assert build("plateau", patience=None).plateau.patience == 20
    with pytest.raises(UserError, match="needs a plateau schedule, got cosine"):
        build("cosine", decay=0.5)


def test_with_another_schedule_the_patience_ends_the_run():
    assert (build("cosine", patience=3.0).patience, build("cosine").patience) == (3.0, None)
    assert build("constant", "adam:patience=4").patience == 4
    assert build("plateau", patience=3.0).patience is None
