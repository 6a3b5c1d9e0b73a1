"""Losses: the value to be minimized and its gradient, computed together because they share their work.

Every loss is ``sum_i w_i l_i / W`` over the samples of a batch, ``w`` the sample weights (1 where none are given).
``W`` is the denominator: the sum of the weights for means, 1 for sums; a batch whose weights are all 0 has the loss 0.
It may be passed in, so that the parts of a batch that is too large for one pass add up to the loss of the whole. All
arrays may have a leading axis of networks; there is then one loss for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, prod
from typing import Any, ClassVar

from tinynet_backends import Backend

from tinynet import checks

Array = Any
Shape = tuple[int, ...]


class Loss:
    """The base class of losses, ``sum_i w_i l_i / W`` over the samples of a batch.

    ``l_i`` is the loss of sample i, ``w_i`` its weight (1 if there are no weights), ``W`` the `denominator`: the sum of the
    weights, or 1 for a subclass with ``mean = False``. If all weights are 0, so is the loss.

    A subclass that overrides `formula` is an elementwise loss: ``l_i`` is the mean of the formula over the outputs of
    sample i. Any other loss overrides ``__call__``; its targets may be integer labels (n,) if it says ``labels = True``, and
    have another number of columns than there are outputs if it overrides `outputs`.
    ``estimates = False`` says that outputs are not estimates of the targets, whose R² would mean nothing, ``binary = True``
    that each is a yes or no of its own: a sample may have several classes.
    """

    labels: ClassVar[bool] = False  # whether integer labels (n,) are accepted as targets, with an output for each class
    mean: ClassVar[bool] = True  # whether W is the sum of the weights; else it is 1
    estimates: ClassVar[bool] = True  # whether outputs are estimates of the targets, not logits or logarithms of such
    binary: ClassVar[bool] = False  # whether each output is a yes or no of its own

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(checks.attributes(self))})"

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        """The loss of each output and its derivative with respect to y, elementwise: both have the shape of y."""
        raise NotImplementedError(f"{type(self).__name__} has no formula: write one, or a __call__")

    def denominator(self, target: Array, weight: Array | None, ops: Backend) -> Any:
        """``W`` for these targets and weights: an int, or a () array if it depends on data."""
        if not self.mean:
            return 1
        if weight is not None:
            return ops.total_weight(weight)
        return target.shape[-1 if self._has_labels(target, ops) else -2]

    def classes(self, width: int) -> int:
        """The number of classes, of which a sample has one, that outputs (n, width) stand for; 0 if for none."""
        return width if self.labels else 0

    def outputs(self, columns: int) -> int:
        """The number of outputs for targets (n, columns): ``2 * columns`` for a mean and a deviation of each, for example.

        A loss with another number than ``columns``, the default, should say ``estimates = False``.
        """
        return columns

    def _has_labels(self, target: Array, ops: Backend) -> bool:
        return self.labels and _is_integral(target, ops)

    def __call__(
        self, y: Array, target: Array, ops: Backend, weight: Array | None = None, denominator: Any = None
    ) -> tuple[Array, Array]:
        """The loss and its gradient with respect to y: y (n, o), target (n, o), weight (n,) -> (), (n, o).

        ``denominator`` is W, by default that of this batch. The parts of a batch are given that of the whole batch, so that
        their losses and gradients add up to those of the whole.
        """
        target = self._fitting(y, target, weight, ops)
        scale = self._scale(y, target, ops, weight, denominator, y.shape[-1])
        return ops.elementwise_loss(self._pair, y, target, scale)

    def _pair(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        """`formula`; TypeError if it gives anything but two results, which a compiled kernel would not notice, and ValueError
        if these are not for each output: a loss of each sample, or the mean of all, would broadcast."""
        pair: tuple[Array, Array] = checks.pair(self.formula(xp, y, target), self, "formula", "(loss, derivative in y)")
        wanted = tuple(getattr(y, "shape", ()))  # the symbols of a formula that is traced have none
        for name, a in zip(("loss", "derivative"), pair, strict=True):
            shape = tuple(getattr(a, "shape", wanted))
            if shape != wanted:
                raise ValueError(
                    f"{type(self).__name__}.formula gives a {name} {shape} for outputs {wanted}: give one for each output, or "
                    "write a __call__"
                )
        return pair

    def _fitting(self, y: Array, target: Array, weight: Array | None, ops: Backend) -> Array:
        """`real_columns` of a target; ValueError unless it and the weights fit y: others could broadcast unnoticed."""
        target, out = real_columns(target, y.ndim - 1, y, ops), tuple(y.shape)
        n = out[:-1]
        if tuple(target.shape) != (n if self._has_labels(target, ops) else out):
            expected = f"integer labels {n} or probabilities {out}" if self.labels else out
            raise ValueError(f"targets {tuple(target.shape)} do not fit outputs {out}: expected {expected}")
        if weight is not None and tuple(weight.shape) != n:
            raise ValueError(f"weights {tuple(weight.shape)} do not fit outputs {out}: expected {n}")
        return target

    def probabilities(self, y: Array, ops: Backend) -> Array:
        """The probabilities that outputs y (n, o) stand for; TypeError if they stand for none."""
        raise TypeError(f"a model with loss {self!r} gives no probabilities: train it with a cross-entropy")

    def _scale(self, y: Array, target: Array, ops: Backend, weight: Any, denominator: Any, width: int) -> Array:
        """``w_i / (W width)``, (n,)."""
        if denominator is None:
            denominator = self.denominator(target, weight, ops)
        if type(denominator) not in (int, float):  # exactly these: NumPy's float64, which a sum may be, is a float too
            return ops.share_weight(weight, denominator, y, width)
        total = denominator * width
        return ops.constant(y.shape[:-1], 1.0 / total, y.dtype) if weight is None else weight / total

    def check(self, out: Shape, target: Array, ops: Backend) -> None:
        """ValueError unless targets, of a batch or of a whole data set, fit outputs ``(n, *out)``."""
        n = target.shape[0]
        if self.labels and _is_integral(target, ops):
            self._check_labels(out[-1], target, ops)
            return
        columns = tuple(target.shape[1:])
        wanted = tuple(map(self.outputs, columns))
        if len(columns) == 1 and wanted == tuple(out):
            self.check_values(target, ops)
            return
        expected, single = str((n, *out)), prod(target.shape) == n  # a number for each sample
        if single and self.outputs(1) == prod(out):
            expected = f"{(n, 1)}; reshape(-1, 1) makes one column"
        elif len(columns) == 1 and wanted != columns:
            expected = f"outputs {(n, *wanted)}"
        elif single:
            expected += f", or labels {(n,)} with CrossEntropy{_of_numbers(target, ops)}"
        raise ValueError(f"targets {tuple(target.shape)} do not fit outputs {(n, *out)}: expected {expected}")

    def _check_labels(self, k: int, target: Array, ops: Backend) -> None:
        """ValueError unless integers are labels (n,) of k classes."""
        n, xp = target.shape[0], ops.xp
        if target.ndim != 1:
            columns = tuple(target.shape) == (n, k) != (n, 1)
            remedy = "; argmax(axis=1) makes labels of columns of 0 and 1" if columns else _of_numbers(target, ops)
            raise ValueError(f"labels {tuple(target.shape)} do not fit outputs {(n, k)}: expected {(n,)}{remedy}")
        claim = f"labels must be in [0, {k}), the numbers of the outputs"
        if k == 1:
            claim += ": give an output for each class or, for two classes, take BinaryCrossEntropy"
        most = min(k - 1, int(xp.iinfo(target.dtype).max))  # in the range of the dtype
        self._require((target >= 0) & (target <= most), target, claim, ops)

    def check_values(self, target: Array, ops: Backend) -> None:
        """ValueError if a target lies outside the domain of the loss; by default any target is accepted."""

    def _require(self, good: Array, target: Array, claim: str, ops: Backend) -> None:
        row = checks.first_false_row(good, ops)
        if row is not None:
            raise ValueError(f"{type(self).__name__}: {claim}; row {row} is {ops.to_numpy(target[row, ...]).tolist()}")


def _is_integral(target: Array, ops: Backend) -> bool:
    return bool(ops.xp.isdtype(target.dtype, "integral"))


def real_columns(target: Array, axes: int, like: Array, ops: Backend) -> Array:
    """Labels, which have ``axes`` axes, as they are; columns, which have one more, as real numbers, of the dtype of ``like``."""
    if target.ndim > axes and ops.xp.isdtype(target.dtype, ("integral", "bool")):
        return ops.asarray(target, ops.real_name(like.dtype))
    return target


@dataclass(frozen=True)
class SumSquaredError(Loss):
    """``sum_i w_i sum_j (y_ij - t_ij)**2`` over samples and outputs, y and t (n, o): a sum, not a mean."""

    mean: ClassVar[bool] = False

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        e = y - target
        return e * e, 2.0 * e

    def _scale(self, y: Array, target: Array, ops: Backend, weight: Any, denominator: Any, width: int) -> Array:
        return super()._scale(y, target, ops, weight, denominator, 1)


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """Mean of ``(y - t)**2`` over samples and outputs, y and t (n, o).

    Examples
    --------
    >>> import numpy as np
    >>> y, target = np.array([[1.0], [2.0]]), np.array([[0.0], [2.0]])
    >>> loss, dy = tn.MeanSquaredError()(y, target, tn.get_backend("numpy"))
    >>> float(loss), dy.tolist()
    (0.5, [[1.0], [0.0]])
    """

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        e = y - target
        return e * e, 2.0 * e


@dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    """Mean of ``|y - t|`` over samples and outputs, y and t (n, o); its derivative at 0 is 0."""

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        e = y - target
        return xp.abs(e), xp.sign(e)


@dataclass(frozen=True)
class Huber(Loss):
    """Mean over samples and outputs of a loss that is quadratic near 0 and linear beyond (Huber 1964).

    With ``e = y - t``, y and t (n, o), it is ``e**2 / 2`` if ``|e| <= delta``, else ``delta * (|e| - delta / 2)``.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.POSITIVE, "delta")

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        e = y - target
        bounded = xp.minimum(xp.maximum(e, -self.delta), self.delta)
        return bounded * (e - 0.5 * bounded), bounded


