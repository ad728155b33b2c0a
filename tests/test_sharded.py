"""What FrankWolfe, ASNAQ and AdaQN promise of DTensor parameters, such as FSDP2's: the steps that
one process takes on whole tensors, and checkpoints that any number of processes can resume.

The claims are the functions of sharded_checks.py, which 2 and 4 processes run once, on gloo.
"""

from pathlib import Path

import pytest
import sharded_checks
import torch
from processes import claim_holds, claims

SCRIPT = Path(__file__).parent / "sharded_checks.py"

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs torch.distributed with gloo",
)


@pytest.mark.parametrize(("size", "name"), claims(sharded_checks.CHECKS))
def test_several_processes(size, name):
    claim_holds(SCRIPT, sharded_checks.CHECKS, size, name)
