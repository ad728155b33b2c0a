"""Examines this machine: which code runs the layers, why, and what would make them faster."""

import os
import platform
import time
from dataclasses import dataclass

import torch
from torch import nn

from rnnopt.config.version import VERSION
from rnnopt.layers.elman import ElmanRNN
from rnnopt.layers.kernels import cpu, half_linear
from rnnopt.layers.kernels.build import read_record
from rnnopt.layers.kernels.indrnn import triton_problem
from rnnopt.runs.environment import processor_name


@dataclass(frozen=True)
class Finding:
    """One finding: its subject, the result, and advice, if any."""

    subject: str
    answer: str
    advice: str = ""


def examine() -> list[Finding]:
    """All findings; takes about a second, because it measures a time."""
    return [
        Finding("rnnopt", VERSION),
        Finding("Python, torch", f"{platform.python_version()}, {torch.__version__}"),
        Finding("processor", f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"),
        Finding("threads", f"{torch.get_num_threads()} (torch.set_num_threads changes it)"),
        *_cpu(),
        Finding("products in bfloat16", half_linear.kind() or "none"),
        *_gpu(),
    ]


def _cpu() -> list[Finding]:
    found = cpu.kernels()
    try:
        record = read_record(cpu.FOLDER)
    except (OSError, ValueError):
        record = None  # `found.reason` reports it
    built = "nothing"
    if record and record["built"]:
        built = f"{', '.join(record['built'])}, by {record['compiler']}"
    findings = [Finding("built at installation", built)]
    if found.variant is None:
        if found.reason.startswith(cpu.SWITCH):
            advice = f"Unset {cpu.SWITCH} to use the compiled kernels."
        elif found.reason.startswith(cpu.UNSUITABLE):
            advice = ""
        elif record is None or record["built"]:
            advice = f"Run: {cpu.REBUILD}"
        elif os.environ.get("CXX"):
            advice = f"Set CXX to a C++ compiler that works, or unset it, then run: {cpu.REBUILD}"
        else:
            advice = f"Install a C++ compiler (g++ or clang++), then run: {cpu.REBUILD}"
        findings.insert(0, Finding("CPU kernels", f"not in use: {found.reason}", advice))
        return findings
    findings.insert(0, Finding("CPU kernels", f"in use, {found.variant}: {found.reason}"))
    if record and not record["openmp"]:
        findings.append(
            Finding(
                "CPU threads",
                "the kernels use one, because the compiler had no OpenMP",
                f"Install g++, or clang++ with libomp, then run: {cpu.REBUILD}",
            )
        )
    ours, torchs = measure()
    findings.append(
        Finding(
            "measured now",
            f"Elman network (28, 128, 100), forward and backward, one thread:"
            f" {ours * 1e3:.2f} ms; torch.nn.RNN"
            f" {torchs * 1e3:.2f} ms, {torchs / ours:.1f} times as long",
        )
    )
    return findings


def _gpu() -> list[Finding]:
    if not torch.cuda.is_available():
        return [Finding("GPU", "none that this torch can use")]
    findings = [Finding("GPU", f"{torch.cuda.get_device_name()}; Elman, LSTM and GRU run in cuDNN")]
    problem = triton_problem()
    if problem is None:
        findings.append(
            Finding("GPU kernels", "in use for IndRNN, compiled by Triton when first run")
        )
    else:
        advice = "Install torch's CUDA build with its Triton, or: pip install triton"
        findings.append(Finding("GPU kernels", f"IndRNN runs step by step: {problem}", advice))
    return findings


def measure(repetitions: int = 15) -> tuple[float, float]:
    """Best seconds of a forward and backward pass of ElmanRNN and torch.nn.RNN, on one thread."""
    torchs = nn.RNN(28, 100)
    ours = ElmanRNN.from_torch(torchs)
    inputs = torch.zeros(28, 128, 28)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would measure the machine's other load
    try:
        taken = [(_seconds(ours, inputs), _seconds(torchs, inputs)) for _ in range(repetitions)]
    finally:
        torch.set_num_threads(threads)
    return min(seconds for seconds, _ in taken), min(seconds for _, seconds in taken)


def _seconds(layer: nn.Module, inputs: torch.Tensor) -> float:
    started = time.perf_counter()
    layer(inputs)[1].sum().backward()
    return time.perf_counter() - started
