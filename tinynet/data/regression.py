"""Virtual data sets for regression, and random teacher networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise
from math import comb, pi

from tinynet_backends import Backend, exact

from tinynet.data.dataset import Array
from tinynet.data.virtual import (
    Virtual,
    cached_per_backend,
    check_classes,
    check_noise,
    check_scale,
    check_turns,
    check_whole,
    uniforms,
)


@dataclass(frozen=True)
class Linear(Virtual):
    """Standard normal features (n, n_features), and a linear function of them: ``x @ w + b + noise``, (n, n_outputs).

    The first ``n_informative`` rows of w (by default all) and b are uniform in [0, scale); the other rows of w are 0.
    ``noise`` is the standard deviation of normal noise. This is like scikit-learn's ``make_regression``.
    """

    n_features: int = 20
    n_informative: int | None = None
    n_outputs: int = 1
    noise: float = 0.0
    scale: float = 1.0

    def _validate(self) -> None:
        check_whole(self, "n_features")
        check_whole(self, "n_outputs")
        check_noise(self)
        check_scale(self, "scale")
        if self.n_informative is not None:
            check_whole(self, "n_informative", 0, self.n_features)
        self._set(shape=(self.n_features,), outputs=self.n_outputs)

    def _width(self) -> int:
        return self.n_features + (self.n_outputs if self.noise else 0)

    @cached_per_backend
    def coefficients(self, ops: Backend) -> Array:
        """(n_features + 1, n_outputs) float64: w, and b in the last row."""
        i, o = self.n_features, self.n_outputs
        w = ops.xp.reshape(exact.uniform64(ops.xp, self._constants((i + 1) * o, ops)) * self.scale, (i + 1, o))
        used = self.n_features if self.n_informative is None else self.n_informative
        return ops.xp.concat([w[:used, :], 0.0 * w[used:i, :], w[i:, :]], axis=0)

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        return (self.coefficients(ops),)

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        z, (w,), i = ops.normal(words), tables, self.n_features
        used = max(i if self.n_informative is None else self.n_informative, 1)
        y = ops.affine_in_order(z[:, :used], w[:used, :], w[i:, :])
        return z[:, :i], y + self.noise * z[:, i:] if self.noise else y


@dataclass(frozen=True)
class Friedman1(Virtual):
    """``10 sin(pi x0 x1) + 20 (x2 - 1/2)**2 + 10 x3 + 5 x4 + noise``, (n, 1), of features (n, n_features) in [0, 1).

    The features are uniform; those beyond the fifth are irrelevant. ``noise`` is the standard deviation of normal noise.
    J. H. Friedman (1991), *Multivariate adaptive regression splines*, Ann. Stat. 19; scikit-learn's ``make_friedman1``.
    """

    n_features: int = 10
    noise: float = 0.0

    def _validate(self) -> None:
        check_whole(self, "n_features", 5)
        check_noise(self)
        self._set(shape=(self.n_features,), outputs=1)

    def _width(self) -> int:
        return (self.n_features + 1) // 2 + bool(self.noise)

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        x = uniforms(words, self.n_features, ops)
        x0, x1, x2, x3, x4 = (x[:, j] for j in range(5))
        sine, _ = ops.sincos(0.5 * (x0 * x1))
        middle = x2 - 0.5
        y = 10.0 * sine + 20.0 * (middle * middle) + 10.0 * x3 + 5.0 * x4
        return x, _noisy(ops, y, self.noise, words)


@dataclass(frozen=True)
class _Circuit(Virtual):
    """A resistor, an inductor and a capacitor in series: features (n, 4), and a target computed from them."""

    noise: float = 0.0

    def _validate(self) -> None:
        check_noise(self)
        self._set(shape=(4,), outputs=1)

    def _width(self) -> int:
        return 2 + bool(self.noise)


@dataclass(frozen=True)
class Friedman2(_Circuit):
    """``sqrt(x0**2 + (x1 x2 - 1 / (x1 x3))**2) + noise``, (n, 1), of features (n, 4): the impedance of a circuit.

    The features are uniform: x0 in [0, 100), x1 in [40 pi, 560 pi), x2 in [0, 1), x3 in [1, 11). ``noise`` is the standard
    deviation of normal noise. Friedman (1991); scikit-learn's ``make_friedman2``.
    """

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        x, resistance, reactance = _circuit(ops, words)
        y = ops.xp.sqrt(resistance * resistance + reactance * reactance)
        return x, _noisy(ops, y, self.noise, words)


@dataclass(frozen=True)
class Friedman3(_Circuit):
    """``arctan((x1 x2 - 1 / (x1 x3)) / x0) + noise``, (n, 1): the phase in the circuit of `Friedman2`, with its features.

    Friedman (1991); scikit-learn's ``make_friedman3``.
    """

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        x, resistance, reactance = _circuit(ops, words)
        return x, _noisy(ops, ops.arctan(reactance, resistance), self.noise, words)


def _circuit(ops: Backend, words: Array) -> tuple[Array, Array, Array]:
    """Features (n, 4), resistance and reactance (n,)."""
    u = uniforms(words, 4, ops)
    x0, x1 = 100.0 * u[:, 0], 40.0 * pi + 520.0 * pi * u[:, 1]
    x2, x3 = u[:, 2], 1.0 + 10.0 * u[:, 3]
    return ops.xp.stack([x0, x1, x2, x3], axis=1), x0, x1 * x2 - 1.0 / (x1 * x3)


def _noisy(ops: Backend, y: Array, noise: float, words: Array) -> Array:
    """(n,) -> (n, 1), with normal noise from each row's last word."""
    return (y + noise * ops.normal(words[:, -1]) if noise else y)[:, None]


