"""What a backend does: the portable operations.

Each operation is of a size that suits a single kernel. Its body here, written with the array API alone, *is* its
specification. A subclass may replace it with something faster, and one test compares every replacement with its original.
A portable operation never calls another one through ``self``: otherwise the original would contain replacements, and
could not judge them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from math import prod
from typing import Any, NamedTuple, TypeVar

from tinynet_backends import exact, philox
from tinynet_backends.permutation import permute
from tinynet_backends.philox import Counter, Key

Array = Any
Formula = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_ANYWHERE = nullcontext()  # one for all: this is entered at every step


def portable(operation: F) -> F:
    """Mark an operation as one that a backend may replace."""
    operation.__portable__ = True  # type: ignore[attr-defined]
    return operation


class DenseLayer(NamedTuple):
    """``f(x @ w + b)``: w (i, o), b (o,) or None, and an elementwise f with its derivative ``df(xp, dy, x, y)``, or None."""

    w: Array
    b: Array | None
    f: Formula | None
    df: Formula | None


Gradients = tuple[Array | None, list[tuple[Array, Array | None]]]  # dx, then (dw, db) of each layer


class Backend:
    """An array library on one device, with the operations that a network is made of.

    ``xp`` is the array API namespace, ``device`` one of its devices, or None for its default. In shapes, n is the number of
    samples, i of inputs, o of outputs, k of classes, p of parameters; "..." stands for any leading axes.
    """

    on_host = False  # whether its arrays are NumPy's
    launches = False  # whether launches cost so much that several steps should share one

    def __init__(self, name: str, xp: Any, device: Any = None) -> None:
        self.name = name
        self.xp = xp
        self.device = device

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    # A process has one of each: a copy of what holds a backend holds the same, and a pickle has its name.

    def __copy__(self) -> Backend:
        return self

    def __deepcopy__(self, memo: Any) -> Backend:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        from tinynet_backends.switch import get_backend

        return get_backend, (self.name,)

    # Arrays in, arrays out -----------------------------------------------------------------------------------------

    def dtype(self, name: str) -> Any:
        """The library's dtype object of that name: "float32", "float64", "int64", …"""
        return getattr(self.xp, name)

    def real_name(self, dtype: Any) -> str:
        """Which of "float64" and "float32" a floating-point dtype of the library is."""
        return "float64" if dtype == self.dtype("float64") else "float32"

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        """``x``, numbers, a host array or an array of this backend, as an array of this backend; copied only if necessary."""
        kind = None if dtype is None else self.dtype(dtype)
        if self.owns(x):
            return x if kind is None else self.xp.astype(x, kind, copy=False)
        return self.xp.asarray(x, dtype=kind, device=self.device)

    def to_numpy(self, x: Array) -> Any:
        """``x`` as a NumPy array on the host. This waits for the device, and it is the only way back to the host."""
        import numpy as np

        return np.asarray(x)

    def owns(self, x: Any) -> bool:
        """Whether ``x`` is an array of this library on this device."""
        import array_api_compat

        if not array_api_compat.is_array_api_obj(x):
            return False
        if array_api_compat.array_namespace(x) is not self.xp:
            return False
        return self.device is None or bool(array_api_compat.device(x) == self.device)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with arbitrary values; ``dtype`` is the library's own."""
        return self.xp.empty(shape, dtype=dtype, device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of zeros; ``dtype`` is the library's own."""
        return self.xp.zeros(shape, dtype=dtype, device=self.device)

    def constant(self, shape: tuple[int, ...], value: float | tuple[float, ...], dtype: Any) -> Array:
        """An array filled with ``value`` or, if that is a tuple of k numbers, (k,). Callers may share it and must not change it."""
        if isinstance(value, tuple):
            return self.xp.asarray(value, dtype=dtype, device=self.device)
        return self.xp.full(shape, value, dtype=dtype, device=self.device)

    def arange(self, start: int, stop: int) -> Array:
        """The integers start, …, stop - 1 as int64."""
        return self.xp.arange(start, stop, dtype=self.xp.int64, device=self.device)

    @property
    def generator(self) -> Backend:
        """The backend that computes random words: this one, or one on the host if the library lacks uint64 arithmetic."""
        return self

    @cached_property
    def has_float64(self) -> bool:
        """Whether the device has float64, which some accelerators lack."""
        return "float64" in self.xp.__array_namespace_info__().dtypes(device=self.device)

    @property
    def widest(self) -> Any:
        """The dtype for sums that need many digits: float64 or, if the device lacks it, float32."""
        return self.xp.float64 if self.has_float64 else self.xp.float32

    def compile(self, step: Callable[..., R], *fixed: Any) -> Callable[..., R]:
        """A function ``compiled(…)`` that does ``step(*fixed, …)``, for many calls.

        ``fixed`` are arrays, or dicts and sequences of arrays, that stay where they are; their values may change between
        calls. All other arrays and numbers that change are arguments of ``compiled``. A backend may record what ``step`` does
        and then repeat it without running its Python code: side effects such as printing or counting then happen no longer,
        unless the step calls `as_written`. Results are valid until the next call: copy what you keep.
        """
        return partial(step, *fixed) if fixed else step

    def scan(self, step: Callable[..., Array]) -> Callable[[Sequence[Any], Array], None] | None:
        """A function ``run(inputs, out)`` that makes several calls of ``step``, which `compile` returned, without Python.

        Call n has the n-th entry of each of ``inputs`` as arguments (arrays and lists of numbers; None stands for an
        argument that is None), and its result is written to ``out[n, ...]``. None if single calls are as fast, and
        before the third call of ``step``.
        """
        return None

    def reads(self, x: Array) -> bool:
        """Whether it is faster if a compiled step itself does the `gather` of rows of ``x``, instead of being given them."""
        return False

    def as_written(self, reason: str) -> None:
        """Called within a compiled step: run its Python code at every call. ``reason`` is logged."""

    def active(self) -> AbstractContextManager[Any]:
        """A context in which, in this thread, this backend's device is the current device of the library."""
        return _ANYWHERE

    def undisturbed(self) -> AbstractContextManager[Any]:
        """A context in which the arrays that compiled steps hold fixed are changed by `update` in these steps alone.

        The caller promises this. A step may then use what the step before has computed from such arrays.
        """
        return _ANYWHERE

    def admit(self, needed: int, what: str) -> None:
        """MemoryError, with the figures, if ``what`` takes ``needed`` bytes and the device is known to have fewer."""

    def assign(self, to: Array, what: Array) -> None:
        """In place: ``to[...] = what``, for arrays of one shape and dtype."""
        to[...] = what

    def feed(self) -> Callable[[Sequence[Any]], list[Any]]:
        """A function that copies a list of host arrays (or None) to the device, while the device computes.

        It is for successive batches: use its results before the next call, because the call after that overwrites them.
        """
        return lambda arrays: [None if a is None else self.asarray(a) for a in arrays]

    def synchronize(self) -> None:
        """Wait until the device has finished."""

    def versions(self) -> str:
        """The library and its version, in one line, for reports."""
        return f"{getattr(self.xp, '__name__', self.name)} {getattr(self.xp, '__version__', '')}".strip()

    # Dense layers --------------------------------------------------------------------------------------------------

    @portable
    def affine(self, x: Array, w: Array, b: Array | None = None) -> Array:
        """``x @ w + b``: (..., n, i), (..., i, o), (..., o) -> (..., n, o)."""
        y = x @ w
        return y if b is None else y + b[..., None, :]

    @portable
    def affine_grad(
        self, dy: Array, x: Array, w: Array, bias: bool, need_dx: bool = True
    ) -> tuple[Array | None, Array, Array | None]:
        """The gradients of `affine`: dx (..., n, i), dw (..., i, o) and db (..., o).

        dx is None without ``need_dx``, db is None without ``bias``.
        """
        xp = self.xp
        dx = dy @ xp.matrix_transpose(w) if need_dx else None
        return dx, xp.matrix_transpose(x) @ dy, xp.sum(dy, axis=-2) if bias else None

    def dense(
        self, x: Array, layers: Sequence[DenseLayer], need_dx: bool
    ) -> tuple[Array, Callable[[Array], Gradients]] | None:
        """Several dense layers in a row: their output, (n, i) -> (n, o), and their backward pass, ``dy -> dx, [(dw, db), …]``.

        None, as here, if the backend has no faster way than one layer after the other.
        """
        return None

    # Elementwise ---------------------------------------------------------------------------------------------------

    @portable
    def elementwise(self, formula: Formula, *arrays: Array) -> Array:
        """``formula(xp, *arrays)``, for a formula that acts on each element alone: arrays of one shape and dtype -> the same."""
        return formula(self.xp, *arrays)

    @portable
    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        """In place: ``arrays[:] = formula(xp, *arrays, *inputs, *scalars)``, elementwise, for arrays of one shape.

        Arrays may overlap: all are read before the first is written.

        Ctrl-C takes effect when either all arrays are new or none is, so an interrupted run has consistent weights.
        """
        new = formula(self.xp, *arrays, *inputs, *scalars)
        # a result that is an array given is copied before that is overwritten
        given = [*arrays, *inputs]
        new = [self.xp.asarray(value, copy=True) if any(value is a for a in given) else value for value in new]
        interrupt = None
        while new is not None:
            try:
                for a, value in zip(arrays, new, strict=True):
                    a[...] = value
                new = None
            except KeyboardInterrupt as e:  # start over: writing a value twice does no harm
                interrupt = e
        if interrupt is not None:
            raise interrupt

    @portable
    def pack(self, parts: Sequence[Array], out: Array) -> Array:
        """In place: ``out`` (..., p) becomes the concatenation of the parts (..., *shape), each flattened in C order."""
        lead, start = out.shape[:-1], 0
        for part in parts:
            size = prod(part.shape[len(lead) :])
            out[..., start : start + size] = self.xp.reshape(part, (*lead, size))
            start += size
        return out

    @portable
    def clip_norm(self, g: Array, max_norm: float) -> Array:
        """In place: scale ``g`` (..., p) to a Euclidean norm of at most ``max_norm``; returns the norm before, (...).

        The factor is ``min(1, max_norm / (norm + 1e-6))``, as in PyTorch's ``clip_grad_norm_``. A NaN in g makes all of g
        NaN; an infinite element becomes NaN and all others 0.
        """
        xp = self.xp
        norm = xp.sqrt(xp.sum(g * g, axis=-1))
        g[...] = g * xp.minimum(max_norm / (norm + 1e-6), 1.0)[..., None]
        return norm

    # Rows ----------------------------------------------------------------------------------------------------------

    @portable
    def softmax(self, x: Array) -> Array:
        """The softmax over the last axis: (..., k) -> (..., k).

        Examples
        --------
        >>> import numpy as np
        >>> from tinynet_backends import get_backend
        >>> get_backend("numpy").softmax(np.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
        """
        xp = self.xp
        e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)

    @portable
    def softmax_grad(self, dy: Array, y: Array) -> Array:
        """The gradient of `softmax`, given its output ``y``: (..., k), (..., k) -> (..., k)."""
        return y * (dy - self.xp.sum(dy * y, axis=-1, keepdims=True))

    @portable
    def standardize(self, x: Array, mean: Array, scale: Array) -> Array:
        """``(x - mean) * scale``: (..., n, i), (..., i), (..., i) -> (..., n, i)."""
        return (x - mean[..., None, :]) * scale[..., None, :]

    @portable
    def normalize(
        self, x: Array, gamma: Array, beta: Array, axis: int, eps: float
    ) -> tuple[Array, Array, Array, Array, Array]:
        """``gamma * (x - mean) / sqrt(var + eps) + beta``, with mean and biased variance along ``axis``: (..., n, i) -> the same.

        gamma and beta are (..., i). Axis -1 is layer norm (Ba, Kiros, Hinton 2016), axis -2 batch norm (Ioffe, Szegedy
        2015). Returns y, and what the gradient and running statistics need: ``(x - mean) * rstd``, ``rstd = 1 / sqrt(var +
        eps)``, mean, var.
        """
        xp = self.xp
        # Sums over samples round in each term, which float32 shows: of 65536 samples around 10000, the mean was off by 3.
        total = xp.sum(x, axis=axis, keepdims=True, dtype=x.dtype if axis == -1 else self.widest)
        mean = xp.astype(total / x.shape[axis], x.dtype, copy=False)
        centred = x - mean
        var = xp.mean(centred * centred, axis=axis, keepdims=True)
        rstd = 1.0 / xp.sqrt(var + eps)
        normed = centred * rstd
        return normed * gamma[..., None, :] + beta[..., None, :], normed, rstd, mean, var

    @portable
    def normalize_grad(
        self, dy: Array, normed: Array, rstd: Array, gamma: Array, axis: int
    ) -> tuple[Array, Array, Array]:
        """The gradients of `normalize`: dx (..., n, i), dgamma (..., i), dbeta (..., i)."""
        xp = self.xp
        d = dy * gamma[..., None, :]
        along = xp.mean(d, axis=axis, keepdims=True), xp.mean(d * normed, axis=axis, keepdims=True)
        dx = rstd * (d - along[0] - normed * along[1])
        return dx, xp.sum(dy * normed, axis=-2), xp.sum(dy, axis=-2)

    # Losses: value and gradient together ---------------------------------------------------------------------------

    @portable
    def elementwise_loss(self, formula: Formula, y: Array, target: Array, scale: Array) -> tuple[Array, Array]:
        """``sum(scale * l)``, (...), and its gradient with respect to y (..., n, o), where ``l, dl = formula(xp, y, target)``.

        ``scale`` (..., n) is a factor for each sample; target has the shape of y.
        """
        xp = self.xp
        value, slope = formula(xp, y, target)
        rows = scale[..., None]
        return xp.sum(value * rows, axis=(-2, -1)), slope * rows

    @portable
    def softmax_cross_entropy(
        self, z: Array, target: Array, scale: Array, smoothing: float = 0.0, class_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """``-sum_i scale_i sum_k q_ik log softmax(z)_ik``, (...), and its gradient with respect to the logits z (..., n, k).

        ``scale`` (..., n) is a factor for each sample. ``target`` is integer labels (..., n) or probabilities t (..., n, k);
        ``q = class_weight * ((1 - smoothing) * t + smoothing / k)``, with class_weight (k,).
        """
        xp = self.xp
        k = z.shape[-1]
        if target.ndim < z.ndim:
            labels = xp.astype(target, xp.int64)  # of uint8, only 256 classes could be told apart
            target = xp.astype(labels[..., None] == self.arange(0, k), z.dtype)
        q = target * (1.0 - smoothing) + smoothing / k
        if class_weight is not None:
            q = q * class_weight
        shifted = z - xp.max(z, axis=-1, keepdims=True)
        e = xp.exp(shifted)
        total = xp.sum(e, axis=-1, keepdims=True)
        rows = scale[..., None]
        # 0 * -inf is 0 here: a class that cannot occur costs nothing where the target does not ask for it
        log = xp.where(q == 0, xp.zeros_like(q), shifted - xp.log(total))
        dz = (e / total * xp.sum(q, axis=-1, keepdims=True) - q) * rows
        return -xp.sum(q * log * rows, axis=(-2, -1)), dz

    @portable
    def total_weight(
        self, weight: Array | None, label: Array | None = None, class_weight: Array | None = None
    ) -> Array:
        """The sum of the samples' weights: (..., n) -> (...).

        With integer labels (..., n) and ``class_weight`` (k,), in the dtype of the sum, the weight of each sample is
        multiplied by ``class_weight[label]``; ``weight`` None stands for ones.
        """
        xp = self.xp
        if label is None or class_weight is None:
            return xp.sum(weight, axis=-1)
        flat = xp.astype(xp.reshape(label, (-1,)), xp.int64)
        of_label = xp.reshape(xp.take(class_weight, flat, axis=0), label.shape)
        return xp.sum(of_label if weight is None else of_label * weight, axis=-1)

    @portable
    def share_weight(self, weight: Array | None, total: Array, like: Array, parts: int = 1) -> Array:
        """``weight / (total * parts)``, or 0 if the total is 0: (..., n), (...) -> (..., n), in the dtype of ``like`` (..., n, k).

        ``weight`` None stands for ones. If the total is infinite, the result is NaN.
        """
        xp = self.xp
        if weight is None:
            weight = xp.ones(like.shape[:-1], dtype=like.dtype, device=self.device)
        total = xp.astype(total, like.dtype, copy=False) * parts
        normal = xp.maximum(total, xp.finfo(total.dtype).smallest_normal)
        return weight * (total / normal / normal)[..., None]

    # Numbers by counter --------------------------------------------------------------------------------------------

    @portable
    def words(self, key: Key, counter: Counter, start: int, n: int) -> Array:
        """Words start, …, start + n - 1 of a Philox4x64-10 stream, as `numpy.random.Philox` gives them: (n,) uint64."""
        return philox.words(self.xp, key, counter, start, n, device=self.device)

    @portable
    def words_at(self, key: Key, counter: Counter, index: Array, width: int) -> Array:
        """Rows of ``width`` words of such a stream; row i begins at word ``index[i] * width``: (n,) int64 -> (n, width) uint64."""
        return philox.words_at(self.xp, key, counter, index, width)

    @portable
    def normal(self, words: Array) -> Array:
        """Standard normal numbers from words: uint64 -> float64 of the same shape. See `exact.normal`."""
        return exact.normal(self.xp, words)

    @portable
    def halves(self, words: Array) -> Array:
        """Uniform numbers in [0, 1) from words, two from each: (..., n) uint64 -> (..., 2n) float64. See `exact.halves`."""
        return exact.halves(self.xp, words)

    @portable
    def dropout(self, x: Array, rate: float, key: Key, counter: Counter) -> tuple[Array, Array]:
        """``x / (1 - rate)`` where a uniform number is at least ``rate``, else 0; and the mask, True where x is kept.

        Both have the shape of x. The uniform numbers are those of the Philox stream of this key and counter.
        """
        xp = self.xp
        size = prod(x.shape)
        u = exact.uniform32(xp, philox.words(xp, key, counter, 0, (size + 1) // 2, device=self.device))
        keep = xp.reshape(u[:size] >= rate, x.shape)
        return xp.where(keep, x * (1.0 / (1.0 - rate)), xp.zeros_like(x)), keep

    def dropouts(self, x: Array, rate: float, keys: Sequence[Key], counter: Counter) -> tuple[Array, Array]:
        """`dropout` for several networks, x (networks, ...), each with its own key."""
        each = [self.dropout(x[n, ...], rate, key, counter) for n, key in enumerate(keys)]
        y, keep = (self.xp.stack(parts) for parts in zip(*each, strict=True))
        return y, keep

    @portable
    def dropout_grad(self, dy: Array, keep: Array, rate: float) -> Array:
        """The gradient of `dropout`, given its mask: ``dy / (1 - rate)`` where ``keep``, else 0, in the shape of dy."""
        return self.xp.where(keep, dy * (1.0 / (1.0 - rate)), self.xp.zeros_like(dy))

    @portable
    def permute(self, index: Any, n: int, keys: tuple[int, ...]) -> Array:
        """The places of indices in a keyed shuffle of range(n): a range of step 1 or (m,) int64 -> (m,) int64, in O(m) memory."""
        if isinstance(index, range):
            index = self.arange(index.start, index.stop)
        return permute(self.xp, index, n, keys)

    def permutes(self, index: Any, n: int, keys: Sequence[tuple[int, ...]]) -> Array:
        """`permute` in several shuffles, each with its own keys: (m,) -> (shuffles, m)."""
        if isinstance(index, range):
            index = self.arange(index.start, index.stop)
        table = self.asarray(keys, "uint64")
        each = [table[:, j][:, None] for j in range(table.shape[1])]
        return permute(self.xp, self.xp.broadcast_to(index, (len(keys), *index.shape)), n, each)

    # Samples -------------------------------------------------------------------------------------------------------

    @portable
    def sincos(self, turns: Array) -> tuple[Array, Array]:
        """The sine and cosine of ``2 pi turns``, for float64 of any shape. See `exact.sincos`."""
        return exact.sincos(self.xp, turns)

    @portable
    def arctan(self, y: Array, x: Array) -> Array:
        """The arc tangent of ``y / x`` for ``x >= 0``, both (n,) float64. See `exact.arctan`."""
        return exact.arctan(self.xp, y, x)

    @portable
    def log(self, x: Array) -> Array:
        """The natural logarithm of positive float64 of any shape. See `exact.log`."""
        return exact.log(self.xp, x)

    @portable
    def sum_in_order(self, x: Array) -> Array:
        """The sum of each row, added from left to right: (n, k) -> (n,)."""
        y = x[:, 0]
        for j in range(1, x.shape[1]):
            y = y + x[:, j]
        return y

    @portable
    def affine_in_order(self, x: Array, w: Array, b: Array | None = None, scale: float = 1.0) -> Array:
        """``scale * (x @ w) + b``, added in a fixed order, for the same bits everywhere: (n, i), (i, o), (1, o) -> (n, o)."""
        y = x[:, :1] * w[:1, :]
        for j in range(1, x.shape[1]):
            y = y + x[:, j : j + 1] * w[j : j + 1, :]
        y = y if scale == 1.0 else scale * y
        return y if b is None else y + b

    @portable
    def gather(self, arrays: Sequence[Array], index: Array, inside: bool = False) -> list[Array]:
        """Rows of arrays by index: each (n, ...), (m,) int64 -> (m, ...), or (networks, m) -> (networks, m, ...).

        ``inside`` promises that all indices are in [0, n).
        """
        xp, flat = self.xp, self.xp.reshape(index, (-1,))
        return [xp.reshape(xp.take(x, flat, axis=0), (*index.shape, *x.shape[1:])) for x in arrays]

    def draw(self, key: Key, counter: Counter, index: Any, width: int) -> Array:
        """The random words of samples, (n, width) uint64, for a range of step 1 or (n,) int64 indices.

        Those of sample i begin with word ``i * width`` of the Philox stream of this key and counter.
        """
        if isinstance(index, range):
            words = self.words(key, counter, width * index.start, width * len(index))
            return self.xp.reshape(words, (len(index), width))
        return self.words_at(key, counter, self.asarray(index), width)

    @portable
    def samples(
        self, formula: Formula, key: Key, counter: Counter, index: Any, width: int,
        tables: Sequence[Array], dtype: str, out: Sequence[Array] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Samples of a virtual data set: ``formula(ops, words, *tables)``, with the words that `draw` gives.

        The results are features (n, k), and labels (n,) int64 or targets (n, o). The formula and its tables are in float64,
        and each row must follow from its own words alone; the results are rounded to ``dtype``, "float32" or "float64".
        They may be written to ``out``, earlier results for as many samples, which is then returned.
        """
        xp, real = self.xp, self.dtype(dtype)
        x, y = formula(self, self.draw(key, counter, index, width), *tables)
        labels = xp.isdtype(y.dtype, "integral")
        return xp.astype(x, real, copy=False), y if labels else xp.astype(y, real, copy=False)


def portable_operations() -> tuple[str, ...]:
    """Names of the operations that a backend may replace.

    Examples
    --------
    >>> from tinynet_backends import portable_operations
    >>> portable_operations()[:3]
    ('affine', 'affine_grad', 'elementwise')
    """
    return tuple(name for name, f in vars(Backend).items() if getattr(f, "__portable__", False))


def overrides(backend: Backend) -> dict[str, Callable[..., Any]]:
    """The portable operations that ``backend`` replaces, by name.

    Examples
    --------
    >>> from tinynet_backends import get_backend, overrides
    >>> "elementwise" in overrides(get_backend("numpy"))
    True
    """
    own = {}
    for name in portable_operations():
        method = inspect.getattr_static(type(backend), name)
        if method is not vars(Backend)[name]:
            own[name] = getattr(backend, name)
    return own
