"""What is said of best weights: scores by hand, the noted accuracy again, gradients by autograd."""

import math
from dataclasses import replace

import pytest
import torch
from made_runs import make_run, over

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.report.best_weights import best_run, class_names, examine, mean_flow, score
from rnnopt.runs import runner
from rnnopt.runs.collection import Group, read_runs
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks import Batches, build_task


def trained(path, **settings):
    """A run of a few steps."""
    settings = dict(task="digits-rows", hidden=6, budget="12gradients", optimizer="adam") | (
        settings
    )
    runner.run(RunConfig(**settings), path)
    (run,) = read_runs([RunFolder.open(path)])
    return run


def test_scores_by_hand():
    # True 0 0 0 1 1 2, predicted 0 0 1 1 0 1; class 2 is never predicted, class 3 never there.
    scores = score([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 1], ["a", "b", "c", "d"])
    assert scores.confusion == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert scores.precision == pytest.approx([2 / 3, 1 / 3, math.nan, math.nan], nan_ok=True)
    assert scores.recall == pytest.approx([2 / 3, 1 / 2, 0, math.nan], nan_ok=True)
    assert scores.f1 == pytest.approx([2 / 3, 2 / 5, 0, math.nan], nan_ok=True)
    assert scores.support == [3, 2, 1, 0]
    assert scores.accuracy == 0.5


@pytest.mark.parametrize("readout", ["last", "every"])
def test_the_accuracy_is_the_one_noted_at_the_end_of_the_run(tmp_path, readout):
    run = trained(tmp_path / "run", readout=readout)
    state = torch.get_rng_state()
    found, task = examine(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.scores.accuracy == pytest.approx(run.result["test_metric"], abs=1e-12)
    assert sum(found.scores.support) == len(task.test) * (8 if readout == "every" else 1)
    assert found.scores.names == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("loss", ["binary-mse", "binary-cross-entropy"])
def test_one_output_for_two_classes_is_classified_as_it_is_evaluated(loss):
    digits = build_task("digits-rows")
    test = replace(digits.test, targets=(digits.test.targets > 4).float()[:, None])
    task = replace(digits, loss=loss, output_size=1, test=test)
    torch.manual_seed(0)
    model = SequenceModel(task.input_size, 5, 1)
    torch.nn.init.normal_(model.output.weight, std=5.0)  # so that both classes are answered
    found, true = task.classify(model, task.test, torch.device("cpu"))
    _, accuracy = task.evaluate(model, task.test, torch.device("cpu"))
    assert torch.equal(true, (digits.test.targets > 4).long())
    assert set(found.tolist()) == {0, 1}
    assert float((found == true).double().mean()) == pytest.approx(accuracy, abs=1e-12)
    assert class_names(task) == ["0", "1"]


def test_numbers_are_not_classified():
    task = build_task("counting:length=5")
    model = SequenceModel(task.input_size, 5, task.output_size)
    with pytest.raises(ValueError, match="counting of loss mse"):
        task.classify(model, task.test, torch.device("cpu"))


def test_numbers_have_no_scores_but_gradients_through_time(tmp_path):
    run = trained(tmp_path / "run", task="counting:length=5", model="lstm", layers=2)
    found, _ = examine(run)
    assert found.scores is None
    assert [len(row) for row in found.flow.values()] == [5, 5]


def test_the_flow_is_the_gradient_of_one_sequences_loss(rng):
    task = build_task("digits-rows")
    torch.manual_seed(0)
    model = SequenceModel(task.input_size, 5, task.output_size)
    (norms,) = mean_flow(model, task, Batches(task, 3, seed=1)).values()
    # By hand: h_t = tanh(W x_t + U h_{t-1} + b) of each sequence alone, of two minibatches.
    batches = Batches(task, 3, seed=1)
    cell, read_out = model.double().recurrent[0], model.output
    expected = torch.zeros(task.steps, dtype=torch.double)
    for batch in (batches.draw(), batches.draw()):
        for i in range(3):
            h = torch.zeros(5, dtype=torch.double)
            states = []
            for x in batch.inputs[:, i].double():
                inner = cell.weight_ih_l0 @ x + cell.bias_ih_l0 + cell.weight_hh_l0 @ h
                h = torch.tanh(inner + cell.bias_hh_l0)
                states.append(h)
            loss = torch.nn.functional.cross_entropy(read_out(h)[None], batch.targets[i : i + 1])
            expected += torch.stack(torch.autograd.grad(loss, states)).norm(dim=1) / 6
    assert norms == pytest.approx(expected.tolist(), rel=1e-6)


def test_the_best_run_is_the_best_on_validation_data(tmp_path):
    def group(metric, *values):
        runs = []
        for seed, value in enumerate(values):
            path = tmp_path / f"{metric}-{seed}"
            path.mkdir()
            (path / "best.pt").touch()
            # On test data the order is the other way round.
            runs.append(make_run(path, over(1 - value, value) | {"metric": metric}, seed=seed))
        return Group("adam", runs)

    assert best_run(group("accuracy", 0.2, 0.4, 0.3)).config.seed == 1
    assert best_run(group("mse", 0.2, 0.4, 0.1)).config.seed == 2


def test_runs_that_are_not_over_have_no_best_weights(tmp_path):
    assert best_run(Group("adam", [make_run(tmp_path, {"status": "running"})])) is None
    with pytest.raises(UserError, match=r"best\.pt"):
        examine(make_run(tmp_path))


def test_weights_that_execute_code_are_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"weights": Harmful()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        examine(make_run(tmp_path))
    assert not (tmp_path / "harm").exists()


def test_weights_of_another_network_are_refused(tmp_path):
    run = trained(tmp_path / "run")
    RunFolder(run.path).write_weights({"other": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="other"):
        examine(run)
