"""Models for other programs: ONNX (extra ``onnx``), and weights that PyTorch's `nn.Sequential` loads."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import NamedTuple

from tinynet.export.graph import OPSET, Graph
from tinynet.export.onnx_model import NODES, export_layer, to_onnx
from tinynet.export.torch_state import STATE_NAMES, from_torch_state, save_torch_state, to_torch_state
from tinynet.model import Model

__all__ = [
    "FORMATS",
    "NODES",
    "OPSET",
    "STATE_NAMES",
    "Graph",
    "export_layer",
    "from_torch_state",
    "save_torch_state",
    "to_onnx",
    "to_torch_state",
]


class Format(NamedTuple):
    """A format to write a model in: what it is for, the usual file suffix, and the function that writes it."""

    what: str
    suffix: str
    write: Callable[[Model, str | PathLike[str]], object]


FORMATS = {
    "onnx": Format("inference in ONNX Runtime and others, with class names", ".onnx", to_onnx),
    "torch": Format("weights for PyTorch's load_state_dict, as safetensors", ".safetensors", save_torch_state),
}
