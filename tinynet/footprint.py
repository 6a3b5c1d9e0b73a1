"""The memory that training takes on a device, estimated from shapes before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod

from tinynet import checks
from tinynet.data.loader import BatchSource, sample_size
from tinynet.layers import leaves
from tinynet.model import Model
from tinynet.sequential import simple_layers
from tinynet.step import StepOptions

_VALUES = 3  # arrays of a layer's output shape that live at once: the output, its gradient, and one between the two


def step_bytes(model: Model, batch_size: int, slots: int, options: StepOptions) -> int:
    """Roughly the bytes that a run takes besides the model: vectors of the size of theta, and a batch's two passes.

    The vectors are the gradient, a second one to accumulate, the last good weights, an average, the optimizer's
    ``slots``, and the temporaries of an update: as many as the slots, and one for theta.
    """
    p: int = model.theta.shape[0]
    vectors = 1 + (options.accumulate > 1) + 1 + (options.ema is not None) + 2 * slots + 1
    rows = -(-batch_size // options.accumulate)
    outputs = sum(prod(layer.build(shape).shape) for _, layer, shape in simple_layers(model.net, model.in_shape))
    numbers = 2 * batch_size * prod(model.in_shape) + rows * _VALUES * outputs
    return checks.DTYPES[model.dtype] * (vectors * p + numbers)


def launch_bytes(model: Model, loader: BatchSource, steps: Sequence[int]) -> int:
    """The bytes that a device takes besides if ``steps`` are the numbers of steps that it launches together.

    They are those of batches, kept for each number of steps, and of their copies at a graph's first call; and gradients, kept
    for each step, of parameters that do not begin at a multiple of 16 bytes in theta: others are written where the optimizer
    reads them.
    """
    data, itemsize = loader.data, checks.DTYPES[model.dtype]
    sizes: list[int] = [prod(p.shape) for _, p in leaves(model.spec.params)]
    places = accumulate(sizes, initial=0)
    kept = sum(size for size, place in zip(sizes, places, strict=False) if place * itemsize % 16)
    sample = itemsize * sample_size(data) + 8 * (data.outputs is None)
    return sum(steps) * (2 * loader.batch_size * sample + itemsize * kept)
