"""Data sets, and the loader that maps a step number to a batch.

A virtual data set computes sample i from (seed, i): nothing is stored, and any sample can be had at any time. A loader
is a pure function of (seed, step), so a run can start again at any step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NamedTuple

from tinynet_backends import Backend, exact, get_backend

from tinynet import streams

Array = Any
Shape = tuple[int, ...]
Index = Any  # a range, or an int64 array of a host backend

LARGEST = 2**62
_CHUNK = 65536  # positions of a shuffle that are computed at a time: the cost of each array call spread over many


class Batch(NamedTuple):
    """Inputs (n, *shape), targets (n,) or (n, o), and sample weights (n,) or None."""

    x: Array
    y: Array
    weight: Array | None


class Dataset:
    """The protocol: ``n`` samples of ``shape``; ``classes`` if the targets are labels, else ``outputs`` numbers
    each."""

    n: int
    shape: Shape
    classes: int | None
    outputs: int | None
    ordered: bool = True  # whether neighbours may resemble each other, so that a shuffle is worth its time
    stored: bool = True  # whether targets came from outside, so that they have to be checked

    def __len__(self) -> int:
        return self.n

    def batch(self, index: Index, ops: Backend, dtype: str) -> Batch:
        """The samples of ``index`` as arrays of ``ops``; floating-point ones in ``dtype``."""
        raise NotImplementedError

    def split(self, first: float | int) -> tuple[Dataset, Dataset]:
        """The samples before a point and those from there: a fraction in (0, 1), or a number of samples."""
        n = round(self.n * first) if isinstance(first, float) else first
        if not 0 < n < self.n:
            raise ValueError(f"split at {first!r} leaves nothing on one side of {self.n} samples: choose between")
        return Part(self, 0, n), Part(self, n, self.n)

    def take(self, n: int) -> Dataset:
        """The first ``n`` samples."""
        if not 0 < n <= self.n:
            raise ValueError(f"take({n!r}) is out of range: there are {self.n} samples")
        return Part(self, 0, n)

    def check(self, check: Callable[[Array, Backend], None], ops: Backend) -> None:
        """Run ``check(targets, ops)`` over stored targets, wherever they are; a virtual set's are right by
        construction."""


@dataclass(frozen=True)
class Part(Dataset):
    """Samples start, …, stop - 1 of another data set."""

    whole: Dataset
    start: int
    stop: int

    def __post_init__(self) -> None:
        for name, value in (("n", self.stop - self.start), ("shape", self.whole.shape)):
            object.__setattr__(self, name, value)
        for name in ("classes", "outputs", "ordered", "stored"):
            object.__setattr__(self, name, getattr(self.whole, name))

    def batch(self, index: Index, ops: Backend, dtype: str) -> Batch:
        if isinstance(index, range):
            return self.whole.batch(range(index.start + self.start, index.stop + self.start), ops, dtype)
        return self.whole.batch(index + self.start, ops, dtype)

    def check(self, check: Callable[[Array, Backend], None], ops: Backend) -> None:
        self.whole.check(check, ops)


class Arrays(Dataset):
    """(X, y) or (X, y, weight) that lie in memory: NumPy arrays or lists, or arrays of the backend's own library.

    X (n, *shape) floating or whole numbers; y integer labels (n,), or numbers (n, o); weight (n,), not negative. All
    are checked once: their lengths, and that every number is finite (``finite=False`` leaves that out). Nothing is
    modified.
    """

    def __init__(self, x: Any, y: Any, weight: Any = None, *, finite: bool = True) -> None:
        self.x, self.ops = _adopt(x, "X")
        self.y, self.weight = _follow(y, "y", self.ops), None
        xp = self.ops.xp
        if self.x.ndim < 2:
            raise ValueError(
                f"X {tuple(self.x.shape)} is not a table: expected (n, features); reshape(-1, 1) makes one column"
            )
        self.n, self.shape = int(self.x.shape[0]), tuple(self.x.shape[1:])
        if self.n == 0:
            raise ValueError(f"X {tuple(self.x.shape)} has no samples: give at least one")
        if self.y.ndim == 0 or self.y.shape[0] != self.n:
            raise ValueError(f"y {tuple(self.y.shape)} does not fit X {tuple(self.x.shape)}: expected {self.n} rows")
        if weight is not None:
            self.weight = _follow(weight, "weight", self.ops)
            if tuple(self.weight.shape) != (self.n,):
                raise ValueError(
                    f"weight {tuple(self.weight.shape)} does not fit {self.n} samples: expected {(self.n,)}"
                )
        for name, a in (("X", self.x), ("y", self.y), ("weight", self.weight)):
            if a is None:
                continue
            if not xp.isdtype(a.dtype, ("real floating", "integral", "bool")):
                raise TypeError(f"{name} of dtype {a.dtype} is not numeric: give real or whole numbers")
            if finite and xp.isdtype(a.dtype, "real floating"):
                _first_bad(xp.isfinite(a), f"{name} has a value that is NaN or infinite", self.ops)
        if self.weight is not None:
            _first_bad(self.weight >= 0, "weight has a negative value", self.ops)
            if not bool(self.ops.to_numpy(xp.any(self.weight > 0))):
                raise ValueError("weight is zero everywhere: give some sample a positive one")
        labels = self.y.ndim == 1 and xp.isdtype(self.y.dtype, ("integral", "bool"))
        if labels and xp.isdtype(self.y.dtype, "bool"):
            self.y = xp.astype(self.y, xp.int64)
        self.classes = int(self.ops.to_numpy(xp.max(self.y))) + 1 if labels else None
        self.outputs = None if labels else (int(self.y.shape[1]) if self.y.ndim > 1 else 1)

    def __repr__(self) -> str:
        return f"Arrays(X {tuple(self.x.shape)}, y {tuple(self.y.shape)}, on {self.ops.name})"

    def batch(self, index: Index, ops: Backend, dtype: str) -> Batch:
        if isinstance(index, range):
            x, y = self.x[index.start : index.stop, ...], self.y[index.start : index.stop, ...]
            weight = None if self.weight is None else self.weight[index.start : index.stop]
        else:
            i, take = self.ops.asarray(index), self.ops.xp.take
            x, y = take(self.x, i, axis=0), take(self.y, i, axis=0)
            weight = None if self.weight is None else take(self.weight, i, axis=0)
        integers = self.ops.xp.isdtype(y.dtype, "integral") and y.ndim == 1
        x = ops.asarray(x, dtype)
        y = ops.asarray(y, "int64" if integers else dtype)
        return Batch(x, y, None if weight is None else ops.asarray(weight, dtype))

    def check(self, check: Callable[[Array, Backend], None], ops: Backend) -> None:
        check(self.y, self.ops)


def _adopt(x: Any, name: str) -> tuple[Array, Backend]:
    """``x`` and the backend it lies on: lists and NumPy arrays on the host, others where they are."""
    host = get_backend("numpy")
    if hasattr(x, "__array_namespace__") or hasattr(x, "__dlpack__"):
        for backend in (host, get_backend()):
            if backend.owns(x):
                return x, backend
        kind = f"{type(x).__module__.split('.')[0]} array on {getattr(x, 'device', 'no device')}"
        raise TypeError(
            f"{name} is a {kind}, which backend '{get_backend().name}' does not own: convert it, or switch backends"
        )
    try:
        return host.xp.asarray(x), host
    except ValueError:
        raise TypeError(f"{name} is no array: its rows differ in length") from None


def _follow(x: Any, name: str, ops: Backend) -> Array:
    """``x`` on the backend of X: of the same library and device, or a list."""
    if hasattr(x, "__array_namespace__") or hasattr(x, "__dlpack__"):
        if not ops.owns(x):
            kind = f"{type(x).__module__.split('.')[0]} array on {getattr(x, 'device', 'no device')}"
            raise TypeError(f"{name} is a {kind} and X lies on '{ops.name}': bring both to one library and device")
        return x
    return ops.asarray(get_backend("numpy").xp.asarray(x))


def _first_bad(good: Array, claim: str, ops: Backend) -> None:
    xp = ops.xp
    if bool(ops.to_numpy(xp.all(good))):
        return
    rows = xp.min(xp.astype(xp.reshape(good, (good.shape[0], -1)), xp.int8), axis=1)
    raise ValueError(f"{claim}: first in row {int(ops.to_numpy(xp.argmin(rows)))}")


# Virtual data sets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Virtual(Dataset):
    """Sample i as a pure function of (seed, i): words of a stream made into features and a target.

    The same bits on every backend and machine and in every split into batches, because only integers and ``+ - * /
    sqrt`` in a fixed order are used. A subclass says how many words a sample takes and what to make of them.
    """

    n: int
    _: KW_ONLY
    seed: int = 0
    shape: Shape = field(init=False, repr=False, default=())
    classes: int | None = field(init=False, repr=False, default=None)
    outputs: int | None = field(init=False, repr=False, default=None)

    ordered: ClassVar[bool] = False  # type: ignore[misc]
    stored: ClassVar[bool] = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        streams.check_seed(self.seed)
        if not isinstance(self.n, int) or not 1 <= self.n <= LARGEST:
            raise ValueError(f"{type(self).__name__} n {self.n!r} is out of range: give a whole number in [1, 2**62]")
        self._shape_up()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _shape_up(self) -> None:
        """Check hyperparameters and set shape, classes and outputs."""
        raise NotImplementedError

    def _words(self) -> int:
        """64-bit words a sample is made of."""
        raise NotImplementedError

    def _samples(self, words: Array, ops: Backend) -> tuple[Array, Array]:
        """(n, words) uint64 -> features float64 (n, *shape) and targets int64 (n,) or float64 (n, o)."""
        raise NotImplementedError

    def batch(self, index: Index, ops: Backend, dtype: str) -> Batch:
        host = ops.generator
        blocks = range(-(-self._words() // 4))
        key = streams.key(self.seed, streams.DATA)
        if isinstance(index, range):
            n = len(index)
            parts = [host.xp.reshape(host.words(key, (j, 0, 0), 4 * index.start, 4 * n), (n, 4)) for j in blocks]
        else:
            parts = [host.words_at(key, (j, 0, 0), host.asarray(index)) for j in blocks]
        words = parts[0] if len(parts) == 1 else host.xp.concat(parts, axis=1)
        x, y = self._samples(words, host)
        return Batch(ops.asarray(x, dtype), ops.asarray(y, "int64" if self.classes else dtype), None)

    def _constants(self, count: int, ops: Backend) -> Array:
        """Words that belong to the set as a whole, (count,) uint64."""
        return ops.words(streams.key(self.seed, streams.DATA), (0, 1, 0), 0, count)


def _below(xp: Any, words: Array, n: int) -> Array:
    """Whole numbers in [0, n) of words, int64: the upper 32 bits times n, upper half (bias below n / 2**32)."""
    return xp.astype(((words >> 32) * n) >> 32, xp.int64)


def _classes(owner: object, n: int, least: int = 2) -> None:
    if not isinstance(n, int) or not least <= n < 2**16:
        raise ValueError(
            f"{type(owner).__name__} n_classes {n!r} is out of range: give a whole number in [{least}, 65536)"
        )


def _noise(owner: object, noise: float) -> None:
    if not 0 <= noise < float("inf"):
        raise ValueError(
            f"{type(owner).__name__} noise {noise!r} is out of range: give a standard deviation of at least 0"
        )


@dataclass(frozen=True)
class Spirals(Virtual):
    """Points on ``n_classes`` spiral arms around the origin, (n, 2), each arm a class.

    At t uniform in [0, 1), arm c stands at radius t and at ``turns * t + c / n_classes`` turns; then normal noise of
    standard deviation ``noise`` is added to both coordinates. Radii are between 0 and 1, so noise is on that scale.
    """

    n_classes: int = 3
    noise: float = 0.1
    turns: float = 1.0

    def _shape_up(self) -> None:
        _classes(self, self.n_classes)
        _noise(self, self.noise)
        self._set(shape=(2,), classes=self.n_classes)

    def _words(self) -> int:
        return 4

    def _samples(self, words: Array, ops: Backend) -> tuple[Array, Array]:
        xp = ops.xp
        label = _below(xp, words[:, 0], self.n_classes)
        x = self.arm(xp, exact.uniform64(xp, words[:, 1]), xp.astype(label, xp.float64))
        return x + self.noise * exact.normal(xp, words[:, 2:]), label

    def arm(self, xp: Any, t: Array, label: Array) -> Array:
        """The arm of ``label`` at ``t``, both (n,) float64, without noise: (n, 2)."""
        sine, cosine = exact.sincos(xp, self.turns * t + label / self.n_classes)
        return xp.stack([t * cosine, t * sine], axis=1)

    def best_accuracy(self, index: range | None = None, *, points: int = 512) -> tuple[float, float]:
        """The accuracy of the best possible classifier on the samples of ``index``, and the standard error of that
        figure.

        Bayes' rule with the density that the set is made by: each arm's, averaged over ``points`` places along it. By
        default on the first 20 000 samples; reckoned on the host.
        """
        index = range(min(20_000, self.n)) if index is None else index
        if self.noise == 0:
            return 1.0, 0.0
        ops = get_backend("numpy")
        xp, right, chunk = ops.xp, 0, 1000
        t = (xp.arange(points, dtype=xp.float64) + 0.5) / points
        arms = [self.arm(xp, t, xp.full_like(t, float(c))) for c in range(self.n_classes)]
        for start in range(index.start, index.stop, chunk):
            x, label, _ = self.batch(range(start, min(start + chunk, index.stop)), ops, "float64")
            density = []
            for arm in arms:
                square = (x[:, :1] - arm[None, :, 0]) ** 2 + (x[:, 1:] - arm[None, :, 1]) ** 2
                density.append(xp.sum(xp.exp(-0.5 / self.noise**2 * square), axis=1))
            right += int(xp.sum(xp.argmax(xp.stack(density, axis=1), axis=1) == label))
        accuracy = right / len(index)
        return accuracy, (accuracy * (1.0 - accuracy) / len(index)) ** 0.5


@dataclass(frozen=True)
class Blobs(Virtual):
    """Points around ``n_classes`` centres in ``n_features`` dimensions, (n, n_features), each centre a class.

    The centres are uniform in ``[-box, box)`` in every coordinate, the points normal around them with deviation
    ``noise``.
    """

    n_classes: int = 3
    n_features: int = 2
    noise: float = 1.0
    box: float = 10.0

    def _shape_up(self) -> None:
        _classes(self, self.n_classes)
        _noise(self, self.noise)
        _features(self, self.n_features)
        self._set(shape=(self.n_features,), classes=self.n_classes)

    def _words(self) -> int:
        return 1 + self.n_features

    def centres(self, ops: Backend) -> Array:
        """(n_classes, n_features) float64."""
        u = exact.uniform64(ops.xp, self._constants(self.n_classes * self.n_features, ops))
        return ops.xp.reshape(self.box * (2.0 * u - 1.0), (self.n_classes, self.n_features))

    def _samples(self, words: Array, ops: Backend) -> tuple[Array, Array]:
        label = _below(ops.xp, words[:, 0], self.n_classes)
        centre = ops.xp.take(self.centres(ops), label, axis=0)
        return centre + self.noise * exact.normal(ops.xp, words[:, 1 : 1 + self.n_features]), label


@dataclass(frozen=True)
class Moons(Virtual):
    """Two half circles that reach into each other, (n, 2), each a class, as scikit-learn's ``make_moons``.

    Class 0 is ``(cos a, sin a)``, class 1 ``(1 - cos a, 1/2 - sin a)``, a uniform in [0, pi); then normal ``noise``.
    """

    noise: float = 0.1

    def _shape_up(self) -> None:
        _noise(self, self.noise)
        self._set(shape=(2,), classes=2)

    def _words(self) -> int:
        return 4

    def _samples(self, words: Array, ops: Backend) -> tuple[Array, Array]:
        xp = ops.xp
        label = _below(xp, words[:, 0], 2)
        sine, cosine = exact.sincos(xp, 0.5 * exact.uniform64(xp, words[:, 1]))
        second = label == 1
        x = xp.stack([xp.where(second, 1.0 - cosine, cosine), xp.where(second, 0.5 - sine, sine)], axis=1)
        return x + self.noise * exact.normal(xp, words[:, 2:]), label


@dataclass(frozen=True)
class Teacher(Virtual):
    """What a random network says of normal features: (n, n_features) -> numbers (n, n_outputs), or labels.

    The teacher has one hidden layer of ``hidden`` ReLU units, weights normal with variance 2 / fan_in (1 / fan_in in
    the last layer) and biases normal with variance 1. With ``n_classes`` the target is the class of the largest of so
    many outputs, to which normal ``noise`` is added first; without, the target is the outputs plus that noise.
    """

    n_features: int = 20
    hidden: int = 16
    n_outputs: int = 1
    n_classes: int | None = None
    noise: float = 0.0

    def _shape_up(self) -> None:
        _features(self, self.n_features)
        _noise(self, self.noise)
        for name in ("hidden", "n_outputs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Teacher {name} {value!r} is out of range: give a positive whole number")
        if self.n_classes is not None:
            _classes(self, self.n_classes)
        self._set(shape=(self.n_features,), classes=self.n_classes)
        self._set(outputs=None if self.n_classes else self.n_outputs)

    @property
    def _wide(self) -> int:
        return self.n_classes or self.n_outputs

    def _words(self) -> int:
        return self.n_features + (self._wide if self.noise else 0)

    def _samples(self, words: Array, ops: Backend) -> tuple[Array, Array]:
        xp, i, h, o = ops.xp, self.n_features, self.hidden, self._wide
        w = exact.normal(xp, self._constants((i + 1) * h + (h + 1) * o, ops))
        first, last = xp.reshape(w[: (i + 1) * h], (i + 1, h)), xp.reshape(w[(i + 1) * h :], (h + 1, o))
        z = exact.normal(xp, words[:, : self._words()])
        x = z[:, :i]
        y = _affine(xp, xp.maximum(_affine(xp, x, first, (2.0 / i) ** 0.5), 0.0), last, (1.0 / h) ** 0.5)
        if self.noise:
            y = y + self.noise * z[:, i:]
        return x, xp.astype(xp.argmax(y, axis=1), xp.int64) if self.n_classes else y


def _affine(xp: Any, x: Array, w: Array, scale: float) -> Array:
    """``scale * (x @ w[:-1]) + w[-1]`` with its sums in a fixed order: no BLAS, so the same bits everywhere."""
    y = x[:, :1] * w[:1, :]
    for j in range(1, x.shape[1]):
        y = y + x[:, j : j + 1] * w[j : j + 1, :]
    return scale * y + w[-1:, :]


def _features(owner: object, n: int) -> None:
    if not isinstance(n, int) or not 1 <= n < 2**16:
        raise ValueError(f"{type(owner).__name__} n_features {n!r} is out of range: give a whole number in [1, 65536)")


DATASETS: dict[str, type[Virtual]] = {"spirals": Spirals, "blobs": Blobs, "moons": Moons, "teacher": Teacher}


def as_dataset(data: Any) -> Dataset:
    """A data set of ours as it is; (X, y) or (X, y, weight) as `Arrays`."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        return Arrays(*data)
    raise TypeError(
        f"data {type(data).__name__} is not understood: give a data set, or a tuple (X, y) or (X, y, weight)"
    )


