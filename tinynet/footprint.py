"""The memory that training takes on a device, estimated from shapes before it runs."""

from __future__ import annotations

from math import prod

from tinynet.initializers import Shape
from tinynet.layers import Layer, Sequential

_VALUES = 3  # arrays of a layer's output shape that live at once: the output, its gradient, and one between the two


def step_bytes(
    net: Layer, in_shape: Shape, parameters: int, slots: int, *, batch_size: int, itemsize: int, accumulate: int = 1,
    average: bool = False,
) -> int:  # fmt: skip
    """Roughly the bytes that a run takes besides the model: vectors of ``parameters`` numbers, and a batch's two passes.

    The vectors are the gradient, a second one to accumulate, the last good weights, an average, the optimizer's
    ``slots``, and the temporaries of an update: as many as the slots, and one for theta.
    """
    vectors = 1 + (accumulate > 1) + 1 + average + 2 * slots + 1
    rows = -(-batch_size // accumulate)
    numbers = 2 * batch_size * prod(in_shape) + rows * _VALUES * _outputs(net, in_shape)
    return itemsize * (vectors * parameters + numbers)


def _outputs(net: Layer, shape: Shape) -> int:
    """The sizes of all layers' outputs for one sample, added up."""
    if not isinstance(net, Sequential):
        return prod(net.build(shape).shape)
    total = 0
    for layer in net.layers:
        total += _outputs(layer, shape)
        shape = layer.build(shape).shape
    return total
