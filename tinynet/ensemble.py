"""Many networks of one architecture: one model with an axis of networks first in all its arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tinynet import checks
from tinynet.history import History
from tinynet.layers import Array
from tinynet.model import Model, undrawn
from tinynet.network import Network
from tinynet.parameters import draw, on_its_device
from tinynet.schedules import Schedule


class Ensemble(Network):
    """n networks of one architecture, as `tinynet.fit_many` returns them.

    ``theta`` (n, p) and ``state`` (n, s) have one row per network; ``ensemble[i]`` is a copy of network i as a `Model`.
    ``seeds``, ``rates`` (the learning rates) and ``histories`` have one entry per network. ``diverged`` maps the index of
    each network whose loss or weights stopped being finite to a sentence that says when. Such a network has its last
    finite weights, its losses are NaN from then on, and `mean` and `spread` leave it out.
    """

    def __init__(self, model: Model, seeds: Sequence[int], rates: Sequence[float | Schedule]) -> None:
        self.net, self.in_shape, self.out_shape = model.net, model.in_shape, model.out_shape
        self.spec, self.ops, self.dtype = model.spec, model.ops, model.dtype
        self.seeds = self.seed = tuple(seeds)
        self.rates = tuple(rates)
        self.histories: tuple[History, ...] = tuple(History() for _ in seeds)
        self.diverged: dict[int, str] = {}
        with self.ops.active():
            drawn = [tuple(draw(self.spec, seed, self.ops, self.dtype)) for seed in seeds]
            self._bind(*(self.ops.xp.stack(vectors) for vectors in zip(*drawn, strict=True)))

    def __repr__(self) -> str:
        n, p = self.theta.shape
        return f"<{n} networks {self.net!r}, {p} parameters each, {self.dtype} on {self.ops.name}>"

    def __len__(self) -> int:
        return len(self.seeds)

    @on_its_device
    def __getitem__(self, number: int) -> Model:
        """A copy of one network."""
        if checks.as_int(number) is None:
            raise TypeError(f"network {checks.short_repr(number)} is not a whole number: give one at a time")
        if not -len(self) <= number < len(self):
            raise IndexError(f"network {number} is out of range: there are {len(self)}, numbered from 0")
        model = undrawn(self.net, self.in_shape, seed=self.seeds[number], backend=self.ops, dtype=self.dtype)
        number %= len(self)
        model.theta, model.state = self.theta[number, ...], self.state[number, ...]
        model.loss, model.metrics, model.history = self.loss, self.metrics, self.histories[number]
        model.columns = self.columns
        return model

    def __iter__(self) -> Iterator[Model]:
        return (self[number] for number in range(len(self)))

    @on_its_device
    def predict(self, x: Any, *, batch_size: int | None = None) -> Array:
        """Outputs of all networks: (rows, *in_shape) -> (n, rows, *out_shape). See `Model.predict`."""
        return self._outputs(x, batch_size)

    @on_its_device
    def mean(self, x: Any, *, batch_size: int | None = None) -> Array:
        """The mean of the networks' outputs: (rows, *in_shape) -> (rows, *out_shape). ValueError if all diverged."""
        return self.ops.xp.mean(self._sound(x, batch_size), axis=0)

    @on_its_device
    def spread(self, x: Any, *, batch_size: int | None = None) -> Array:
        """The standard deviation (divisor n) of the networks' outputs: (rows, *in_shape) -> (rows, *out_shape).

        It is large where the networks disagree, and so a measure of uncertainty (Lakshminarayanan, Pritzel, Blundell 2017,
        *Simple and scalable predictive uncertainty estimation using deep ensembles*). ValueError if all networks diverged.
        """
        return self.ops.xp.std(self._sound(x, batch_size), axis=0)

    def _sound(self, x: Any, batch_size: int | None) -> Array:
        """Outputs of the networks that have not diverged."""
        sound = [number for number in range(len(self)) if number not in self.diverged]
        if not sound:
            raise ValueError(f"all {len(self)} networks diverged: try lower learning rates, clip=1.0 or scaled inputs")
        y = self.predict(x, batch_size=batch_size)
        return y if not self.diverged else self.ops.xp.take(y, self.ops.asarray(sound, "int64"), axis=0)
