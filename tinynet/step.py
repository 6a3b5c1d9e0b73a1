"""One step of training, written out: forward, loss, backward, clipping, optimizer, average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import prod
from typing import Any

from tinynet_backends import Backend

from tinynet import checks
from tinynet.data import Batch, Dataset
from tinynet.layers import Array, Context, Params, checked_forward, checked_gradients
from tinynet.losses import Loss, checked_loss, real_columns
from tinynet.network import Network
from tinynet.optim import Optimizer, State
from tinynet.pieces import split_range


@dataclass
class Run:
    """What changes during a run besides the model: given to `train` again, the run continues as if it had never stopped.

    ``slots`` is the state of the optimizer, ``step`` the number of finished steps, ``average`` (p,) the moving average of
    the weights, or None.
    """

    slots: State = field(repr=False)
    step: int = 0
    average: Array | None = field(default=None, repr=False)


@dataclass(frozen=True)
class StepOptions:
    """What is done with gradients and weights beside the optimizer's update: see `train`. ValueError for options out of range."""

    clip: float | None = None
    accumulate: int = 1
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not checks.float_or_nan(self.clip) > 0:
            raise ValueError(f"clip {checks.short_repr(self.clip)} is out of range: give a positive norm, or None")
        accumulate = checks.positive("accumulate", self.accumulate)
        if self.ema is not None and not 0 <= checks.float_or_nan(self.ema) < 1:
            text = checks.short_repr(self.ema)
            raise ValueError(f"ema {text} is out of range: give the weight of the old average, in [0, 1)")
        clip, ema = checks.as_float(self.clip), checks.as_float(self.ema)
        checks.set_fields(self, clip=clip, accumulate=accumulate, ema=ema)  # 1 and 1.0 are the same run


class Step:
    """One step of ``run`` on a batch, ``model`` changed in place: ``step(batch, t)`` -> loss (), or (networks,).

    It is ``compute(*fixed, *batch, t, *numbers(t))``, compiled; ``numbers`` is called once for each step, in order.
    ``updates`` is whether it is known to change weights by `Backend.update` alone.
    """

    def __init__(
        self, model: Network, run: Run, compute: Callable[..., Array], fixed: tuple[Any, ...],
        numbers: Callable[[int], tuple[float, ...]], updates: bool,
    ) -> None:  # fmt: skip
        self.model, self.run, self.ops = model, run, model.ops
        self.compute, self.fixed, self.numbers, self.updates = compute, fixed, numbers, updates
        self._one = self.ops.compile(compute, *fixed)
        self._several: dict[int, Callable[..., Array]] = {}

    def __call__(self, batch: Batch, t: int) -> Array:
        return self._one(*batch, t, *self.numbers(t))

    def several(self, chunk: Batch, first: int, losses: Array) -> None:
        """Take steps ``first``, ``first + 1``, … on the batches in ``chunk``, and write their losses to ``losses`` (steps, …).

        Weights and losses have the bits of steps taken one by one. A device that launches steps takes one launch for all.
        """
        steps, scan = losses.shape[0], self.ops.scan(self._one)
        numbers = [(t, *self.numbers(t)) for t in range(first, first + steps)]
        if scan:
            scan([*chunk, *map(list, zip(*numbers, strict=True))], losses)
            return
        if steps not in self._several:
            buffer = self.ops.empty((prod(losses.shape),), losses.dtype)
            several = partial(_compute_several, self.ops, self.compute, len(self.fixed), steps)  # not self: a cycle
            self._several[steps] = self.ops.compile(several, *self.fixed, buffer)
        found = self._several[steps](*chunk, *chain.from_iterable(numbers))
        self.ops.assign(losses, self.ops.xp.reshape(found, losses.shape))

    def undisturbed(self) -> AbstractContextManager[Any]:
        """`Backend.undisturbed`, for steps between which nothing else happens."""
        return self.ops.undisturbed() if self.updates else nullcontext()

    def joins(self) -> bool:
        """Whether several steps are better run as one."""
        return self.ops.launches or self.ops.scan(self._one) is not None


