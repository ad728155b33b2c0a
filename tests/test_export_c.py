"""What `rnnopt export --format c` promises: a strict C99 and C++ header, the run's own answers.

Every cell, read-out and preparation is compiled, in one program for many, and run step by step.
"""

import itertools
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from c_programs import run_headers
from export_cases import CELLS, offset_source, short_run, source_and_series
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rnnopt import SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.export import c_check, c_code
from rnnopt.runs.export.c_comment import MARK, Description, comment, identifier, usage
from rnnopt.runs.export.c_file import c_file
from rnnopt.runs.export.export import ALLOWED, export, open_run, reference
from rnnopt.runs.export.int8 import metric_of_int8, rows_in_int8, with_int8_weights
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run
from rnnopt.tasks import from_arrays
from rnnopt.training.build import task_of

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
# Cells, read-outs, steps averaged, regression, and layers.
CASES = [
    (cell, ("last", "mean", "every")[i % 3], (1, 3)[i // 2 % 2], i % 2 == 1, options)
    for i, (cell, options) in enumerate(
        itertools.product(CELLS, [{}, dict(layers=2), dict(layers=3, batch_norm=True)])
    )
] + [
    ("rnn", "last", 1, False, dict(nonlinearity="relu")),
    ("indrnn", "mean", 3, True, dict(nonlinearity="tanh")),
    ("gru", "mean", 3, True, dict(layers=2, batch_norm=True)),
    ("lstm", "every", 1, False, dict(layers=2, batch_norm=True)),
]


def header_of(source, name, weights="float32"):
    """The text of a run's header."""
    plain = PlainModel(source.model, source.preparation, source.loss)
    return c_file(source, plain, name, weights).content.decode()


def expected_of(source, series, n):
    """The run's answer to the first n steps of a series, at the scale of the targets."""
    p = source.preparation
    answer = reference(source, (torch.as_tensor(series)[None, :n], torch.tensor([n])))[0]
    answer = answer[-1] if answer.ndim == 2 else answer
    if p.kind == "regression":
        answer = answer * p.target_deviation[0] + p.target_mean[0]
    return answer.numpy()


@pytest.fixture(scope="module")
def networks():
    """Of each case the source, a series of 15 steps with a missing value, and the header.

    The last of them have int8 weights, and the source the weights that these mean.
    """
    found = []
    for i, (cell, readout, subsample, regression, options) in enumerate([*CASES, *CASES[::3]]):
        weights = "float32" if i < len(CASES) else "int8"
        source, (inputs, lengths) = source_and_series(
            cell, readout, subsample, regression, **options
        )
        if weights == "int8":
            source = replace(source, model=with_int8_weights(source.model))
        assert lengths[10] == 15
        found.append((source, inputs[10, :15], header_of(source, f"net{i}", weights)))
    return found


@pytest.mark.parametrize("compiler", ["c99", "c++"])
def test_every_network_answers_as_the_run_does_after_each_step(tmp_path, compiler, networks):
    sources, series, headers = zip(*networks, strict=True)
    assert all(bool(one.isnan().any()) for one in series)
    answers, sizes = run_headers(tmp_path, headers, series, compiler)
    for source, one, found, header, size in zip(
        sources, series, answers, headers, sizes, strict=True
    ):
        p = source.preparation
        assert len(found) == 15 // p.subsample
        scale = p.target_deviation[0] if p.kind == "regression" else 1
        for n in (3, 15):
            expected = expected_of(source, one, n)
            answer = found[n // p.subsample - 1]
            np.testing.assert_allclose(answer, expected, rtol=1e-6, atol=1e-5 * scale)
        assert f" {size} of state" in header


@needs_cc
def test_a_mean_of_many_steps_keeps_its_digits(tmp_path):
    source, (inputs, _) = source_and_series("gru", "mean")
    series = inputs[10, :15].nan_to_num().tile(20_000, 1)
    (found,), _ = run_headers(tmp_path, [header_of(source, "net0")], [series])
    expected = expected_of(source, series, len(series))  # torch adds up in pairs
    np.testing.assert_allclose(found[-1], expected, atol=1e-6)


@needs_cc
def test_a_series_that_ends_within_a_group_of_steps_is_answered(tmp_path):
    # 16 steps in groups of 3: five answers, and one with the mean of the last step alone.
    source, (inputs, _) = source_and_series("gru", subsample=3)
    one = inputs[25, :16]
    (found,), _ = run_headers(tmp_path, [header_of(source, "net0")], [one])
    assert len(found) == 6
    for k, n in enumerate((3, 6, 9, 12, 15, 16)):
        np.testing.assert_allclose(found[k], expected_of(source, one, n), atol=1e-5)


@needs_cc
@pytest.mark.parametrize("data", [dict(offset=1e6, deviation=0.5), dict(offset=1e6, deviation=0.5,
                         missing="mean"), dict(offset=0, deviation=1, target=2020.3)])  # fmt: skip
def test_series_and_targets_far_from_zero_are_answered_the_same(data):
    source, raw = offset_source(**data)
    checked = export(source, "c", raw, "series")
    assert checked.difference < (4e-4 if "target" in data else 1e-5)  # as in test_export.py
    assert ALLOWED < checked.rounding < 1e-2


@needs_cc
@pytest.mark.parametrize("loss", ["cross-entropy", "binary-cross-entropy", "mse"])
def test_a_run_on_a_task_on_board_takes_prepared_inputs(loss):
    source, (inputs, lengths) = source_and_series("rnn")
    source = replace(source, preparation=None, loss=loss)
    checked = export(source, "c", (inputs.nan_to_num(5.0), lengths), "series")
    assert checked.difference < 1e-5
    assert ("expf" in checked.content.decode()) == (loss != "mse")


def test_sizes_are_those_of_the_arrays():
    # 2 inputs, 6 units, 3 classes: 12 + 36 + 6 of the layer, 18 + 3 of the read-out, and mean, its
    # rest, deviation and fill of 2 channels. State: 6. A step's arrays: 6 new states and 2 inputs.
    source, _ = source_and_series("rnn")
    text = header_of(source, "net")
    assert "Bytes: 332 of weights, 24 of state, 32 of arrays on the stack" in text
    counted = [int(n) for n in re.findall(r"static const float net_\w+\[(\d+)\]", text)]
    assert 4 * sum(counted) == 332


def test_sizes_with_int8_weights():
    # As above, but the matrices of 12, 36 and 18 weights have a byte each, and 6 + 6 + 3 scales.
    source, _ = source_and_series("rnn")
    text = header_of(source, "net", "int8")
    assert f"Bytes: {4 * (6 + 3 + 8 + 15) + 66} of weights" in text


def test_rows_in_int8_by_hand():
    # The largest of a row is 127; 1 / 127 is the scale of the first row, and 0.5 ≈ 64 / 127.
    weight = torch.tensor([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0], [-2.54, 0.02, 0.031]])
    whole, scales = rows_in_int8(weight)
    assert whole.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 1, 2]]
    torch.testing.assert_close(scales[[0, 2]], torch.tensor([1 / 127, 0.02]))
    assert whole.dtype == torch.int8
    assert scales[1] > 0


