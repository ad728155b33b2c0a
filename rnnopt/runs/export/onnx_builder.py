"""Builds an ONNX graph, operator by operator."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from rnnopt.runs.export.int8 import rows_in_int8


class Graph:
    """Collects operators and constants under generated names.

    Args:
        int8: whether matrices are stored as int8 with a scale for each row.
    """

    def __init__(self, int8: bool = False) -> None:
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Adds an operator; returns the name of its first output."""
        names = [f"{operator.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names[0]

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds a constant; returns its name."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.array(value, dtype)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def matrix(self, value: Tensor, axes: int = 1, transposed: bool = False) -> str:
        """Adds weights, perhaps as int8; returns their name.

        A cast and a product: programs compute both once, when they load the graph. onnxruntime
        computes a DequantizeLinear again at every call.

        Args:
            value: weights, (row, …).
            axes: number of first axes that count rows.
            transposed: whether the graph gets (…, row).
        """
        if not self.int8:
            return self.constant(value.t() if transposed else value)
        whole, scales = rows_in_int8(value.flatten(0, axes - 1))
        whole = whole.view_as(value)
        scales = scales.view(*value.shape[:axes], *(1 for _ in value.shape[axes:]))
        if transposed:
            whole, scales = whole.t(), scales.t()
        number = self.add("Cast", self.constant(whole), to=TensorProto.FLOAT)
        return self.add("Mul", number, self.constant(scales))

    def whole(self, *values: int) -> str:
        """Adds a constant of whole numbers (n,); returns its name."""
        return self.constant(list(values), np.int64)
