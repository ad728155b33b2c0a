"""What the IndRNN's GPU kernels promise: the plain loop's numbers, also where no GPU is at hand.

Without a card they run in Triton's interpreter and are compiled for one. Both must be decided
before triton is imported, and rnnopt itself must never import it, so these checks run in processes
of their own: this file, called as a script. With a card the last test runs them at full size.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

# ---- The plain twin ----------------------------------------------------------------------------


def plain_states(z, u, h0, lengths, nonlinearity, positive=None):
    """All states and the last true one, step by step.

    Where `positive` is given, the nonlinearity is the identity there and zero elsewhere.
    """
    h = torch.zeros_like(z[0]) if h0 is None else h0
    states = []
    for t in range(z.shape[0]):
        new = z[t] + u * h
        if positive is None:
            new = getattr(torch, nonlinearity)(new)
        else:
            new = torch.where(positive[t], new, torch.zeros_like(new))
        if lengths is None:
            h = new
            states.append(h)
        else:
            true_step = (t < lengths)[:, None]
            h = torch.where(true_step, new, h)
            states.append(torch.where(true_step, new, torch.zeros_like(new)))
    return torch.stack(states), h


def draw(shape, dtype, with_h0, with_lengths, transposed=False, seed=0, device="cpu"):
    """z, u, h0, lengths, grad_out and grad_hn, drawn in float64 and rounded to `dtype`."""
    rng = torch.Generator().manual_seed(seed)
    T, B, H = shape

    def normal(*size):
        return torch.randn(*size, generator=rng, dtype=torch.float64).to(device, dtype)

    if transposed:  # what a batch-first layer hands over
        z, grad_out = normal(B, T, H).transpose(0, 1), normal(B, T, H).transpose(0, 1)
    else:
        z, grad_out = normal(T, B, H), normal(T, B, H)
    # |u| ≤ 0.9: an error made at one step is less than ten times itself summed over all later ones.
    u = 1.8 * torch.rand(H, generator=rng, dtype=torch.float64) - 0.9
    h0 = normal(B, H) if with_h0 else None
    lengths = torch.randint(1, T + 1, (B,), generator=rng) if with_lengths else None
    if lengths is not None:
        lengths[0], lengths[-1] = T, min(T, 32)  # 32 is where a chunk ends
        lengths = lengths.to(device)
    return z, u.to(device, dtype), h0, lengths, grad_out, normal(B, H)


def compare(z, u, h0, lengths, grad_out, grad_hn, nonlinearity):
    """The kernels against autograd through the plain loop in float64.

    A step rounds its state five or six times (product, sum, and three or four in tanh), and with
    |u| ≤ 0.9 errors of all steps add up to at most ten steps' worth: 64 roundings of the largest
    value. Backward as much again. grad_u is a sum, so its error is measured by its terms' sizes.
    Relu's slope is that of the state as it was rounded: among millions some round across zero.
    """
    from rnnopt.layers.kernels import indrnn_gpu

    out = indrnn_gpu.forward(z, u, h0, lengths, nonlinearity)
    fenced = torch.full((z.shape[0] + 2, *z.shape[1:]), torch.nan, dtype=z.dtype, device=z.device)
    fenced[1:-1] = out
    out = fenced[1:-1]  # what is read outside shows
    grads = indrnn_gpu.backward(grad_out, grad_hn, out, u, h0, lengths, nonlinearity)

    exact = [None if x is None else x.double().requires_grad_() for x in (z, u, h0)]
    zeros = torch.zeros_like(z[0], dtype=torch.float64)
    start = zeros.requires_grad_() if h0 is None else exact[2]
    with torch.no_grad():
        true_states, _ = plain_states(exact[0], exact[1], start, lengths, nonlinearity)
    positive = out > 0 if nonlinearity == "relu" else None
    states, last = plain_states(exact[0], exact[1], start, lengths, nonlinearity, positive)
    upstream = (
        torch.zeros_like(states) if grad_out is None else grad_out.double(),
        torch.zeros_like(last) if grad_hn is None else grad_hn.double(),
    )
    expected = torch.autograd.grad((states, last), (exact[0], exact[1], start), upstream)

    assert out.dtype == z.dtype
    assert [g.dtype for g in grads] == [z.dtype, u.dtype, z.dtype]
    assert [g.shape for g in grads] == [e.shape for e in expected]
    before = torch.cat([start[None], states[:-1]])
    rounding = 64 * torch.finfo(z.dtype).eps
    pairs = [
        ("out", out, true_states, true_states.abs().max()),
        ("grad_z", grads[0], expected[0], expected[0].abs().max()),
        ("grad_u", grads[1], expected[1], (expected[0] * before).abs().sum((0, 1)).max()),
        ("grad_h0", grads[2], expected[2], expected[0].abs().max() + upstream[1].abs().max()),
    ]
    for name, ours, true, scale in pairs:
        error = (ours.double() - true).abs().max().item()
        bound = rounding * max(scale.item(), 1.0)
        assert error <= bound, f"{name} is off by {error}, more than {bound}"


# ---- Checks in the interpreter -----------------------------------------------------------------

# Chunks are 32 steps in float32 and 16 in float64; programs are 32 lanes. So: one step, less than a
# chunk, exactly two, two and a rest; lanes fewer than a program, exactly one, and more.
SHAPES = [(1, 1, 1), (5, 3, 7), (64, 2, 16), (70, 3, 40)]


def interpreted_equals_the_plain_loop_in_float64():
    for nonlinearity in ("tanh", "relu"):
        for shape in SHAPES:
            compare(*draw(shape, torch.float64, True, True), nonlinearity)
        for with_h0, with_lengths in ((False, False), (True, False), (False, True)):
            compare(*draw((35, 2, 5), torch.float64, with_h0, with_lengths), nonlinearity)


def interpreted_equals_the_plain_loop_in_float32():
    for shape in SHAPES:
        for nonlinearity in ("tanh", "relu"):
            compare(*draw(shape, torch.float32, True, shape[0] == 70), nonlinearity)


def interpreted_reads_batch_first_memory_in_place():
    for nonlinearity in ("tanh", "relu"):
        data = draw((35, 3, 5), torch.float64, True, True, transposed=True)
        assert not data[0].is_contiguous()
        compare(*data, nonlinearity)


def interpreted_copies_what_has_no_unit_stride():
    z, u, h0, lengths, grad_out, grad_hn = draw((6, 2, 5), torch.float64, True, False)
    backwards = z.transpose(0, 2).contiguous().transpose(0, 2)
    assert backwards.stride(-1) != 1
    # What `out.sum().backward()` hands over: one number with strides of zero.
    grad_out = grad_out[:1, :1, :1].expand(6, 2, 5)
    compare(backwards, u, h0, lengths, grad_out, grad_hn, "tanh")


def interpreted_takes_missing_gradients_for_zero():
    z, u, h0, lengths, grad_out, grad_hn = draw((35, 3, 5), torch.float64, True, True)
    for nonlinearity in ("tanh", "relu"):
        compare(z, u, h0, lengths, None, grad_hn, nonlinearity)
        compare(z, u, h0, lengths, grad_out, None, nonlinearity)
        compare(z, u, h0, lengths, None, None, nonlinearity)


def interpreted_reads_nothing_behind_the_last_true_step():
    from rnnopt.layers.kernels import indrnn_gpu

    z, u, h0, _, grad_out, grad_hn = draw((35, 2, 5), torch.float64, True, False)
    lengths = torch.tensor([35, 17])
    z[17:, 1] = grad_out[17:, 1] = float("nan")
    out = indrnn_gpu.forward(z, u, h0, lengths, "tanh")
    grads = indrnn_gpu.backward(grad_out, grad_hn, out, u, h0, lengths, "tanh")
    assert (out[17:, 1] == 0).all()
    assert (grads[0][17:, 1] == 0).all()
    assert all(x.isfinite().all() for x in (out, *grads))


def interpreted_hands_the_final_gradient_of_no_steps_to_the_first_state():
    from rnnopt.layers.kernels import indrnn_gpu

    _, u, h0, _, grad_out, grad_hn = draw((4, 2, 5), torch.float64, True, False)
    for steps, lengths in ((4, torch.tensor([0, 0])), (0, None)):
        z = torch.zeros(steps, 2, 5, dtype=torch.float64)
        out = indrnn_gpu.forward(z, u, h0, lengths, "tanh")
        arguments = (grad_out[:steps], grad_hn, out, u, h0, lengths, "tanh")
        grad_z, grad_u, grad_h0 = indrnn_gpu.backward(*arguments)
        assert not any(x.any() for x in (out, grad_z, grad_u))
        assert torch.equal(grad_h0, grad_hn)


def interpreted_takes_empty_batches():
    from rnnopt.layers.kernels import indrnn_gpu

    for shape in ((3, 0, 4), (3, 2, 0)):
        z, u = torch.zeros(shape), torch.zeros(shape[2])
        out = indrnn_gpu.forward(z, u, None, None, "relu")
        grads = indrnn_gpu.backward(z, None, out, u, None, None, "relu")
        assert [g.shape for g in grads] == [z.shape, u.shape, z.shape[1:]]
        assert not grads[1].any()


def interpreted_computes_short_floats_in_float32():
    from rnnopt.layers.kernels import indrnn_gpu

    for dtype in (torch.bfloat16, torch.float16):
        z, u, h0, lengths, grad_out, grad_hn = draw((35, 3, 5), dtype, True, True)
        for nonlinearity in ("tanh", "relu"):
            out = indrnn_gpu.forward(z, u, h0, lengths, nonlinearity)
            grads = indrnn_gpu.backward(grad_out, grad_hn, out, u, h0, lengths, nonlinearity)
            single = [x.float() for x in (z, u, h0)]
            states = indrnn_gpu.forward(*single, lengths, nonlinearity)
            expected = indrnn_gpu.backward(
                grad_out.float(), grad_hn.float(), out.float(), *single[1:], lengths, nonlinearity
            )
            # One rounding at the end, and that is all: the very same numbers, stored shorter. The
            # interpreter cuts bfloat16 off instead of rounding it, which is up to one unit.
            for ours, longer in zip((out, *grads), (states, *expected), strict=True):
                assert ours.dtype == dtype
                if dtype == torch.float16:
                    assert torch.equal(ours, longer.to(dtype))
                else:
                    assert ((ours - longer).abs() <= 2**-7 * longer.abs()).all()


def interpreted_keeps_nan():
    nan_is_kept("cpu")


def nan_is_kept(device):
    from rnnopt.layers.kernels import indrnn_gpu

    for nonlinearity in ("tanh", "relu"):
        z, u, h0, _, grad_out, _ = draw((9, 2, 3), torch.float32, True, False, device=device)
        z = z.abs() + 1  # with u > 0 every state is positive: relu lets all gradients through
        z[3, 0, 0] = grad_out[5, 1, 2] = float("nan")
        arguments = (u.abs() + 0.1, h0.abs(), None, nonlinearity)
        out = indrnn_gpu.forward(z, *arguments)
        expected = torch.zeros(9, 2, 3, dtype=torch.bool, device=device)
        expected[3:, 0, 0] = True
        assert torch.equal(out.isnan(), expected)
        z[3, 0, 0] = 1.0
        out = indrnn_gpu.forward(z, *arguments)
        grad_z, grad_u, grad_h0 = indrnn_gpu.backward(grad_out, None, out, *arguments)
        expected = torch.zeros(9, 2, 3, dtype=torch.bool, device=device)
        expected[:6, 1, 2] = True
        assert torch.equal(grad_z.isnan(), expected)
        assert grad_u.isnan().tolist() == [False, False, True]
        assert grad_h0.isnan().tolist() == [[False] * 3, [False, False, True]]


def interpreted_relu_has_no_slope_at_zero():
    from rnnopt.layers.kernels import indrnn_gpu

    z = torch.tensor([[[0.0, -1.0, 1.0]]])
    out = indrnn_gpu.forward(z, torch.ones(3), None, None, "relu")
    grad_z, _, _ = indrnn_gpu.backward(z + 5, None, out, torch.ones(3), None, None, "relu")
    assert grad_z.tolist() == [[[0.0, 0.0, 6.0]]]


def interpreted_tanh_is_accurate_everywhere():
    tanh_is_accurate("cpu", torch.float64)
    tanh_is_accurate("cpu", torch.float32)


def tanh_is_accurate(device, dtype):
    """Within 4 units in the last place of the true value, from the smallest numbers to infinity."""
    from rnnopt.layers.kernels import indrnn_gpu

    size = torch.logspace(-30, 3, 700, dtype=torch.float64)
    size = torch.cat([size, torch.linspace(0.3, 1.2, 700, dtype=torch.float64)])
    z = torch.cat([size, -size, torch.tensor([0.0, torch.inf, -torch.inf])]).to(dtype)
    u = torch.zeros(1, dtype=dtype, device=device)
    ours = indrnn_gpu.forward(z.view(1, -1, 1).to(device), u, None, None, "tanh").view(-1).cpu()
    true = z.double().tanh()
    # The unit of a number in [2^k, 2^{k+1}) is eps 2^k; 1 counts as the number below it.
    unit = torch.finfo(dtype).eps * 2.0 ** (true.abs().log2().floor()).clamp(max=-1)
    assert ((ours.double() - true).abs() <= 4 * unit).all()
    assert ours[-3:].tolist() == [0.0, 1.0, -1.0]


def interpreted_twice_is_the_same_bits():
    from rnnopt.layers.kernels import indrnn_gpu

    z, u, h0, lengths, grad_out, grad_hn = draw((40, 3, 40), torch.float32, True, True)
    results = []
    for _ in range(2):
        out = indrnn_gpu.forward(z, u, h0, lengths, "tanh")
        grads = indrnn_gpu.backward(grad_out, grad_hn, out, u, h0, lengths, "tanh")
        results.append((out, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def interpreted_rejects_other_nonlinearities():
    from rnnopt.layers.kernels import indrnn_gpu

    z = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match="nonlinearity='gelu'"):
        indrnn_gpu.forward(z, z[0, 0], None, None, "gelu")


# ---- Checks of what is compiled, for the H100's architecture -----------------------------------


def compiled(kernel, dtype, missing=(), relu=False, unroll=16):
    """The kernel's assembly and what the assembler says of its registers."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sizes = ("T", "H", "lanes", "z_time", "z_row", "grad_time", "grad_row")
    constants = dict(RELU=relu, UNROLL=unroll, BLOCK=32)
    constants["arithmetic"] = tl.float64 if dtype == "fp64" else tl.float32
    constants |= dict.fromkeys(missing)
    types = dict.fromkeys(kernel.arg_names, f"*{dtype}") | dict.fromkeys(sizes, "i32")
    types |= {"lengths": "*i64", "sums": "*fp64" if dtype == "fp64" else "*fp32"}
    types = {name: types[name] for name in kernel.arg_names}
    types |= {name: "constexpr" for name in constants}
    source = ASTSource(kernel, types, constants)
    options = {"num_warps": 1}
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    return result.asm["ptx"], usage.stdout


