"""Numeric targets in any unit: trained on at mean 0 and variance 1, and scaled back by a last layer.

Learning rates, clipping and epsilons suit numbers around 1, which prices and wavelengths are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinynet_backends import Backend, get_backend

from tinynet.data.dataset import Array, Batch, Dataset, Index
from tinynet.model import Model, undrawn
from tinynet.sequential import Sequential
from tinynet.standardize import ROUNDED, Standardize, moments, varying


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the targets, (o,) float64 on the host; that of constant ones counts as 1."""

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, data: Dataset, dtype: str) -> Scale:
        """The scale of ``data``, by one pass over it; ValueError for targets that predictions in ``dtype`` round away."""
        host = get_backend("numpy")
        mean, deviation = moments(data, host, of_targets=True)
        varies, rounded = varying(mean, deviation, host)
        if dtype == "float32" and rounded.any():
            j = int(rounded.argmax())
            name = repr(data.columns.target[j]) if data.columns and data.columns.target else j
            raise ValueError(f"target {name} {ROUNDED}")
        return cls(mean, host.xp.where(varies, deviation, 1.0))

    def undo(self, model: Model) -> Model:
        """A model that predicts the targets themselves where ``model`` predicts scaled ones: it has one more layer."""
        new = undrawn(
            Sequential(model.net, Standardize()), model.in_shape, seed=model.seed, backend=model.ops, dtype=model.dtype
        )
        new.weights().update({f"0.{name}": values for name, values in model.weights().items()})
        new.weights().update({"1.mean": -self.mean / self.deviation, "1.scale": self.deviation})
        new.loss, new.metrics, new.history, new.columns = model.loss, model.metrics, model.history, model.columns
        return new


class Scaled(Dataset):
    """A data set with its targets scaled, ``(y - mean) / deviation``."""

    def __init__(self, whole: Dataset, scale: Scale) -> None:
        self._describe_like(whole)
        self.whole, self.scale, self.n = whole, scale, whole.n

    def __repr__(self) -> str:
        return f"{self.whole!r}, targets scaled"

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        host = get_backend("numpy")
        # in float64 a small difference of large numbers keeps its digits
        x, y, weight = self.whole.rows(index, host, "float64")
        y = (host.xp.reshape(y, (x.shape[0], -1)) - self.scale.mean) / self.scale.deviation
        return self._as_batch(x, y, weight, ops, dtype)

    def check(self, check: Callable[[Array, Backend], None], ops: Backend, dtype: str) -> None:
        self.whole.check(check, ops, "float64")  # as `rows` asks for them

    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint()}, targets scaled"
