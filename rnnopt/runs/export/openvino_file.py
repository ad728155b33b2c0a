"""A network for OpenVINO: its intermediate representation, a file of operators and one of weights.

It is read from the ONNX graph, for any number of series of any length. Weights stay float32: by
default OpenVINO would round them to float16 when it writes them.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnopt.runs.export.formats import Answer
from rnnopt.runs.export.plain_model import PlainModel

# Otherwise it computes in bfloat16 where the processor has it. A file cannot say so.
PRECISION: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}


def openvino_file(model: PlainModel, note: Mapping[str, Any]) -> tuple[bytes, bytes, Answer]:
    """The operators (.xml), the weights (.bin), and a function that runs the two."""
    import openvino

    from rnnopt.runs.export.onnx_graph import to_onnx

    core = openvino.Core()
    # Not `convert_model`, which reports its use over the network.
    graph = core.read_model(to_onnx(model).SerializeToString())
    for key, value in note.items():
        graph.set_rt_info(json.dumps(value), ["rnnopt", key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(graph, path, compress_to_fp16=False)
        operators, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    return operators, weights, loaded(operators, weights)


def loaded(operators: bytes, weights: bytes, **options: Any) -> Answer:
    """A function that runs the two; `options` are further properties of OpenVINO's CPU plugin."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(operators, openvino.Tensor(np.frombuffer(weights, np.uint8)))
    compiled = core.compile_model(graph, "CPU", PRECISION | options)

    def answer(inputs: Tensor, lengths: Tensor) -> Tensor:
        found = compiled({"inputs": inputs.numpy(), "lengths": lengths.numpy()})
        return torch.from_numpy(found["answers"].copy())

    return answer
