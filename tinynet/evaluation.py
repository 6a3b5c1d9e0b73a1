"""Evaluation: loss and metrics of a network, or of many, over a data set."""

from __future__ import annotations

from math import nan
from typing import Any

from tinynet.labels import boundary
from tinynet.layers import Array, Context, Params, checked_forward
from tinynet.losses import Loss, real_columns
from tinynet.metrics import Metric, added
from tinynet.network import Network, broadcast
from tinynet.pieces import split_range


class Evaluation:
    """Loss and metrics over a data set, with all sums on the device."""

    def __init__(self, model: Network, loss: Loss, metrics: tuple[Metric, ...]) -> None:
        ops, ctx, lead = model.ops, Context(model.ops, seed=model.seed), model.theta.shape[:-1]

        def step(params: Params, x: Array, target: Array, weight: Array | None) -> list[list[Array]]:
            y = checked_forward(model.net, model.out_shape, params, broadcast(x, lead, ops), ctx)[0]
            target = real_columns(target, 1, model.theta, ops)
            networks = [y[number, ...] for number in range(*lead)] if lead else [y]
            return [sums(y, target, weight) for y in networks]

        def sums(y: Array, target: Array, weight: Array | None) -> list[Array]:
            total = loss.denominator(target, weight, ops)
            value = loss(y, target, ops, weight, 1)[0]
            total = total + ops.xp.zeros_like(value) if isinstance(total, int) else ops.xp.astype(total, value.dtype)
            relative = y - edge if edge else y
            scores = (m.sums(relative if m.decides else y, target, weight, ops) for m in metrics)
            return [ops.xp.stack([value, total]), *scores]

        edge = boundary(model.net) if model.out_shape[-1] == 1 else 0.0  # several are compared with one another
        self.model, self.loss, self.metrics = model, loss, metrics
        self.step = ops.compile(step, model.params)

    def __call__(self, data: Any, batch_size: int) -> dict[str, float]:
        """The scores of a single network."""
        return self.each(data, batch_size)[0]

    def each(self, data: Any, batch_size: int) -> list[dict[str, float]]:
        """The scores of each network."""
        ops = self.model.ops
        totals: list[list[list[float]]] = []
        for rows in split_range(range(data.n), batch_size):
            batch = data.batch(rows, ops, self.model.dtype)
            # Python's floats from here on: float32 would lose digits over many batches
            sums = [[ops.to_numpy(s).tolist() for s in network] for network in self.step(*batch)]
            totals = [self._merged(*both) for both in zip(totals, sums, strict=True)] if totals else sums
        return [self._result(*network) for network in totals]

    def _merged(self, totals: list[list[float]], sums: list[list[float]]) -> list[list[float]]:
        merges = [added, *(m.merge for m in self.metrics)]
        return [merge(a, b) for merge, a, b in zip(merges, totals, sums, strict=True)]

    def _result(self, loss: list[float], *rest: list[float]) -> dict[str, float]:
        value, total = loss
        result = {"loss": (value / total if total else nan) if self.loss.mean else value}
        return result | {m.name: m.result(s) for m, s in zip(self.metrics, rest, strict=True)}
