"""The learning-rate range test: a short run whose rate grows at every step shows where the loss falls and where it rises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinynet import checks
from tinynet.errors import DivergedError
from tinynet.fitting import adapt, as_loader, with_defaults
from tinynet.losses import Loss
from tinynet.model import Model
from tinynet.optim import Optimizer
from tinynet.parameters import on_its_device
from tinynet.schedules import Exponential
from tinynet.training import train

STOP = 4.0  # the test ends at this multiple of the least loss, as in fastai's learner
LAST = 10  # it compares means of so many losses: a batch may by chance have ten times the loss of another
DIVISOR = 10.0  # the suggestion is the rate at the least loss divided by this: there the loss still falls


@dataclass(frozen=True)
class RateTest:
    """The result of `find_rate`: the learning rate of each step, the loss of its batch, that loss smoothed, a suggestion.

    ``suggestion`` is a tenth of the learning rate at which the smoothed loss was least, as in fastai, or None if the loss
    never fell.
    """

    rates: tuple[float, ...] = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    smoothed: tuple[float, ...] = field(repr=False)
    suggestion: float | None

    def plot(self) -> Any:
        """A matplotlib Figure of the losses over the rates (extra ``plot``)."""
        from tinynet.plot import rates

        return rates(self)


@on_its_device
def find_rate(
    model: Model,
    data: Any,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    batch_size: int = 32,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> RateTest:
    """The learning-rate range test: train a copy of ``model`` with a learning rate that grows from ``low`` to ``high``.

    It takes up to ``steps`` steps (at least 10), each with the rate of the one before times a constant factor, and ends
    early if the loss is not finite or if the mean of the last ten exceeds four times the least such mean. L. N. Smith
    (2017), *Cyclical learning rates for training neural networks*, section 3.3, with the logarithmic scale that is now
    usual. ``data``, ``loss``, ``optimizer`` (whose own learning rate is ignored) and ``batch_size`` are those of `fit`,
    and the batches are the same. ``model`` itself is not changed. ValueError if the loss of the first step is not finite.

    Examples
    --------
    >>> model = tn.Model(tn.Sequential(tn.Dense(16), tn.ReLU(), tn.Dense(3)), n_in=2)
    >>> test = tn.find_rate(model, tn.data.Blobs(10_000))
    >>> 1e-3 < test.suggestion < 1
    True
    """
    if not 0 < checks.float_or_nan(low) < checks.float_or_nan(high) < float("inf"):
        raise ValueError(f"rates from {low!r} to {high!r} are out of range: give two positive numbers, the lower first")
    if checks.as_int(steps) is None or steps < 10:
        raise ValueError(
            f"steps {checks.short_repr(steps)} is too few to see a curve: give a whole number of at least 10"
        )
    loader = as_loader(data, batch_size, model)
    loss, optimizer, _ = with_defaults(loader.data, loss, optimizer, ())
    growth = Exponential(low, (high / low) ** (1.0 / (steps - 1)))
    rising = replace(optimizer, lr=growth)
    copy = model.to(model.ops)
    adapt(copy, loader.data)
    losses: list[float] = []
    recent: list[float] = []  # means of the last losses
    try:
        for report in train(copy, loader, loss, rising, steps=steps, due=lambda step: True):
            losses += report.recent
            if len(losses) >= LAST:
                recent.append(sum(losses[-LAST:]) / LAST)
                if recent[-1] > STOP * min(recent) > 0 and recent[-1] > recent[0]:
                    break
    except DivergedError as e:
        if not losses:
            raise ValueError(f"the loss of the first step, at rate {low:g}, is not finite: scale the inputs") from e
    smoothed = _smoothed(losses)
    least = min(range(len(losses)), key=smoothed.__getitem__)
    fell = least > 0 and smoothed[least] < smoothed[0]
    tried = tuple(growth(t) for t in range(len(losses)))
    return RateTest(tried, tuple(losses), smoothed, tried[least] / DIVISOR if fell else None)


def _smoothed(losses: Sequence[float]) -> tuple[float, ...]:
    """Each loss as the mean of those up to two steps away; unlike an average of the past, it does not lag."""
    windows = (losses[max(0, t - 2) : t + 3] for t in range(len(losses)))
    return tuple(sum(window) / len(window) for window in windows)
