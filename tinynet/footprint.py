"""What a training step takes of a device's memory, from shapes alone, before it runs."""

from __future__ import annotations

from math import prod

from tinynet.initializers import Shape
from tinynet.layers import Layer, Sequential

_VALUES = (
    3  # arrays of each layer's output that are there at once: it, its gradient, and what leads from one to the other
)


def step_bytes(
    net: Layer, in_shape: Shape, parameters: int, slots: int, *, batch_size: int, itemsize: int, accumulate: int = 1,
    average: bool = False,
) -> int:  # fmt: skip
    """Bytes, about, that a run takes beside the model: vectors of ``parameters`` numbers, and a batch's way through it.

    The vectors are the gradient, a second one to add up, the last good weights, an average, and ``slots`` of the
    optimizer, with as many again, and theta, that an update is computed in.
    """
    vectors = 1 + (accumulate > 1) + 1 + average + 2 * slots + 1
    rows = -(-batch_size // accumulate)
    numbers = 2 * batch_size * prod(in_shape) + rows * _VALUES * _outputs(net, in_shape)
    return itemsize * (vectors * parameters + numbers)


def _outputs(net: Layer, shape: Shape) -> int:
    """Numbers that the layers give for one sample, all together."""
    if not isinstance(net, Sequential):
        return prod(net.build(shape).shape)
    total = 0
    for layer in net.layers:
        total += _outputs(layer, shape)
        shape = layer.build(shape).shape
    return total