def _compute_several(ops: Backend, compute: Callable[..., Array], k: int, steps: int, *args: Any) -> Array:
    """The losses of ``steps`` steps, from k fixed arrays, a buffer for all losses, a chunk, and the numbers of each step."""
    fixed, (losses, *batch), numbers = args[:k], args[k : k + 4], args[k + 4 :]
    width, each = len(numbers) // steps, []
    for n in range(steps):
        part = [None if a is None else a[n, ...] for a in batch]
        each.append(compute(*fixed, *part, *numbers[n * width : (n + 1) * width]))
    return ops.pack(each, losses)


def make_step(
    model: Network, loss: Loss, optimizer: Optimizer, run: Run, options: StepOptions, *, rate: Array | None = None,
    source: Dataset | None = None,
) -> Step:  # fmt: skip
    """The step of a run, of one network or of many; ``rate`` is that of `Optimizer.apply`.

    With ``source`` a batch may be `SampleIndices` of this data set, instead of inputs and targets.
    """
    ops, theta = model.ops, model.theta
    vectors = [ops.zeros(theta.shape, theta.dtype) for _ in range(2 if options.accumulate > 1 else 1)]

    def step(
        params: Params, theta: Array, slots: State, average: Array | None, vectors: list[Array], rate: Array | None,
        x: Array, y: Array | None, weight: Array | None, t: int, *numbers: float,
    ) -> Array:  # fmt: skip
        if source is not None and y is None:
            x, y, weight = source.rows(x, ops, model.dtype)
        value = _gradient(model, loss, params, Batch(x, y, weight), t, options.accumulate, vectors)
        if options.clip is not None:
            ops.clip_norm(vectors[0], options.clip)
        optimizer.apply(theta, vectors[0], slots, numbers if rate is None else (rate, *numbers[1:]), ops)
        if options.ema is not None:
            ops.update(_blend, [average], [theta], options.ema)
        return value

    arrays = {name: value for name, value in run.slots.items() if not isinstance(value, float)}
    fixed = model.params, theta, arrays, run.average, vectors, rate
    numbers, updates = partial(optimizer.numbers, run.slots), type(optimizer).apply is Optimizer.apply
    return Step(model, run, step, fixed, numbers, updates)


def _gradient(
    model: Network, loss: Loss, params: Params, batch: Batch, t: int, parts: int, vectors: list[Array]
) -> Array:
    """The loss of a batch, computed in ``parts`` parts; its gradient is written to ``vectors[0]``.

    The gradient of a part other than the first is written to ``vectors[-1]`` and added to it.
    """
    ops, lead = model.ops, model.theta.shape[:-1]  # (), or the number of networks
    x, y, weight = batch
    y = real_columns(y, len(lead) + 1, model.theta, ops)
    total, denominator = None, loss.denominator(y, weight, ops)
    n = x.shape[len(lead)]
    if lead:
        x = ops.xp.broadcast_to(x, (*lead, *x.shape[1:]))  # all networks may share the samples
    size = -(-n // parts)

    def one(number: int, part: range) -> Array:
        """The loss of a part; what its passes took is free when this returns, before the next part."""
        rows = *(slice(None) for _ in lead), slice(part.start, part.stop)
        w = None if weight is None else weight[rows]
        ctx = Context(ops, train=True, seed=model.seed, step=t, need_dx=False, part=number)
        out, backprop = checked_forward(model.net, model.out_shape, params, x[(*rows, ...)], ctx)
        value, dy = checked_loss(loss, out, y[(*rows, ...)], ops, w, denominator)
        gradients = checked_gradients(model.gradient_names, backprop(dy)[1], params)
        ops.pack(gradients, vectors[-1] if number else vectors[0])
        return value

    for number, part in enumerate(split_range(range(n), size)):
        value = one(number, part)
        if number:
            ops.update(_add, [vectors[0]], [vectors[-1]])
        total = value if total is None else total + value
    return total


def _add(xp: Any, a: Array, b: Array) -> tuple[Array]:
    return (a + b,)


def _blend(xp: Any, average: Array, theta: Array, decay: float) -> tuple[Array]:
    return (average + (1.0 - decay) * (theta - average),)
