"""The samples of a fit, and the batches that a run of several fits makes of them."""

from __future__ import annotations

from dataclasses import dataclass

from tinynet_backends import Backend, use_backend

from tinynet.data import Arrays, Batch, Loader
from tinynet.data.loader import BatchSource
from tinynet.data.sampling import Sequential as InOrder
from tinynet.model import Model
from tinynet.sklearn.placement import Array


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (n, i) and targets on the backend that trains, weights (n,) on the host."""

    x: Array
    y: Array
    weight: Array | None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def take(self, rows: Array, ops: Backend) -> Samples:
        """The samples with these indices, (m,) int64 on the host."""
        index, take = ops.asarray(rows), ops.xp.take
        weight = None if self.weight is None else self.weight[rows]
        return Samples(take(self.x, index, axis=0), take(self.y, index, axis=0), weight)

    def standardized(self, model: Model) -> Samples:
        """These samples as the first layer of ``model``, a `Standardize`, passes them on."""
        layer = model.params["0"]
        return Samples((self.x - layer["mean"]) * layer["scale"], self.y, self.weight)

    def arrays(self, model: Model) -> Arrays:
        """The samples as a data set for ``model``, without checks: scikit-learn has made them."""
        weight = None if self.weight is None else model.ops.asarray(self.weight, model.dtype)
        with use_backend(model.ops):
            return Arrays(self.x, self.y, weight, finite=False)


class Passes:
    """The batches of ``loader``, for a run that continues after ``step`` steps and ``epochs`` epochs.

    Its epochs so far may have had other numbers of steps, so that its steps and the loader's differ by a ``shift``.
    """

    def __init__(self, loader: Loader, step: int, epochs: int) -> None:
        self.loader, self.data = loader, loader.data
        self.steps_per_epoch, self.batch_size = loader.steps_per_epoch, loader.batch_size
        self.shift = epochs * loader.steps_per_epoch - step
        self.all: Batch | None = None  # the batch of an epoch of one step, if it is the same in all epochs

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        if self.all is None:
            batch = self.loader.batch(step + self.shift, ops, dtype)
            if self.steps_per_epoch > 1 or not isinstance(self.loader.order, InOrder):
                return batch
            self.all = batch
        return self.all

    @property
    def source(self) -> BatchSource:
        """What to train on: the loader itself, whose steps can be run together, unless there is a shift or a single batch."""
        return self if self.shift or self.steps_per_epoch == 1 else self.loader

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch has ended after ``step`` steps of the run."""
        return (step + self.shift) % self.steps_per_epoch == 0
