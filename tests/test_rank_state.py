"""Processes that resume a run must stand at the same place of it; the other process is made up."""

import pytest
import torch
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.training import rank_state
from rnnopt.training.build import build_training


@pytest.fixture(scope="module")
def training():
    return build_training(RunConfig(task="digits-pixels", hidden=4, budget="10gradients"))


def beside(other, monkeypatch):
    """This process as the first of two, of which the other stands where `other` of ours says."""

    def all_gather_object(every, own):
        every[:] = [own, other(own)]

    monkeypatch.setattr(rank_state, "processes", lambda: 2)
    monkeypatch.setattr(rank_state.distributed, "all_gather_object", all_gather_object)


def test_processes_at_the_same_place_go_on(training, monkeypatch):
    beside(lambda own: own, monkeypatch)
    with rank_state.same_place(training):
        pass


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        (dict(gradient_evaluations=20.0), "process 1: 20 gradients and 0 records"),
        (dict(records=3), "process 1: 0 gradients and 3 records"),
        (dict(weights="f" * 64), "process 1: 0 gradients and 0 records with weights ffffffff"),
    ],
)
def test_another_place_is_an_error_of_all(changed, shown, training, monkeypatch):
    beside(lambda own: own._replace(**changed), monkeypatch)
    sentence = f"must resume from the same place, got process 0: 0 .*; {shown}"
    with pytest.raises(UserError, match=sentence), rank_state.same_place(training):
        pass


def test_one_changed_weight_is_another_place(training):
    before = rank_state._place(training)
    assert rank_state._place(training) == before
    with torch.no_grad():
        weight = next(training.model.parameters()).view(-1)
        weight[0] += 1e-6
        after = rank_state._place(training)
        weight[0] -= 1e-6
    assert before.weights != after.weights


def test_a_checkpoint_that_one_process_cannot_read_is_an_error_of_all(training, monkeypatch):
    beside(lambda own: "checkpoint.pt is damaged.", monkeypatch)
    of_one = pytest.raises(UserError, match=naming("process 1", "checkpoint.pt"))
    with of_one, rank_state.same_place(training):
        pass
    beside(lambda own: own, monkeypatch)
    of_all = pytest.raises(UserError, match=r"^checkpoint\.pt is damaged\.$")
    with of_all, rank_state.same_place(training):
        raise UserError("checkpoint.pt is damaged.")
