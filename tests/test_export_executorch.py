"""What `rnnopt export --format executorch` promises: the run's answers, for series of one length.

The conversion itself is tried where the package is; it is not among those of the tests.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import CELLS, short_run

from rnnopt import SequenceModel
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.export.executorch_file import MOST, FixedSeries
from rnnopt.runs.export.export import Source, export, open_run, reference
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.tasks import from_arrays

needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="needs executorch")


def a_source(cell="gru", readout="last", subsample=1, regression=False, steps=8, **options):
    """A network with random weights over series of one length with gaps, and the raw series."""
    rng = np.random.default_rng(0)
    X = 1e6 + rng.normal(size=(30, steps, 2))
    X[::5, 2, 1] = np.nan
    y = 2020 + rng.random(30) if regression else ["a", "b", "c"] * 10
    task = from_arrays(X, y, missing="mean", subsample=subsample)
    settings = dict(
        input_size=2, hidden_size=5, output_size=task.output_size, cell=cell, readout=readout,
        steps=task.steps, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = SequenceModel(**settings).eval()
    source = Source(model, settings, task.data.preparation, task.loss, RunConfig(), {}, {})
    return source, (torch.from_numpy(X), torch.full((30,), steps))


CASES = [
    *(dict(cell=cell) for cell in CELLS),
    *(dict(cell=cell, readout="mean", bidirectional=True, layers=2) for cell in CELLS),
    dict(readout="every", subsample=3, batch_norm=True),
    dict(stem=[(4, 2)]),
    dict(regression=True),
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_what_is_exported_answers_as_the_network(options):
    source, (raw, lengths) = a_source(**options)
    narrow = raw.float()
    plain = PlainModel(source.model, source.preparation, source.loss)
    found = FixedSeries(plain)(narrow)
    # To the rounding of float32 around 2020, in units of the targets.
    close = 1e-3 if options.get("regression") else 1e-6
    torch.testing.assert_close(found, plain(narrow, lengths), rtol=close, atol=close)


@needs_executorch
@pytest.mark.parametrize("options", [dict(steps=4), CASES[-1], CASES[3]], ids=str)
def test_the_program_answers_as_the_network(options):
    source, raw = a_source(**options)
    assert export(source, "executorch", raw, "series").difference < 2e-3


@needs_executorch
def test_the_card_loads_the_program(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    short_run()
    code, _, error = command("export", "run", "--format", "executorch", "--out", "net.pte")
    assert code == 0, error
    text = Path("net.pte.md").read_text()
    source, raw, _ = open_run(Path("run"))
    code = text.partition("```python\n")[2].partition("```")[0]
    code = code.replace("torch.zeros(1, 9, 2)", "series")
    names = {"series": raw[0][:1].float()}
    exec(code.replace("series = series", ""), names)
    expected = reference(source, (raw[0][:1].float(), raw[1][:1]))
    torch.testing.assert_close(names["answers"], expected, atol=1e-6, rtol=0)


def test_series_of_several_lengths_and_long_ones_are_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, lengths, words in (
        ("ragged", rng.integers(5, 9, 40), ("one length", "5 to 8 steps")),
        ("long", [MOST + 4] * 40, (f"{MOST + 4} here", "--stem")),
    ):
        rows = [
            ",".join(["ab"[i % 2], *(f"{value:.3f}" for value in rng.normal(size=n))])
            for i, n in enumerate(lengths)
        ]
        Path(f"{name}.csv").write_text("\n".join(rows) + "\n")
        given = ["--model", "gru", "--hidden", "3", "--budget", "2gradients", "--quiet"]
        assert command("train", "--data", f"{name}.csv", "--out", name, *given)[0] == 0
        code, out, error = command("export", name, "--format", "executorch")
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert all(word in error for word in words), error
        assert not list(Path(name).glob("model.*"))