@given(
    arrays(np.float32, (3, 5), elements=st.floats(-1024, 1024, width=32)),
)
def test_int8_weights_are_within_half_a_scale_and_found_again(weight):
    given = torch.from_numpy(weight)
    whole, scales = rows_in_int8(given)
    meant = whole * scales[:, None]
    # Half a scale, and the rounding of a quotient and a product in float32.
    assert ((given - meant).abs() <= scales[:, None] * (0.5 + 127 * 2**-23)).all()
    assert torch.equal(rows_in_int8(meant)[0], whole)


def test_weights_are_written_so_that_they_are_read_as_the_same_float32():
    source, _ = source_and_series("indrnn")
    text = header_of(source, "net")
    numbers = re.search(r"net_w1_weights\[12\] = \{(.*?)\};", text, re.DOTALL)[1]
    found = [float(one.strip().removesuffix("f")) for one in numbers.split(",")[:-1]]
    weight = source.model.recurrent[0].weight_ih_l0
    assert torch.equal(torch.tensor(found), weight.detach().flatten())


def test_weights_that_are_not_finite_are_refused():
    source, raw = source_and_series("rnn")
    with torch.no_grad():
        source.model.output.weight[0, 0] = torch.inf
    with pytest.raises(UserError, match="not finite.*nothing was written"):
        export(source, "c", raw, "series")


