"""Orders in which samples are drawn: each maps (epoch, places) to numbers of samples, a pure function of the seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet import checks, streams
from tinynet.data.conversion import check_unmasked
from tinynet.data.dataset import Array, Dataset, Index, label_pieces
from tinynet.data.digest import digest

_CHUNK = 65536  # places of a shuffle that are computed at a time: the cost of each array call spread over many
_FEW, _EPOCHS = 2048, 16  # of up to so many samples the orders of so many epochs at a time, for the same reason
_SHUFFLE, _WEIGHTED, _BALANCED, SPLIT = 0, 1, 2, 3  # the second word of the stream's counter


class Order:
    """Which sample comes when; ``repr`` is the option of `Loader` that chooses it."""

    def draws(self, epoch: int, start: int, stop: int, host: Backend) -> Index:
        """The samples at places start, …, stop - 1 of an epoch: a range, or int64 indices on ``host``, which for `Shuffled`
        may be any backend."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Text that differs where the order does."""
        return repr(self)


@lru_cache(maxsize=64)
def permutation_keys(seed: int, epoch: int, purpose: int, number: int = 0) -> tuple[int, ...]:
    """The 32-bit numbers that key the permutation of an epoch, or of a class: drawn, never computed from seed and epoch."""
    return streams.permutation_keys(streams.key(seed, streams.ORDER), (epoch, purpose, number))


class Sequential(Order):
    """One after the other."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __repr__(self) -> str:
        return "shuffle=False"

    def draws(self, epoch: int, start: int, stop: int, host: Backend) -> Index:
        return range(start, stop)


class _Cached(Order):
    """An order that keeps results, but not in its pickles."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not hasattr(value, "cache_clear")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_caches()

    def _make_caches(self) -> None:
        raise NotImplementedError


