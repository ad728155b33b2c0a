"""Networks that leave torch: traced, exported and scripted they are torch's own operators alone.

Each graph is saved, loaded and run on another batch and, where torch allows it, on another number
of steps than it was made from; a process that cannot import rnnopt gets the same numbers.
"""

import io
import json
import subprocess
import sys

import pytest
import torch
from cases import partly
from torch import nn

from rnnopt import GRU, LSTM, ElmanRNN, IndRNN, SequenceModel
from rnnopt.layers.kernels import cpu

pytestmark = [
    # Of torch itself, whoever traces; the category is another with every release.
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated"),
    # torch.export's own use of its tree specifications.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),
    # torch.export.load of torch 2.10.
    pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning"),
    # nn.LSTM and nn.GRU set an attribute while they are exported, and compare sizes when traced.
    pytest.mark.filterwarnings("ignore:The tensor attributes? self.*_flat_weights:UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning:torch.nn.modules.rnn"),
]


class LSTMOfOneState(LSTM):
    """An LSTM that takes and gives tensors alone, as the other layers."""

    def forward(self, input, hx=None, lengths=None):
        output, last = super().forward(input, None if hx is None else (hx, hx.sin()), lengths)
        return output, *last


LAYERS = {
    "elman": lambda dtype: ElmanRNN(3, 8, dtype=dtype),
    "elman, relu": lambda dtype: ElmanRNN(3, 8, 2, "relu", bias=False, dtype=dtype),
    "elman, both ways": lambda dtype: ElmanRNN(
        3, 8, 2, bidirectional=True, batch_first=True, dropout=0.3, dtype=dtype
    ),
    "gru": lambda dtype: GRU(3, 8, 2, bidirectional=True, batch_first=True, dtype=dtype),
    "lstm": lambda dtype: LSTMOfOneState(3, 8, 2, bidirectional=True, dtype=dtype),
    "indrnn": lambda dtype: IndRNN(3, 8, dtype=dtype),
    "indrnn, bound": lambda dtype: IndRNN(
        3, 8, 2, recurrent_bound=0.5, batch_norm="after", dropout=0.2, batch_first=True, dtype=dtype
    ),
    "indrnn, normalised": lambda dtype: IndRNN(
        3, 8, 2, "tanh", bias=False, batch_norm="before", dtype=dtype
    ),
}
MODELS = {
    f"{cell}, {readout}": lambda dtype, cell=cell, readout=readout: SequenceModel(
        3, 8, 2, cell=cell, layers=2, batch_norm=readout != "last", dropout=0.2, readout=readout
    ).to(dtype)
    for cell in ("rnn", "lstm", "gru", "indrnn")
    for readout in ("last", "mean", "every")
}
WHAT_IS_GIVEN = ["input", "hx", "lengths", "hx and lengths"]
EACH_LAYER = [(name, given) for name in LAYERS for given in WHAT_IS_GIVEN] + [
    (name, "unbatched") for name in LAYERS if name.startswith("elman")
]
EACH = EACH_LAYER + [(name, given) for name in MODELS for given in ("input", "lengths")]
# Seconds each: every argument of every layer, and each cell once.
A_FEW = [(name, "hx and lengths") for name in LAYERS] + [
    ("elman", "unbatched"), ("elman", "input"), ("indrnn", "input"), ("rnn, last", "lengths"),
    ("lstm, mean", "input"), ("gru, every", "input"), ("indrnn, mean", "input"),
]  # fmt: skip
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}


def network(name, dtype=torch.float32):
    torch.manual_seed(0)
    made = {**LAYERS, **MODELS}[name](dtype).eval()
    for norm in made.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    return made