@needs_cc
def test_a_header_that_answers_otherwise_is_refused(monkeypatch):
    source, raw = source_and_series("gru")
    right = c_code.CELLS["GRU"]
    monkeypatch.setitem(c_code.CELLS, "GRU", right.replace("(1 - z)", "(1.001f - z)"))
    with pytest.raises(UserError, match="differ from the run's by .*nothing was written"):
        export(source, "c", raw, "series")


@needs_cc
def test_a_header_that_does_not_compile_is_refused_with_the_compilers_words(monkeypatch):
    source, raw = source_and_series("gru")
    monkeypatch.setattr(c_code, "STEP", "#error this is wrong")
    with pytest.raises(UserError, match="cc could not compile .*this is wrong"):
        export(source, "c", raw, "series")


@needs_cc
@pytest.mark.parametrize("name", ["NAME_WIDTH", "END", "y"])
def test_any_name_compiles(name):
    source, (inputs, lengths) = source_and_series("gru", subsample=3)
    raw = inputs[:2], lengths[:2]
    assert export(source, "c", raw, "series", name=name).difference < 1e-5


@needs_cc
def test_two_networks_of_one_name_do_not_compile_together(tmp_path):
    for i, cell in enumerate(("rnn", "gru")):
        source, _ = source_and_series(cell)
        (tmp_path / f"{i}.h").write_text(header_of(source, "net"))
    for included, code in (("00", 0), ("01", 1)):  # the same one twice is harmless
        (tmp_path / "main.c").write_text("".join(f'#include "{i}.h"\n' for i in included))
        command = ["cc", "-fsyntax-only", "main.c"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == code


def test_past_outputs_are_inputs_with_the_value_that_they_begin_with():
    rng = np.random.default_rng(0)
    u, y = rng.normal(size=(6, 9, 1)), rng.normal(loc=7, size=(6, 9))
    task = from_arrays(u, y, feedback=2, each_step=True)
    p = task.data.preparation
    model = SequenceModel(3, 4, 1, cell="rnn", readout="every").eval()
    source, _ = source_and_series("rnn")
    settings = source.settings | {"output_size": 1}
    text = header_of(
        replace(source, model=model, settings=settings, preparation=p, loss="mse"), "n"
    )
    assert f"x[0]: {p.channels[0]}\n" in text
    for i in (1, 2):
        assert f"x[{i}]: {p.channels[i]}, at first {p.target_mean[0]:.9g}\n" in text


@needs_cc
def test_filling_of_missing_values_refuses_a_compiler_that_ignores_them(tmp_path):
    source, _ = source_and_series("rnn")
    (tmp_path / "net.h").write_text(header_of(source, "net"))
    for flags, code in (([], 0), (["-ffast-math"], 1)):
        command = ["cc", "-fsyntax-only", *flags, "-x", "c", "net.h"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == code


@given(st.text(alphabet="aZ_0- .éß", max_size=8))
def test_any_name_of_a_file_becomes_a_name_in_c(text):
    name = identifier(text)
    assert re.fullmatch("[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", name)
    assert identifier(name) == name


@pytest.mark.parametrize(
    ("file", "name"),
    [("model", "model"), ("2nd-net v1.0", "model_2nd_net_v1_0"), ("größe", "gr_e"), ("_", "model")],
)
def test_names_in_c_by_hand(file, name):
    assert identifier(file) == name


@given(st.text(alphabet="*/?\\\n \x1bé", max_size=9))
def test_no_name_ends_the_comment_or_begins_another(text):
    def of(name):
        return comment("net", name, 1, Description(name, (name,), (name,)), "Bytes.")

    found = of(text)
    assert found.index("*/") == len(found) - 2
    assert found.count("/*") == 1
    assert "??" not in found
    assert len(found.splitlines()) == len(of("a").splitlines())


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run on arrays of our own."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short_run()
    return folder


@pytest.fixture
def run_folder(trained, tmp_path, monkeypatch):
    """A copy of it, in the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@needs_cc
def test_a_card_stands_beside_the_header_and_its_example_compiles(
    run_folder, tmp_path, monkeypatch, command
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(c_check.tempfile, "tempdir", str(tmp_path / "temporary"))
    code, out, error = command("export", run_folder, "--format", "c", "--out", "out/2 taps.h")
    assert code == 0, error
    assert "checked on 40 series of the run's file, step by step: answers differ by" in out
    header, card = Path("out/2 taps.h").read_text(), Path("out/2 taps.h.md").read_text()
    assert header.startswith(MARK)
    named = f"from the run {run_folder} ("
    for words in (named, "y[1]: probability of low", "x[1]: channel 2", "32 of state"):
        assert words in header
    for words in ("| bytes of weights | ", "| bytes of state | 32 |", "Checked at every step"):
        assert words in card
    example = card.partition("```c\n")[2].partition("```")[0]
    assert "\n".join(usage("model_2_taps", 1)) in example
    include, *body = example.splitlines()
    frame = "static int read_sensor(float *x) { static int n; x[0] = x[1] = 0; return n++ < 9; }"
    lines = [include, frame, "int main(void) {", *body, "return !(y[0] > 0 && y[0] < 1); }"]
    Path("out/main.c").write_text("\n".join(lines))
    subprocess.run(["cc", "-std=c99", "main.c", "-o", "main", "-lm"], cwd="out", check=True)
    subprocess.run(["out/main"], check=True)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("cc", ["no-such-compiler", "false", "cc 'unclosed"])
def test_without_a_compiler_it_is_written_and_said_not_to_be_checked(
    run_folder, command, monkeypatch, cc
):
    monkeypatch.setenv("CC", cc)
    code, out, error = command("export", run_folder, "--format", "c", "--streaming")
    assert code == 0, error
    assert "not checked: no C compiler" in out
    assert "Not checked: no C compiler" in (run_folder / "model.h.md").read_text()
    assert (run_folder / "model.h").read_text().startswith(MARK)


@pytest.mark.parametrize(
    ("options", "out", "words"),
    [
        ({}, "own.npz", "must end in .h, got own.npz"),
        ({}, "folder.h", "must be a file, got the folder"),
        ({}, "mine.h", "header of another origin, got mine.h"),
        (dict(model="rnn", missing="interpolate"), "new.h", "got interpolate"),
        (dict(model="auto"), "new.h", "--format c needs a network of one direction"),
        (dict(model="gru", stem="2/1"), "new.h", "--format c needs a network without a stem"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_written(
    run_folder, command, options, out, words
):
    folder = "run"
    if options:
        folder = "another"
        run(RunConfig(data="own.npz", hidden=4, budget="3gradients", **options), Path(folder))
    Path("folder.h").mkdir()
    Path("mine.h").write_text("/* a driver */\n")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, _, error = command("export", folder, "--format", "c", "--out", out)
    assert code == 2
    assert words in error
    assert "Traceback" not in error
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_what_int8_weights_cost_is_measured_and_said(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    short_run()
    run_folder = tmp_path / "run"
    arguments = ("export", run_folder, "--format", "c", "--weights", "int8")
    code, out, error = command(*arguments)
    assert code == 0, error
    accuracy = RunFolder.open(run_folder).read_result()["test_metric"]
    card = (run_folder / "model.h.md").read_text()
    for line in (f"test accuracy with float32 weights: {accuracy:.6g}", "with int8 weights: "):
        assert line in out
        assert line.replace(": ", " | ") in card
    assert "(c, one step at a time, weights in int8)" in card
    Path("own.npz").unlink()
    code, out, error = command(*arguments)
    assert code == 0, error
    assert "loss of int8 weights: not measured" in out


def test_the_cost_of_int8_is_that_of_the_rounded_weights(run_folder):
    source = open_run(run_folder)[0]
    with torch.no_grad():  # far from what was learnt: most weights become zero
        for weight in source.model.parameters():
            if weight.ndim > 1:
                weight[:, 0] *= 1e4
    task = task_of(source.config)
    twin = with_int8_weights(source.model)
    before, after = (
        task.evaluate(m, task.test, torch.device("cpu"))[1] for m in (source.model, twin)
    )
    assert metric_of_int8(source) == (
        ("test accuracy with float32 weights", f"{before:.6g}"),
        ("test accuracy with int8 weights", f"{after:.6g}"),
    )


@pytest.mark.parametrize("form", ["torchscript", "safetensors"])
def test_int8_weights_of_other_formats_are_refused(run_folder, command, form):
    code, _, error = command("export", run_folder, "--format", form, "--weights", "int8")
    assert code == 2
    assert f"--weights int8 needs --format c or onnx, got {form}" in error


@needs_cc
def test_an_exported_header_is_written_over(run_folder, command):
    for _ in range(2):
        assert command("export", run_folder, "--format", "c")[0] == 0