def memory_accesses(ptx):
    """L for each load and S for each store of the kernel, in the order of the assembly."""
    found = re.findall(r"\b(ld|st)\.global", ptx)
    return "".join("L" if access == "ld" else "S" for access in found)


def compiled_forward_loads_the_next_chunk_before_it_stores_this_one():
    from rnnopt.layers.kernels.indrnn_gpu import _forward_kernel

    for relu in (False, True):
        ptx, usage = compiled(_forward_kernel, "fp32", ("h0", "lengths"), relu)
        # u, the first chunk; then in the loop the next chunk and the stores of this one.
        assert memory_accesses(ptx) == "L" + 16 * "L" + 16 * "L" + 16 * "S"
        assert "STACK:0" in usage


def compiled_backward_loads_the_next_chunk_before_it_stores_this_one():
    from rnnopt.layers.kernels.indrnn_gpu import _backward_kernel

    ptx, _ = compiled(_backward_kernel, "fp32", ("h0", "lengths", "grad_hn"))
    # u and the last state; the states before and the gradients of a chunk; the two sums' stores.
    assert memory_accesses(ptx) == "LL" + 32 * "L" + 32 * "L" + 16 * "S" + "SS"


def compiled_longest_chunks_stay_in_registers():
    from rnnopt.layers.kernels import indrnn_gpu

    unroll = indrnn_gpu.LONGEST_CHUNK
    _, usage = compiled(indrnn_gpu._backward_kernel, "fp32", (), unroll=unroll)
    assert "STACK:0" in usage, usage
    _, usage = compiled(indrnn_gpu._backward_kernel, "fp64", (), unroll=unroll // 2)
    assert "STACK:0" in usage, usage


def compiled_tanh_takes_no_shortcut():
    from rnnopt.layers.kernels.indrnn_gpu import _forward_kernel

    for dtype in ("fp32", "bf16", "fp16", "fp64"):
        ptx, _ = compiled(_forward_kernel, dtype, ("h0",), unroll=8)
        assert "tanh.approx" not in ptx
        assert ("ex2.approx" in ptx) == (dtype != "fp64")
        assert "div.full" not in ptx  # it would lengthen the chain from state to state
        assert "sqrt.approx.ftz.f64" not in ptx
        assert ("cvt.rn.bf16" in ptx) == (dtype == "bf16")  # to nearest, not cut off


# ---- Running them ------------------------------------------------------------------------------


def checks_named(start):
    return sorted(n for n in globals() if n.startswith(start + "_"))


def run_checks(start):
    """Prints, for each check, null or what went wrong."""
    torch.set_num_threads(1)
    report = {}
    for name in checks_named(start):
        try:
            globals()[name]()
            report[name] = None
        except (Exception, pytest.fail.Exception):
            report[name] = traceback.format_exc()
    print(json.dumps(report))


def reported(start, cache, **variables):
    """The report of a process that imports triton under the environment `variables`."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= dict(PYTHONPATH=path, TRITON_CACHE_DIR=str(cache)) | variables
    command = [sys.executable, str(Path(__file__)), start]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def report_of_interpreter(tmp_path_factory):
    return reported("interpreted", tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def report_of_compiler(tmp_path_factory):
    return reported("compiled", tmp_path_factory.mktemp("triton"))


@needs_triton
@pytest.mark.parametrize("name", checks_named("interpreted"))
@pytest.mark.process
@pytest.mark.full
def test_interpreter(report_of_interpreter, name):
    assert report_of_interpreter[name] is None, report_of_interpreter[name]


@needs_triton
@pytest.mark.process
def test_a_few_checks_of_the_interpreter(tmp_path):
    report = reported("interpreted_reads", tmp_path, TRITON_INTERPRET="1")
    assert len(report) == 2
    assert set(report.values()) == {None}, report


@needs_triton
@pytest.mark.parametrize("name", checks_named("compiled"))
@pytest.mark.process
@pytest.mark.full
def test_compiler(report_of_compiler, name):
    assert report_of_compiler[name] is None, report_of_compiler[name]


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_on_a_gpu_the_kernels_equal_the_plain_loop_and_can_be_captured(nonlinearity):
    from rnnopt.layers.kernels import indrnn_gpu

    z, u, h0, lengths, grad_out, grad_hn = data = draw(
        (784, 128, 128), torch.float32, True, True, device="cuda"
    )
    compare(*data, nonlinearity)
    compare(*draw((70, 3, 40), torch.float64, True, True, True, device="cuda"), nonlinearity)
    tanh_is_accurate("cuda", torch.float32)
    tanh_is_accurate("cuda", torch.float64)
    nan_is_kept("cuda")

    def both():
        out = indrnn_gpu.forward(z, u, h0, lengths, nonlinearity)
        return out, *indrnn_gpu.backward(grad_out, grad_hn, out, u, h0, lengths, nonlinearity)

    expected = both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for result in captured:
        result.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    for result, eager in zip(captured, expected, strict=True):
        assert torch.equal(result, eager)


if __name__ == "__main__":
    run_checks(sys.argv[1])