class Shuffled(_Cached):
    """Each sample once per epoch, in an order of the epoch's own that is never stored."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._first: int | None = None  # the first epoch that was asked for, and often the only one
        self._make_caches()

    def _make_caches(self) -> None:
        self._chunk = lru_cache(maxsize=2)(self._make_chunk)
        self._epochs = lru_cache(maxsize=1)(self._make_epochs)

    def __repr__(self) -> str:
        return "shuffle=True"

    def draws(self, epoch: int, start: int, stop: int, host: Backend) -> Index:
        if stop - start >= _CHUNK:
            return self._permuted(range(start, stop), epoch, host)
        parts = []
        while start < stop:
            number = start // _CHUNK
            first, end = number * _CHUNK, min(stop, (number + 1) * _CHUNK)
            parts.append(self._chunk(epoch, number, host)[..., start - first : end - first])
            start = end
        return parts[0] if len(parts) == 1 else host.xp.concat(parts, axis=-1)

    def _make_chunk(self, epoch: int, number: int, host: Backend) -> Array:
        return self._permuted(range(number * _CHUNK, min((number + 1) * _CHUNK, self.n)), epoch, host)

    def _permuted(self, places: range, epoch: int, host: Backend) -> Array:
        if self._first is None:
            self._first = epoch
        if self.n > _FEW or epoch == self._first:
            return host.permute(places, self.n, permutation_keys(self.seed, epoch, _SHUFFLE))
        return self._epochs(epoch // _EPOCHS, host)[epoch % _EPOCHS, places.start : places.stop]

    def _make_epochs(self, number: int, host: Backend) -> Array:
        epochs = range(number * _EPOCHS, (number + 1) * _EPOCHS)
        return host.permutes(range(self.n), self.n, [permutation_keys(self.seed, epoch, _SHUFFLE) for epoch in epochs])


class StackedShuffled(Shuffled):
    """`Shuffled` under several seeds: the draws of all, (seeds, places)."""

    def __init__(self, n: int, seeds: Sequence[int]) -> None:
        super().__init__(n, seeds[0])
        self.seeds = seeds

    def _permuted(self, places: range, epoch: int, host: Backend) -> Array:
        return host.permutes(places, self.n, [permutation_keys(seed, epoch, _SHUFFLE) for seed in self.seeds])


class Weighted(Order):
    """With replacement, each of n samples with a probability in proportion to its weight, to ``n * 2**-52`` at most."""

    def __init__(self, weights: Any, n: int, seed: int) -> None:
        host = get_backend("numpy")
        xp = host.xp
        check_unmasked(weights, "weights")
        try:
            w = xp.asarray(weights, dtype=xp.float64)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"weights {checks.short_repr(weights)} are not numbers: give one for each sample") from None
        if w.shape != (n,):
            raise ValueError(f"weights {tuple(w.shape)} do not fit {n} samples: expected {(n,)}")
        if not bool(xp.all(xp.isfinite(w) & (w >= 0))):
            raise ValueError("weights have a value that is negative, NaN or infinite: give finite ones of at least 0")
        largest = float(xp.max(w))
        if largest == 0:
            raise ValueError("weights are zero everywhere: give some sample a positive one")
        running = xp.cumulative_sum(w / largest)
        # On a line of 2**62 points, a sample has those from the bound of the sample before it up to its own.
        self.bounds = xp.astype(xp.round(running / running[-1] * 2.0**62), xp.int64)
        self.n, self.seed = n, seed

    def __repr__(self) -> str:
        return "weights=…"

    def fingerprint(self) -> str:
        return f"weights={digest([self.bounds])}"

    def draws(self, epoch: int, start: int, stop: int, host: Backend) -> Index:
        words = host.words(streams.key(self.seed, streams.ORDER), (epoch, _WEIGHTED, 0), start, stop - start)
        return host.xp.searchsorted(self.bounds, host.xp.astype(words >> 2, host.xp.int64), side="right")


class Balanced(_Cached):
    """The classes in turn; within a class each sample once before any comes again, in an order of its own."""

    def __init__(self, data: Dataset, seed: int) -> None:
        if not data.classes:
            raise TypeError(f"balance needs data with classes, and {data!r} has none")
        if data.n > 2**31:
            raise ValueError(
                f"balance keeps a number for each of {data.n} samples, which are too many: take(…) fewer, or have "
                "data.Imbalanced draw the classes"
            )
        host = get_backend("numpy")
        xp = host.xp
        labels = xp.concat(list(label_pieces(data)))
        order = xp.argsort(labels, stable=True)
        counts = [int(c) for c in xp.unique_counts(labels).counts]
        self.members, start = [], 0
        for count in counts:
            self.members.append(order[start : start + count])
            start += count
        self.n, self.seed = data.n, seed
        self._make_caches()

    def _make_caches(self) -> None:
        self._pass = lru_cache(maxsize=2 * len(self.members))(self._make_pass)

    def __repr__(self) -> str:
        return "balance=True"

    def draws(self, epoch: int, start: int, stop: int, host: Backend) -> Index:
        k = len(self.members)
        out = host.xp.empty(stop - start, dtype=host.xp.int64)
        first, last = epoch * self.n + start, epoch * self.n + stop  # draws since the run began
        for c in range(k):
            skip = (c - first) % k
            turn, stop_turn, parts = (first + skip) // k, (last - c + k - 1) // k, []
            m = len(self.members[c])
            while turn < stop_turn:
                number, place = divmod(turn, m)
                end = min(m, place + stop_turn - turn)
                parts.append(self._pass(c, number, host)[place:end])
                turn += end - place
            if parts:
                out[skip::k] = host.xp.concat(parts)
        return out

    def _make_pass(self, c: int, number: int, host: Backend) -> Array:
        """The samples of class ``c`` in the order of its ``number``-th time through."""
        members = self.members[c]
        m = len(members)
        return members[host.permute(range(m), m, permutation_keys(self.seed, number, _BALANCED, c))]
