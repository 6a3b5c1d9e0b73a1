"""`fit`: training with everything that users expect around the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

from tinynet import checks
from tinynet import progress as bars
from tinynet.checkpoints import Checkpoints, Snapshot, fingerprint
from tinynet.data import Dataset, Loader, as_dataset
from tinynet.data.columns import check_order
from tinynet.data.loader import BatchSource
from tinynet.epochs import Best, EarlyStopping, Tally
from tinynet.errors import StopTraining
from tinynet.evaluation import Evaluation
from tinynet.history import History
from tinynet.losses import CrossEntropy, Loss, MeanSquaredError, check_loss
from tinynet.matching import check_fit
from tinynet.metrics import Metric, as_metrics
from tinynet.model import Model
from tinynet.network import Network
from tinynet.optim import Adam, Optimizer, check_optimizer
from tinynet.parameters import on_its_device
from tinynet.standardize import check_others, standardizer, unset
from tinynet.step import Run, StepOptions
from tinynet.training import Report, Reports, train

Callback = Callable[[Model, dict[str, float]], None]


@on_its_device
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
    """Train ``model`` in place on ``data`` and return the history, with a row of numbers for each epoch.

    - ``data``: a data set, (X, y) or (X, y, weight), a path or a list of paths, a `Loader`, or `data.Batches`. A model that
      was fitted to a table takes features and classes by their names in that table, also from a file that orders them
      differently; ``model.columns = None`` ends this.
    - ``loss``: by default `CrossEntropy` for labels and `MeanSquaredError` for numbers. ``optimizer``: by default
      ``Adam(1e-3)``.
    - ``epochs``: passes over the data. ``batch_size``, ``shuffle``, ``drop_last``, ``weights`` and ``balance`` say how
      mini-batches are drawn: see `Loader`, which is made with the model's seed.
    - ``validation``: data that is evaluated after each epoch, with the loss ("val_loss") and the ``metrics``, names or
      `metrics.Metric` objects: by default accuracy for labels ("val_accuracy") and, if outputs are estimates of numbers,
      rather than logits or logarithms of such, R² ("val_r2").
    - ``clip`` and ``accumulate``: see `train`.
    - ``ema`` in [0, 1): the decay of an exponential moving average of the weights. Validation uses the average, and the
      model has it at the end.
    - ``early_stopping``: an `EarlyStopping`, or its patience.
    - ``callbacks``: each is called as ``callback(model, row)`` after every epoch. If it has a method ``at_step(model,
      step)``, that is called before the first step of the run and after every step. Either ends the run by raising
      `StopTraining`.
    - ``checkpoint``: a folder, or `Checkpoints`, where the run is saved. With ``resume`` the run continues from the newest
      checkpoint there, bit for bit as if it had never stopped, or begins if there is none. ``epochs`` may differ from
      that of the first run.
    - ``progress``: show a bar and the loss curve if standard error is a terminal, else a line per epoch.

    A leading `Standardize` is set from the data first, unless it has been set already.

    TypeError or ValueError for options that are out of range and for data that do not fit the model; `DivergedError` if
    the loss or a weight is no longer finite. Ctrl-C raises KeyboardInterrupt as usual: the weights are then those of the
    last finished step (a batch norm's running statistics may include the batch after it), and ``model.history`` has the
    epochs so far.

    Examples
    --------
    >>> model = tn.Model(tn.Dense(1), n_in=1, dtype="float64")
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [[1.0], [3.0], [5.0], [7.0]]
    >>> history = tn.fit(model, (X, y), optimizer=tn.SGD(0.1), batch_size=4, epochs=500)
    >>> len(history), model.predict([[10.0]]).round(3).tolist()
    (500, [[21.0]])
    """
    draw = {"shuffle": shuffle, "drop_last": drop_last, "weights": weights, "balance": balance}
    loader = as_loader(data, batch_size, model, **draw)
    held_out = None if validation is None else as_dataset(validation, model.ops, loader.data.columns)
    loss, optimizer, chosen = with_defaults(loader.data, loss, optimizer, metrics)
    epochs = checks.positive("epochs", epochs)
    callbacks = checked_callbacks(callbacks)
    if held_out is not None:
        check_fit(model, held_out, loss, chosen)
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        early_stopping = EarlyStopping(early_stopping)
    best = Best(early_stopping, chosen if held_out is not None else None)
    saver = checkpoint if checkpoint is None or isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    if resume and saver is None:
        raise ValueError("resume continues from a checkpoint: give its folder, checkpoint='folder'")

    history, run = History(), Run(optimizer.init(model.theta, model.ops))
    if ema is not None:
        run.average = model.ops.xp.asarray(model.theta, copy=True)
    snapshot = Snapshot(model, run, best, history, Tally())
    if saver is not None:
        options = {**vars(StepOptions(clip, accumulate, ema)), "early stopping": early_stopping}
        if held_out is not None and best.stopping is not None and best.stopping.monitor != "loss":
            options["validation set"] = held_out.fingerprint()  # decides where the run ends, and with which weights
        saver.open(snapshot, fingerprint(model, loader, loss, optimizer, options), resume)
    steps = epochs * loader.steps_per_epoch
    session = _Session(snapshot, loader, callbacks, held_out, Evaluation(model, loss, chosen), saver)
    reports = train(
        model, loader, loss, optimizer, steps=0 if snapshot.finished else max(steps - run.step, 0),
        clip=clip, accumulate=accumulate, ema=ema, run=run, due=None if saver is None else saver.due,
        together=not session.per_step,
    )  # fmt: skip
    if not run.step:  # `train` has checked everything by now: from here on the model changes
        adapt(model, loader.data)

    model.loss, model.metrics, model.history, model.columns = loss, chosen, history, loader.data.columns
    if not run.step:  # a resumed run has called them after this step, before it stopped
        session.call_per_step(0)
    bar = bars.make(epochs, loader, history) if progress else bars.Silent()
    if history.stopped or session.run(reports, steps, bar):
        session.finish()
    return history


class _Session:
    """A run of `fit`, and what happens between its steps: losses, validation, callbacks and checkpoints."""

    def __init__(
        self, snapshot: Snapshot, loader: BatchSource, callbacks: list[Callback], held_out: Dataset | None,
        evaluate: Evaluation, saver: Checkpoints | None,
    ) -> None:  # fmt: skip
        self.snapshot, self.loader, self.saver = snapshot, loader, saver
        self.held_out, self.evaluate, self.callbacks = held_out, evaluate, callbacks
        self.per_step: list[Any] = [callback for callback in callbacks if hasattr(callback, "at_step")]
        self.made_of = [(thing, repr(thing)) for thing in (snapshot.model.net, evaluate.loss)]

    def run(self, reports: Reports, steps: int, bar: bars.Silent) -> bool:
        """Take the ``steps`` steps; whether the run is at its end, rather than stopped so that another continues it."""
        with bar:
            for report in reports:
                self._after_step(report, bar)
                if self.snapshot.finished:
                    if not report.recent:
                        self._note_losses(reports.send(True), bar)
                    self.snapshot.history.record(report.step, (), end=True)  # the last entry of the curve
                last = self.snapshot.finished or report.step == steps
                if why := self._save(report, last):
                    self.snapshot.history.stopped = why
                    return False
                if last:
                    break
        return True

    def finish(self) -> None:
        """Give the model the average or the best of its weights, if they were kept."""
        model, run, best = self.snapshot.model, self.snapshot.run, self.snapshot.best
        if run.average is not None:
            model.theta[...] = run.average
        if best.kept is not None:
            model.theta[...], model.state[...] = best.kept
            self.snapshot.history.best_epoch = best.epoch

    def call_per_step(self, step: int) -> None:
        with _may_stop(self.snapshot.history):
            for callback in self.per_step:
                callback.at_step(self.snapshot.model, step)

    def _after_step(self, report: Report, bar: bars.Silent) -> None:
        snapshot = self.snapshot
        if report.recent:
            self._note_losses(report, bar)
        if self.per_step:
            self.call_per_step(report.step)
        if report.last_of_epoch:
            self._after_epoch(report, bar)
        snapshot.finished = bool(snapshot.history.stopped)

    def _note_losses(self, report: Report, bar: bars.Silent) -> None:
        snapshot, recent = self.snapshot, report.recent
        snapshot.tally.add(recent)
        snapshot.history.record(report.step, recent, report.last_of_epoch)
        bar.step(report.step, sum(recent) / len(recent))

    def _after_epoch(self, report: Report, bar: bars.Silent) -> None:
        model, history, tally = self.snapshot.model, self.snapshot.history, self.snapshot.tally
        row = tally.row(report, self.loader)
        with averaged(model, self.snapshot.run):
            if self.held_out is not None:
                scores = self.evaluate(self.held_out, max(self.loader.batch_size, 4096))
                row |= {f"val_{name}": value for name, value in scores.items()}
            history.rows.append(row)
            bar.epoch(row)
            history.stopped = self.snapshot.best.see(row, model) or history.stopped
            with _may_stop(history):
                for callback in self.callbacks:
                    callback(model, row)
                    self._check_unchanged()
            row |= {name: checks.plain(value) for name, value in row.items()}  # those of a callback may be NumPy's
            if self.saver is not None:
                self.saver.keep_best(row, model)
        tally.reset()

    def _check_unchanged(self) -> None:
        """ValueError if a callback has changed what it must not: hyperparameters, which a compiled step has already read, or
        weights while the model has their average."""
        for thing, before in self.made_of:
            if repr(thing) != before:
                raise ValueError(
                    f"a callback has made {thing!r} of {before}, and a step keeps what it began with: change it between two "
                    "calls of fit, or have a layer read ctx.step"
                )
        model, average = self.snapshot.model, self.snapshot.run.average
        if average is not None and not bool(model.ops.to_numpy(model.ops.xp.all(model.theta == average))):
            raise ValueError(
                "a callback has changed the weights at the end of an epoch, when the model has their average (ema), not those "
                "that training goes on with: change them in at_step"
            )

    def _save(self, report: Report, last: bool) -> str:
        """Save a checkpoint if one is due; the reason why the run stops with it, or nothing."""
        saver = self.saver
        if saver is None:
            return ""
        due = saver.due(report.step) or (report.last_of_epoch and not saver.every)
        # a stop that was requested after the loop had asked what is due waits for the losses of the next step
        if not (last or (due and report.recent)):
            return ""
        saver.save(self.snapshot)
        why, saver.stopping = saver.stopping, ""
        return "" if last else why


def checked_callbacks(callbacks: Any) -> list[Callback]:
    """A list of callbacks; TypeError for anything else."""
    if callable(callbacks):
        raise TypeError(f"callbacks {checks.short_repr(callbacks)} is a single callback: give a list")
    found = list(callbacks) if hasattr(callbacks, "__iter__") else [callbacks]
    for callback in found:
        if not callable(callback):
            stops = isinstance(callback, EarlyStopping)
            remedy = "early_stopping=… takes it" if stops else "give functions (model, row) in a list"
            raise TypeError(f"callback {checks.short_repr(callback)} cannot be called: {remedy}")
        if isinstance(callback, type):  # a call would make an object, and do nothing else
            raise TypeError(f"callback {callback.__name__} is a class: make one of it, as {callback.__name__}(…)")
    return found


@contextmanager
def _may_stop(history: History) -> Iterator[None]:
    """Inside, a callback may end the run by `StopTraining`."""
    try:
        yield
    except StopTraining as e:
        history.stopped = str(e) or "a callback asked for it"


def with_defaults(
    data: Dataset, loss: Loss | None, optimizer: Optimizer | None, metrics: Iterable[str | Metric] | None
) -> tuple[Loss, Optimizer, tuple[Metric, ...]]:
    """Loss, optimizer and metrics, with defaults where none is given; TypeError or ValueError for anything else."""
    if loss is None:
        loss = CrossEntropy() if data.classes else MeanSquaredError()
    check_loss(loss)
    if optimizer is None:
        optimizer = Adam()
    if metrics is None:
        metrics = ["accuracy"] if data.classes else ["r2"] if loss.estimates else []
    check_optimizer(optimizer)
    return loss, optimizer, as_metrics(metrics)


def as_loader(data: Any, batch_size: int, model: Model, **draw: Any) -> BatchSource:
    """The batches of a run: those of ``data`` itself if it makes them, else of a `Loader` with the options ``draw``."""
    if hasattr(data, "steps_per_epoch"):
        check_draws_itself(data, batch_size, draw)
        loader: BatchSource = data
        check_order(loader.data.columns, model.columns)
        return loader
    return Loader(as_dataset(data, model.ops, model.columns), batch_size, seed=model.seed, **draw)


def check_draws_itself(loader: Any, batch_size: int, draw: dict[str, Any]) -> None:
    """TypeError if options of `Loader` are given beside a loader, which would ignore them."""
    unless_given = {"shuffle": None, "drop_last": False, "weights": None, "balance": False}
    given = [name for name, value in draw.items() if value is not unless_given[name]]
    if batch_size not in (32, loader.batch_size):  # 32 is the default
        given.append("batch_size")
    if given:
        kind, names = type(loader).__name__, ", ".join(given)
        where = "it is" if isinstance(loader, Loader) else "its batches are"
        raise TypeError(f"a {kind} draws in an order of its own and does not take {names}: set that where {where} made")


def adapt(model: Model, data: Dataset) -> None:
    """Set a leading `Standardize` from ``data``, unless it has been set already; ValueError for another that has not."""
    check_others(model.net, model.params, model.ops)
    layer = standardizer(model.net, model.params)
    if layer is not None and unset(layer, model.ops):
        model.adapt(data)


@contextmanager
def averaged(model: Network, run: Run) -> Iterator[None]:
    """Within the block the model has the average of its weights, if there is one."""
    if run.average is None:
        yield
        return
    raw = model.ops.xp.asarray(model.theta, copy=True)
    model.theta[...] = run.average
    try:
        yield
    finally:
        model.theta[...] = raw