@dataclass(frozen=True)
class SparseUncorrelated(Virtual):
    """``x0 + 2 x1 - 2 x2 - 1.5 x3 + noise``, (n, 1), of standard normal features (n, n_features).

    Features beyond the fourth are irrelevant; ``noise`` is the standard deviation of normal noise. G. Celeux, M. El Anbari,
    J.-M. Marin, C. P. Robert (2009), *Regularization in regression*; scikit-learn's ``make_sparse_uncorrelated``.
    """

    n_features: int = 10
    noise: float = 1.0

    def _validate(self) -> None:
        check_whole(self, "n_features", 4)
        check_noise(self)
        self._set(shape=(self.n_features,), outputs=1)

    def _width(self) -> int:
        return self.n_features + 1

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        z = ops.normal(words)
        y = z[:, 0] + 2.0 * z[:, 1] - 2.0 * z[:, 2] - 1.5 * z[:, 3] + self.noise * z[:, -1]
        return z[:, :-1], y[:, None]


@dataclass(frozen=True)
class Sinusoid(Virtual):
    """A sum of ``waves`` sines, (n, 1), of uniform features (n, n_features) in [-1, 1).

    ``sum_k a_k sin(2 pi (f_k . x + phase_k))`` plus normal noise of standard deviation ``noise``. Each frequency f_k is uniform
    in [-frequency, frequency) along every axis, amplitudes a_k are normal with variance 1 / waves, phases are uniform.
    """

    n_features: int = 1
    waves: int = 3
    frequency: float = 2.0
    noise: float = 0.1

    def _validate(self) -> None:
        check_whole(self, "n_features")
        check_whole(self, "waves")
        check_turns(self, "frequency")
        check_noise(self)
        self._set(shape=(self.n_features,), outputs=1)

    def _width(self) -> int:
        return (self.n_features + 1) // 2 + bool(self.noise)

    @cached_per_backend
    def coefficients(self, ops: Backend) -> Array:
        """(n_features + 2, waves) float64: frequencies, then a row of phases in turns, then one of amplitudes."""
        xp, i, k = ops.xp, self.n_features, self.waves
        words = self._constants((i + 2) * k, ops)
        u = xp.reshape(exact.uniform64(xp, words[: (i + 1) * k]), (i + 1, k))
        a = xp.reshape(ops.normal(words[(i + 1) * k :]) * k**-0.5, (1, k))
        return xp.concat([self.frequency * (2.0 * u[:i, :] - 1.0), u[i:, :], a], axis=0)

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        return (self.coefficients(ops),)

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        (c,), i = tables, self.n_features
        x = 2.0 * uniforms(words, i, ops) - 1.0
        sine, _ = ops.sincos(ops.affine_in_order(x, c[:i, :], c[i : i + 1, :]))
        y = ops.sum_in_order(sine * c[i + 1 :, :])
        return x, _noisy(ops, y, self.noise, words)


