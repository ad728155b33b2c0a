"""The formats of an exported network: each is written to memory, loaded from there and run.

So the file on the disk is exactly the file that was checked.
"""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.plain_model import PlainModel

Format = Literal["onnx", "torchscript", "safetensors", "openvino", "executorch", "c"]
ENDINGS: dict[Format, str] = {
    "onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors", "openvino": ".xml",
    "executorch": ".pte", "c": ".h",
}  # fmt: skip
Weights = Literal["float32", "int8"]
INT8: tuple[Format, ...] = ("c", "onnx")  # formats that can store weights as int8
EXTRAS = {
    "openvino": "openvino",
    "executorch": "executorch",
}  # of the package, where it is not "export"
# Runs a loaded file on raw series (batch, time, channel) and lengths (batch,).
Answer = Callable[[Tensor, Tensor], Tensor]
Note = Mapping[str, Any]


def onnx_file(model: PlainModel, note: Note, int8: bool = False) -> tuple[bytes, Answer]:
    """An ONNX file, and a function that runs it with onnxruntime."""
    import onnxruntime

    from rnnopt.runs.export.onnx_graph import to_onnx

    built = to_onnx(model, int8)
    for key, value in note.items():
        entry = built.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    content = built.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, whole_series(session)


def whole_series(session: Any) -> Answer:
    """Runs a loaded graph of whole series."""

    def answer(inputs: Tensor, lengths: Tensor) -> Tensor:
        found = session.run(None, {"inputs": inputs.numpy(), "lengths": lengths.numpy()})
        return torch.from_numpy(found[0])

    return answer


def torchscript_file(model: PlainModel, note: Note) -> tuple[bytes, Answer]:
    """A TorchScript file, and a function that runs the loaded file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # deprecated, but C++ and old programs still load it
        warnings.filterwarnings("ignore", ".*torch.jit.*deprecated")
        extra = {"note.json": json.dumps(note)}
        torch.jit.save(torch.jit.script(model), buffer, _extra_files=extra)
        loaded = torch.jit.load(io.BytesIO(buffer.getvalue()))
    return buffer.getvalue(), loaded


def safetensors_file(
    model: SequenceModel, settings: Mapping[str, Any], note: Note
) -> tuple[bytes, SequenceModel]:
    """A safetensors file with the weights, and the network rebuilt from it.

    The preparation is not part of this network; it is in the metadata, as JSON.
    """
    from safetensors.torch import load, save

    metadata = {"model": json.dumps(dict(settings))}
    metadata |= {key: json.dumps(value) for key, value in note.items()}
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    content = save(weights, metadata)
    twin = SequenceModel(**settings)
    twin.load_state_dict(load(content))
    return content, twin.eval()
