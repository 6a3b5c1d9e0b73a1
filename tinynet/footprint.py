"""The memory that training takes on a device, estimated from shapes before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod

from tinynet.data import Dataset
from tinynet.data.loader import sample_size
from tinynet.initializers import Shape
from tinynet.layers import Layer
from tinynet.sequential import simple_layers

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
    outputs = sum(prod(layer.build(shape).shape) for _, layer, shape in simple_layers(net, in_shape))  # of a sample
    numbers = 2 * batch_size * prod(in_shape) + rows * _VALUES * outputs
    return itemsize * (vectors * parameters + numbers)


def launch_bytes(
    data: Dataset, parameters: Sequence[int], steps: Sequence[int], *, batch_size: int, itemsize: int,
) -> int:  # fmt: skip
    """The bytes that a device takes besides if ``steps`` are the numbers of steps that it launches together.

    They are those of batches, kept for each number of steps, and of their copies at a graph's first call; and gradients, kept
    for each step, of ``parameters`` (their sizes, in the order of the vector) that do not begin at a multiple of 16 bytes: others
    are written where the optimizer reads them.
    """
    places = accumulate(parameters, initial=0)
    kept = sum(size for size, place in zip(parameters, places, strict=False) if place * itemsize % 16)
    sample = itemsize * sample_size(data) + 8 * (data.outputs is None)
    return sum(steps) * (2 * batch_size * sample + itemsize * kept)
