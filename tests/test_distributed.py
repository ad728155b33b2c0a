"""What learners promise to several processes: the steps of one process on all their data, decisions
taken together, and Frank-Wolfe's displacements averaged at the commit.

The claims are the functions of distributed_checks.py, which 2 and 4 processes run once, on gloo.
"""

import distributed_checks
import pytest
import torch
from messages import naming
from processes import claim_holds, claims
from stepping import frank_wolfe

from rnnopt import AdaQN, FrankWolfe
from rnnopt.distributed import any_of, average_gradients, copy_from_first, means, share, sums

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs torch.distributed with gloo",
)


@pytest.mark.parametrize(("size", "name"), claims(distributed_checks))
@pytest.mark.process
def test_several_processes(size, name):
    claim_holds(distributed_checks, size, name)


def test_without_a_process_group_every_helper_gives_back_what_it_got():
    tensors = [torch.ones(2)]
    assert sums(tensors)[0] is tensors[0]
    assert means(tensors)[0] is tensors[0]
    assert (any_of(True), any_of(False), share(3)) == (True, False, 1.0)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = gradient = torch.ones(2)
    average_gradients([weight])
    assert weight.grad is gradient
    copy_from_first(torch.nn.Linear(1, 1))


def test_without_a_process_group_both_forms_take_the_same_steps():
    ends = []
    for communicate in ("gradient", "commit"):
        weight = torch.nn.Parameter(torch.ones(3, 2))
        optimizer = frank_wolfe([weight], lr=0.1, inner_steps=2, communicate=communicate)
        for _ in range(5):
            weight.grad = weight.detach() ** 2
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(*ends)


def test_an_error_names_what_was_got():
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="communicate='often'"):
        frank_wolfe([weight], communicate="often")
    with pytest.raises(ValueError, match=naming("'bits'", "compression")):
        frank_wolfe([weight], communicate="commit", compression="bits")
    with pytest.raises(ValueError, match='overlap needs compression="none"'):
        frank_wolfe([weight], communicate="commit", compression="int8", overlap=True)
    with pytest.raises(ValueError, match=naming('communicate="commit"', "compression", "overlap")):
        frank_wolfe([weight], overlap=True)
    with pytest.raises(ValueError, match='got ball="global"'):
        frank_wolfe([weight], norm=2, ball="global", communicate="commit", compression="int8")
    for learner in (FrankWolfe, AdaQN):
        with pytest.raises(ValueError, match="process_group='gloo'"):
            learner([weight], process_group="gloo")
