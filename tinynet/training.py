"""Training: one step written out, a loop that is the caller's, and `fit` on top of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter
from typing import Any

from tinynet.data import Dataset, Loader, as_dataset
from tinynet.errors import DivergedError, StopTraining
from tinynet.layers import Array, Context, leaves
from tinynet.losses import CrossEntropy, Loss, MeanSquaredError
from tinynet.metrics import METRICS, Metric, as_metric
from tinynet.model import Evaluation, Model, check_fit
from tinynet.optim import Adam, Optimizer, State

CHECK = 64  # steps between two looks at the loss: each look waits for the device


@dataclass
class Run:
    """All that changes in a run beside the model: with it, a run goes on as if it had never stopped."""

    slots: State
    step: int = 0
    average: Array | None = None  # of the weights, where they are averaged


@dataclass(frozen=True)
class Report:
    """A finished step: ``step`` counts from 1, ``epoch`` from 0. ``loss`` () is that of the batch, before the step.

    ``float(report.loss)`` waits for the device. Where the loop has waited anyway, ``recent`` has the losses since the
    last such report, on the host; elsewhere it is empty.
    """

    step: int
    epoch: int
    last_of_epoch: bool
    loss: Array
    run: Run
    recent: tuple[float, ...] = ()


def train(
    model: Model,
    loader: Loader,
    loss: Loss,
    optimizer: Optimizer,
    *,
    steps: int,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    run: Run | None = None,
) -> Iterator[Report]:
    """Train ``model`` in place for ``steps`` steps, one for each report that is asked for; leave the loop to stop.

    ``clip`` bounds the gradient's norm. ``accumulate`` goes through each batch in so many parts and adds up their
    gradients: the same step, in less memory. ``ema`` keeps ``average = ema * average + (1 - ema) * theta`` in the run.
    ``run`` goes on from the state of an earlier report. Raises `DivergedError` when the loss or a weight is not finite,
    which is looked at every 64 steps and at the end of an epoch: the model is then as it was when it was last looked
    at.
    """
    _check_options(steps, clip, accumulate, ema)
    check_fit(model, loader.data, loss)
    ops, theta = model.ops, model.theta
    if run is None:
        run = Run(optimizer.init(theta, ops))
    if ema is not None and run.average is None:
        run.average = ops.xp.asarray(theta, copy=True)
    step = _make_step(model, loss, optimizer, run, clip, accumulate, ema)
    return _loop(model, loader, step, run, steps)


Step = Callable[[Array, Array, Array | None, int], Array]


def _make_step(
    model: Model, loss: Loss, optimizer: Optimizer, run: Run, clip: float | None, accumulate: int, ema: float | None
) -> Step:
    """One step on a batch, in place: (x, y, weight, number) -> loss ()."""
    ops, theta = model.ops, model.theta
    g = ops.zeros(theta.shape, theta.dtype)
    part = ops.zeros(theta.shape, theta.dtype) if accumulate > 1 else g

    def step(x: Array, y: Array, weight: Array | None, t: int) -> Array:
        ctx = Context(ops, train=True, seed=model.seed, step=t, need_dx=False)
        total, denominator = None, loss.denominator(y, weight, ops)
        size = -(-x.shape[0] // accumulate)
        for start in range(0, x.shape[0], size):
            rows = slice(start, start + size)
            w = None if weight is None else weight[rows]
            out, backprop = model.net.forward(model.params, x[rows, ...], ctx)
            value, dy = loss(out, y[rows, ...], ops, w, denominator)
            dparams = dict(leaves(backprop(dy)[1]))
            ops.pack([dparams[name] for name in model.gradient_names], part if start else g)
            if start:
                ops.update(_add, [g], [part])
            total = value if total is None else total + value
        if clip is not None:
            ops.clip_norm(g, clip)
        optimizer.step(theta, g, run.slots, t, ops)
        if ema is not None:
            ops.update(_blend, [run.average], [theta], ema)
        return total

    return ops.compile(step)


def _loop(model: Model, loader: Loader, step: Step, run: Run, steps: int) -> Iterator[Report]:
    ops, theta = model.ops, model.theta
    losses = ops.zeros((CHECK,), theta.dtype)
    good = [ops.xp.asarray(a, copy=True) for a in (theta, model.state)]
    since, stop = run.step, run.step + steps  # since: the step at which all was last seen to be good
    for t in range(run.step, stop):
        losses[t - since] = step(*loader.batch(t, ops, model.dtype), t)
        value = losses[t - since]
        run.step = t + 1
        epoch, place = divmod(t, loader.steps_per_epoch)
        last = place + 1 == loader.steps_per_epoch
        recent: tuple[float, ...] = ()
        if last or run.step - since == CHECK or run.step == stop:
            recent = _look(model, losses[: run.step - since], good, since)
            losses = ops.zeros((CHECK,), theta.dtype)  # another one: the reports keep looking at theirs
            since = run.step
        yield Report(run.step, epoch, last, value, run, recent)


def _look(model: Model, losses: Array, good: list[Array], since: int) -> tuple[float, ...]:
    """The losses; and keep the weights if all is finite, else put the good ones back and say so."""
    ops, xp = model.ops, model.ops.xp
    values = tuple(ops.to_numpy(losses).tolist())
    bad = next((n for n, value in enumerate(values) if not isfinite(value)), None)
    if bad is None and bool(ops.to_numpy(xp.all(xp.isfinite(model.theta)) & xp.all(xp.isfinite(model.state)))):
        good[0][...], good[1][...] = model.theta, model.state
        return values
    model.theta[...], model.state[...] = good
    what = "a weight" if bad is None else f"the loss of step {since + bad + 1}"
    raise DivergedError(
        f"{what} is not finite: try a lower learning rate, clip=1.0 or scaled inputs; the model is back at step {since}"
    )


def _add(xp: Any, a: Array, b: Array) -> tuple[Array]:
    return (a + b,)


def _blend(xp: Any, average: Array, theta: Array, decay: float) -> tuple[Array]:
    return (average + (1.0 - decay) * (theta - average),)


def _check_options(steps: int, clip: float | None, accumulate: int, ema: float | None) -> None:
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps {steps!r} is not a whole number of at least 0")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip {clip!r} is out of range: give a positive norm, or None")
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate {accumulate!r} is not a positive whole number")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema {ema!r} is out of range: give the weight of the old average, in [0, 1)")


# fit --------------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """One row an epoch: ``history["val_loss"]`` is a column, ``history[-1]`` a row, a mapping of names to numbers."""

    rows: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""  # why training ended before its last epoch, if it did
    best_epoch: int | None = None
    curve: list[tuple[int, float]] = field(
        default_factory=list
    )  # (step, mean loss of the steps since the entry before)
    stride: int = 8  # steps between two entries of the curve

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, int):
            return self.rows[key]
        if self.rows and key not in self.rows[0]:
            raise KeyError(f"history has no {key!r}: choose from {', '.join(self.rows[0])}")
        return [row[key] for row in self.rows]

    def draw(self, step: int, losses: tuple[float, ...]) -> None:
        """Add the losses of the steps up to ``step`` to the curve, which stays below 4000 entries however long the
        run."""
        first = step - len(losses)
        for start in range(0, len(losses), self.stride):
            some = losses[start : start + self.stride]
            self.curve.append((first + start + len(some), sum(some) / len(some)))
        if len(self.curve) > 4000:
            pairs = zip(self.curve[::2], self.curve[1::2], strict=False)
            self.curve = [(b[0], 0.5 * (a[1] + b[1])) for a, b in pairs]
            self.stride *= 2

    def json_lines(self) -> str:
        """A JSON object an epoch, each on a line of its own."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when ``monitor`` has not become better by more than ``min_delta`` for ``patience`` epochs; keep the best
    weights.

    ``monitor`` is a name in the history, by default "val_loss".
    """

    patience: int = 5
    monitor: str = "val_loss"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"EarlyStopping patience {self.patience!r} is not a positive whole number of epochs")
        if not self.min_delta >= 0:
            raise ValueError(f"EarlyStopping min_delta {self.min_delta!r} is out of range: give at least 0")


Callback = Callable[[Model, dict[str, float]], None]


def fit(
    model: Model,
    data: Any,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    batch_size: int = 32,
    epochs: int = 1,
    validation: Any = None,
    metrics: Iterable[str | Metric] | None = None,
    shuffle: bool | None = None,
    drop_last: bool = False,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    early_stopping: EarlyStopping | int | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = False,
) -> History:
    """Train ``model`` in place on ``data``, a data set or (X, y) or (X, y, weight), and return the history.

    ``loss`` is by default `CrossEntropy` for labels and `MeanSquaredError` for numbers, ``optimizer`` `Adam`,
    ``metrics`` accuracy or R². ``validation`` is data that is evaluated after each epoch, as "val_loss" and so on.
    ``early_stopping`` is an `EarlyStopping`, or its patience. Callbacks are called as ``callback(model, row)`` after
    each epoch; `StopTraining` raised by one ends the run. ``ema`` averages the weights; validation then sees the
    average, and so does the caller afterwards. ``progress`` shows a bar where standard error is a terminal, else a line
    an epoch. For ``clip`` and ``accumulate`` see `train`.

    Ctrl-C passes through: the model is then as the last finished step left it, and ``model.history`` has the epochs so
    far.
    """
    data = as_dataset(data)
    held_out = None if validation is None else as_dataset(validation)
    loss = loss or (CrossEntropy() if data.classes else MeanSquaredError())
    optimizer = optimizer or Adam()
    if not isinstance(loss, Loss):
        raise TypeError(f"loss {loss!r} is not a loss: give one, such as CrossEntropy()")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer {optimizer!r} is not an optimizer: give one, such as Adam(1e-3)")
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs {epochs!r} is not a positive whole number")
    chosen = _usual_metrics(data) if metrics is None else tuple(as_metric(m) for m in metrics)
    stopping = EarlyStopping(early_stopping) if isinstance(early_stopping, int) else early_stopping
    loader = Loader(data, batch_size, seed=model.seed, shuffle=shuffle, drop_last=drop_last)
    if held_out is not None:
        check_fit(model, held_out, loss)
    names = _names(chosen, held_out)
    if stopping is not None and stopping.monitor not in names:
        raise ValueError(f"early stopping cannot watch {stopping.monitor!r}: choose from {', '.join(names)}")

    model.loss, model.metrics, model.history = loss, chosen, History()
    history, best = model.history, _Best(model, stopping, chosen)
    evaluate = Evaluation(model, loss, chosen)
    bar = _progress(progress, epochs, loader, data)
    steps = epochs * loader.steps_per_epoch
    loop = train(model, loader, loss, optimizer, steps=steps, clip=clip, accumulate=accumulate, ema=ema)
    began, total, counted = perf_counter(), 0.0, 0
    with bar:
        for report in loop:
            if report.recent:
                total, counted = total + sum(report.recent), counted + len(report.recent)
                history.draw(report.step, report.recent)
                bar.step(report.step, history.curve[-1][1])
            if not report.last_of_epoch:
                continue
            now = perf_counter()
            average = report.run.average
            raw = None if average is None else model.ops.xp.asarray(model.theta, copy=True)
            if average is not None:
                model.theta[...] = average
            row: dict[str, float] = {
                "epoch": report.epoch + 1,
                "step": report.step,
                "loss": total / counted,
                "seconds": round(now - began, 4),
                "samples_per_second": round(loader.steps_per_epoch * batch_size / (now - began), 1),
            }
            if held_out is not None:
                row |= {f"val_{name}": value for name, value in evaluate(held_out, max(batch_size, 4096)).items()}
            history.rows.append(row)
            bar.epoch(row)
            stop = best.see(row)
            try:
                for callback in callbacks:
                    callback(model, row)
            except StopTraining as e:
                stop = str(e) or "a callback asked for it"
            if stop or report.step == steps:
                history.stopped = stop
                break
            if raw is not None:
                model.theta[...] = raw
            began, total, counted = perf_counter(), 0.0, 0
    best.restore(history)
    return history


def _usual_metrics(data: Dataset) -> tuple[Metric, ...]:
    return (METRICS["accuracy"],) if data.classes else (METRICS["r2"],)


def _names(metrics: tuple[Metric, ...], held_out: Dataset | None) -> tuple[str, ...]:
    return ("loss",) if held_out is None else ("loss", "val_loss", *(f"val_{m.name}" for m in metrics))


class _Best:
    """The best weights so far by what early stopping watches."""

    def __init__(self, model: Model, stopping: EarlyStopping | None, metrics: tuple[Metric, ...]) -> None:
        self.model, self.stopping = model, stopping
        self.kept: tuple[Array, Array] | None = None
        self.epoch, self.waited, self.value = 0, 0, float("inf")
        larger = {f"val_{m.name}" for m in metrics if m.larger_is_better}
        self.sign = -1.0 if stopping is not None and stopping.monitor in larger else 1.0

    def see(self, row: dict[str, float]) -> str:
        """Why to stop, or nothing."""
        if self.stopping is None:
            return ""
        value = self.sign * row[self.stopping.monitor]
        if value < self.value - self.stopping.min_delta:
            copy = self.model.ops.xp.asarray
            self.kept = copy(self.model.theta, copy=True), copy(self.model.state, copy=True)
            self.epoch, self.waited, self.value = int(row["epoch"]), 0, value
            return ""
        self.waited += 1
        if self.waited < self.stopping.patience:
            return ""
        return f"{self.stopping.monitor} has not become better for {self.waited} epochs"

    def restore(self, history: History) -> None:
        if self.kept is not None:
            self.model.theta[...], self.model.state[...] = self.kept
            history.best_epoch = self.epoch


def _progress(show: bool, epochs: int, loader: Loader, data: Dataset) -> Any:
    from tinynet import progress

    return progress.make(epochs, loader.steps_per_epoch, loader.batch_size) if show else progress.Silent()
