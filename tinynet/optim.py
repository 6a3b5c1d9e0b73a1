"""Optimizers: each the arithmetic for one element of the parameter vector, in order of complexity.

All follow PyTorch's conventions, and are held to its numbers where it has the same. ``lr`` is a number or a schedule
``step -> rate``. ``l2`` adds ``l2 * theta`` to the gradient; ``weight_decay`` is decoupled: it multiplies theta by
``1 - lr * weight_decay`` and leaves the gradient alone (Loshchilov, Hutter 2019).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from math import sqrt
from typing import Any, ClassVar

from tinynet_backends import Backend

from tinynet import checks
from tinynet.schedules import Schedule, rate_at

Array = Any
State = dict[str, Any]  # name -> (p,) array, or a float that depends on the step alone

_RANGES = {
    "lr": checks.NOT_NEGATIVE._replace(text=f"{checks.NOT_NEGATIVE.text}, or step -> rate"),
    **dict.fromkeys(("l2", "weight_decay", "epsilon", "momentum_decay"), checks.NOT_NEGATIVE),
    **dict.fromkeys(("momentum", "beta1", "beta2", "decay"), checks.FRACTION),
}


@dataclass(frozen=True)
class Optimizer:
    """The base class of optimizers. A subclass names its ``slots``, the vectors of its state, and overrides `rule`.

    ``lr`` is the learning rate, a number of at least 0 or a schedule ``step -> rate``. ``l2`` adds ``l2 * theta`` to the
    gradient. ``weight_decay`` multiplies theta by ``1 - lr * weight_decay`` and does not change the gradient (Loshchilov,
    Hutter 2019). ValueError for a hyperparameter that is out of range.
    """

    lr: float | Schedule
    _: KW_ONLY
    l2: float = 0.0
    weight_decay: float = 0.0

    slots: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name in _RANGES and not (f.name == "lr" and callable(self.lr)):
                checks.coerce_numbers(self, _RANGES[f.name], f.name)
                checks.set_fields(self, **{f.name: float(getattr(self, f.name))})  # 1 and 1.0 are the same run

    def init(self, theta: Array, ops: Backend) -> State:
        """State before the first step: a zero vector for each slot. TypeError unless theta is of a real floating dtype."""
        if not ops.xp.isdtype(theta.dtype, "real floating"):  # steps would be cut off to whole numbers
            raise TypeError(f"theta of dtype {theta.dtype} cannot take steps: give a vector of a floating dtype")
        return {name: ops.zeros(theta.shape, theta.dtype) for name in self.used_slots()}

    def step(self, theta: Array, g: Array, state: State, t: int, ops: Backend) -> None:
        """In place: one step on theta (p,) and ``state``, for the gradient g (p,). ``t`` is the number of steps done before."""
        if (found := tuple(getattr(g, "shape", ()))) != tuple(theta.shape):  # a loss, say, would broadcast unnoticed
            raise ValueError(f"gradient {found} does not fit theta: expected {tuple(theta.shape)}")
        self.apply(theta, g, state, self.numbers(state, t), ops)

    def numbers(self, state: State, t: int) -> tuple[float, ...]:
        """The first half of `step`, in Python's floats: the learning rate and `scalars`. Floats in ``state`` advance in place."""
        return rate_at(self.lr, t), *self.scalars(state, t)

    def apply(self, theta: Array, g: Array, state: State, numbers: tuple[Any, ...], ops: Backend) -> None:
        """The second half of `step`, in place, on vectors alone.

        The learning rate, the first of ``numbers``, may be an array of theta's shape: one rate for each element. In
        `fit_many` theta and the other vectors are (networks, p).
        """
        inputs = [g]
        if getattr(numbers[0], "shape", ()):
            inputs, numbers = [g, numbers[0]], numbers[1:]
        ops.update(self._decayed_rule, [theta, *(state[name] for name in self.used_slots())], inputs, *numbers)

    def used_slots(self) -> tuple[str, ...]:
        """The names of the ``slots`` that these hyperparameters need; by default all."""
        return self.slots

    def scalars(self, state: State, t: int) -> tuple[float, ...]:
        """Numbers that depend on the step alone, such as a bias correction; `rule` gets them after lr."""
        return ()

    def rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        """``rule(xp, theta, *slots, g, lr, *scalars)`` -> theta and slots after the step, computed elementwise."""
        raise NotImplementedError(f"{type(self).__name__} has no rule: write one")

    def _decayed_rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        n = len(self.used_slots())
        slots, (g, lr, *scalars) = rest[:n], rest[n:]
        if self.l2:
            g = g + self.l2 * theta
        if self.weight_decay:
            theta = theta * (1.0 - lr * self.weight_decay)
        new = self.rule(xp, theta, *slots, g, lr, *scalars)
        if not isinstance(new, (tuple, list)) or len(new) != 1 + n:  # which a compiled kernel would not notice
            wanted = f"({', '.join(('theta', *self.used_slots()))}{',' * (not n)})"
            raise TypeError(f"{type(self).__name__}.rule does not give theta and its slots: return {wanted}")
        return new


