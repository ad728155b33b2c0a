"""What a commit sends to other processes: in few bytes, nothing lost for good, one commit late.

The claims are the functions of commit_checks.py, which 2 and 4 processes run once, on gloo.
"""

import commit_checks
import pytest
import torch
from processes import claim_holds, claims

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
        reason="needs torch.distributed with gloo",
    ),
]


@pytest.mark.parametrize(("size", "name"), claims(commit_checks))
def test_several_processes(size, name):
    claim_holds(commit_checks, size, name)


@pytest.mark.parametrize("kind", ["int8", "sign"])
@pytest.mark.parametrize("processes", [3, 128])
def test_the_moves_of_many_commits_add_up_to_the_means(kind, processes):
    mean_in_one_process = commit_checks.twin().mean_in_one_process
    rng = torch.Generator().manual_seed(0)
    vectors = [torch.randn(1100, generator=rng) * 0.01 for _ in range(processes)]
    for vector in vectors:
        vector[0] = 1.0  # beside which all others round to 0, or nearly
    lost, moved, commits = [torch.zeros(1100)] * processes, torch.zeros(1100), 30
    for _ in range(commits):
        sent = [vector + rest for vector, rest in zip(vectors, lost, strict=True)]
        mean, lost = mean_in_one_process(sent, [100, 1000], kind)
        moved += mean
    # Nothing is lost for good, whatever the codes are: what has not moved yet is kept somewhere.
    total = commits * torch.stack(vectors).mean(0)
    torch.testing.assert_close(moved + torch.stack(lost).mean(0), total, rtol=1e-4, atol=1e-4)
    if kind == "int8":  # and is no more than a code or two of the largest
        assert (moved - total).abs().max() < 3 / 127
