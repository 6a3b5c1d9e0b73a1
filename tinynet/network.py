"""What one network and many have in common: all numbers in two vectors, and the outputs that follow from them."""

from __future__ import annotations

from math import prod
from typing import Any

from tinynet_backends import Backend

from tinynet import checks
from tinynet.data.columns import Columns
from tinynet.initializers import Shape
from tinynet.layers import Array, Context, Layer, Params, Spec, checked_forward, leaves, merge
from tinynet.losses import Loss
from tinynet.matching import as_inputs
from tinynet.metrics import Metric
from tinynet.parameters import Vector, protected, views
from tinynet.pieces import split_range

_CACHED = 2**19  # numbers of a layer's output that stay in the cache until the next layer reads them


class Network:
    """The base of `Model` and `Ensemble`, which has an axis of networks first in all its arrays.

    All numbers are in the vectors ``theta`` (..., p) and ``state`` (..., s), in a form that can be copied and pickled.
    """

    theta = Vector()
    state = Vector()
    net: Layer
    in_shape: Shape
    out_shape: Shape
    spec: Spec
    ops: Backend
    dtype: str
    seed: Any  # an int, or a tuple with that of each network
    loss: Loss | None = None  # of the last fit, like what follows
    metrics: tuple[Metric, ...] = ()
    columns: Columns | None = None  # names of columns and classes in the table that it was fitted to

    def _bind(self, theta: Array, state: Array) -> None:
        """Make these the vectors, cut the arrays of layers out of them, and prepare the forward pass."""
        self._theta, self._state = theta, state
        self.gradient_names = tuple(name for name, _ in leaves(self.spec.params))
        trees = ((theta, self.spec.params), (state, self.spec.state))
        self.params: dict[str, Any] = protected(
            merge(*(views(vector, tree, self.ops) for vector, tree in trees)), self.ops
        )
        widest = max(prod(self.in_shape), *(prod(p.shape[-1:]) for _, p in leaves(self.spec.params)), 1)
        self._rows = max(max(256, _CACHED // widest) // prod(theta.shape[:-1]), 1)
        # not self: a reference cycle would hold device memory until the next garbage collection
        net, out_shape, ctx, lead = self.net, self.out_shape, Context(self.ops, seed=self.seed), theta.shape[:-1]

        def forward(params: Params, x: Array) -> Array:
            return checked_forward(net, out_shape, params, broadcast(x, lead, ctx.ops), ctx)[0]

        self._forward = self.ops.compile(forward, self.params)

    def _outputs(self, x: Any, batch_size: int | None) -> Array:
        """(n, *in_shape) -> (..., n, *out_shape), ``batch_size`` rows at a time, by default as many as fit in a cache."""
        data, lead = as_inputs(x, self), self._theta.shape[:-1]
        every = (slice(None),) * len(lead)  # networks
        out = self.ops.empty((*lead, data.n, *self.out_shape), self.ops.dtype(self.dtype))
        size = self._rows if batch_size is None else checks.positive("batch_size", batch_size)
        for rows in split_range(range(data.n), size):
            x = data.batch(rows, self.ops, self.dtype).x
            out[(*every, slice(rows.start, rows.stop), ...)] = self._forward(x)
        return out

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without the views that are cut out of the two vectors."""
        state = {name: value for name, value in vars(self).items() if name not in ("params", "_forward")}
        return state | {name: self.ops.to_numpy(state[name]) for name in ("_theta", "_state")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        with self.ops.active():
            # copies: `copy.copy` shares its arrays with the original, and a pickle's may be maps that cannot be written
            self._bind(*(self._copy(state[name]) for name in ("_theta", "_state")))

    def _copy(self, values: Array) -> Array:
        """A vector on the host, copied to new memory of the backend."""
        values = self.ops.asarray(values)
        copy = self.ops.empty(values.shape, values.dtype)
        self.ops.assign(copy, values)
        return copy


def broadcast(x: Array, lead: tuple[int, ...], ops: Backend) -> Array:
    """``x`` (n, ...) for networks of the axes ``lead``: as it is for one, (networks, n, ...) for many."""
    return ops.xp.broadcast_to(x, (*lead, *x.shape)) if lead else x