def check_optimizer(optimizer: Any) -> None:
    """TypeError unless ``optimizer`` is one, or if it overrides `step`, which training does not call, only its two halves."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer {checks.short_repr(optimizer)} is not an optimizer: give one, such as Adam(1e-3)")
    if type(optimizer).step is not Optimizer.step:
        raise TypeError(f"{type(optimizer).__name__}.step is not what training calls: write it as a rule(xp, theta, …)")


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: ``v = momentum * v + g; theta -= lr * v``, with ``momentum`` in [0, 1).

    With ``nesterov`` the second formula is ``theta -= lr * (g + momentum * v)`` (Sutskever et al. 2013). As in PyTorch, lr
    is not part of v. ValueError for ``nesterov`` without a momentum.

    Examples
    --------
    >>> import numpy as np
    >>> theta, ops = np.array([1.0, -2.0]), tn.get_backend("numpy")
    >>> sgd = tn.SGD(0.5)
    >>> sgd.step(theta, np.array([1.0, 1.0]), sgd.init(theta, ops), 0, ops)
    >>> theta.tolist()
    [0.5, -2.5]
    """

    momentum: float = 0.0
    nesterov: bool = False
    slots: ClassVar[tuple[str, ...]] = ("v",)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.coerce_bool(self, "nesterov")
        if self.nesterov and not self.momentum:
            raise ValueError("SGD nesterov=True needs a momentum: give one in (0, 1)")

    def used_slots(self) -> tuple[str, ...]:
        return self.slots if self.momentum else ()

    def rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        if not self.momentum:
            g, lr = rest
            return (theta - lr * g,)
        v, g, lr = rest
        v = self.momentum * v + g
        return theta - lr * (g + self.momentum * v if self.nesterov else v), v


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """``s += g**2; theta -= lr * g / (sqrt(s) + epsilon)`` (Duchi et al. 2011)."""

    lr: float | Schedule = 0.01
    epsilon: float = 1e-10
    slots: ClassVar[tuple[str, ...]] = ("s",)

    def rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        s, g, lr = rest
        s = s + g * g
        return theta - lr * (g / (xp.sqrt(s) + self.epsilon)), s


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """``s = decay * s + (1 - decay) * g**2; theta -= lr * g / (sqrt(s) + epsilon)`` (Hinton, lecture 6e, 2012).

    ``epsilon`` is outside the root, as in PyTorch (Keras has it inside). With ``momentum``,
    ``v = momentum * v + g / (sqrt(s) + epsilon); theta -= lr * v``.
    """

    lr: float | Schedule = 0.01
    decay: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    slots: ClassVar[tuple[str, ...]] = ("s", "v")

    def used_slots(self) -> tuple[str, ...]:
        return self.slots if self.momentum else ("s",)

    def rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        s, g, lr = rest[0], rest[-2], rest[-1]
        s = self.decay * s + (1.0 - self.decay) * (g * g)
        quotient = g / (xp.sqrt(s) + self.epsilon)
        if not self.momentum:
            return theta - lr * quotient, s
        v = self.momentum * rest[1] + quotient
        return theta - lr * v, s, v


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with bias correction (Kingma, Ba 2015, algorithm 1).

    ``m = beta1 * m + g; v = beta2 * v + g**2; theta -= lr * (m / w1) / (sqrt(v / w2) + epsilon)``

    Here ``w1 = 1 + beta1 + … + beta1**(t - 1)`` in step t = 1, 2, …, and w2 is the same sum for beta2, so m / w1 and v / w2
    are weighted means. The steps are those of the paper and of PyTorch: their m and v are these times ``1 - beta``, and so
    are their corrections, ``1 - beta**t``. ``epsilon`` is added to the bias-corrected root, as in both.

    Examples
    --------
    >>> tn.Adam(1e-3, weight_decay=0.01)
    Adam(lr=0.001, l2=0.0, weight_decay=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08)
    """

    lr: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def scalars(self, state: State, t: int) -> tuple[float, ...]:
        return _sum_of_powers(self.beta1, t + 1), sqrt(_sum_of_powers(self.beta2, t + 1))

    def rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        m, v, g, lr, w1, root_w2 = rest
        m = self.beta1 * m + g
        v = self.beta2 * v + g * g
        # numerator and denominator times root_w2 save a pass over v
        return theta - lr * root_w2 / w1 * (m / (xp.sqrt(v) + self.epsilon * root_w2)), m, v


def _sum_of_powers(beta: float, t: int) -> float:
    """``1 + beta + … + beta**(t - 1)``"""
    return (1.0 - beta**t) / (1.0 - beta)


@dataclass(frozen=True)
class AdamW(Adam):
    """`Adam` whose decoupled weight decay is 0.01 by default (Loshchilov, Hutter 2019)."""

    _: KW_ONLY
    weight_decay: float = 0.01


@dataclass(frozen=True)
class NAdam(Adam):
    """`Adam` with Nesterov's momentum (Dozat 2016), with PyTorch's formulas and defaults.

    The weight of the momentum in step t = 1, 2, … is ``beta1 * (1 - 0.96**(t * momentum_decay) / 2)``. The state has the
    product of these weights so far, a float, beside the slots.
    """

    lr: float | Schedule = 2e-3
    momentum_decay: float = 4e-3

    def init(self, theta: Array, ops: Backend) -> State:
        return {**super().init(theta, ops), "product": 1.0}

    def _weight(self, t: int) -> float:
        return float(self.beta1 * (1.0 - 0.5 * 0.96 ** (t * self.momentum_decay)))

    def scalars(self, state: State, t: int) -> tuple[float, ...]:
        now, following = self._weight(t + 1), self._weight(t + 2)
        product = state["product"] * now
        along_g = (1.0 - now) / (1.0 - product)
        along_m = following / (1.0 - product * following)
        return along_g, along_m * (1.0 - self.beta1), sqrt(_sum_of_powers(self.beta2, t + 1))

    def numbers(self, state: State, t: int) -> tuple[float, ...]:
        numbers = super().numbers(state, t)
        state["product"] *= self._weight(t + 1)
        return numbers

    def rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        m, v, g, lr, along_g, along_m, root_w2 = rest
        m = self.beta1 * m + g
        v = self.beta2 * v + g * g
        root = xp.sqrt(v) / root_w2 + self.epsilon
        return theta - lr * ((along_g * g + along_m * m) / root), m, v


@dataclass(frozen=True)
class Lion(Optimizer):
    """``theta -= lr * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g`` (Chen et al. 2023, algorithm 2)."""

    lr: float | Schedule = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    slots: ClassVar[tuple[str, ...]] = ("m",)

    def rule(self, xp: Any, theta: Array, *rest: Any) -> tuple[Array, ...]:
        m, g, lr = rest
        direction = xp.sign(self.beta1 * m + (1.0 - self.beta1) * g)
        return theta - lr * direction, self.beta2 * m + (1.0 - self.beta2) * g