# The loader -------------------------------------------------------------------------------------------------------


class Loader:
    """Step t -> batch, a pure function of (seed, t), in constant memory.

    The samples are gone through epoch by epoch; ``shuffle`` (by default where neighbours may resemble each other:
    stored arrays) takes each epoch in an order of its own. The last batch of an epoch is smaller, or left out with
    ``drop_last``.
    """

    def __init__(
        self, data: Any, batch_size: int, *, seed: int = 0, shuffle: bool | None = None, drop_last: bool = False
    ) -> None:
        self.data = as_dataset(data)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size {batch_size!r} is not a positive whole number")
        self.batch_size = batch_size
        self.seed = streams.check_seed(seed)
        self.shuffle = self.data.ordered if shuffle is None else shuffle
        n = self.data.n
        self.steps_per_epoch = n // batch_size if drop_last else -(-n // batch_size)
        if not self.steps_per_epoch:
            raise ValueError(
                f"batch_size {batch_size} is larger than {n} samples and drop_last leaves none: choose a smaller one"
            )
        self._chunk: tuple[int, int, Array] | None = None

    def __repr__(self) -> str:
        return f"Loader({self.data!r}, {self.batch_size}, seed={self.seed}, shuffle={self.shuffle})"

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps_per_epoch

    def index(self, step: int) -> Index:
        """Numbers of the samples of a step: a range, or int64 on the host where they are shuffled."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        stop = min(start + self.batch_size, self.data.n)
        if not self.shuffle or self.data.n == 1:
            return range(start, stop)
        parts, host = [], get_backend("numpy")
        while start < stop:
            first, numbers = self._shuffled(epoch, start // _CHUNK)
            end = min(stop, first + len(numbers))
            parts.append(numbers[start - first : end - first])
            start = end
        return parts[0] if len(parts) == 1 else host.xp.concat(parts)

    def _shuffled(self, epoch: int, chunk: int) -> tuple[int, Array]:
        """Where the chunk begins, and what its places hold in the order of that epoch."""
        if self._chunk is None or self._chunk[:2] != (epoch, chunk):
            host = get_backend("numpy")
            words = host.words(streams.key(self.seed, streams.ORDER), (epoch, 0, 0), 0, 8)
            keys = tuple(half for w in words.tolist() for half in (w & 0xFFFFFFFF, w >> 32))
            places = host.arange(chunk * _CHUNK, min((chunk + 1) * _CHUNK, self.data.n))
            self._chunk = (epoch, chunk, host.permute(places, self.data.n, keys))
        return chunk * _CHUNK, self._chunk[2]

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        """The batch of a step on ``ops``."""
        return self.data.batch(self.index(step), ops, dtype)
