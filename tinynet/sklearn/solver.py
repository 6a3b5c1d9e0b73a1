"""What scikit-learn's solvers have beyond tinynet's optimizers: a rate that can be lowered, a penalty on weights, taking
over from another one."""

from __future__ import annotations

from copy import copy
from typing import Any

from tinynet_backends import Backend

from tinynet import checks
from tinynet.model import Model
from tinynet.optim import Optimizer, State
from tinynet.schedules import Schedule, rate_at
from tinynet.sklearn.placement import Array

_SLOWEST = 1e-6  # an adaptive rate below this ends training, as in scikit-learn


class Rate:
    """The learning rate: a schedule, or a number that is constant until it is lowered."""

    def __init__(self, first: float, schedule: Schedule | None = None, adaptive: bool = False) -> None:
        self.now, self.schedule, self.adaptive = float(first), schedule, adaptive

    def __call__(self, step: int) -> float:
        return self.now if self.schedule is None else self.schedule(step)

    def lower(self) -> bool:
        """Divide an adaptive rate by 5; False if there is no lower rate, which ends training."""
        if self.adaptive and self.now > _SLOWEST:
            self.now /= 5.0
            return True
        return False

    def become(self, other: Rate) -> None:
        """Be the same as ``other``, for a compiled step, which holds on to this object."""
        vars(self).update(vars(other))


class Penalized(Optimizer):
    """``inner``, for the loss plus ``penalty / 2`` times the sum of squared weights, biases left out.

    A vector of ones and zeros among the slots marks the weights, and the penalty is an argument of every step: neither
    is compiled into a kernel. ``begun`` is the number of steps of the run that another optimizer had made before.
    """

    inner: Optimizer
    penalty: float
    mask: Array

    def __init__(self, inner: Optimizer, penalty: float, model: Model, begun: int) -> None:
        self.inner, self.penalty, self.begun = inner, penalty, begun
        self.without_rate = copy(inner)  # its `numbers` do not ask the schedule for the rate of another step
        checks.set_fields(self.without_rate, lr=0.0)
        xp, named = model.ops.xp, model.weights(model.theta).items()
        parts = [xp.ones_like(a) if name.rpartition(".")[2] == "w" else xp.zeros_like(a) for name, a in named]
        self.mask = model.ops.pack(parts, xp.zeros_like(model.theta))

    def of(self, model: Model) -> float:
        """The penalty of the weights of ``model``."""
        squares = (self.mask * model.theta) @ model.theta
        return 0.5 * self.penalty * float(model.ops.to_numpy(squares))

    def init(self, theta: Array, ops: Backend) -> State:
        return {**self.inner.init(theta, ops), "penalized": self.mask}

    def numbers(self, state: State, t: int) -> tuple[float, ...]:
        # a bias correction counts the solver's own steps, a schedule all of them
        _, *scalars = self.without_rate.numbers(state, t - self.begun)
        return self.penalty, rate_at(self.inner.lr, t), *scalars

    def apply(self, theta: Array, g: Array, state: State, numbers: tuple[float, ...], ops: Backend) -> None:
        ops.update(_add_penalty, [g], [theta, state["penalized"]], numbers[0])
        self.inner.apply(theta, g, state, numbers[1:], ops)


def _add_penalty(xp: Any, g: Array, theta: Array, mask: Array, penalty: float) -> tuple[Array]:
    return (g + penalty * (mask * theta),)
