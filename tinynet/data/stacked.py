"""The batches of many networks: several loaders over one data set, their batches side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from tinynet_backends import Backend

from tinynet.data.dataset import Batch
from tinynet.data.loader import LARGEST_CHUNK, BatchSource, Chunk, Loader, host_of, power_of_two, sample_size
from tinynet.data.sampling import Sequential, Shuffled, StackedShuffled


class StackedLoader:
    """Step t -> the t-th batch of each loader: inputs (m, n, *shape), targets (m, n) or (m, n, o), weights (m, n).

    The loaders are alike but for their seeds. Where all draw the same samples, these are made once, and inputs
    are (1, n, *shape). As in a `Loader`, batches are made a chunk of steps at a time: full ones, or a smaller one at the
    end of an epoch.
    """

    prefetch = False  # no thread makes batches ahead of time

    def __init__(self, loaders: Sequence[Loader]) -> None:
        first = self.first = loaders[0]
        self.data, self.steps_per_epoch, self.batch_size = first.data, first.steps_per_epoch, first.batch_size
        self.loaders = loaders
        self.alike = isinstance(first.order, Sequential) or all(a.seed == first.seed for a in loaders)
        shuffled = all(isinstance(a.order, Shuffled) for a in loaders)
        self.shuffles = StackedShuffled(self.data.n, [a.seed for a in loaders]) if shuffled else None

    def made_on_host(self, ops: Backend) -> bool:
        """Whether batches for ``ops`` are made by the host."""
        return self.first.made_on_host(ops)

    @property
    def gathers(self) -> bool:
        """Whether each network's samples are gathered: those that all share are made once."""
        return not self.alike and self.first.gathers

    def as_indices(self) -> StackedLoader:
        """This loader, with batches of `SampleIndices`."""
        return StackedLoader([loader.as_indices() for loader in self.loaders])

    def steps_per_chunk(self, ops: Backend) -> int:
        """How many steps a chunk has; the last of an epoch may have fewer."""
        samples = len(self.loaders) * self.batch_size * sample_size(self.data)
        return min(self.first.steps_per_chunk(ops), power_of_two(LARGEST_CHUNK // samples))

    def chunk(self, step: int, ops: Backend, dtype: str) -> Chunk:
        """The chunk that ``step`` belongs to, its batches (steps, …) where those of `Loader.chunk` lie."""
        if self.made_on_host(ops):
            ops = host_of(ops)
        most, place, full = self.steps_per_chunk(ops), step % self.steps_per_epoch, self.data.n // self.batch_size
        first = step - place % most if place < full else step
        steps = max(1, min(most, full - first % self.steps_per_epoch))
        epoch, start, stop = self.first.span(first, steps)
        host, xp, count = host_of(ops), ops.xp, len(self.loaders)
        if self.alike:
            rows = self.data.rows(self.first.order.draws(epoch, start, stop, host), ops, dtype)
            x, y, weight = rows.map(lambda a: xp.reshape(a, (steps, 1, -1, *a.shape[1:])))
            of_all = Batch(None, y, weight).map(lambda a: xp.repeat(a, count, axis=1))
            return first, steps, of_all._replace(x=x)
        if self.shuffles is not None:
            draws = self.shuffles.draws(epoch, start, stop, host)
        else:
            draws = host.xp.stack([loader.order.draws(epoch, start, stop, host) for loader in self.loaders])
        index = host.xp.permute_dims(host.xp.reshape(draws, (count, steps, -1)), (1, 0, 2))
        rows = self.data.rows(host.xp.reshape(index, (-1,)), ops, dtype)
        return first, steps, rows.map(lambda a: xp.reshape(a, (steps, count, -1, *a.shape[1:])))

    def cut(self, batches: Batch, number: int) -> Batch:
        """The batches of step ``number`` of a chunk."""
        return batches.map(lambda a: a[number, ...])

    def divided(self, batches: Batch, ops: Backend) -> Batch:
        """The batches of a chunk, which have an axis of steps."""
        return batches


def has_chunks(loader: Any) -> TypeGuard[Loader | StackedLoader]:
    """Whether the batches of a loader are those in its chunks: a subclass of `Loader` may make others."""
    kind = type(loader)
    single = isinstance(loader, Loader) and kind.batch is Loader.batch and kind.index is Loader.index
    return single or isinstance(loader, StackedLoader)


def samples_per_epoch(loader: BatchSource | StackedLoader) -> int:
    """How many samples an epoch has, of which those of a data set may end in a smaller batch."""
    full = loader.steps_per_epoch * loader.batch_size
    return min(full, loader.data.n) if isinstance(loader, (Loader, StackedLoader)) else full