@dataclass(frozen=True)
class Quantile(Loss):
    """The pinball loss: mean of ``q * max(t - y, 0) + (1 - q) * max(y - t, 0)`` over samples and outputs, y and t (n, o).

    It is least if y is the q-quantile of t, for q in (0, 1). R. Koenker, G. Bassett (1978), *Regression quantiles*.
    """

    q: float = 0.5

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.Range(lambda q: 0 < q < 1, "a number in (0, 1)"), "q")

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        e = y - target
        slope = xp.where(e > 0, xp.full_like(e, 1.0 - self.q), xp.where(e < 0, xp.full_like(e, -self.q), 0.0 * e))
        return slope * e, slope


@dataclass(frozen=True)
class Poisson(Loss):
    """Mean of ``exp(y) - t * y`` over samples and outputs, y and t (n, o).

    It is the negative log-likelihood of counts t >= 0 without the term ``log t!``; y is the logarithm of the expected count.
    """

    estimates: ClassVar[bool] = False

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        rate = xp.exp(y)
        return rate - target * y, rate - target

    def check_values(self, target: Array, ops: Backend) -> None:
        self._require(target >= 0, target, "counts must not be negative", ops)


@dataclass(frozen=True)
class Hinge(Loss):
    """Mean of ``max(0, 1 - t * y)`` over samples and outputs, y (n, o), targets t (n, o) of -1 and 1."""

    estimates: ClassVar[bool] = False
    binary: ClassVar[bool] = True

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        margin = 1.0 - target * y
        zero = xp.zeros_like(margin)
        return xp.maximum(margin, 0.0), xp.where(margin > 0, -target, zero)

    def check_values(self, target: Array, ops: Backend) -> None:
        self._require(ops.xp.abs(target) == 1, target, "targets must be -1 or 1 (2 * t - 1 makes them of 0 and 1)", ops)


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Mean of ``-w1 * t * log s(y) - w0 * (1 - t) * log(1 - s(y))`` over samples and outputs, where s is the sigmoid.

    Outputs y (n, o) are logits, targets t (n, o) are in [0, 1]. With a single output, targets may also be labels 0 and 1,
    (n,). ``class_weight`` is (w0, w1), by default (1, 1); it does not change the denominator. PyTorch's ``pos_weight`` is
    w1 with w0 = 1.
    """

    class_weight: tuple[float, float] | None = None
    estimates: ClassVar[bool] = False
    binary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.class_weight is not None:
            checks.set_fields(self, class_weight=_checked_weights(self, self.class_weight))
            if len(self.class_weight) != 2:
                raise ValueError(f"BinaryCrossEntropy class_weight has {len(self.class_weight)} numbers: expected 2")

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        e = xp.exp(-xp.abs(y))
        soft = xp.log1p(e)
        cost1, cost0 = soft - xp.minimum(y, 0.0), soft + xp.maximum(y, 0.0)  # -log s(y), -log(1 - s(y))
        s = _logistic(xp, y, e)
        one, zero = target, 1.0 - target
        if self.class_weight is not None:
            one, zero = one * self.class_weight[1], zero * self.class_weight[0]
        return one * cost1 + zero * cost0, (one + zero) * s - one

    def classes(self, width: int) -> int:
        return 2 if width == 1 else 0

    def _has_labels(self, target: Array, ops: Backend) -> bool:
        return _is_integral(target, ops)

    def __call__(
        self, y: Array, target: Array, ops: Backend, weight: Array | None = None, denominator: Any = None
    ) -> tuple[Array, Array]:
        return super().__call__(y, target if target.ndim == y.ndim else target[..., None], ops, weight, denominator)

    def check(self, out: Shape, target: Array, ops: Backend) -> None:
        if target.ndim == 1 and tuple(out) == (1,) and _is_integral(target, ops):
            target = target[:, None]
        super().check(out, target, ops)

    def probabilities(self, y: Array, ops: Backend) -> Array:
        """``1 / (1 + exp(-y))`` of each output, (n, o); for a single output the probabilities of labels 0 and 1, (n, 2)."""
        xp = ops.xp
        if y.shape[-1] == 1:
            y = xp.concat([-y, y], axis=-1)
        return _logistic(xp, y, xp.exp(-xp.abs(y)))

    def check_values(self, target: Array, ops: Backend) -> None:
        self._require((target >= 0) & (target <= 1), target, "targets must be in [0, 1]", ops)


def _logistic(xp: Any, y: Array, e: Array) -> Array:
    """``1 / (1 + exp(-y))``, given ``e = exp(-|y|)``, which never overflows."""
    return xp.where(y < 0, e, xp.ones_like(e)) / (1.0 + e)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Mean of ``-log softmax(y)`` at the label: outputs y (n, k) are logits, targets are labels (n,).

    Targets may also be probabilities t (n, k): the loss of a sample is then ``-sum_k t_k log softmax(y)_k``.
    ``smoothing`` in [0, 1) is the share of the uniform distribution that is mixed into the target (Szegedy et al. 2016).
    ``class_weight`` (k,) is a factor for each class, at least 0; the mean over labels divides by the sum of their class
    weights, the mean over probabilities by the number of samples. All of this is as in PyTorch.

    `fit` refuses labels outside [0, k). A call by itself, which does not wait for the device, takes such a label for one that
    no output stands for; `check` finds it.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dy = tn.CrossEntropy()(np.zeros((1, 4)), np.array([2]), tn.get_backend("numpy"))
    >>> round(float(loss), 4), dy.tolist()
    (1.3863, [[0.25, 0.25, -0.75, 0.25]])
    """

    smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    labels: ClassVar[bool] = True
    estimates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FRACTION, "smoothing")
        if self.class_weight is not None:
            checks.set_fields(self, class_weight=_checked_weights(self, self.class_weight))

    def _class_weights(self, dtype: Any, ops: Backend) -> Array | None:
        if self.class_weight is None:
            return None
        return ops.constant((len(self.class_weight),), self.class_weight, ops.dtype(ops.real_name(dtype)))

    def probabilities(self, y: Array, ops: Backend) -> Array:
        """The softmax of outputs (n, k)."""
        return ops.softmax(y)

    def denominator(self, target: Array, weight: Array | None, ops: Backend) -> Any:
        if not self.mean or self.class_weight is None or not self._has_labels(target, ops):
            return super().denominator(target, weight, ops)
        dtype = ops.widest if weight is None else weight.dtype
        return ops.total_weight(weight, target, self._class_weights(dtype, ops))

    def __call__(
        self, y: Array, target: Array, ops: Backend, weight: Array | None = None, denominator: Any = None
    ) -> tuple[Array, Array]:
        target = self._fitting(y, target, weight, ops)
        scale = self._scale(y, target, ops, weight, denominator, 1)
        return ops.softmax_cross_entropy(y, target, scale, self.smoothing, self._class_weights(y.dtype, ops))

    def check(self, out: Shape, target: Array, ops: Backend) -> None:
        n, k = target.shape[0], out[-1]
        if self.class_weight is not None and len(self.class_weight) != k:
            raise ValueError(f"class_weight has {len(self.class_weight)} numbers for {k} classes: expected {k}")
        if _is_integral(target, ops):
            self._check_labels(k, target, ops)
        elif k == 1:
            raise ValueError(
                "CrossEntropy of a single output is always 0: use BinaryCrossEntropy, or an output for each class"
            )
        elif tuple(target.shape) != (n, k):
            raise ValueError(
                f"targets {tuple(target.shape)} of a floating type do not fit outputs {(n, k)}: "
                f"expected integer labels {(n,)} or probabilities {(n, k)}{_of_numbers(target, ops)}"
            )
        else:
            self._require(target >= 0, target, "probabilities must not be negative", ops)


