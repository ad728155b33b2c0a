"""What FrankWolfe, ASNAQ and AdaQN promise of DTensor parameters, such as FSDP2's: the steps that
one process takes on whole tensors, and checkpoints that any number of processes can resume.

The claims are the functions of sharded_checks.py, which 2 and 4 processes run once, on gloo.
"""

import pytest
import sharded_checks
import torch
from processes import claim_holds, claims, started

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
        reason="needs torch.distributed with gloo",
    ),
]


@pytest.mark.parametrize(("size", "name"), claims(sharded_checks))
def test_several_processes(size, name):
    claim_holds(sharded_checks, size, name)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Runs checkpoint_run.py, and gives the weights at the end of every learner."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def run(size, resumed, saved):
        codes, printed = started(
            "checkpoint_run:run", size, folder, resumed, saved, f"end-{resumed}-{size}"
        )
        assert codes == [0] * size, printed
        return torch.load(folder / f"end-{resumed}-{size}", weights_only=True)

    return run


@pytest.fixture(scope="module")
def of_two(ends):
    return ends(2, "-", "two")


def close(found, expected):
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.full
def test_a_distributed_checkpoint_resumes_exactly_with_as_many_processes(ends, of_two):
    resumed = ends(2, "two", "-")
    for name, weights in of_two.items():
        # To the bit but on an AMD processor without AVX-512, where products of the same matrices in
        # other places of the memory differ by some 1e-15.
        for found, expected in zip(resumed[name], weights, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.full
def test_a_distributed_checkpoint_of_two_processes_resumes_with_four_and_on_from_there_with_one(
    ends, of_two
):
    close(ends(4, "two", "four"), of_two)
    close(ends(1, "four", "-"), of_two)
