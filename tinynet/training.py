"""Training: steps one after another, in a loop that belongs to the caller, and checks of the losses between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from math import isfinite
from typing import Any, NamedTuple

from tinynet import checks
from tinynet.data.loader import BatchSource
from tinynet.data.stacked import StackedLoader
from tinynet.data.supply import Supply, read_in_step, supply_of
from tinynet.errors import DivergedError
from tinynet.footprint import launch_bytes, step_bytes
from tinynet.grouping import CHECK_EVERY, Grouping
from tinynet.layers import Array
from tinynet.losses import Loss
from tinynet.matching import check_fit
from tinynet.model import Model
from tinynet.optim import Optimizer, check_optimizer
from tinynet.step import Run, Step, StepOptions, make_step


class Report(NamedTuple):
    """A finished step: ``step`` counts from 1, ``epoch`` from 0.

    ``loss`` is the loss of the step's batch before its update, a () array of the backend: ``float(report.loss)`` waits for
    the device. ``recent`` is empty, except after a step at which `train` itself has waited for the device and checked the
    losses: it then has the losses since the check before, as floats. ``run`` is what `train` continues from.
    """

    step: int
    epoch: int
    last_of_epoch: bool
    loss: Array
    run: Run
    recent: tuple[float, ...] = ()


def train(
    model: Model,
    loader: BatchSource,
    loss: Loss,
    optimizer: Optimizer,
    *,
    steps: int,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    run: Run | None = None,
    due: Callable[[int], bool] | None = None,
    together: bool = False,
) -> Reports:
    """An iterator over ``steps`` training steps: each `Report` that is taken from it is one step on ``model``, in place.

    Break out of the loop to stop. A leading `Standardize` is not set here, but by `Model.adapt`.

    - ``clip``: the largest Euclidean norm of the gradient; a longer gradient is scaled down to it.
    - ``accumulate``: each batch is computed in that many parts, whose gradients are added up. The step is the same,
      except that `BatchNorm` has the statistics, and `Dropout` the masks, of each part. On a device it takes less memory;
      NumPy and numba keep the arrays of all parts for the next step, and take hardly less.
    - ``ema`` in [0, 1): after each step ``run.average = ema * run.average + (1 - ema) * theta``.
    - ``run``: continue from this state, the ``run`` of an earlier report.
    - ``due(step)``: whether to check the losses after this step, too.
    - ``together``: a report may stand for several steps, up to 64, and describes the last of them. The numba backend then
      runs these steps without Python between them. A CUDA device that makes its own batches gets them in one launch or,
      if the network is large, one by one.

    Losses and weights are checked every 64 steps (on a CUDA device with ``together``, every 64 launches or after about a
    second's work) and at the end of each epoch: `DivergedError` if one is not finite, and the model is then as it was at
    the last check. TypeError or ValueError, before the first step, for options that are out of range and for data that do
    not fit the model; MemoryError if the device is known to have too little memory.

    Examples
    --------
    >>> model = tn.Model(tn.Dense(3), n_in=2)
    >>> loader = tn.Loader(tn.data.Spirals(1000), batch_size=100)
    >>> for report in tn.train(model, loader, tn.CrossEntropy(), tn.Adam(1e-2), steps=20):
    ...     if report.last_of_epoch:
    ...         print(report.step, report.epoch, report.loss.shape)
    10 0 ()
    20 1 ()
    """
    if checks.as_int(steps) is None or steps < 0:
        raise ValueError(f"steps {checks.short_repr(steps)} is not a whole number of at least 0")
    options = StepOptions(clip, accumulate, ema)
    check_optimizer(optimizer)
    if not hasattr(loader, "steps_per_epoch"):
        text = checks.short_repr(loader)
        raise TypeError(f"data {text} are not a loader: give one, such as Loader(data, batch_size=32)")
    check_fit(model, loader.data, loss)
    ops, theta = model.ops, model.theta
    grouping, slots = Grouping(loader, ops, theta), 0 if run is not None else len(optimizer.used_slots())
    launches = grouping.launches() if together and ops.launches and grouping.possible else []
    needed = step_bytes(model, loader.batch_size, slots, options) + launch_bytes(model, loader, launches)
    ops.admit(needed, f"training with batch_size {loader.batch_size}")
    with ops.active():
        if run is None:
            run = Run(optimizer.init(theta, ops))
        for name in optimizer.used_slots():
            if getattr(run.slots.get(name), "shape", None) != theta.shape:
                raise ValueError(
                    f"run has no {name!r} for {theta.shape[0]} parameters: it belongs to another model or optimizer"
                )
        if ema is not None and run.average is None:
            run.average = ops.xp.asarray(theta, copy=True)
    loader, source = read_in_step(loader, ops, model.dtype)
    step = make_step(model, loss, optimizer, run, options, source=source)
    return loop(step, loader, int(steps), due=due, together=together)


def check_finite(model: Model, losses: Array, good: list[Array], since: int) -> tuple[float, ...]:
    """The losses, on the host.

    If they and the weights are finite, the weights become the ``good`` ones; else these are put back and
    `DivergedError` is raised.
    """
    ops, xp = model.ops, model.ops.xp
    pairs = [(kept, a) for kept, a in zip(good, (model.theta, model.state), strict=True) if a.shape[0]]
    whole = xp.all(xp.isfinite(losses))
    for _, a in pairs:
        whole = whole & xp.all(xp.isfinite(a))
    for kept, a in pairs:
        kept[...] = xp.where(whole, a, kept)
    # all is queued before this waits, so that a device has little to wait for afterwards
    *values, fine = ops.to_numpy(xp.concat([losses, xp.reshape(xp.astype(whole, losses.dtype), (1,))])).tolist()
    if fine:
        return tuple(values)
    model.theta[...], model.state[...] = good
    what = first_not_finite(values, since)
    raise DivergedError(
        f"{what} is not finite: try a lower learning rate, clip=1.0 or scaled inputs; the model is back at step {since}"
    )


def first_not_finite(losses: Sequence[float], since: int) -> str:
    """What is no longer finite, in words: the first such of the losses after step ``since``, else a weight."""
    bad = next((n for n, value in enumerate(losses) if not isfinite(value)), None)
    return "a weight" if bad is None else f"the loss of step {since + bad + 1}"


Check = Callable[[Any, Array, list[Array], int], tuple[Any, ...]]  # as `check_finite`
Reports = Generator[Report, bool | None, None]


def loop(
    step: Step, loader: BatchSource | StackedLoader, steps: int, *, due: Callable[[int], bool] | None = None,
    check: Check = check_finite, together: bool = False,
) -> Reports:  # fmt: skip
    """Take ``steps`` steps on the batches of ``loader`` and report each: see `train`.

    Where the loop waits for the device it calls ``check``, which returns `Report.recent`. ``send(True)`` ends the run: it
    returns the last report again, with the losses since the last check.
    """
    model, run, ops, theta = step.model, step.run, step.ops, step.model.theta
    grouping = Grouping(loader, ops, theta)
    together = together and grouping.possible
    often = grouping.unchecked() if together else CHECK_EVERY
    shape = often, *theta.shape[:-1]
    with ops.active():
        losses = ops.zeros(shape, theta.dtype)
        good = [ops.xp.asarray(a, copy=True) for a in (theta, model.state)]
    since, stop = run.step, run.step + steps  # since: the step of the last check
    with closing(supply_of(loader, run.step, ops, model.dtype)) as supply:
        while run.step < stop:
            with ops.active():
                t, count, as_one = run.step, 1, False
                if together and step.joins():
                    count, as_one = grouping.next(t, min(stop, since + often), due)
                if count == 1:
                    value = losses[t - since, ...]
                    ops.assign(value, step(supply.batch(t), t))
                    run.step = t + 1
                else:
                    _take(step, supply, count, as_one, losses[t - since :, ...], due)
                    value = losses[run.step - 1 - since, ...]
                epoch, place = divmod(run.step - 1, loader.steps_per_epoch)
                last = place + 1 == loader.steps_per_epoch
                recent: tuple[float, ...] = ()
                if last or run.step - since == often or run.step == stop or (due is not None and due(run.step)):
                    recent = check(model, losses[: run.step - since, ...], good, since)
                    losses = ops.zeros(shape, theta.dtype)  # a new array: the reports given out keep theirs
                    since = run.step
            report = Report(run.step, epoch, last, value, run, recent)
            if (yield report):
                with ops.active():
                    recent = check(model, losses[: run.step - since, ...], good, since)
                yield report._replace(recent=recent)
                return


def _take(
    step: Step, supply: Supply, count: int, as_one: bool, losses: Array, due: Callable[[int], bool] | None
) -> None:
    """Take ``count`` steps, or fewer if one becomes due meanwhile; ``losses`` begins with theirs."""
    run, t = step.run, step.run.step
    with step.undisturbed():
        if as_one:
            step.several(supply.several(t, count), t, losses[:count, ...])
            run.step = t + count
            return
        for n in range(count):
            step.ops.assign(losses[n, ...], step(supply.batch(t + n), t + n))
            run.step = t + n + 1
            if due is not None and due(run.step):  # perhaps only now: a signal may have come
                return
