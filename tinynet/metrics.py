"""Metrics: sums over a batch that are computed on the device, and the number that results from those of all batches.

``sums(y, target, weight, ops)`` is a vector; ``merge(a, b)`` makes those of two sets of samples, as lists of floats,
those of both, by default by adding them up; ``result(sums)`` is the number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any, ClassVar

from tinynet_backends import Backend

from tinynet import checks
from tinynet.labels import as_labels

Array = Any


class Metric:
    """The base class of metrics: `sums` of a batch, `merge` of two sets of samples, and the `result` for all of them.

    ``name`` is the key of the result. ``larger_is_better`` is what early stopping asks. A metric ``of_numbers`` takes no
    labels; one ``of_one_class`` takes a class for each sample, not several labels. A metric that ``decides`` compares
    classes: if there is a single output, it is positive for class 1, also if the network ends in `Sigmoid` (1/2 is then
    subtracted).
    """

    name: str
    larger_is_better: bool = True
    of_numbers: ClassVar[bool] = False
    of_one_class: ClassVar[bool] = False
    decides: ClassVar[bool] = False

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        """What the metric adds up, computed on the device: y (n, o), target (n,) or (n, o), weight (n,) or None -> (s,)."""
        raise NotImplementedError(f"{type(self).__name__} has no sums: write them")

    def merge(self, a: list[float], b: list[float]) -> list[float]:
        """The sums of two sets of samples together, by default ``a + b``."""
        return added(a, b)

    def result(self, sums: list[float]) -> float:
        """The value of the metric for all samples, from their sums."""
        raise NotImplementedError(f"{type(self).__name__} has no result: write one")


def added(a: list[float], b: list[float]) -> list[float]:
    """``a + b``, element by element."""
    return [x + y for x, y in zip(a, b, strict=True)]


def _rows(y: Array, weight: Array | None, ops: Backend) -> Array:
    return ops.xp.ones((y.shape[0],), dtype=y.dtype, device=ops.device) if weight is None else weight


def _true(y: Array, target: Array, ops: Backend) -> Array:
    """True labels (n,) int64. For a single output a target is 0 or -1 and 1, or a probability: class 1 above 1/2."""
    xp = ops.xp
    if y.shape[-1] == 1:
        target = 2 * xp.reshape(target, (-1,)) > 1
    elif target.ndim == 2:
        target = xp.argmax(target, axis=1)
    return xp.astype(target, xp.int64)


def _is_class(labels: Array, k: int, ops: Backend) -> Array:
    """Whether each of ``labels`` is each of k classes: integers (n,) -> bool (n, k)."""
    return ops.xp.astype(labels, ops.xp.int64)[:, None] == ops.arange(0, k)[None, :]


class _Ratio(Metric):
    """A weighted mean: sums are (numerator, denominator)."""

    def result(self, sums: list[float]) -> float:
        return sums[0] / sums[1] if sums[1] else nan

    def _pair(self, values: Array, weight: Array | None, ops: Backend) -> Array:
        rows = _rows(values, weight, ops)
        return ops.xp.stack([ops.xp.sum(values * rows), ops.xp.sum(rows)])


@dataclass(frozen=True)
class Accuracy(_Ratio):
    """The fraction of samples whose largest output is that of their class.

    With a single output, class 1 is predicted if it is positive or, if the network ends in `Sigmoid`, above 1/2.

    Examples
    --------
    >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(1.0)), n_in=1)
    >>> data = [[-1.0], [2.0], [3.0], [-4.0]], [[0.0], [1.0], [0.0], [0.0]]
    >>> model.evaluate(data, loss=tn.BinaryCrossEntropy(), metrics=["accuracy"])["accuracy"]
    0.75
    """

    name: str = "accuracy"
    of_one_class: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        right = as_labels(y, ops.xp, 0.0) == _true(y, target, ops)
        return self._pair(ops.xp.astype(right, y.dtype), weight, ops)


@dataclass(frozen=True)
class TopK(_Ratio):
    """The fraction of samples for which fewer than ``k`` outputs are larger than that of their class.

    A single output stands for two classes, as for `Accuracy`.
    """

    k: int = 5
    name: str = "top_k"
    of_one_class: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.coerce_positive(self, "k")

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        xp, true = ops.xp, _true(y, target, ops)
        if y.shape[-1] == 1:
            y = xp.concat([-y, y], axis=-1)
        at_label = _is_class(true, y.shape[-1], ops)
        own = xp.sum(xp.where(at_label, y, xp.zeros_like(y)), axis=-1, keepdims=True)
        above = xp.sum(xp.astype(~(y <= own), xp.int64), axis=-1)  # NaN counts as above
        return self._pair(xp.astype(above < self.k, y.dtype), weight, ops)


@dataclass(frozen=True)
class LogLoss(_Ratio):
    """The mean of ``-log p`` for the true class, if the outputs are logits; a single output is the logit of a sigmoid."""

    name: str = "log_loss"
    larger_is_better: bool = False
    of_one_class: ClassVar[bool] = True

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        xp = ops.xp
        if y.shape[-1] == 1:
            z, t = y[:, 0], xp.astype(xp.reshape(target, (-1,)), y.dtype)
            values = xp.maximum(z, 0.0) - z * t + xp.log1p(xp.exp(-xp.abs(z)))
        else:
            if target.ndim == 1:
                target = xp.astype(_is_class(target, y.shape[-1], ops), y.dtype)
            shifted = y - xp.max(y, axis=-1, keepdims=True)
            log = shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
            # 0 * -inf is 0 here: a class that cannot occur costs nothing where the target does not ask for it
            values = -xp.sum(xp.where(target == 0, xp.zeros_like(log), target * log), axis=-1)
        return self._pair(values, weight, ops)


@dataclass(frozen=True)
class F1(Metric):
    """The mean over the classes of ``2 tp / (2 tp + fp + fn)``, from true positives, false positives and false negatives.

    A class that neither occurs nor is predicted is left out. With a single output it is the F1 score of class 1. These are
    scikit-learn's ``f1_score`` with ``average="macro"`` and "binary".
    """

    name: str = "f1"
    of_one_class: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        xp = ops.xp
        rows = _rows(y, weight, ops)[:, None]
        labels = as_labels(y, xp, 0.0), _true(y, target, ops)
        predicted, true = (_is_class(each, max(2, y.shape[-1]), ops) for each in labels)
        s = xp.astype(predicted, y.dtype) * rows
        t = xp.astype(true, y.dtype)
        both = xp.sum(s * t, axis=0), xp.sum(s, axis=0) + xp.sum(t * rows, axis=0)
        binary = xp.zeros((1,), dtype=y.dtype, device=ops.device) + (1.0 if y.shape[-1] == 1 else 0.0)
        return xp.concat([*both, binary])

    def result(self, sums: list[float]) -> float:
        k = len(sums) // 2
        scores = [2.0 * tp / total if total else None for tp, total in zip(sums[:k], sums[k : 2 * k], strict=True)]
        if sums[-1]:
            return scores[1] or 0.0
        defined = [s for s in scores if s is not None]
        return sum(defined) / len(defined) if defined else nan


def _errors(y: Array, target: Array, metric: Metric) -> Array:
    """``y - target``; ValueError unless they have one shape: another would broadcast unnoticed."""
    if tuple(y.shape) != tuple(target.shape):
        raise ValueError(
            f"metric {metric.name!r} compares outputs {tuple(y.shape)} with targets {tuple(target.shape)}: write a metric of "
            "your own, that takes of the outputs what estimates the targets"
        )
    return y - target


class _Error(_Ratio):
    larger_is_better = False
    of_numbers: ClassVar[bool] = True

    def _mean(self, e: Array, weight: Array | None, ops: Backend) -> Array:
        return self._pair(ops.xp.mean(e, axis=-1), weight, ops)


@dataclass(frozen=True)
class MAE(_Error):
    """The mean of ``|y - t|`` over samples and outputs."""

    name: str = "mae"

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        return self._mean(ops.xp.abs(_errors(y, target, self)), weight, ops)


@dataclass(frozen=True)
class RMSE(_Error):
    """The square root of the mean of ``(y - t)**2`` over samples and outputs."""

    name: str = "rmse"

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        return self._mean(_errors(y, target, self) ** 2, weight, ops)

    def result(self, sums: list[float]) -> float:
        return sqrt(super().result(sums))


@dataclass(frozen=True)
class R2(Metric):
    """``1 - sum (y - t)**2 / sum (t - mean t)**2``, averaged over the outputs: scikit-learn's ``r2_score``.

    A target that does not vary gives 1 if it is predicted exactly, else 0. Computed in float64 where the device has it.
    Batches are combined as in T. F. Chan, G. H. Golub, R. J. LeVeque (1979), *Updating formulae and a pairwise algorithm
    for computing sample variances*.
    """

    name: str = "r2"
    of_numbers: ClassVar[bool] = True

    def sums(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        """For each output the squared errors, the mean of the targets and the squared distances from it; then the weight."""
        xp = ops.xp
        y, target = xp.astype(y, ops.widest), xp.astype(target, ops.widest)
        rows = xp.astype(_rows(y, weight, ops), ops.widest)
        total, w = xp.reshape(xp.sum(rows), (1,)), rows[:, None]
        errors = xp.sum(w * _errors(y, target, self) ** 2, axis=0)
        # Relative to a target that counts, so that one that does not vary has squares of exactly 0.
        first = xp.take(target, xp.reshape(xp.argmax(rows), (1,)), axis=0)
        target = target - first
        mean = xp.sum(w * target, axis=0) / xp.maximum(total, xp.finfo(total.dtype).smallest_normal)
        squares = xp.sum(w * (target - mean) ** 2, axis=0)
        return xp.concat([errors, mean + first[0, :], squares, total])

    def merge(self, a: list[float], b: list[float]) -> list[float]:
        if not (a[-1] and b[-1]):
            return a if a[-1] else b
        o, total = len(a) // 3, a[-1] + b[-1]
        merged = added(a, b)
        for j in range(o):
            gap = b[o + j] - a[o + j]
            merged[o + j] = a[o + j] + gap * (b[-1] / total)
            merged[2 * o + j] += gap * gap * (a[-1] * b[-1] / total)
        return merged

    def result(self, sums: list[float]) -> float:
        o = len(sums) // 3
        pairs = zip(sums[:o], sums[2 * o : 3 * o], strict=True)
        return sum(1.0 - error / spread if spread else float(error == 0) for error, spread in pairs) / o


METRICS: dict[str, Metric] = {m.name: m for m in (Accuracy(), TopK(), LogLoss(), F1(), R2(), MAE(), RMSE())}


def check_metrics(metrics: Iterable[Metric], *, of_numbers: bool) -> None:
    """ValueError unless all metrics are for numbers or, without ``of_numbers``, for classes: these would compare signs."""
    for metric in metrics:
        if metric.of_numbers != of_numbers:
            claim = "is for classes, and the target has numbers" if of_numbers else "does not take labels"
            others = ", ".join(name for name, other in METRICS.items() if other.of_numbers == of_numbers)
            raise ValueError(f"metric {metric.name!r} {claim}: choose from {others}")


def check_one_class(metrics: Iterable[Metric], target: Array, ops: Backend) -> None:
    """ValueError if a metric of one class a sample is given targets (n, o) with a row that does not say one class.

    A row says one by a single 1 beside 0 or -1, or by shares that add up to 1.
    """
    for metric in metrics:
        if metric.of_one_class and target.ndim == 2 and target.shape[1] > 1:
            total = ops.xp.sum(ops.xp.maximum(ops.xp.astype(target, ops.widest), 0.0), axis=1)
            row = checks.first_false_row(ops.xp.abs(total - 1.0) < 1e-3, ops)
            if row is not None:
                raise ValueError(
                    f"metric {metric.name!r} is for one class a sample, and row {row} has targets "
                    f"{ops.to_numpy(target[row, ...]).tolist()}: leave it out, or write a metric of your own"
                )


def as_metrics(metrics: Iterable[str | Metric]) -> tuple[Metric, ...]:
    """`as_metric` of each; ValueError unless the different ones have names of their own, which results go by."""
    if isinstance(metrics, (str, Metric)):
        raise TypeError(f"metrics {metrics!r} is a single metric: give a list, [{metrics!r}]")
    if not hasattr(metrics, "__iter__"):
        raise TypeError(f"metrics {checks.short_repr(metrics)} is not a list: give one, such as ['accuracy']")
    found: list[Metric] = []
    for metric in map(as_metric, metrics):
        if metric not in found:
            found.append(metric)
    names = [metric.name for metric in found]
    for name in names:
        if not isinstance(name, str) or name == "loss":
            raise ValueError(f"a metric cannot be called {checks.short_repr(name)}: give it another name")
        if names.count(name) > 1:
            raise ValueError(f"two metrics are called {name!r}: give one of them another name")
    return tuple(found)


def as_metric(metric: str | Metric) -> Metric:
    """``metric`` itself, or the metric of that name with its default parameters."""
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"unknown metric {checks.short_repr(metric)}: choose from {', '.join(METRICS)}")
    return METRICS[metric]