def _of_numbers(target: Array, ops: Backend) -> str:
    """How to make labels of these targets, for the end of a message; empty unless there is one number per sample."""
    if prod(target.shape) != target.shape[0]:
        return ""
    steps, of_a_file = ["reshape(-1)"] * (target.ndim > 1), ""
    if ops.xp.isdtype(target.dtype, "real floating"):
        steps, of_a_file = [*steps, "astype(int)"], ", data.read(path, task='classification') those of a file"
    return f"; {'.'.join(steps)} makes labels of whole numbers{of_a_file}" if steps else ""


def _checked_weights(loss: Loss, weights: Any) -> tuple[float, ...]:
    """Class weights as floats; ValueError unless they are finite, not negative, and not all 0."""
    try:
        values = () if isinstance(weights, (Mapping, bytes)) else tuple(map(checks.float_or_nan, weights))
    except TypeError:  # it cannot be iterated over, nor can a () array
        values = ()
    if not all(0 <= w < inf for w in values) or not any(values):
        raise ValueError(
            f"{type(loss).__name__} class_weight {checks.short_repr(weights)} is out of range: "
            "give a number of at least 0 for each class, not all 0"
        )
    return values


def checked_loss(
    loss: Loss, y: Array, target: Array, ops: Backend, weight: Array | None = None, denominator: Any = None
) -> tuple[Array, Array]:
    """``loss(y, …)``; ValueError unless it is one number, and a gradient in the shape of y: another could broadcast unnoticed."""
    value, dy = checks.pair(loss(y, target, ops, weight, denominator), loss, "__call__", "(loss, gradient in y)")
    for name, a, wanted in (("loss", value, y.shape[:-2]), ("gradient", dy, y.shape)):
        shape = tuple(getattr(a, "shape", ()))
        if shape != tuple(wanted):
            raise ValueError(
                f"{type(loss).__name__} gives a {name} {shape} for outputs {tuple(y.shape)}: expected {tuple(wanted)}"
            )
    return value, dy