@dataclass(frozen=True)
class Polynomial(Virtual):
    """A random polynomial, (n, 1), of uniform features (n, n_features) in [-1, 1).

    It is the sum of all products of at most ``degree`` features, each with a standard normal coefficient, plus normal noise
    of standard deviation ``noise``. ValueError for more than 10 000 terms.
    """

    n_features: int = 1
    degree: int = 3
    noise: float = 0.1

    def _validate(self) -> None:
        check_whole(self, "n_features")
        check_whole(self, "degree", 0, 64)
        check_noise(self)
        if comb(self.n_features + self.degree, self.degree) > 10_000:
            raise ValueError(
                f"Polynomial of degree {self.degree} in {self.n_features} features has more than 10 000 terms: "
                "choose smaller ones"
            )
        self._set(shape=(self.n_features,), outputs=1)

    def _width(self) -> int:
        return (self.n_features + 1) // 2 + bool(self.noise)

    def terms(self) -> tuple[tuple[int, ...], ...]:
        """The features in each product: () is the constant, (0, 0, 1) is ``x0**2 * x1``."""
        return _products(self.n_features, self.degree)

    @cached_per_backend
    def coefficients(self, ops: Backend) -> Array:
        """A coefficient for each of `terms`, float64."""
        return ops.normal(self._constants(len(self.terms()), ops))

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        return (self.coefficients(ops),)

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        x = 2.0 * uniforms(words, self.n_features, ops) - 1.0
        (c,) = tables
        product: dict[tuple[int, ...], Array] = {(): 1.0}
        y = 0.0 * x[:, 0] + c[0]
        for number, term in enumerate(self.terms()[1:], start=1):
            product[term] = product[term[:-1]] * x[:, term[-1]]
            y = y + c[number] * product[term]
        return x, _noisy(ops, y, self.noise, words)


@lru_cache(maxsize=64)
def _products(n_features: int, degree: int) -> tuple[tuple[int, ...], ...]:
    return tuple(term for d in range(degree + 1) for term in combinations_with_replacement(range(n_features), d))


@dataclass(frozen=True)
class Teacher(Virtual):
    """The outputs of a random network for standard normal features (n, n_features): numbers (n, n_outputs), or labels (n,).

    The network has hidden ReLU layers of the widths ``hidden``. Weights are normal with variance 2 / fan_in (1 / fan_in in the
    last layer), biases normal with variance 1. Normal noise of standard deviation ``noise`` is added to the outputs. With
    ``n_classes`` there are that many outputs and the target is the index of the largest; otherwise the outputs are the
    target.
    """

    n_features: int = 20
    hidden: int | tuple[int, ...] = 16
    n_outputs: int = 1
    n_classes: int | None = None
    noise: float = 0.0

    def _validate(self) -> None:
        check_whole(self, "n_features")
        check_noise(self)
        given = self.hidden
        layers = given if isinstance(given, (tuple, list)) else (given,)
        widths = []
        for width in layers:
            self._set(hidden=width)
            check_whole(self, "hidden")
            widths.append(self.hidden)
        self._set(hidden=tuple(widths) if layers is given else widths[0])
        check_whole(self, "n_outputs")
        if self.n_classes is not None:
            check_classes(self)
        self._set(shape=(self.n_features,), classes=self.n_classes)
        self._set(outputs=None if self.n_classes else self.n_outputs)

    @property
    def widths(self) -> tuple[int, ...]:
        """Features, hidden units, outputs."""
        hidden = (self.hidden,) if isinstance(self.hidden, int) else self.hidden
        return self.n_features, *hidden, self.n_classes or self.n_outputs

    def _width(self) -> int:
        return self.n_features + (self.widths[-1] if self.noise else 0)

    @cached_per_backend
    def weights(self, ops: Backend) -> Array:
        """A list of (i + 1, o) float64: w, not yet scaled, and b in the last row."""
        shapes = [(i + 1, o) for i, o in pairwise(self.widths)]
        z = ops.normal(self._constants(sum(i * o for i, o in shapes), ops))
        parts, start = [], 0
        for i, o in shapes:
            parts.append(ops.xp.reshape(z[start : start + i * o], (i, o)))
            start += i * o
        return parts

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        return tuple(self.weights(ops))

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        xp, z, i = ops.xp, ops.normal(words), self.n_features
        y = z[:, :i]
        for number, w in enumerate(tables, start=1):
            last = number == len(tables)
            fan_in = w.shape[0] - 1
            y = ops.affine_in_order(y, w[:-1, :], w[-1:, :], ((1.0 if last else 2.0) / fan_in) ** 0.5)
            y = y if last else xp.maximum(y, 0.0)
        if self.noise:
            y = y + self.noise * z[:, i:]
        return z[:, :i], xp.astype(xp.argmax(y, axis=1), xp.int64) if self.n_classes else y
