"""Models for others: ONNX (extra ``onnx``), and weights that PyTorch's `nn.Sequential` loads."""

from tinynet.export.graph import OPSET, Graph
from tinynet.export.onnx_model import NODES, export_layer, to_onnx
from tinynet.export.torch_state import STATE_NAMES, from_torch_state, save_torch_state, to_torch_state

__all__ = [
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
