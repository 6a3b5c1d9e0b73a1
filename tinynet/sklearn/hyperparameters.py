"""The parameters of both estimators, and what they describe: a network, an optimizer, a rate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions

from tinynet import checks
from tinynet.activations import Identity
from tinynet.layers import Layer, Sequential
from tinynet.mlp import ACTIVATIONS, NORMS, OPTIMIZERS, mlp
from tinynet.model import DTYPES, Model
from tinynet.optim import SGD, Adam, Optimizer
from tinynet.schedules import Schedule
from tinynet.sklearn.solver import Rate

_ACTIVATIONS = {"identity": Identity(), "logistic": ACTIVATIONS["sigmoid"], **ACTIVATIONS}


@dataclass(eq=False, repr=False)
class Hyperparameters(BaseEstimator):
    """The parameters of an estimator. A fit checks them and never changes them.

    They have the meanings and defaults of scikit-learn's MLPs, unless said otherwise:

    - ``hidden_layer_sizes``: widths of the hidden layers. ``activation`` after each: "relu", "identity", "logistic",
      "tanh", another of tinynet's by name ("gelu", "silu", "elu", "leaky_relu", "softplus"), or a layer.
    - ``solver``: "adam", "sgd", "adamw", "nadam", "rmsprop", "adagrad", "lion", or an optimizer with a rate of its own.
      ``momentum`` in [0, 1) and ``nesterovs_momentum`` are for "sgd"; ``beta_1``, ``beta_2`` and ``epsilon`` for the
      Adams. There is no "lbfgs".
    - ``alpha``: the loss has ``alpha / 2`` times the sum of squared weights, biases left out, over the (mean) weight of
      a batch. ``loss_`` leaves it out.
    - ``learning_rate_init``, and ``learning_rate``, here for every solver: "constant"; "invscaling", divided by the
      number of samples seen, plus 1, to the power ``power_t``; "adaptive", divided by 5 when there is no progress; or a
      schedule ``step -> rate``.
    - ``batch_size``: samples per step; "auto" is 200, or all if they are fewer. ``shuffle`` them in each epoch.
    - ``max_iter``: the largest number of epochs. Training ends when the loss has not fallen by ``tol`` for more than
      ``n_iter_no_change`` epochs or, with ``early_stopping``, when the score of held-out samples has not risen by as
      much; the best weights are then kept. Held out is the fraction ``validation_fraction``, or what `fit` gets as
      ``X_val`` and ``y_val``.
    - ``random_state`` decides weights, order, masks and what is held out. ``verbose`` prints a line per epoch.
    - ``warm_start``: `fit` continues where the last one ended, with the state of the optimizer, which scikit-learn
      resets.

    Beyond those:

    - ``standardize``: features are scaled to mean 0 and variance 1, by the (weighted) samples of the first fit.
    - ``dropout``: the fraction dropped after each activation, in [0, 1). ``norm``: "layer", "batch" or a layer, before
      each activation.
    - ``callbacks``: each is called as ``callback(model, row)`` after an epoch, with the `Model` and a mapping of names
      to numbers, the rows of ``history_``; one that raises `StopTraining` ends training.
    - ``backend``: the name of the backend that trains, wherever X lies; by default X's own. NumPy arrays train on the
      backend in force or, if none has been chosen, on the fastest of the host.
    - ``precision``: "float32" or "float64"; by default the dtype of X, float64 if it is another.
    """

    hidden_layer_sizes: Any = (100,)
    activation: str | Layer = "relu"
    _: KW_ONLY
    solver: str | Optimizer = "adam"
    alpha: float = 1e-4
    batch_size: int | str = "auto"
    learning_rate: str | Schedule = "constant"
    learning_rate_init: float = 1e-3
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: int = 10
    standardize: bool = True
    dropout: float = 0.0
    norm: str | Layer | None = None
    callbacks: Iterable[Callable[[Model, dict[str, float]], None]] | None = None
    backend: str | None = None
    precision: str | None = None

    _names: ClassVar[list[str]]  # of the parameters, of each class its own
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(_ACTIVATIONS)), Layer],
        "solver": [StrOptions(set(OPTIMIZERS)), Optimizer],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {float("inf")})],
        "standardize": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "norm": [StrOptions(set(NORMS)), Layer, None],
        "callbacks": [HasMethods("__iter__"), None],
        "backend": [str, None],
        "precision": [StrOptions(set(DTYPES)), None],
    }

    @classmethod
    def _get_param_names(cls) -> list[str]:
        if "_names" not in vars(cls):  # scikit-learn reads the signature anew for every fit and clone: 50 us each time
            cls._names = super()._get_param_names()
        return cls._names

    def _net(self, outputs: int) -> Sequential:
        sizes = self.hidden_layer_sizes
        widths = list(sizes if hasattr(sizes, "__iter__") else [sizes])
        if any(checks.float_or_nan(width) <= 0 for width in widths):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {widths}.")
        return mlp(
            widths, outputs, activation=_layer(self.activation, _ACTIVATIONS),
            norm=None if self.norm is None else _layer(self.norm, NORMS),
            dropout=self.dropout, standardize=self.standardize,
        )  # fmt: skip

    def _optimizer(self, rate: Rate) -> Optimizer:
        if isinstance(self.solver, Optimizer):
            return self.solver
        kind = OPTIMIZERS[self.solver]
        if kind is SGD:
            return SGD(rate, momentum=self.momentum, nesterov=self.nesterovs_momentum and self.momentum > 0)
        if issubclass(kind, Adam):
            return kind(rate, beta1=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon)
        return kind(rate)

    def _rate(self, samples: int, steps: int) -> Rate:
        """The learning rate for epochs of so many ``samples`` and ``steps``."""
        if callable(self.learning_rate):
            return Rate(self.learning_rate_init, self.learning_rate)
        if self.learning_rate == "invscaling":
            first, power = self.learning_rate_init, self.power_t
            return Rate(first, lambda step: first / (step // steps * samples + 1) ** power)
        return Rate(self.learning_rate_init, adaptive=self.learning_rate == "adaptive")

    def _batch_size(self, samples: int) -> int:
        if isinstance(self.batch_size, str):
            return min(200, samples)
        if self.batch_size > samples:
            warnings.warn(
                f"Got `batch_size` {self.batch_size} larger than sample size {samples}. It is going to be clipped",
                stacklevel=7,
            )
        return min(int(self.batch_size), samples)


def _layer(value: str | Layer, table: Mapping[str, Layer]) -> Layer:
    return table[value] if isinstance(value, str) else value
