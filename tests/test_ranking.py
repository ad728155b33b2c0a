"""Which look is the best: by the metric, level ones by the loss; what is not a number never."""

import math

import pytest
from made_runs import make_run, over, record

from rnnopt.experiments.tuning import rank as rank_of_trial
from rnnopt.report.best_weights import best_run
from rnnopt.runs.collection import Group
from rnnopt.tasks.ranking import WORST, loss_of_best, rank


@pytest.mark.parametrize("lower", [False, True])
def test_the_metric_decides_and_the_loss_where_it_is_level(lower):
    better, worse = (0.1, 0.9) if lower else (0.9, 0.1)
    assert rank(better, 9.0, lower) > rank(worse, 0.1, lower)
    assert rank(0.5, 1.0, lower) > rank(0.5, 2.0, lower) > rank(0.5, math.inf, lower)
    assert rank(0.5, 1.0, lower) == rank(0.5, 1.0, lower)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("pair", [(math.nan, 1.0), (0.5, math.nan), (math.nan, math.nan)])
def test_what_is_not_a_number_wins_nothing(lower, pair):
    assert rank(*pair, lower) == WORST
    assert not rank(*pair, lower) > rank(*pair, lower)
    for metric in (0.0, 1.0, 1e9):
        assert rank(metric, math.inf, lower) > rank(*pair, lower)


def test_the_loss_of_the_best_look_stands_in_the_history_where_the_result_lacks_it():
    history = [record(10 * i, i, 1.0, 0.5) | {"validation_loss": 4.0 - i} for i in range(3)]
    best = dict(gradient_evaluations=10, validation_metric=0.5)
    assert loss_of_best(best, history) == 3.0
    assert loss_of_best(best | {"validation_loss": 7.0}, history) == 7.0
    assert loss_of_best(best, []) == math.inf
    assert loss_of_best(best, [{"validation_metric": 0.5}]) == math.inf
    assert loss_of_best(best, [{"gradient_evaluations": 10}]) == math.inf


def test_the_best_run_of_level_ones_has_the_least_loss(tmp_path):
    runs = []
    for seed, loss in enumerate((3.0, 1.0, 2.0, math.nan)):
        path = tmp_path / str(seed)
        path.mkdir()
        (path / "best.pt").touch()
        result = over(0.5, 0.6)
        result["best"]["validation_loss"] = loss
        runs.append(make_run(path, result, seed=seed))
    assert best_run(Group("adam", runs)).config.seed == 1
    assert max(runs, key=rank_of_trial).config.seed == 1
    runs[1].result["status"] = "diverged"
    assert max(runs, key=rank_of_trial).config.seed == 2
