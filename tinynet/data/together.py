"""The batches of many networks: several loaders over one data set, their batches side by side."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tinynet_backends import Backend

from tinynet.data.dataset import Batch
from tinynet.data.loader import LARGEST_CHUNK, Loader, host_of
from tinynet.data.sampling import Sequential, Shuffled, Shuffles


class Together:
    """Step t -> the t-th batch of each loader: inputs (m, n, *shape), targets (m, n) or (m, n, o), weights (m, n).

    The loaders are alike but for their seeds. Where all draw the same samples, these are made once, and inputs
    are (1, n, *shape). As in a `Loader`, batches are made a chunk of steps at a time: full ones, or a smaller one at the
    end of an epoch.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        first = self.first = loaders[0]
        self.data, self.steps_per_epoch, self.batch_size = first.data, first.steps_per_epoch, first.batch_size
        self.loaders = loaders
        self.alike = isinstance(first.order, Sequential) or all(a.seed == first.seed for a in loaders)
        shuffled = all(isinstance(a.order, Shuffled) for a in loaders)
        self.shuffles = Shuffles(self.data.n, [a.seed for a in loaders]) if shuffled else None
        most = LARGEST_CHUNK // (len(loaders) * self.batch_size * prod(self.data.shape))
        # a divisor of 64, the steps between two checks, so that these fall between two chunks
        self.steps_per_chunk = next((n for n in (16, 8, 4, 2) if n <= most), 1)
        self._kept: tuple[int, Batch] | None = None  # the chunk that was made last

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        """The batches of a step on ``ops``."""
        first = self.first_of_chunk(step)
        if self._kept is None or self._kept[0] != first:
            self._kept = first, self.chunk(first, host_of(ops) if self.first.made_on_host(ops) else ops, dtype)[1]
        return Batch(*(None if a is None else ops.asarray(a[step - first, ...]) for a in self._kept[1]))

    def first_of_chunk(self, step: int) -> int:
        """The first step of the chunk that a step belongs to."""
        place = step % self.steps_per_epoch
        return step - place % self.steps_per_chunk if place < self.data.n // self.batch_size else step

    def chunk(self, first: int, ops: Backend, dtype: str) -> tuple[int, Batch]:
        """How many steps the chunk has that begins at ``first``, and their batches on ``ops``: (steps, …)."""
        epoch, place = divmod(first, self.steps_per_epoch)
        steps = max(1, min(self.steps_per_chunk, self.data.n // self.batch_size - place))
        start = place * self.batch_size
        stop = min(start + steps * self.batch_size, self.data.n)
        host, count = host_of(ops), len(self.loaders)
        xp = ops.xp
        if self.alike:
            rows = self.data.rows(self.first.order.draws(epoch, start, stop, host), ops, dtype)
            x, y, weight = (None if a is None else xp.reshape(a, (steps, 1, -1, *a.shape[1:])) for a in rows)
            y, weight = (None if a is None else xp.repeat(a, count, axis=1) for a in (y, weight))
            return steps, Batch(x, y, weight)
        if self.shuffles is not None:
            draws = self.shuffles.draws(epoch, start, stop, host)
        else:
            draws = host.xp.stack([loader.order.draws(epoch, start, stop, host) for loader in self.loaders])
        index = host.xp.permute_dims(host.xp.reshape(draws, (count, steps, -1)), (1, 0, 2))
        rows = self.data.rows(host.xp.reshape(index, (-1,)), ops, dtype)
        return steps, Batch(*(None if a is None else xp.reshape(a, (steps, count, -1, *a.shape[1:])) for a in rows))
