"""The epochs of a fit: scikit-learn's rules for when to stop around the steps of `tinynet.train`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from tinynet_backends import Backend, use_backend

from tinynet.data import Arrays, Batch, Loader
from tinynet.data.sampling import Sequential as InOrder
from tinynet.errors import DivergedError, StopTraining
from tinynet.layers import Sequential
from tinynet.losses import Loss
from tinynet.model import Evaluation, Model, check_fit
from tinynet.optim import Optimizer, State
from tinynet.sklearn.following import Array, move
from tinynet.sklearn.hyperparameters import Penalized, Rate
from tinynet.sklearn.watching import Watch
from tinynet.training import Run, Step, check_finite, loop, make_step, train

if TYPE_CHECKING:
    from tinynet.sklearn.base import MLP


class Samples:
    """Inputs and targets on the backend that trains, weights on the host."""

    def __init__(self, x: Array, y: Array, weight: Array | None) -> None:
        self.x, self.y, self.weight = x, y, weight

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def take(self, rows: Array, ops: Backend) -> Samples:
        """The samples of these numbers, (m,) int64 on the host."""
        index, take = ops.asarray(rows), ops.xp.take
        weight = None if self.weight is None else self.weight[rows]
        return Samples(take(self.x, index, axis=0), take(self.y, index, axis=0), weight)

    def standardized(self, model: Model) -> Samples:
        """These samples, standardized by the first layer of ``model``."""
        layer = model.params["0"]
        return Samples((self.x - layer["mean"]) * layer["scale"], self.y, self.weight)

    def arrays(self, model: Model) -> Arrays:
        weight = None if self.weight is None else model.ops.asarray(self.weight, model.dtype)
        with use_backend(model.ops):
            return Arrays(self.x, self.y, weight, finite=False)


class Passes:
    """The batches of a loader for a run at step ``first``, after ``done`` epochs of any length."""

    def __init__(self, loader: Loader, first: int, done: int) -> None:
        self.loader, self.data = loader, loader.data
        self.steps_per_epoch, self.batch_size = loader.steps_per_epoch, loader.batch_size
        self.shift = done * loader.steps_per_epoch - first
        self.all: Batch | None = None  # of an epoch of one step, which is the same in all epochs

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        if self.all is None:
            batch = self.loader.batch(step + self.shift, ops, dtype)
            if self.steps_per_epoch > 1 or not isinstance(self.loader.order, InOrder):
                return batch
            self.all = batch
        return self.all


@dataclass(eq=False)
class Kept:
    """What a `partial_fit` leaves to the next: the step, which becomes compiled after a few calls, and its vectors."""

    of: tuple[Any, ...]  # all that the step was made from
    model: Model
    inner: Model  # `model` without its `Standardize`
    rate: Rate
    optimizer: Optimizer
    run: Run
    step: Step
    left: tuple[Array, State]  # theta_ and optimizer_state_ as they were set from these vectors

    def fits(self, estimator: MLP, of: tuple[Any, ...]) -> bool:
        """Whether ``estimator`` is as this left it and its next step would be made from the same things."""
        theta, state = self.left
        if theta is not estimator.theta_ or state is not estimator.optimizer_state_ or not self.model.ops.on_host:
            return False
        pairs = (self.model.theta, theta), (self.model.state, estimator.layer_state_)
        if not all(bool((own == left).all()) for own, left in pairs):
            return False
        return all(
            a is b or (type(a) is type(b) and type(a) in _PLAIN and a == b) for a, b in zip(of, self.of, strict=True)
        )


_PLAIN = (bool, int, float, str, tuple, type(None))


class Loop:
    """Train the ``model`` of an ``estimator`` for ``epochs`` epochs on ``samples``, evaluated on ``test`` after each.

    The results are set on the estimator at the end, as arrays of ``home``.
    """

    def __init__(
        self, estimator: MLP, model: Model, loss: Loss, samples: Samples, test: Samples | None, home: Backend,
        watch: Watch, epochs: int, kept: Kept | None = None, of: tuple[Any, ...] | None = None,
    ) -> None:  # fmt: skip
        """``of`` is what the step is made from, if it is to be kept for another such fit; ``kept`` is that of the last."""
        self.estimator, self.model, self.home, self.watch, self.epochs = estimator, model, home, watch, epochs
        ops, n = model.ops, len(samples)
        if estimator.standardize:  # once, rather than in each step
            samples, test = samples.standardized(model), None if test is None else test.standardized(model)
            model = _rest(model) if kept is None else kept.inner
        size = self._batch_size(n)
        loader = Loader(
            samples.arrays(model), size, seed=estimator._seed, shuffle=estimator.shuffle and size < n, prefetch=False
        )
        self.n, self.steps, first = n, loader.steps_per_epoch, estimator._steps
        self.sizes = [*[size] * (self.steps - 1), n - size * (self.steps - 1)]
        self.rate = estimator._rate(n, self.steps)
        mean_weight = 1.0 if samples.weight is None else float(samples.weight.mean())
        penalty = estimator.alpha / (mean_weight * size)
        passes, steps = Passes(loader, first, estimator._epochs), epochs * self.steps
        if kept is not None:
            vars(kept.rate).update(vars(self.rate))
            self.rate, self.optimizer, self.run_ = kept.rate, kept.optimizer, kept.run
            if isinstance(kept.optimizer, Penalized):
                object.__setattr__(kept.optimizer, "penalty", penalty)
        else:
            self.optimizer = estimator._optimizer(self.rate)
            slots = self._slots(self.optimizer.init(model.theta, ops))
            if estimator.alpha:
                self.optimizer = Penalized(self.optimizer, penalty, model)
                slots["penalized"] = self.optimizer.mask
            self.run_ = Run(slots, first)

        def due(step: int) -> bool:
            return (step - first) % self.steps == 0

        self.kept = kept
        if of is None:
            self.reports = train(model, passes, loss, self.optimizer, steps=steps, run=self.run_, due=due)
        else:
            check_fit(model, loader.data, loss)
            if kept is None:
                step = make_step(model, loss, self.optimizer, self.run_, None, 1, None)
                left: tuple[Array, State] = (None, {})
                self.kept = Kept(of, self.model, model, self.rate, self.optimizer, self.run_, step, left)
            assert self.kept is not None
            self.reports = loop(model, passes, self.kept.step, self.run_, steps, due, check_finite)
        self.first, self.inner, self.test = first, model, test
        self.evaluate = Evaluation(model, loss, ())
        self.best: tuple[Array, Array] | None = None

    def _batch_size(self, n: int) -> int:
        size = self.estimator.batch_size
        if isinstance(size, str):
            return min(200, n)
        if size > n:
            warnings.warn(
                f"Got `batch_size` {size} larger than sample size {n}. It is going to be clipped", stacklevel=6
            )
        return min(int(size), n)

    def _slots(self, slots: State) -> State:
        """The slots of the last fit, if it had the same kind of optimizer."""
        if self.estimator._solved_by == type(self.optimizer).__name__:
            for name, value in self.estimator.optimizer_state_.items():
                if isinstance(value, float):
                    slots[name] = value
                elif name in slots:
                    slots[name][...] = move(value, self.model.ops, self.model.dtype)
        return slots

    def run(self) -> bool:
        """Train; whether it ended before the last epoch."""
        estimator, ended = self.estimator, False
        losses: list[float] = []
        estimator.n_iter_ = 0
        self.watch.begin_epoch()
        try:
            for report in self.reports:
                losses += report.recent
                if (report.step - self.first) % self.steps == 0:
                    estimator._steps = report.step
                    ended = self._end_epoch(sum(a * b for a, b in zip(losses, self.sizes, strict=True)) / self.n)
                    losses.clear()
                    if ended:
                        break
                    if estimator.n_iter_ < self.epochs:
                        self.watch.begin_epoch()
        except DivergedError as e:
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                f"preprocessed: {e}"
            ) from None
        except KeyboardInterrupt:
            ended = True
            warnings.warn("Training interrupted by user.", stacklevel=5)
        if self.best is not None:
            self.model.theta[...], self.model.state[...] = self.best
        for name, value in self._leave().items():
            setattr(estimator, name, value)
        solver = self.optimizer.inner if isinstance(self.optimizer, Penalized) else self.optimizer
        estimator._solved_by = type(solver).__name__
        if self.kept is None:
            estimator._live = estimator.theta_, self.model
        else:  # whose model the next `partial_fit` changes
            self.kept.left = estimator.theta_, estimator.optimizer_state_
            estimator._kept = self.kept
        return ended

    def _end_epoch(self, loss: float) -> bool:
        """Record an epoch; whether it was the last."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator._epochs += 1
        estimator.t_ += self.n
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        row = {"epoch": estimator._epochs, "step": estimator._steps, "loss": loss}
        if self.test is not None:
            row |= self._validate(self.test)
        estimator.history_.append(row)
        if estimator.verbose:
            print(", ".join(f"{name} {value:.6g}" for name, value in row.items()))
        if self._progress(row) and estimator.early_stopping:
            ops = self.model.ops
            self.best = _copy(self.model.theta, ops), _copy(self.model.state, ops)
        stop = self.watch.end_epoch(self._leave)
        try:
            for callback in estimator.callbacks or ():
                callback(self.model, row)
        except StopTraining:
            stop = True
        if estimator._stale > estimator.n_iter_no_change:
            estimator._stale = 0
            stop = stop or not self.rate.lowered()
        return stop

    def _validate(self, test: Samples) -> dict[str, float]:
        ops = self.inner.ops
        loss = self.evaluate(test.arrays(self.inner), 4096)["loss"]
        out = ops.to_numpy(self.inner.predict(test.x))
        score = self.estimator._rate_outputs(ops.to_numpy(test.y), out, test.weight)
        self.estimator.validation_scores_.append(score)
        return {"val_loss": loss, "val_score": score}

    def _progress(self, row: dict[str, float]) -> bool:
        """Count the epochs without progress, by the held-out score or by the loss; whether this was the best so far."""
        estimator = self.estimator
        if estimator.early_stopping:
            gain = row["val_score"] - estimator.best_validation_score_
            estimator.best_validation_score_ = max(estimator.best_validation_score_, row["val_score"])
        else:
            gain = estimator.best_loss_ - row["loss"]
            estimator.best_loss_ = min(estimator.best_loss_, row["loss"])
        estimator._stale = estimator._stale + 1 if gain < estimator.tol else 0
        return gain > 0

    def _leave(self) -> dict[str, Any]:
        """The current results, which make an estimator fitted, as copies."""
        ops, home = self.model.ops, self.home
        slots = {name: value for name, value in self.run_.slots.items() if name != "penalized"}
        kept = {name: a if isinstance(a, float) else move(_copy(a, ops), home) for name, a in slots.items()}
        theta, state = (move(_copy(a, ops), home) for a in (self.model.theta, self.model.state))
        return {"theta_": theta, "layer_state_": state, "optimizer_state_": kept}


def _rest(model: Model) -> Model:
    """``model`` without its `Standardize`, on the same vectors: what changes in one changes in the other."""
    net = model.net
    assert isinstance(net, Sequential)
    rest = Model(Sequential(*net.layers[1:]), model.in_shape, seed=model.seed, backend=model.ops, dtype=model.dtype)
    rest._bind(model.theta, model.state[2 * prod(model.in_shape) :])
    return rest


def _copy(a: Array, ops: Backend) -> Array:
    return ops.xp.asarray(a, copy=True)