def arguments(layer, given, steps, batch):
    """Arguments by name; padding holds NaN, which must not reach an answer."""
    dtype = next(layer.parameters()).dtype
    if given == "unbatched":
        return {"input": torch.randn(steps, 3, dtype=dtype)}
    batch_first = getattr(layer, "batch_first", False)
    x = torch.randn(steps, batch, 3, dtype=dtype)
    found = {}
    if "hx" in given:
        directions = 2 if getattr(layer, "bidirectional", False) else 1
        found["hx"] = torch.randn(layer.num_layers * directions, batch, 8, dtype=dtype)
    if "lengths" in given:
        lengths = torch.randint(1, steps + 1, (batch,))
        lengths[0] = steps
        x[torch.arange(steps)[:, None] >= lengths] = torch.nan
        found["lengths"] = lengths
    name = "inputs" if isinstance(layer, SequenceModel) else "input"
    return {name: x.transpose(0, 1).contiguous() if batch_first else x, **found}


def axes(layer, given):
    """Which sizes of each argument may change: t is time, b the batch."""
    if given == "unbatched":
        return {"input": {0: "t"}}
    first = {0: "b", 1: "t"} if getattr(layer, "batch_first", False) else {0: "t", 1: "b"}
    name = "inputs" if isinstance(layer, SequenceModel) else "input"
    found = {name: first}
    if "hx" in given:
        found["hx"] = {1: "b"}
    if "lengths" in given:
        found["lengths"] = {0: "b"}
    return found


def flat(results):
    return list(results) if isinstance(results, tuple) else [results]


def check_same(run, layer, *cases):
    tolerance = TOLERANCE[next(layer.parameters()).dtype]
    for case in cases:
        with torch.no_grad():
            wanted, found = flat(layer(**case)), flat(run(**case))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("name", "given", "dtype"),
    partly(
        [(*each, torch.float32) for each in EACH], [(*each, torch.float32) for each in EACH[::4]]
    )
    + partly([(*each, torch.float64) for each in A_FEW], []),
)
def test_a_trace_takes_other_steps_and_batches(name, given, dtype):
    layer = network(name, dtype)
    first, second = arguments(layer, given, 6, 4), arguments(layer, given, 9, 5)
    content = io.BytesIO()
    traced = torch.jit.trace(layer, example_kwarg_inputs=first, check_trace=False)
    assert "rnnopt::" not in str(traced.inlined_graph)
    torch.jit.save(traced, content)
    check_same(torch.jit.load(io.BytesIO(content.getvalue())), layer, first, second)


def exported(layer, case, varying=None, **options):
    """An exported program, decomposed, saved and loaded."""
    sizes = {letter: torch.export.Dim(letter) for letter in "tb"}
    dynamic = varying and {
        name: {place: sizes[letter] for place, letter in one.items()}
        for name, one in varying.items()
    }
    program = torch.export.export(layer, (), case, dynamic_shapes=dynamic, **options)
    for one in (program, program.run_decompositions()):
        assert "rnnopt" not in str(one.graph)
        content = io.BytesIO()
        torch.export.save(one, content)
        loaded = torch.export.load(io.BytesIO(content.getvalue()))
    return loaded.module()


@pytest.mark.parametrize(("name", "given"), partly(A_FEW, [A_FEW[1], A_FEW[-4]]))
def test_an_exported_program_has_the_same_numbers(name, given):
    layer = network(name)
    case = arguments(layer, given, 5, 4)
    check_same(exported(layer, case), layer, case)


