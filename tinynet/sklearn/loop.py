"""The epochs of a fit, and scikit-learn's rules for when to stop."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinynet_backends import Backend

from tinynet.data import Loader
from tinynet.errors import DivergedError, StopTraining
from tinynet.evaluation import Evaluation
from tinynet.fitting import checked_callbacks
from tinynet.sklearn.callbacks import FitTask
from tinynet.sklearn.placement import Array, move
from tinynet.sklearn.samples import Passes, Samples
from tinynet.sklearn.trainer import Progress, Trainer

if TYPE_CHECKING:
    from tinynet.sklearn.base import MLP


@dataclass(eq=False)
class Loop:
    """Train for ``epochs`` epochs on the batches of ``loader``, evaluated on ``test`` after each.

    The results are set on the estimator, at the end, as arrays of ``home``.
    """

    estimator: MLP
    progress: Progress
    trainer: Trainer
    loader: Loader
    test: Samples | None
    home: Backend
    task: FitTask
    epochs: int
    keep_step: bool = False  # the compiled step, for the next loop of the same trainer
    best: tuple[Array, Array] | None = None  # theta and state of the best epoch, with early stopping

    def __post_init__(self) -> None:
        self.evaluate = Evaluation(self.trainer.inner, self.trainer.loss, ())
        self.callbacks = checked_callbacks(self.estimator.callbacks or ())

    def run(self) -> bool:
        """Train; whether it ended before the last epoch."""
        estimator, model = self.estimator, self.trainer.model
        estimator.n_iter_ = 0
        if self.test is not None and self.progress.epochs:  # the samples may be others now
            estimator.best_validation_score_ = self._score(self.test)
            if estimator.early_stopping:
                self.best = self._weights()
        try:
            ended = self._epochs()
        except DivergedError as e:
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                f"preprocessed: {e}"
            ) from None
        except KeyboardInterrupt:
            ended = True
            self.progress.steps = self.trainer.run.step  # within an epoch, which the next fit begins anew
            warnings.warn("Training interrupted by user.", stacklevel=7)
        if self.best is not None:
            model.theta[...], model.state[...] = self.best
        for name, value in self._results().items():
            setattr(estimator, name, value)
        self.progress.solver = self.trainer.solver
        return ended

    def _epochs(self) -> bool:
        progress, loader = self.progress, self.loader
        passes = Passes(loader, progress.steps, progress.epochs)
        reports_of = self.trainer.reports_of_kept_step if self.keep_step else self.trainer.reports
        reports = reports_of(passes, self.epochs * loader.steps_per_epoch)
        sizes = [loader.batch_size] * loader.steps_per_epoch
        sizes[-1] += loader.data.n - sum(sizes)
        for _ in range(self.epochs):
            self.task.begin_epoch()
            penalty, losses = self.trainer.penalty(), list[float]()
            for report in reports:
                losses += report.recent
                if passes.ends_epoch(report.step):
                    break
            progress.steps = self.trainer.run.step
            loss = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / loader.data.n
            if self._end_epoch(loss, penalty):
                return True
        return False

    def _end_epoch(self, loss: float, penalty: float) -> bool:
        """Record an epoch with this mean ``loss``, and this ``penalty`` when it began; whether it is the last."""
        estimator, progress = self.estimator, self.progress
        estimator.n_iter_ += 1
        progress.epochs += 1
        estimator.t_ += self.loader.data.n
        estimator.loss_ = loss + penalty  # what is minimized: the loss alone may rise while that falls
        estimator.loss_curve_.append(estimator.loss_)
        row = {"epoch": progress.epochs, "step": progress.steps, "loss": loss}
        if self.test is not None:
            row |= self._validate(self.test)
        estimator.history_.append(row)
        if estimator.verbose:
            print(", ".join(f"{name} {value:.6g}" for name, value in row.items()))
        if self._is_best(row) and estimator.early_stopping:
            self.best = self._weights()
        stop = self.task.end_epoch(self._results)
        try:
            for callback in self.callbacks:
                callback(self.trainer.model, row)
        except StopTraining:
            stop = True
        if progress.stale > estimator.n_iter_no_change:
            progress.stale = 0
            lowered = self.trainer.rate.lower()
            progress.lowered += lowered
            stop = stop or not lowered
        return stop

    def _weights(self) -> tuple[Array, Array]:
        """Copies of theta and state."""
        model = self.trainer.model
        return _copy(model.theta, model.ops), _copy(model.state, model.ops)

    def _validate(self, test: Samples) -> dict[str, float]:
        loss, score = self.evaluate(test.arrays(self.trainer.inner), 4096)["loss"], self._score(test)
        self.estimator.validation_scores_.append(score)
        return {"val_loss": loss, "val_score": score}

    def _score(self, test: Samples) -> float:
        model = self.trainer.inner
        out, y = (model.ops.to_numpy(a) for a in (model.predict(test.x), test.y))
        return self.estimator._score_outputs(y, out, test.weight)

    def _is_best(self, row: dict[str, float]) -> bool:
        """Whether an epoch is the best so far, by the held-out score or, without early stopping, by the loss.

        Counts the epochs without progress.
        """
        estimator = self.estimator
        gain = estimator.best_loss_ - estimator.loss_
        first = estimator.n_iter_ == 1 and not self.keep_step  # the best loss so far may be that of other samples
        estimator.best_loss_ = estimator.loss_ if first else min(estimator.best_loss_, estimator.loss_)
        if self.test is not None:
            score, best = row["val_score"], estimator.best_validation_score_
            estimator.best_validation_score_ = max(best, score)
            if estimator.early_stopping:
                gain = score - best
        self.progress.stale = self.progress.stale + 1 if gain < estimator.tol else 0
        return gain > 0

    def _results(self) -> dict[str, Any]:
        """What makes an estimator fitted, as it is now, in copies."""
        ops, (theta, state, slots) = self.trainer.model.ops, self.trainer.results()

        def brought_home(a: Array) -> Array:
            return move(_copy(a, ops), self.home)

        saved = {name: a if isinstance(a, float) else brought_home(a) for name, a in slots.items()}
        return {"theta_": brought_home(theta), "layer_state_": brought_home(state), "optimizer_state_": saved}


def _copy(a: Array, ops: Backend) -> Array:
    return ops.xp.asarray(a, copy=True)
