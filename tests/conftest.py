"""What every test file shares: one thread, a seeded generator, repeatable hypothesis examples."""

from collections.abc import Callable

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


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """The command in this process: (exit code, what it printed, its errors) of its arguments."""
    from rnnopt.command_line import main

    def call(*arguments: object) -> tuple[object, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call
