"""`fit`: training with everything that a user expects around the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from time import perf_counter
from typing import Any

from tinynet import checks
from tinynet import progress as bars
from tinynet.checkpoints import Checkpoints, Snapshot, fingerprint
from tinynet.data import Dataset, Loader, as_dataset
from tinynet.data.loader import BatchSource
from tinynet.errors import StopTraining
from tinynet.history import History
from tinynet.layers import Array
from tinynet.losses import CrossEntropy, Loss, MeanSquaredError, check_loss
from tinynet.metrics import METRICS, Metric, as_metrics
from tinynet.model import Evaluation, Model, Trainable, check_fit
from tinynet.optim import Adam, Optimizer, check_optimizer
from tinynet.standardize import standardizer
from tinynet.training import Run, train


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when ``monitor`` has not become better by more than ``min_delta`` for ``patience`` epochs; keep the best
    weights.

    ``monitor`` is a name in the history, by default "val_loss".

    Examples
    --------
    >>> tn.EarlyStopping(patience=10, monitor="val_accuracy")
    EarlyStopping(patience=10, monitor='val_accuracy', min_delta=0.0)
    """

    patience: int = 5
    monitor: str = "val_loss"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "patience", checks.positive(self.patience, "EarlyStopping patience"))
        if not checks.number(self.min_delta) >= 0:
            raise ValueError(f"EarlyStopping min_delta {checks.shown(self.min_delta)} is out of range: give at least 0")


Callback = Callable[[Model, dict[str, float]], None]


@dataclass
class Tally:
    """What an epoch has come to so far."""

    total: float = 0.0
    counted: int = 0
    seconds: float = 0.0  # of the epoch's steps before the run was last stopped
    began: float = field(default_factory=perf_counter)

    def add(self, losses: Iterable[float]) -> None:
        for loss in losses:  # one by one, so that it does not matter where a run was stopped
            self.total, self.counted = self.total + loss, self.counted + 1

    def elapsed(self) -> float:
        return self.seconds + perf_counter() - self.began


