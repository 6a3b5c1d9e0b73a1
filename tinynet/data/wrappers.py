"""Wrappers that make virtual data sets harder, still pure functions of (seed, i).

They compose: ``LabelNoise(Nuisance(Imbalanced(Moons(n), (0.9, 0.1)), 10), 0.05)``. Each draws from a stream of its own,
so that none changes the numbers of another.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from math import fsum, prod
from typing import Any

from tinynet_backends import Backend, exact

from tinynet import checks, streams
from tinynet.data.dataset import Array, Batch, Dataset, Index, Shape
from tinynet.data.virtual import ClassFirst, check_noise, check_real, check_whole, digitize, draw, integers

_LABEL_NOISE, _FEATURE_NOISE, _NUISANCE, _IMBALANCED = 2, 3, 4, 5  # beside SAMPLES and CONSTANTS


@dataclass(frozen=True)
class Wrapper(Dataset):
    """Another data set, changed. ``seed`` is that of the change."""

    data: Dataset
    _: KW_ONLY
    seed: int = 0
    n: int = field(init=False, repr=False, default=0)
    shape: Shape = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        self._set(seed=streams.check_seed(self.seed))
        if not isinstance(self.data, Dataset):
            raise TypeError(f"{type(self).__name__} takes a data set, not {type(self.data).__name__}")
        self._describe_like(self.data)
        self._set(n=self.data.n, computed=self.data.computed, depth=1 + self.data.depth)
        self._validate()

    def _validate(self) -> None:
        """Check hyperparameters."""

    def _draw(self, purpose: int, index: Index, width: int, host: Backend) -> Array:
        return draw(self.seed, purpose, self.depth, index, width, host)

    def _change(self, x: Array, y: Array, index: Index, host: Backend) -> tuple[Array, Array]:
        """The changed features, float64, and targets of the samples ``index``."""
        raise NotImplementedError

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        host = ops.generator
        x, y, weight = self.data.rows(index, host, "float64")
        return self._as_batch(*self._change(x, y, index, host), weight, ops, dtype)

    def features_given(self, label: Array, index: Index, host: Backend) -> Array:
        """The features that the samples of ``index`` would have if their classes were ``label``."""
        return self._change(_features_given(self, self.data)(label, index, host), label, index, host)[0]

    def fingerprint(self) -> str:
        return f"{self!r} of {self.data.fingerprint()}"

    def check(self, check: Any, ops: Backend, dtype: str) -> None:
        self.data.check(check, ops, "float64")  # as `rows` asks for them

    def check_dtype(self, dtype: str) -> None:
        self.data.check_dtype(dtype)


def _features_given(owner: object, data: Dataset) -> Any:
    """``data.features_given``; TypeError unless its classes are drawn before the features."""
    if not isinstance(data, (ClassFirst, FeatureNoise, Nuisance)):
        raise TypeError(
            f"{type(owner).__name__} needs data whose class is drawn before the features, such as Blobs or Spirals, "
            f"not {type(data).__name__}: Loader(balance=True) evens out any other"
        )
    if not isinstance(data, ClassFirst):
        _features_given(owner, data.data)
    return data.features_given


@dataclass(frozen=True)
class LabelNoise(Wrapper):
    """``data`` with a fraction ``rate`` in [0, 1] of its labels replaced by another class, all other classes equally likely.

    TypeError for data without classes.

    Examples
    --------
    >>> clean = tn.data.Moons(10_000)
    >>> noisy = tn.data.LabelNoise(clean, rate=0.1)
    >>> int((noisy[:10_000].y != clean[:10_000].y).sum())
    991
    """

    rate: float = 0.1

    def _validate(self) -> None:
        if not self.classes or self.classes < 2:
            raise TypeError(f"LabelNoise needs data with classes, not {type(self.data).__name__}")
        check_real(self, "rate", 0.0, 1.0, "the fraction changed, in [0, 1]")

    def _change(self, x: Array, y: Array, index: Index, host: Backend) -> tuple[Array, Array]:
        xp, classes = host.xp, self.classes or 2
        words = self._draw(_LABEL_NOISE, index, 2, host)
        wrong = exact.uniform64(xp, words[:, 0]) < self.rate
        other = (y + 1 + integers(xp, words[:, 1], classes - 1)) % classes
        return x, xp.where(wrong, other, y)


@dataclass(frozen=True)
class FeatureNoise(Wrapper):
    """``data`` with normal noise of standard deviation ``noise`` added to every feature."""

    noise: float = 0.1

    def _validate(self) -> None:
        check_noise(self)

    def _change(self, x: Array, y: Array, index: Index, host: Backend) -> tuple[Array, Array]:
        z = host.normal(self._draw(_FEATURE_NOISE, index, prod(self.shape), host))
        return x + self.noise * host.xp.reshape(z, x.shape), y


@dataclass(frozen=True)
class Nuisance(Wrapper):
    """``data`` with ``n_features`` uninformative features after its own, normal with standard deviation ``scale``.

    (n, i) -> (n, i + n_features). ValueError for samples that are not vectors.
    """

    n_features: int = 1
    scale: float = 1.0

    def _validate(self) -> None:
        check_whole(self, "n_features")
        if len(self.shape) != 1:
            raise ValueError(f"Nuisance takes samples that are rows of features, not of shape {self.shape}")
        check_noise(self, "scale")
        self._set(shape=(self.shape[0] + self.n_features,), columns=None)  # the new ones have no names

    def _change(self, x: Array, y: Array, index: Index, host: Backend) -> tuple[Array, Array]:
        z = host.normal(self._draw(_NUISANCE, index, self.n_features, host))
        return host.xp.concat([x, self.scale * z], axis=1), y


@dataclass(frozen=True)
class Imbalanced(Wrapper):
    """``data`` with its classes in the proportions ``weights``, one number of at least 0 for each class, not all 0.

    TypeError for data whose class is not drawn before its features, as in `Blobs` or `Spirals`: `Loader` with ``balance``
    suits any data.
    """

    weights: tuple[float, ...] = ()
    bounds: tuple[float, ...] = field(init=False, repr=False, default=())  # between the classes in [0, 1)

    def _validate(self) -> None:
        _features_given(self, self.data)
        try:
            given = tuple(self.weights)
        except TypeError:
            given = (self.weights,)  # type: ignore[assignment]
        numbers = [checks.as_float(w) for w in given]
        weights = tuple(w for w in numbers if w is not None)
        text = f"Imbalanced weights {checks.short_repr(given if None in numbers else weights)}"
        if len(given) != self.classes:
            raise ValueError(f"{text} do not fit {self.classes} classes: give one for each")
        if None in numbers or not all(0 <= w <= 1e300 for w in weights) or not any(weights):
            raise ValueError(f"{text} are out of range: give numbers of at least 0, not all 0")
        total = fsum(weights)
        self._set(weights=weights, bounds=tuple(fsum(weights[:c]) / total for c in range(1, len(weights))))

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        host = ops.generator
        u = exact.uniform64(host.xp, self._draw(_IMBALANCED, index, 1, host)[:, 0])
        label = digitize(host.xp, u, self.bounds)
        x = _features_given(self, self.data)(label, index, host)
        return self._as_batch(x, label, None, ops, dtype)
