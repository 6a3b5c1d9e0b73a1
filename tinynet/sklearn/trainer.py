"""What trains the network of an estimator: its optimizer, the state of the run and, for `partial_fit`, the compiled step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinynet.losses import Loss
from tinynet.matching import check_fit
from tinynet.model import Model, without_standardize
from tinynet.optim import Optimizer, State
from tinynet.sklearn.placement import Array, move
from tinynet.sklearn.samples import Passes
from tinynet.sklearn.solver import Penalized, Rate
from tinynet.step import Run, Step, StepOptions, make_step
from tinynet.training import Report, loop, train

if TYPE_CHECKING:
    from tinynet.sklearn.base import MLP

_PLAIN = (bool, int, float, str, tuple, type(None))


@dataclass
class Progress:
    """What a fit hands on to the one that continues it, besides the attributes that the estimator shows."""

    seed: int
    steps: int = 0
    epochs: int = 0
    stale: int = 0  # the last epochs in a row that were no better
    lowered: int = 0  # how often an adaptive rate was, since the last `fit` began
    solver: str = ""  # the optimizer that ``optimizer_state_`` is of
    begun: int = 0  # after how many steps it did


class Trainer:
    """What trains ``model`` in place. ``inner`` is the model without its `Standardize`: samples are standardized once.

    After a `partial_fit` the estimator keeps its trainer for the next, because a step is fast only after a few calls.
    ``ingredients`` are everything that the step was made from.
    """

    def __init__(
        self, estimator: MLP, model: Model, loss: Loss, rate: Rate, penalty: float, ingredients: tuple[Any, ...]
    ) -> None:
        self.model, self.loss, self.rate, self.ingredients = model, loss, rate, ingredients
        self.inner = without_standardize(model) if estimator.standardize else model
        solver, progress = estimator._optimizer(rate), estimator._progress
        self.solver = type(solver).__name__
        slots = solver.init(model.theta, model.ops)
        if progress.solver == self.solver:
            self._restore(slots, estimator.optimizer_state_)
        else:
            progress.begun = progress.steps
        self.optimizer: Optimizer = solver
        if estimator.alpha or progress.begun:
            self.optimizer = Penalized(solver, penalty, model, progress.begun)
            slots["penalized"] = self.optimizer.mask
        self.run = Run(slots, progress.steps)
        self._step: Step | None = None
        self._noted: tuple[Array, State] = (None, {})

    def _restore(self, slots: State, saved: State) -> None:
        for name, value in saved.items():
            if isinstance(value, float):
                slots[name] = value
            elif name in slots:
                slots[name][...] = move(value, self.model.ops, self.model.dtype)

    def change(self, rate: Rate, penalty: float) -> None:
        """Another learning rate and penalty, for the same step."""
        self.rate.become(rate)
        if isinstance(self.optimizer, Penalized):
            self.optimizer.penalty = penalty

    def penalty(self) -> float:
        """What the L2 penalty now adds to the loss."""
        return self.optimizer.of(self.model) if isinstance(self.optimizer, Penalized) else 0.0

    def reports(self, passes: Passes, steps: int) -> Iterator[Report]:
        """Train for ``steps`` steps, and wait for the device at the end of each epoch."""
        return train(
            self.inner, passes.source, self.loss, self.optimizer, steps=steps, run=self.run, due=passes.ends_epoch,
            together=True,
        )  # fmt: skip

    def reports_of_kept_step(self, passes: Passes, steps: int) -> Iterator[Report]:
        """As `reports`, with a step that is made once."""
        check_fit(self.inner, passes.data, self.loss)
        if self._step is None:
            self._step = make_step(self.inner, self.loss, self.optimizer, self.run, StepOptions())
        return loop(self._step, passes.source, steps, due=passes.ends_epoch, together=True)

    def note(self, estimator: MLP) -> None:
        """Note what ``estimator`` now has, so that `continues` notices a change."""
        self._noted = estimator.theta_, estimator.optimizer_state_

    def continues(self, estimator: MLP, ingredients: tuple[Any, ...]) -> bool:
        """Whether ``estimator`` is as it was noted, and its next step would be made from the same ingredients."""
        theta, state = self._noted
        if theta is not estimator.theta_ or state is not estimator.optimizer_state_ or not self.model.ops.on_host:
            return False
        pairs = (self.model.theta, theta), (self.model.state, estimator.layer_state_)
        if not all(bool((own == left).all()) for own, left in pairs):
            return False
        return all(map(_same, ingredients, self.ingredients))

    def results(self) -> tuple[Array, Array, State]:
        """Parameters, layer state and the solver's state."""
        slots = {name: value for name, value in self.run.slots.items() if name != "penalized"}
        return self.model.theta, self.model.state, slots


def _same(a: object, b: object) -> bool:
    """Whether two ingredients are known to be the same: objects that can change must be one."""
    return a is b or (type(a) is type(b) and type(a) in _PLAIN and a == b)
