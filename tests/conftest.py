"""What every test file shares: one thread, a seeded generator, repeatable hypothesis examples."""

import hypothesis
import pytest
import torch

torch.set_num_threads(1)  # small recurrent networks lose time with more
hypothesis.settings.register_profile(
    "rnnopt", derandomize=True, deadline=None, max_examples=40, database=None
)
hypothesis.settings.load_profile("rnnopt")


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of the test's own, the same at every run."""
    return torch.Generator().manual_seed(20201010)
