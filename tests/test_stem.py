"""What a convolutional stem promises: shortened sequences, padding that changes nothing, export.

The plain twin computes each output step from its window of the sequence, zeros beyond the ends.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import crossed
from export_cases import CELLS, source_and_series
from hypothesis import given
from hypothesis import strategies as st

from rnnopt import SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.stem import ConvolutionalStem, padding_of, parse_stem, steps_after
from rnnopt.runs.export.export import export

LENGTHS = torch.tensor([3, 11, 1, 6])  # of four sequences padded to 11 steps
SHAPES = [(5, 2), (3, 2)]


def build(**options):
    """A model with a stem in double precision, the same at every call."""
    torch.manual_seed(1)
    sizes = {"input_size": 3, "hidden_size": 5, "output_size": 2}
    return SequenceModel(**sizes | {"stem": SHAPES, "readout": "mean"} | options).double()


def by_windows(stem, sequence):
    """What leaves a stem for one sequence (time, feature), without normalisation."""
    for (width, stride), layer in zip(stem.shapes, stem.convolutions, strict=True):
        before, after = padding_of(width, stride)
        zeros = sequence.new_zeros
        long = torch.cat(
            [zeros(before, len(sequence[0])), sequence, zeros(after, len(sequence[0]))]
        )
        windows = [long[t : t + width] for t in range(0, len(sequence), stride)]
        weight = layer.weight.permute(0, 2, 1)  # (channel, time, feature)
        sequence = torch.stack([(weight * one).sum((1, 2)) for one in windows]).relu()
    return sequence


@pytest.fixture
def inputs(rng):
    return torch.randn(11, 4, 3, generator=rng, dtype=torch.float64)


@given(
    steps=st.integers(1, 20),
    shapes=st.lists(
        st.integers(1, 6).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w))), min_size=1,
        max_size=3,
    ),
)  # fmt: skip
def test_a_stem_is_its_windows(steps, shapes):
    generator = torch.Generator().manual_seed(steps)
    stem = ConvolutionalStem(2, 3, shapes).double()
    sequence = torch.randn(steps, 1, 2, generator=generator, dtype=torch.float64)
    found, lengths = stem(sequence, torch.tensor([steps]), lambda norm, x, valid, stride: x)
    assert len(found) == int(lengths) == steps_after(steps, shapes)
    torch.testing.assert_close(found[:, 0], by_windows(stem, sequence[:, 0]))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_padded_sequence_is_answered_as_if_alone(cell, readout, bidirectional, inputs):
    model = build(
        cell=cell, readout=readout, bidirectional=bidirectional, layers=2, batch_norm=True
    )
    model(inputs, LENGTHS)  # moves the batch statistics
    model.eval()
    inputs[torch.arange(11)[:, None] >= LENGTHS] = torch.nan
    answers = model(inputs, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(answers[i], model(inputs[:length, i : i + 1])[0])


def test_batch_statistics_are_those_of_the_true_steps(inputs):
    model = build(stem=[(4, 2)])
    model(inputs, LENGTHS)
    stem = model.stem
    alone = [inputs[:length, i : i + 1] for i, length in enumerate(LENGTHS.tolist())]
    states = []
    for one in alone:  # before relu: what the normalisation sees
        stem(one, None, lambda norm, x, valid, stride: states.append(x[:, 0]) or x)
    true = torch.cat(states)
    assert len(true) == 2 + 6 + 1 + 3
    torch.testing.assert_close(stem.norms[0].running_mean, 0.1 * true.mean(0))
    torch.testing.assert_close(stem.norms[0].running_var, 0.9 + 0.1 * true.var(0))


def test_indrnn_is_bounded_for_the_shortened_sequences():
    model = build(cell="indrnn", steps=11)  # ⌈⌈11 / 2⌉ / 2⌉ = 3 steps
    assert model.recurrent[0].recurrent_bound ** 3 == pytest.approx(5)


def test_a_stem_is_a_part_of_the_state_and_of_the_settings_of_a_copy(inputs):
    one, other = build(), build()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(inputs), other(inputs))
    assert sum(name.startswith("stem.") for name in one.state_dict()) == 2 * 6


# -- what it cannot do ----------------------------------------------------------------------------


def test_a_network_with_a_stem_needs_whole_sequences(inputs):
    model = build()
    with pytest.raises(ValueError, match="stem needs whole sequences"):
        model.advance(inputs, model.advance(inputs)[1])
    with pytest.raises(ValueError, match="stem needs whole sequences"):
        model.stream()
    with pytest.raises(ValueError, match="readout='every'"):
        build(readout="every")
    source, raw = source_and_series("gru", stem=SHAPES)
    with pytest.raises(UserError, match="--streaming needs a network without a stem"):
        export(source, "onnx", raw, "series", streaming=True)


@pytest.mark.parametrize("text", ["", "8", "8/9", "8/0", "a/b", "8/4,", "8/4/2"])
def test_a_stem_that_cannot_be_is_refused_by_name(text):
    with pytest.raises(UserError, match=r"--stem: a stem must read like 8/4") as refused:
        RunConfig(stem=text)
    assert repr(text) in str(refused.value)


def test_a_stem_reads_as_it_is_written():
    assert parse_stem("8/4") == [(8, 4)]
    assert parse_stem("8/2,5/2") == [(8, 2), (5, 2)]
    with pytest.raises(ValueError, match="1 <= stride <= width, got"):
        build(stem=[(2, 3)])


# -- export and the command line ------------------------------------------------------------------


@crossed(
    ("cell", CELLS),
    ("readout", ["last", "mean"]),
    ("bidirectional", [False, True]),
    ("form", ["onnx", "torchscript", "safetensors"]),
)
def test_it_answers_the_same_when_exported(cell, readout, bidirectional, form):
    pytest.importorskip("onnxruntime")
    options = dict(stem=SHAPES, batch_norm=True, bidirectional=bidirectional)
    source, raw = source_and_series(cell, readout, **options)
    assert export(source, form, raw, "series").difference < 1e-5


def test_a_run_with_a_stem_is_kept_and_predicts(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    lines = [
        ",".join(["ab"[i % 2], *(f"{x:.3f}" for x in generator.normal(i % 2, size=12))])
        for i in range(40)
    ]
    Path("data.csv").write_text("\n".join(lines))
    options = ["--stem", "4/2", "--hidden", "4", "--budget", "20gradients", "--quiet"]
    code, _, error = command(
        "train", "--data", "data.csv", "--model", "gru", *options, "--out", "r"
    )
    assert code == 0, error
    assert json.loads(Path("r/data.json").read_text())["model"]["stem"] == [[4, 2]]
    code, _, error = command("predict", "r", "--data", "data.csv", "--out", "p.csv")
    assert code == 0, error
    for more in (["--tbptt", "2"], ["--readout", "every"], ["--optimizer", "admm"]):
        code, out, error = command("train", "--data", "data.csv", "--model", "gru", *options, *more)
        assert code == 2
        assert "stem" in error
        assert "Traceback" not in out + error
