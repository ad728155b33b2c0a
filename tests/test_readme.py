"""The README and its recipes promise what they show: the first example prints what stands below it,
the rest runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from documents import blocks, run_python
from page_commands import run_shell, write_files

from rnnopt.config.run_config import RunConfig
from rnnopt.runs.runner import run

pytestmark = pytest.mark.docs


def test_the_examples_run_and_the_first_prints_what_the_readme_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", X=np.random.default_rng(0).random((20, 5, 1)), y=["low", "high"] * 10)
    run(RunConfig(data="own.npz", model="gru", hidden=4, budget="3gradients"), Path("runs/first"))
    pages = blocks("README.md") + blocks("docs/recipes.md")
    first, *others = (block for block in pages if block.language == "python")
    names: dict[str, object] = {}
    assert run_python(first, names) == first.output
    names["rnn"] = torch.nn.RNN(3, 4)  # what these speak of: the reader's own layer and loop
    names["train"] = lambda model: model(names["batch"].inputs).sum().backward()
    names["sensor"], names["sequence"] = np.ones((5, 1)), torch.ones(5, 1)
    names["act"] = lambda answer: None
    for block in others:
        run_python(block, names)
    assert names["loss"] > 0


@pytest.mark.full
def test_the_commands_run(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    write_files(tmp_path)
    ran = [
        run_shell(block, command)
        for block in blocks("README.md")
        if block.language == "bash" and not block.code.startswith("make ")
    ]
    assert len(ran) == 2