def check_loss(loss: Any) -> None:
    """TypeError unless ``loss`` is one, or if it has a formula that is never called, or that would be given labels."""
    if not isinstance(loss, Loss):
        raise TypeError(f"loss {checks.short_repr(loss)} is not a loss: give one, such as CrossEntropy()")
    if isinstance(loss, CrossEntropy) and type(loss).formula is not Loss.formula:
        raise TypeError(f"{type(loss).__name__}.formula is not used: CrossEntropy is not elementwise, write a __call__")
    if loss.labels and type(loss).__call__ is Loss.__call__:
        raise TypeError(f"{type(loss).__name__} takes labels, and a formula is of numbers (n, o): write a __call__")


def check_denominator(loss: Loss, out: Shape, target: Array, ops: Backend) -> None:
    """TypeError if a user's mean ignores the denominator that it is given: the parts of a batch would not add up."""
    if not loss.mean or type(loss).__call__ in (Loss.__call__, BinaryCrossEntropy.__call__, CrossEntropy.__call__):
        return
    t = target[:2, ...]
    dtype = t.dtype if ops.xp.isdtype(t.dtype, "real floating") else ops.dtype("float32")
    y = ops.zeros((t.shape[0], *out), dtype) + 0.5  # may be probabilities, whose logarithms are finite
    t = real_columns(t, 1, y, ops)
    one, half = (float(ops.to_numpy(checked_loss(loss, y, t, ops, None, number)[0])) for number in (1, 2))
    if isfinite(one) and one == half != 0.0:
        raise TypeError(
            f"{type(loss).__name__}.__call__ does not divide by its denominator: do, if it is not None, or set mean = False"
        )
