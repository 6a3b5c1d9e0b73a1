"""Virtual data sets with classes, which are drawn at random; scikit-learn's namesakes fix the class sizes."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from math import ceil, nextafter

from tinynet_backends import Backend, exact, get_backend

from tinynet import checks
from tinynet.data.dataset import Array
from tinynet.data.virtual import (
    ClassFirst,
    Virtual,
    cached_per_backend,
    check_classes,
    check_noise,
    check_real,
    check_scale,
    check_turns,
    check_whole,
    digitize,
    low_uniform,
    uniforms,
)
from tinynet.pieces import split_range


def noisy_plane(ops: Backend, x0: Array, x1: Array, noise: float, words: Array) -> Array:
    """Points (n, 2) from two coordinates (n,), with normal noise from words 1 and 2 of each row."""
    return ops.xp.stack([x0, x1], axis=1) + noise * ops.normal(words[:, 1:3])


@dataclass(frozen=True)
class Spirals(ClassFirst):
    """Points in the plane, (n, 2), on ``n_classes`` spiral arms around the origin, each arm a class.

    A point of arm c has radius t, uniform in [0, 1), and angle ``turns * t + c / n_classes``, in turns. Normal noise of
    standard deviation ``noise`` is added to both coordinates.

    Examples
    --------
    >>> data = tn.data.Spirals(10**15, n_classes=3, noise=0.1, seed=0)  # nothing is stored
    >>> data[10**14 : 10**14 + 3].y.tolist()
    [2, 0, 1]
    """

    n_classes: int = 3
    noise: float = 0.1
    turns: float = 1.0

    def _validate(self) -> None:
        check_classes(self)
        check_noise(self)
        check_turns(self, "turns")
        self._set(shape=(2,), classes=self.n_classes)

    def _width(self) -> int:
        return 3

    def _points(self, ops: Backend, label: Array, words: Array, *tables: Array) -> Array:
        xp = ops.xp
        return noisy_plane(ops, *self.arm(ops, low_uniform(xp, words), xp.astype(label, xp.float64)), self.noise, words)

    def arm(self, ops: Backend, t: Array, label: Array) -> tuple[Array, Array]:
        """The arm of ``label`` at ``t``, both (n,) float64, without noise: both coordinates, (n,) each."""
        sine, cosine = ops.sincos(self.turns * t + label / self.n_classes)
        return t * cosine, t * sine

    def best_accuracy(self, index: range | None = None, *, points: int = 128) -> tuple[float, float]:
        """The accuracy of the best possible classifier on the samples of ``index``, and the standard error of this estimate.

        It applies Bayes' rule to the true densities of the arms. A density is the mean over ``points`` positions for each turn
        of an arm, all of them within eight standard deviations of the sample's radius. ``index`` is a range of step 1, by
        default the first 20 000 samples. Computed on the host.
        """
        index = range(min(20_000, self.n)) if index is None else index
        if not isinstance(index, range) or index.step != 1 or not index:
            raise TypeError(f"index {checks.short_repr(index)} is not a range of samples: give one of step 1")
        if (count := checks.as_int(points)) is None or not 1 <= count <= 2**20:
            raise ValueError(f"points {checks.short_repr(points)} is out of range: give a whole number in [1, 2**20]")
        self._check_range(index[0], index[-1])
        if self.noise < 1e-15:  # less than coordinates are rounded by
            return 1.0, 0.0
        ops = get_backend("numpy")
        xp, right = ops.xp, 0
        # Where more turns than 64 are within reach of the noise, the arms cannot be told apart by any number of positions.
        turns = ceil(abs(self.turns) * min(1.0, 16.0 * self.noise))
        count *= min(max(turns, 1), 64)
        places = (xp.arange(count, dtype=xp.float64) + 0.5) / count
        for rows in split_range(index, max(1, 2**19 // count)):
            x, label, _ = self.batch(rows, ops, "float64")
            radius = xp.sqrt(x[:, :1] ** 2 + x[:, 1:] ** 2)
            # The radius at t is t, so what is further away adds nothing; and where noise is small, all positions are near.
            low, high = (xp.clip(radius + reach, 0.0, 1.0) for reach in (-8.0 * self.noise, 8.0 * self.noise))
            t = low + (high - low) * places
            density = []
            for c in range(self.n_classes):
                arm = self.arm(ops, t, xp.full_like(t, float(c)))
                square = (x[:, :1] - arm[0]) ** 2 + (x[:, 1:] - arm[1]) ** 2
                density.append(xp.sum(xp.exp(-0.5 / self.noise**2 * square), axis=1))
            right += int(xp.sum(xp.argmax(xp.stack(density, axis=1), axis=1) == label))
        accuracy = right / len(index)
        return accuracy, (accuracy * (1.0 - accuracy) / len(index)) ** 0.5


@dataclass(frozen=True)
class Blobs(ClassFirst):
    """Points (n, n_features) around ``n_classes`` centres, each centre a class: scikit-learn's ``make_blobs``.

    The centres are uniform in ``[-box, box)`` in every coordinate; the points are normal around them, with standard deviation
    ``noise``.
    """

    n_classes: int = 3
    n_features: int = 2
    noise: float = 1.0
    box: float = 10.0

    def _validate(self) -> None:
        check_classes(self)
        check_noise(self)
        check_scale(self, "box")
        check_whole(self, "n_features")
        self._set(shape=(self.n_features,), classes=self.n_classes)

    def _width(self) -> int:
        return 1 + self.n_features

    @cached_per_backend
    def centres(self, ops: Backend) -> Array:
        """(n_classes, n_features) float64."""
        u = exact.uniform64(ops.xp, self._constants(self.n_classes * self.n_features, ops))
        return ops.xp.reshape(self.box * (2.0 * u - 1.0), (self.n_classes, self.n_features))

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        return (self.centres(ops),)

    def _points(self, ops: Backend, label: Array, words: Array, *tables: Array) -> Array:
        (centres,) = tables
        return ops.xp.take(centres, label, axis=0) + self.noise * ops.normal(words[:, 1:])


@dataclass(frozen=True)
class AnisotropicBlobs(Blobs):
    """`Blobs` that are stretched, each class in directions of its own: ``centre + noise * (z @ A)``.

    z (n, n_features) is standard normal. Each class has its own matrix A, with normal entries of variance 1 / n_features,
    so its covariance is ``noise**2 * A.T @ A``.
    """

    @cached_per_backend
    def transforms(self, ops: Backend) -> Array:
        """(n_classes, n_features, n_features) float64."""
        k, i = self.n_classes, self.n_features
        words = self._constants(k * i + k * i * i, ops)[k * i :]  # after those of the centres
        return ops.xp.reshape(ops.normal(words) * i**-0.5, (k, i, i))

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        return self.centres(ops), self.transforms(ops)

    def _points(self, ops: Backend, label: Array, words: Array, *tables: Array) -> Array:
        xp, z, (centres, transforms) = ops.xp, ops.normal(words[:, 1:]), tables
        y = xp.zeros_like(z)
        for j in range(self.n_features):
            y = y + z[:, j : j + 1] * xp.take(transforms[:, j, :], label, axis=0)
        return xp.take(centres, label, axis=0) + self.noise * y


@dataclass(frozen=True)
class Moons(ClassFirst):
    """Two interleaving half circles in the plane, (n, 2), each a class: scikit-learn's ``make_moons``.

    Class 0 is ``(cos a, sin a)``, class 1 is ``(1 - cos a, 1/2 - sin a)``, with a uniform in [0, pi); in scikit-learn the
    angles are evenly spaced. Normal noise of standard deviation ``noise`` is added.
    """

    noise: float = 0.1

    def _validate(self) -> None:
        check_noise(self)
        self._set(shape=(2,), classes=2)

    def _width(self) -> int:
        return 3

    def _points(self, ops: Backend, label: Array, words: Array, *tables: Array) -> Array:
        xp = ops.xp
        sine, cosine = ops.sincos(0.5 * low_uniform(xp, words))
        second = xp.astype(label, xp.float64)
        side = 1.0 - 2.0 * second
        return noisy_plane(ops, second + side * cosine, 0.5 * second + side * sine, self.noise, words)


@dataclass(frozen=True)
class Circles(ClassFirst):
    """Two circles around the origin, (n, 2): class 0 of radius 1, class 1 of radius ``factor`` in [0, 1).

    Normal noise of standard deviation ``noise`` is added. This is scikit-learn's ``make_circles``, except that angles are
    uniform instead of evenly spaced.
    """

    noise: float = 0.1
    factor: float = 0.8

    def _validate(self) -> None:
        check_noise(self)
        check_real(self, "factor", 0.0, nextafter(1.0, 0.0), "a radius in [0, 1)")
        self._set(shape=(2,), classes=2)

    def _width(self) -> int:
        return 3

    def _points(self, ops: Backend, label: Array, words: Array, *tables: Array) -> Array:
        xp = ops.xp
        radius = 1.0 + xp.astype(label, xp.float64) * (self.factor - 1.0)
        sine, cosine = ops.sincos(low_uniform(xp, words))
        return noisy_plane(ops, radius * cosine, radius * sine, self.noise, words)


@dataclass(frozen=True)
class Checkerboard(Virtual):
    """Uniform points (n, n_features) in [-1, 1), classified like the squares of a checkerboard.

    There are ``cells`` cells along each axis; the class is the parity of the sum of a cell's indices.
    """

    cells: int = 4
    n_features: int = 2

    def _validate(self) -> None:
        check_whole(self, "cells")
        check_whole(self, "n_features")
        self._set(shape=(self.n_features,), classes=2)

    def _width(self) -> int:
        return (self.n_features + 1) // 2

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        xp, u = ops.xp, uniforms(words, self.n_features, ops)
        cell = xp.astype(xp.floor(self.cells * u), xp.int64)
        return 2.0 * u - 1.0, ops.sum_in_order(cell) % 2


@dataclass(frozen=True)
class Parity(Virtual):
    """The XOR problem in ``n_features`` dimensions: points (n, n_features) around the corners of a cube.

    Each coordinate of a corner is -1 or 1 with equal probability; the class is 1 if the number of ones is odd, else 0.
    Normal noise of standard deviation ``noise`` is added.
    """

    n_features: int = 2
    noise: float = 0.3

    def _validate(self) -> None:
        check_whole(self, "n_features")
        check_noise(self)
        self._set(shape=(self.n_features,), classes=2)

    def _width(self) -> int:
        return self.n_features

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        xp = ops.xp
        bit = xp.astype(words & 1, xp.int64)  # a bit that the normal number does not use
        corner = 2.0 * xp.astype(bit, xp.float64) - 1.0
        return corner + self.noise * ops.normal(words), ops.sum_in_order(bit) % 2


@dataclass(frozen=True)
class GaussianQuantiles(Virtual):
    """Standard normal points (n, n_features), in ``n_classes`` equally likely classes by distance from the origin.

    The squared distances that separate the classes are quantiles of the chi-squared distribution; scikit-learn's
    ``make_gaussian_quantiles`` uses the quantiles of its sample.
    """

    n_features: int = 2
    n_classes: int = 3

    def _validate(self) -> None:
        check_whole(self, "n_features")
        check_classes(self)
        self._set(shape=(self.n_features,), classes=self.n_classes)

    def _width(self) -> int:
        return self.n_features

    def bounds(self) -> tuple[float, ...]:
        """The n_classes - 1 squared distances that separate the classes."""
        return _chi_squared_quantiles(self.n_classes, self.n_features)

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        x = ops.normal(words)
        return x, digitize(ops.xp, ops.sum_in_order(x * x), self.bounds())


@lru_cache(maxsize=64)
def _chi_squared_quantiles(of: int, degrees: int) -> tuple[float, ...]:
    return tuple(chi_squared_quantile(part, of, degrees) for part in range(1, of))


def chi_squared_quantile(part: int, of: int, degrees: int) -> float:
    """x with ``P(chi squared <= x) = part / of``: Newton's method on the series of the incomplete gamma function.

    Computed in decimal arithmetic, in software, so that the last bit is the same on every machine.
    """
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 40, -(10**9), 10**9
        a, p = Decimal(degrees) / 2, Decimal(part) / of
        gamma = Decimal("3.141592653589793238462643383279502884197169").sqrt() if degrees % 2 else Decimal(1)
        factor = Decimal(1) / 2 if degrees % 2 else Decimal(1)
        while factor <= a:  # gamma(a + 1)
            gamma, factor = gamma * factor, factor + 1
        low, high, x = Decimal(0), Decimal(0), a
        for _ in range(200):
            power = (a * x.ln() - x).exp() / gamma  # x**a exp(-x) / gamma(a + 1)
            term, total, n = power, power, a
            while term > total * Decimal("1e-38"):
                n += 1
                term = term * x / n
                total += term
            low, high = (x, high) if total < p else (low, x)
            step = (total - p) * x / (power * a)
            new = x - step
            if new <= low or (high and new >= high):  # Newton's step leaves the bracket: bisect it instead
                new = (low + high) / 2 if high else 2 * x
            if abs(new - x) < x * Decimal("1e-25"):
                return float(2 * new)
            x = new
    raise ArithmeticError(f"no quantile {part}/{of} of chi squared with {degrees} degrees of freedom")


@dataclass(frozen=True)
class Logistic(Virtual):
    """Standard normal features (n, n_features), and classes drawn from a multinomial logistic model.

    ``P(class = c | x) = softmax(x @ w + b)_c``, with w (n_features, n_classes) normal of variance ``scale**2 / n_features``
    and b (n_classes,) normal of variance ``scale**2 / 4``. The class is the largest logit after adding standard Gumbel
    noise, which gives these probabilities (Gumbel 1954).
    """

    n_features: int = 20
    n_classes: int = 2
    scale: float = 3.0

    def _validate(self) -> None:
        check_whole(self, "n_features")
        check_classes(self)
        check_noise(self, "scale")
        self._set(shape=(self.n_features,), classes=self.n_classes)

    def _width(self) -> int:
        return self.n_features + self.n_classes

    @cached_per_backend
    def coefficients(self, ops: Backend) -> Array:
        """(n_features + 1, n_classes) float64: w, and b in the last row."""
        i, k = self.n_features, self.n_classes
        z = ops.xp.reshape(ops.normal(self._constants((i + 1) * k, ops)), (i + 1, k))
        return ops.xp.concat([z[:i, :] * (self.scale * i**-0.5), z[i:, :] * (0.5 * self.scale)], axis=0)

    def logits(self, x: Array, ops: Backend) -> Array:
        """Logarithms of the class probabilities, up to a constant: (n, n_features) float64 -> (n, n_classes)."""
        return _logits(ops, x, self.coefficients(ops))

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        return (self.coefficients(ops),)

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        xp, x = ops.xp, ops.normal(words[:, : self.n_features])
        u = exact.uniform64(xp, words[:, self.n_features :]) + 2.0**-54  # in (0, 1): both logarithms are finite
        z = _logits(ops, x, *tables) - ops.log(-ops.log(u))
        return x, xp.astype(xp.argmax(z, axis=1), xp.int64)


def _logits(ops: Backend, x: Array, w: Array) -> Array:
    return ops.affine_in_order(x, w[:-1, :], w[-1:, :])