class Best:
    """The best weights so far by what early stopping watches, and for how long there were none better."""

    def __init__(self, stopping: EarlyStopping | None, larger_is_better: bool) -> None:
        self.stopping = stopping
        self.sign = -1.0 if larger_is_better else 1.0
        self.kept: tuple[Array, Array] | None = None
        self.epoch, self.waited, self.value = 0, 0, float("inf")

    def see(self, row: dict[str, float], model: Model) -> str:
        """Why to stop, or nothing."""
        if self.stopping is None:
            return ""
        value = self.sign * row[self.stopping.monitor]
        if value < self.value - self.stopping.min_delta:
            copy = model.ops.xp.asarray
            self.kept = copy(model.theta, copy=True), copy(model.state, copy=True)
            self.epoch, self.waited, self.value = int(row["epoch"]), 0, value
            return ""
        self.waited += 1
        if self.waited < self.stopping.patience:
            return ""
        return f"{self.stopping.monitor} has not become better for {self.waited} epochs"


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
    weights: Any = None,
    balance: bool = False,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    early_stopping: EarlyStopping | int | None = None,
    callbacks: Iterable[Callback] = (),
    checkpoint: Checkpoints | str | PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> History:
    """Train ``model`` in place on ``data`` and return the history.

    ``data`` is a data set, (X, y) or (X, y, weight), a path, a loader, or `data.Batches`. ``loss`` is by default
    `CrossEntropy` for labels and `MeanSquaredError` for numbers, ``optimizer`` `Adam`, ``metrics`` accuracy or R².
    ``validation`` is data that is evaluated after each epoch, as "val_loss" and so on. ``early_stopping`` is an
    `EarlyStopping`, or its patience. Callbacks are called as ``callback(model, row)`` after each epoch. One with a method
    ``at_step(model, step)`` is also told of every step, from 0, the beginning, on. `StopTraining` raised by either ends
    the run. ``ema`` averages the weights; validation then sees the average, and so does the caller afterwards.
    ``progress`` shows a bar and the curve of losses where standard error is a terminal, else a line an epoch. For
    ``clip`` and ``accumulate`` see `train`; for ``batch_size``, ``shuffle``, ``drop_last``, ``weights`` and ``balance``
    `Loader`.

    ``checkpoint`` is a folder, or `Checkpoints`, where the run is saved; with ``resume`` it goes on from there, bit for
    bit as if it had never stopped, and begins where there is nothing yet. ``epochs`` may be another number then.

    Ctrl-C passes through: the model is then as the last finished step left it, and ``model.history`` has the epochs so
    far.

    Examples
    --------
    >>> model = tn.Model(tn.Dense(1), n_in=1, dtype="float64")
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [[1.0], [3.0], [5.0], [7.0]]
    >>> history = tn.fit(model, (X, y), optimizer=tn.SGD(0.1), batch_size=4, epochs=500)
    >>> len(history), model.predict([[10.0]]).round(3).tolist()
    (500, [[21.0]])
    """
    loader = _loader(data, batch_size, model.seed, shuffle, drop_last, weights, balance)
    held_out = None if validation is None else as_dataset(validation)
    loss, optimizer, chosen = settle(loader.data, loss, optimizer, metrics)
    epochs = checks.positive(epochs, "epochs")
    if callable(callbacks):
        raise TypeError(f"callbacks {checks.shown(callbacks)} is a single one: give a list")
    stopping = early_stopping
    if stopping is not None and not isinstance(stopping, EarlyStopping):
        stopping = EarlyStopping(stopping)
    if held_out is not None:
        check_fit(model, held_out, loss)
    names = ("loss",) if held_out is None else ("loss", "val_loss", *(f"val_{m.name}" for m in chosen))
    if stopping is not None and stopping.monitor not in names:
        raise ValueError(f"early stopping cannot watch {stopping.monitor!r}: choose from {', '.join(names)}")
    saver = checkpoint if checkpoint is None or isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    if resume and saver is None:
        raise ValueError("resume goes on from a checkpoint: say where it is, checkpoint='folder'")

    larger = stopping is not None and stopping.monitor in {f"val_{m.name}" for m in chosen if m.larger_is_better}
    best, history, tally = Best(stopping, larger), History(), Tally()
    run = Run(optimizer.init(model.theta, model.ops))
    if ema is not None:
        run.average = model.ops.xp.asarray(model.theta, copy=True)
    snapshot = Snapshot(model, run, best, history, tally)
    if saver is not None:
        options = {"clip": clip, "accumulate": accumulate, "ema": ema, "early stopping": stopping}
        saver.open(snapshot, fingerprint(model, loader, loss, optimizer, options), resume)
    if not run.step:
        adapt(model, loader.data)
    told = list(callbacks)
    steppers: list[Any] = [callback for callback in told if hasattr(callback, "at_step")]
    steps = epochs * loader.steps_per_epoch
    loop = train(
        model, loader, loss, optimizer, steps=0 if snapshot.finished else max(steps - run.step, 0),
        clip=clip, accumulate=accumulate, ema=ema, run=run, due=None if saver is None else saver.due,
        together=not steppers,
    )  # fmt: skip

    model.loss, model.metrics, model.history, model.columns = loss, chosen, history, loader.data.columns
    evaluate = Evaluation(model, loss, chosen)
    with _may_stop(history):
        for stepper in steppers:
            stepper.at_step(model, run.step)
    if history.stopped:
        loop = iter(())
    with bars.make(epochs, loader.steps_per_epoch, loader.batch_size, history) if progress else bars.Silent() as bar:
        for report in loop:
            if report.recent:
                tally.add(report.recent)
                history.draw(report.step, report.recent, report.last_of_epoch)
                bar.step(report.step, sum(report.recent) / len(report.recent))
            with _may_stop(history):
                for stepper in steppers:
                    stepper.at_step(model, report.step)
            if report.last_of_epoch:
                row: dict[str, float] = {"epoch": report.epoch + 1, "step": report.step}
                seconds = tally.elapsed()
                row |= {"loss": tally.total / tally.counted, "seconds": round(seconds, 4)}
                row["samples_per_second"] = round(loader.steps_per_epoch * loader.batch_size / seconds, 1)
                with averaged(model, run):
                    if held_out is not None:
                        scores = evaluate(held_out, max(loader.batch_size, 4096))
                        row |= {f"val_{name}": value for name, value in scores.items()}
                    history.rows.append(row)
                    bar.epoch(row)
                    history.stopped = best.see(row, model) or history.stopped
                    with _may_stop(history):
                        for callback in told:
                            callback(model, row)
                    if saver is not None:
                        saver.rate(row, model)
                tally.__init__()  # type: ignore[misc]
            snapshot.finished = bool(history.stopped)
            last = snapshot.finished or report.step == steps
            if saver is not None and (last or saver.due(report.step) or (report.last_of_epoch and not saver.every)):
                saver.save(snapshot)
                if saver.stopping and not last:
                    history.stopped = saver.stopping
                    return history
            if last:
                break
    if run.average is not None:
        model.theta[...] = run.average
    if best.kept is not None:
        model.theta[...], model.state[...] = best.kept
        history.best_epoch = best.epoch
    return history


@contextmanager
def _may_stop(history: History) -> Iterator[None]:
    """Inside, a callback may end the run."""
    try:
        yield
    except StopTraining as e:
        history.stopped = str(e) or "a callback asked for it"


def settle(
    data: Dataset, loss: Loss | None, optimizer: Optimizer | None, metrics: Iterable[str | Metric] | None
) -> tuple[Loss, Optimizer, tuple[Metric, ...]]:
    """Loss, optimizer and metrics, the usual ones where none is given; TypeError or ValueError for what is none."""
    loss = loss or (CrossEntropy() if data.classes else MeanSquaredError())
    optimizer = optimizer or Adam()
    check_loss(loss)
    check_optimizer(optimizer)
    return loss, optimizer, _usual_metrics(data) if metrics is None else as_metrics(metrics)


def _loader(
    data: Any, batch_size: int, seed: int, shuffle: bool | None, drop_last: bool, weights: Any, balance: bool
) -> BatchSource:
    if hasattr(data, "steps_per_epoch"):
        loader: BatchSource = data
        return loader
    return Loader(data, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last, weights=weights, balance=balance)


def adapt(model: Model, data: Dataset) -> None:
    """Set a leading `Standardize` that nobody has set yet."""
    layer = standardizer(model.net, model.params)
    if layer is None:
        return
    ops = model.ops
    if bool(ops.to_numpy(ops.xp.all(layer["mean"] == 0) & ops.xp.all(layer["scale"] == 1))):
        model.adapt(data)


def _usual_metrics(data: Dataset) -> tuple[Metric, ...]:
    return (METRICS["accuracy"],) if data.classes else (METRICS["r2"],)


@contextmanager
def averaged(model: Trainable, run: Run) -> Iterator[None]:
    """Inside, the model has the average of its weights, if there is one."""
    if run.average is None:
        yield
        return
    raw = model.ops.xp.asarray(model.theta, copy=True)
    model.theta[...] = run.average
    try:
        yield
    finally:
        model.theta[...] = raw
