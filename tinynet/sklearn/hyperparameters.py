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
from tinynet.layers import Layer
from tinynet.mlp import ACTIVATIONS, NORMS, OPTIMIZERS, mlp
from tinynet.model import Model
from tinynet.optim import SGD, Adam, Optimizer
from tinynet.schedules import Schedule
from tinynet.sequential import Sequential
from tinynet.sklearn.solver import Rate

_ACTIVATIONS = {"identity": Identity(), "logistic": ACTIVATIONS["sigmoid"], **ACTIVATIONS}


@dataclass(eq=False, repr=False)
class Hyperparameters(BaseEstimator):
    """The parameters of both estimators. A fit checks them and never changes them.

    They mean the same, and have the same defaults, as in scikit-learn's MLPs, unless stated otherwise:

    - ``hidden_layer_sizes``: the widths of the hidden layers. ``activation``, after each of them: "relu", "identity",
      "logistic", "tanh", or, beyond scikit-learn, "gelu", "silu", "elu", "leaky_relu", "softplus" or a layer of tinynet's.
    - ``solver``: "adam", "sgd", "adamw", "nadam", "rmsprop", "adagrad", "lion", or an optimizer of tinynet's, with its own
      learning rate. There is no "lbfgs". ``momentum`` in [0, 1) and ``nesterovs_momentum`` apply to "sgd"; ``beta_1``,
      ``beta_2`` and ``epsilon`` apply to "adam", "adamw" and "nadam".
    - ``alpha``: the L2 penalty. The loss of a mini-batch gets ``alpha / 2`` times the sum of the squared weights, without
      biases, divided by ``batch_size`` (times the mean sample weight). ``loss_``, ``best_loss_`` and ``loss_curve_`` include
      that of the weights that the epoch began with; the losses in ``history_`` do not.
    - ``learning_rate_init``: the first learning rate. ``learning_rate``, here for every solver: "constant"; "invscaling",
      divided by ``(samples seen + 1)**power_t``; "adaptive", divided by 5 when there is no progress; or a schedule
      ``step -> rate``.
    - ``batch_size``: samples per mini-batch; "auto" is 200, or all samples if there are fewer. ``shuffle``: shuffle them in
      each epoch.
    - ``max_iter``: the largest number of epochs. Training ends when the loss has not fallen by ``tol`` for more than
      ``n_iter_no_change`` epochs. With ``early_stopping`` it ends when the score of held-out samples has not risen by
      ``tol`` for that long, and the best weights are kept; the accuracy of a classifier may stand still where a class is
      rare, unless ``class_weight`` weights it. The fraction ``validation_fraction`` of the samples is held
      out, or `fit` is given ``X_val`` and ``y_val``.
    - ``random_state``: decides initial weights, order, dropout masks and which samples are held out. ``verbose``: print a line
      per epoch.
    - ``warm_start``: `fit` continues where the last one ended, including the state of the optimizer, which scikit-learn
      resets. An adaptive rate begins anew, except in `partial_fit`; what was best for the samples of the last fit does not
      count.

    These are not in scikit-learn:

    - ``standardize``: scale features to mean 0 and variance 1, with the moments of the samples of the first fit; sample
      weights count. False suits features that are nearly always 0, such as counts of words: a rare one would be scaled up most.
    - ``dropout`` in [0, 1): the fraction dropped after each activation. ``norm``: "layer", "batch" or a layer, before each
      activation.
    - ``callbacks``: each is called as ``callback(model, row)`` after an epoch, with the `Model` and a row of ``history_``, a
      dict of numbers. One that raises `StopTraining` ends training.
    - ``backend``: the name of the backend that trains, wherever X lies; by default that of X. NumPy arrays train on the
      current backend or, if none has been chosen, on numba if it is installed, else on numpy.
    - ``precision``: "float32" or "float64", by default the dtype of X; float64 if X has another dtype.
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

    _names: ClassVar[list[str]]  # of the parameters; each class has its own list
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
        "precision": [StrOptions(set(checks.DTYPES)), None],
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

    def _rate(self, samples: int, steps: int, seen: int, done: int) -> Rate:
        """The learning rate for epochs of so many ``samples`` and ``steps``, after ``seen`` samples in ``done`` steps."""
        if callable(self.learning_rate):
            return Rate(self.learning_rate_init, self.learning_rate)
        if self.learning_rate == "invscaling":
            first, power = self.learning_rate_init, self.power_t
            return Rate(first, lambda step: first / (seen + (step - done) // steps * samples + 1) ** power)
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