# torch's own LSTM and GRU export one number of steps alone.
DYNAMIC = [
    ("elman", "input"), ("elman", "unbatched"), ("elman, both ways", "hx and lengths"),
    ("elman, relu", "lengths"), ("indrnn", "input"), ("indrnn, bound", "hx and lengths"),
    ("indrnn, normalised", "lengths"), ("rnn, mean", "lengths"), ("indrnn, every", "input"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given"), partly(DYNAMIC, [DYNAMIC[3], DYNAMIC[5]]))
def test_an_exported_program_takes_other_steps_and_batches(name, given):
    layer = network(name, torch.float64 if name in LAYERS else torch.float32)
    first, second = arguments(layer, given, 6, 4), arguments(layer, given, 9, 5)
    # Once with sizes that stay: what torch remembers of it must not decide for the second.
    exported(layer, first)
    check_same(exported(layer, first, axes(layer, given)), layer, first, second)


# torch's own, of what its `scan` does: 2.10 and later.
@pytest.mark.filterwarnings("ignore:You are calling torch.compile inside:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside:UserWarning")
@pytest.mark.parametrize("name", ["elman, both ways", "indrnn, bound"])
@pytest.mark.full
def test_a_strict_export_takes_other_steps_too(name):
    layer = network(name)
    first, second = arguments(layer, "lengths", 6, 4), arguments(layer, "lengths", 9, 5)
    program = exported(layer, first, axes(layer, "lengths"), strict=True)
    check_same(program, layer, first, second)


def onnx_run(content):
    """What onnxruntime answers with an ONNX file of torch's own operators."""
    onnx = pytest.importorskip("onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession(content)
    graph = onnx.load_from_string(content)
    assert "rnnopt" not in str({node.domain for node in graph.graph.node})
    assert "rnnopt" not in {function.domain for function in graph.functions}

    def run(**case):
        wanted = [one.name for one in session.get_inputs()]
        found = session.run(None, {name: case[name].numpy() for name in wanted})
        return tuple(map(torch.from_numpy, found))

    return run


# torch's own: its legacy exporter says so, and warns of batches where a first state is not given.
@pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX")
@pytest.mark.filterwarnings("ignore:The feature will be removed")
@pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning")
@pytest.mark.parametrize(("name", "given"), partly(EACH, [*EACH[::4], ("lstm", "lengths")]))
def test_onnx_by_tracing_takes_other_steps_and_batches(name, given):
    pytest.importorskip("onnx")
    layer = network(name)
    first, second = arguments(layer, given, 6, 4), arguments(layer, given, 9, 5)
    content = io.BytesIO()
    torch.onnx.export(
        layer, (), content, kwargs=first, dynamo=False, input_names=list(first),
        dynamic_axes=axes(layer, given),
    )  # fmt: skip
    check_same(onnx_run(content.getvalue()), layer, first, second)


# torch's own: two arguments have one size in common.
@pytest.mark.filterwarnings("ignore:# The axis name. b will not be used:UserWarning")
@pytest.mark.parametrize(
    ("name", "given"),
    partly(
        [
            ("elman, both ways", "hx and lengths"),
            ("indrnn, bound", "lengths"),
            ("rnn, mean", "lengths"),
        ],
        [("rnn, mean", "lengths")],
    ),
)
def test_onnx_by_export_takes_other_steps_and_batches(name, given, tmp_path):
    pytest.importorskip("onnxscript")
    layer = network(name)
    first, second = arguments(layer, given, 6, 4), arguments(layer, given, 9, 5)
    sizes = {letter: torch.export.Dim(letter) for letter in "tb"}
    varying = {
        argument: {place: sizes[letter] for place, letter in one.items()}
        for argument, one in axes(layer, given).items()
    }
    path = tmp_path / "layer.onnx"
    torch.onnx.export(
        layer, (), path, kwargs=first, dynamo=True, dynamic_shapes=varying, verbose=False,
        external_data=False,
    )  # fmt: skip
    check_same(onnx_run(path.read_bytes()), layer, first, second)


@pytest.mark.process
@pytest.mark.full
def test_saved_networks_run_where_rnnopt_is_not_installed(tmp_path):
    wanted = {}
    for name in ("elman, both ways", "indrnn, bound", "rnn, last", "indrnn, mean"):
        layer = network(name)
        case = arguments(layer, "lengths", 6, 4)
        path = tmp_path / name.replace(", ", "-")
        torch.jit.save(torch.jit.trace(layer, example_kwarg_inputs=case), path.with_suffix(".pt"))
        torch.export.save(torch.export.export(layer, (), case), path.with_suffix(".pt2"))
        torch.save(case, path.with_suffix(".case"))
        wanted[path.name] = [one.sum().item() for one in flat(layer(**case))]
    script = """
import json, sys, warnings
from pathlib import Path
sys.modules["rnnopt"] = None  # any import of it fails
warnings.simplefilter("ignore")
import torch
found = {}
for case in Path().glob("*.case"):
    given = torch.load(case)
    for load in (
        lambda: torch.jit.load(case.with_suffix(".pt")),
        lambda: torch.export.load(case.with_suffix(".pt2")).module(),
    ):
        results = load()(**given)
        results = results if isinstance(results, tuple) else [results]
        found.setdefault(case.stem, []).append([one.sum().item() for one in results])
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, both in json.loads(done.stdout.splitlines()[-1]).items():
        for sums in both:
            assert sums == pytest.approx(wanted[name], abs=1e-5)
    assert len(wanted) == 4


def test_a_compiled_layer_keeps_the_kernels():
    if not cpu.available():
        pytest.skip("there are no kernels")
    for layer in (ElmanRNN(3, 8), IndRNN(3, 8)):
        graphs = []

        def backend(graph, inputs, graphs=graphs):
            graphs.append(str(graph.graph))
            return graph

        torch.compiler.reset()
        torch.compile(layer, backend=backend, fullgraph=True)(torch.randn(6, 4, 3))
        assert any("rnnopt" in graph for graph in graphs)


# -- copies in torch's own operators --------------------------------------------------------------


def plain_cases():
    theirs = [
        name for name in LAYERS if name.startswith(("elman", "gru", "lstm"))
    ]  # torch's own layers
    return [(n, g) for n, g in EACH if g != "unbatched" and n not in theirs]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "given"), partly(plain_cases(), plain_cases()[::5]))
def test_to_torch_computes_the_same_in_torchs_own_operators(name, given, training):
    layer = network(name, torch.float64).train(training)
    plain = layer.to_torch()
    assert not any(isinstance(one, (ElmanRNN, IndRNN, SequenceModel)) for one in plain.modules())
    case = arguments(layer, given, 6, 4)
    scripted = torch.jit.script(plain)
    for copied in (plain, scripted):
        torch.manual_seed(1)
        wanted = flat(layer(**case))
        torch.manual_seed(1)
        found = flat(copied(**case))
        for one, other in zip(found, wanted, strict=True):
            if "lengths" in case and one.ndim == 3 and name.startswith(("lstm", "gru")):
                inside = torch.arange(len(one))[:, None] < case["lengths"]
                one, other = one[inside], other[inside]  # beyond the end nothing is promised
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_to_torch_of_a_layer_has_its_gradients():
    layer = network("indrnn, bound", torch.float64)
    plain = layer.to_torch()
    x = arguments(layer, "input", 6, 4)["input"]
    for one in (layer, plain):
        one(x)[0].square().sum().backward()
    first = plain.layers[0]
    torch.testing.assert_close(first.input.weight.grad, layer.weight_ih_l0.grad)
    inside = layer.weight_hh_l0.detach().abs() < 0.5
    torch.testing.assert_close(first.u.grad[inside], layer.weight_hh_l0.grad[inside])


def test_to_torch_copies_the_weights_and_their_names():
    model = network("lstm, mean")
    plain = model.to_torch()
    plain.load_state_dict(model.state_dict())
    before = model(torch.ones(3, 2, 3))
    with torch.no_grad():
        for weight in plain.parameters():
            weight.zero_()
    assert torch.equal(model(torch.ones(3, 2, 3)), before)


@pytest.mark.parametrize("name", ["elman", "indrnn", "rnn, last"])
def test_scripting_a_layer_of_ours_names_to_torch(name):
    own = nn.Sequential(network(name))
    kind = type(own[0]).__name__
    with pytest.raises(TypeError, match=rf"torch.jit.script .* to_torch\(\) .* got {kind}"):
        torch.jit.script(own)


def test_a_trace_of_a_plain_copy_takes_other_steps_too():
    layer = network("indrnn, bound")
    first, second = arguments(layer, "lengths", 6, 4), arguments(layer, "lengths", 9, 5)
    traced = torch.jit.trace(layer.to_torch(), example_kwarg_inputs=first)
    check_same(traced, layer, first, second)
