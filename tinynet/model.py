"""A model: a network together with its parameters, all of them in one vector ``theta``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from math import nan, prod
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tinynet_backends import Backend, get_backend

from tinynet import checks, streams
from tinynet.data import Batch, Columns, as_dataset
from tinynet.initializers import Shape
from tinynet.layers import Array, Context, Layer, Param, Params, Sequential, Spec, checked_forward, leaves
from tinynet.losses import Loss, check_loss
from tinynet.metrics import Metric, added, as_metrics, check_metrics
from tinynet.standardize import moments, standardizer
from tinynet.summary import Summary, drawing, summarize

if TYPE_CHECKING:
    from tinynet.history import History

DTYPES = ("float32", "float64")
_CACHED = 2**19  # numbers of a layer's output that stay in the cache until the next layer reads them

M = TypeVar("M", bound=Callable[..., Any])


def _on_its_device(method: M) -> M:
    """The method, with the model's device as the current one while it runs."""

    @wraps(method)
    def active(self: Model, *args: Any, **options: Any) -> Any:
        with self.ops.active():
            return method(self, *args, **options)

    return active  # type: ignore[return-value]


class Vector:
    """An attribute that is an array of which others are views: assigning to it copies, in place."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.kept = name, f"_{name}"

    def __get__(self, model: Any, owner: type | None = None) -> Array:
        return self if model is None else getattr(model, self.kept)

    def __set__(self, model: Any, value: Any) -> None:
        own = getattr(model, self.kept)
        if value is own:  # as after `model.theta *= 0.5`
            return
        new = model.ops.asarray(value, model.dtype)
        if new.shape != own.shape:
            raise ValueError(f"{self.name} {tuple(new.shape)} does not fit the model's: expected {tuple(own.shape)}")
        own[...] = new


class Vectors:
    """What has all its numbers in the vectors ``theta`` and ``state``, in a form that can be copied and pickled."""

    theta = Vector()
    state = Vector()
    ops: Backend

    def _bind(self, theta: Array, state: Array) -> None:
        """Make these the vectors, and everything that is cut out of them."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: the backend by its name, without the views that are cut out of the two vectors."""
        state = {name: value for name, value in vars(self).items() if name not in ("params", "_forward")}
        return state | {"ops": self.ops.name} | {name: self.ops.to_numpy(state[name]) for name in ("_theta", "_state")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, ops=get_backend(state["ops"]))
        # copies, also of what `copy.copy` has not copied and of maps that cannot be written
        self._bind(*(self._copy(state[name]) for name in ("_theta", "_state")))

    def _copy(self, values: Array) -> Array:
        """A host's vector in new memory of the backend's."""
        values = self.ops.asarray(values)
        copy = self.ops.empty(values.shape, values.dtype)
        copy[...] = values
        return copy


class Model(Vectors):
    """A layer with parameters on a backend.

    ``n_in`` is the number of features or the shape of one sample; every other width follows. ``seed`` decides the
    initial weights, which have the same bits on every backend. ``theta`` (p,) holds the parameters and ``state`` (s,)
    what layers keep beside them; both are changed in place only, so that `params`, views of them, remain valid: what is
    assigned to them is copied.

    Examples
    --------
    >>> model = tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), n_in=2)
    >>> model
    Model(Sequential(Dense(width=8), ReLU(), Dense(width=3)), 2 -> 3, 51 parameters, float32 on numpy)
    >>> model.theta.shape
    (51,)
    """

    def __init__(
        self,
        net: Layer,
        n_in: int | tuple[int, ...],
        *,
        seed: int = 0,
        backend: str | Backend | None = None,
        dtype: str = "float32",
    ) -> None:
        if not isinstance(net, Layer):
            raise TypeError(f"net {net!r} is not a layer: give one, such as Sequential(Dense(8), ReLU(), Dense(1))")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
        self.net = net
        self.in_shape = _shape(n_in)
        self.seed = streams.check_seed(seed)
        self.dtype = dtype
        self.ops = get_backend(backend)
        self.spec = net.build(self.in_shape)
        self.out_shape: Shape = self.spec.shape
        self.loss: Loss | None = None
        self.metrics: tuple[Metric, ...] = ()
        self.history: History | None = None
        self.columns: Columns | None = None  # names of columns and classes in the table that it was fitted to
        self._bind(*draw(self.spec, self.seed, self.ops, dtype))

    def _bind(self, theta: Array, state: Array) -> None:
        self._theta, self._state = theta, state
        params = views(theta, self.spec.params, self.ops)
        self.gradient_names = tuple(name for name, _ in leaves(self.spec.params))
        self.params = merge(params, views(state, self.spec.state, self.ops))
        widest = max(prod(self.in_shape), *(prod(p.shape[-1:]) for _, p in leaves(self.spec.params)), 1)
        self._rows = max(256, _CACHED // widest)
        ctx = Context(self.ops, seed=self.seed)
        # not self: a reference cycle would hold device memory until the next garbage collection
        net, out = self.net, self.out_shape
        self._forward = self.ops.compile(lambda params, x: checked_forward(net, out, params, x, ctx)[0], self.params)

    def __repr__(self) -> str:
        shapes = f"{_written(self.in_shape)} -> {_written(self.out_shape)}"
        return f"Model({self.net!r}, {shapes}, {self.theta.shape[0]} parameters, {self.dtype} on {self.ops.name})"

    def __str__(self) -> str:
        p = self.theta.shape[0]
        head = f"{type(self).__name__}, {p:,} parameters, {self.dtype} on {self.ops.name}"
        return f"{head}\n\n{drawing(self.net, self.in_shape)}"

    def summary(self) -> Summary:
        """Layers, shapes, parameters, bytes and FLOPs; ``print(model.summary())`` is a table."""
        return summarize(self.net, self.in_shape, self.dtype)

    def weights(self) -> dict[str, Array]:
        """Parameters and layer state by name, views of `theta` and `state`: "0.w" (i, o), "0.b" (o,), …

        Examples
        --------
        >>> model = tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), n_in=2)
        >>> {name: w.shape for name, w in model.weights().items()}
        {'0.w': (2, 8), '0.b': (8,), '2.w': (8, 3), '2.b': (3,)}
        """
        return dict(leaves(self.params))

    def to(self, backend: str | Backend) -> Model:
        """A copy of this model on another backend; its loss and metrics come along, its history does not."""
        copy = Model(self.net, self.in_shape, seed=self.seed, backend=backend, dtype=self.dtype)
        copy.theta[...] = copy.ops.asarray(self.ops.to_numpy(self.theta))
        copy.state[...] = copy.ops.asarray(self.ops.to_numpy(self.state))
        copy.loss, copy.metrics, copy.columns = self.loss, self.metrics, self.columns
        return copy

    # Using it ------------------------------------------------------------------------------------------------------

    @_on_its_device
    def predict(self, x: Any, *, batch_size: int | None = None) -> Array:
        """Outputs for X: (n, *in_shape) -> (n, *out_shape), an array of this model's backend.

        They are computed ``batch_size`` rows at a time, by default as many as fit in a cache.

        X is an array, a list of rows, or a data set, whose inputs are taken. No activation is added: the outputs are
        those of the last layer, so logits if the network was trained with a cross-entropy: see `predict_proba`.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(2.0)), n_in=2)
        >>> model.predict([[1.0, 0.5], [0.0, -1.0]]).tolist()
        [[3.0], [-2.0]]
        """
        data = as_inputs(x, self)
        out = self.ops.empty((data.n, *self.out_shape), self.ops.dtype(self.dtype))
        rows = self._rows if batch_size is None else checks.positive("batch_size", batch_size)
        for start in range(0, data.n, rows):
            stop = min(start + rows, data.n)
            out[start:stop, ...] = self._forward(data.batch(range(start, stop), self.ops, self.dtype).x)
        return out

    @_on_its_device
    def predict_labels(self, x: Any, *, batch_size: int | None = None) -> Array:
        """Labels (n,) int64 for X: the place of the largest output; with one output column, whether it is positive.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(2.0)), n_in=2)
        >>> model.predict_labels([[1.0, 0.5], [0.0, -1.0]]).tolist()
        [1, 0]
        """
        return as_labels(self.predict(x, batch_size=batch_size), self.ops.xp)

    @_on_its_device
    def predict_proba(self, x: Any, *, batch_size: int | None = None) -> Array:
        """Probabilities (n, k) for X, of a model whose loss is a cross-entropy: TypeError for any other.

        With `CrossEntropy` those of the classes; with `BinaryCrossEntropy` of each output for itself, or, if there is
        only one, those of labels 0 and 1.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(3), n_in=2)
        >>> history = model.fit(tn.data.Spirals(1000), epochs=1)
        >>> model.predict_proba([[0.5, 0.0]]).shape
        (1, 3)
        """
        if self.loss is None:
            raise ValueError("the model has no loss yet, by which outputs are probabilities: fit it")
        return self.loss.probabilities(self.predict(x, batch_size=batch_size), self.ops)

    @_on_its_device
    def evaluate(
        self,
        data: Any,
        *,
        loss: Loss | None = None,
        metrics: Iterable[str | Metric] | None = None,
        batch_size: int = 4096,
    ) -> dict[str, float]:
        """``{"loss": …, "accuracy": …}`` over all of ``data``, by default with the loss and metrics of the last fit.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(2.0)), n_in=1)
        >>> model.evaluate(([[1.0], [2.0]], [[2.0], [6.0]]), loss=tn.MeanSquaredError(), metrics=["mae"])
        {'loss': 2.0, 'mae': 1.0}
        """
        loss = self.loss if loss is None else loss
        if loss is None:
            raise ValueError("the model has no loss yet: fit it, or give evaluate(loss=…)")
        data, chosen = as_dataset(data, self.ops), self.metrics if metrics is None else as_metrics(metrics)
        check_fit(self, data, loss, chosen)
        evaluation = Evaluation(self, loss, chosen)
        return evaluation(data, checks.positive("batch_size", batch_size))

    @_on_its_device
    def adapt(self, data: Any, *, samples: int | None = None) -> None:
        """Set the leading `Standardize` by one pass over ``data``, or over its first ``samples``.

        Examples
        --------
        >>> model = tn.Model(tn.Sequential(tn.Standardize(), tn.Dense(1)), n_in=1)
        >>> model.adapt(([[1.0], [5.0]], [[0.0], [0.0]]))
        >>> {name: model.weights()[name].tolist() for name in ("0.mean", "0.scale")}
        {'0.mean': [3.0], '0.scale': [0.5]}
        """
        layer = standardizer(self.net, self.params)
        if layer is None:
            raise ValueError(f"{self.net!r} does not begin with Standardize(): put it first")
        data = as_dataset(data, self.ops)
        _check_inputs(data.shape, self)
        mean, deviation = moments(data, self.ops.generator, samples)
        xp = self.ops.generator.xp
        # The mean is rounded, so that a constant feature may come out with a deviation slightly above 0.
        least = 8.0 * xp.finfo(mean.dtype).eps * xp.abs(mean)
        scale = 1.0 / xp.where(deviation > least, deviation, 1.0)
        new = [self.ops.asarray(a, self.dtype) for a in (mean, scale)]
        if not bool(self.ops.to_numpy(self.ops.xp.all(self.ops.xp.isfinite(new[1]) & (new[1] > 0)))):
            raise ValueError(
                f"a feature varies too much or too little to be standardized in {self.dtype}: scale it before"
            )
        layer["mean"][...], layer["scale"][...] = new

    @_on_its_device
    def fit(self, data: Any, **options: Any) -> History:
        """Train on ``data``; the options are those of `tinynet.fit`, where they are explained."""
        from tinynet.fitting import fit

        return fit(self, data, **options)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to one safetensors file, whole or not at all; `tinynet.load` reads it.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1), n_in=2)
        >>> model.save("one.safetensors")
        >>> bool((tn.load("one.safetensors").theta == model.theta).all())
        True
        """
        from tinynet.files import save

        save(self, path)


def as_labels(y: Array, xp: Any) -> Array:
    """Labels (n,) int64 of outputs (n, o): the place of the largest or, of a single column, whether it is positive."""
    return xp.astype(y[:, 0] > 0 if y.shape[-1] == 1 else xp.argmax(y, axis=-1), xp.int64)


def without_standardize(model: Model) -> Model:
    """``model`` without its first layer, a `Standardize`, on the same vectors: what changes in one changes in the other."""
    _, *layers = model.net.layers  # type: ignore[attr-defined]
    rest = Model.__new__(Model)  # nothing is drawn for it
    vars(rest).update(vars(model), net=Sequential(*layers))
    rest.spec = rest.net.build(model.in_shape)
    rest._bind(model.theta, model.state[2 * prod(model.in_shape) :])
    return rest


class Trainable(Protocol):
    """What training and evaluation need of a model, or of many with a leading axis of networks in every array."""

    net: Layer
    ops: Backend
    dtype: str
    in_shape: Shape
    out_shape: Shape
    theta: Array
    state: Array
    params: dict[str, Any]
    gradient_names: tuple[str, ...]

    @property
    def seed(self) -> int | tuple[int, ...]: ...


def real_columns(target: Array, axes: int, like: Array, ops: Backend) -> Array:
    """Labels, which have ``axes`` axes, as they are; columns, which have one more, as real numbers, of the dtype of ``like``."""
    if target.ndim > axes and ops.xp.isdtype(target.dtype, ("integral", "bool")):
        return ops.xp.astype(target, like.dtype)
    return target


class Evaluation:
    """Loss and metrics over a data set, with all sums on the device."""

    def __init__(self, model: Trainable, loss: Loss, metrics: tuple[Metric, ...]) -> None:
        ops, ctx, lead = model.ops, Context(model.ops, seed=model.seed), model.theta.shape[:-1]

        def step(params: Params, x: Array, target: Array, weight: Array | None) -> list[list[Array]]:
            target = real_columns(target, 1, model.theta, ops)
            if not lead:
                return [sums(checked_forward(model.net, model.out_shape, params, x, ctx)[0], target, weight)]
            y = checked_forward(model.net, model.out_shape, params, ops.xp.broadcast_to(x, (*lead, *x.shape)), ctx)[0]
            return [sums(y[number, ...], target, weight) for number in range(*lead)]

        def sums(y: Array, target: Array, weight: Array | None) -> list[Array]:
            total = loss.denominator(target, weight, ops)
            value = loss(y, target, ops, weight, 1)[0]
            total = total + ops.xp.zeros_like(value) if isinstance(total, int) else ops.xp.astype(total, value.dtype)
            return [ops.xp.stack([value, total]), *(m.sums(y, target, weight, ops) for m in metrics)]

        self.model, self.loss, self.metrics = model, loss, metrics
        self.step = ops.compile(step, model.params)

    def __call__(self, data: Any, batch_size: int) -> dict[str, float]:
        """The scores of a single network."""
        return self.each(data, batch_size)[0]

    def each(self, data: Any, batch_size: int) -> list[dict[str, float]]:
        """The scores of each network."""
        ops = self.model.ops
        totals: list[list[list[float]]] = []
        for start in range(0, data.n, batch_size):
            batch = data.batch(range(start, min(start + batch_size, data.n)), ops, self.model.dtype)
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


class _Inputs:
    """Inputs without targets, as a data set that has only what `predict` needs."""

    def __init__(self, x: Array, ops: Backend) -> None:
        self.x, self.ops, self.n = x, ops, int(x.shape[0])

    def batch(self, index: range, ops: Backend, dtype: str) -> Batch:
        return Batch(ops.asarray(self.x[index.start : index.stop, ...], dtype), None, None)


def as_inputs(x: Any, model: Trainable) -> Any:
    """``x`` as something with ``n`` and ``batch``; ValueError unless its shape is that of the model's inputs."""
    from tinynet.data.arrays import adopt, check_unmasked
    from tinynet.data.dataset import Dataset

    if isinstance(x, Dataset):
        _check_inputs(x.shape, model)
        return x
    check_unmasked(x, "X")
    array, ops = (model.ops.xp.asarray(x), model.ops) if model.ops.owns(x) else adopt(x, "X")
    if array.ndim < 2:
        raise ValueError(f"X {tuple(array.shape)} is not a table: expected (n, {_written(model.in_shape)})")
    if ops.xp.isdtype(array.dtype, "complex floating") or not ops.xp.isdtype(array.dtype, ("numeric", "bool")):
        raise TypeError(f"X of dtype {array.dtype} is not numeric: give real or whole numbers")
    _check_inputs(tuple(array.shape[1:]), model)
    return _Inputs(array, ops)


def _check_inputs(shape: Shape, model: Trainable) -> None:
    if tuple(shape) != model.in_shape:
        raise ValueError(f"samples of shape {tuple(shape)} do not fit the model: expected {model.in_shape}")


def check_fit(model: Trainable, data: Any, loss: Loss, metrics: Iterable[Metric] = ()) -> None:
    """ValueError unless the data's inputs fit the model and its targets the loss, the metrics and the model's outputs.

    TypeError unless ``loss`` is a loss.
    """
    check_loss(loss)
    check_metrics(metrics, data.classes is not None)
    _check_inputs(data.shape, model)
    out = model.out_shape
    if len(out) != 1:
        raise ValueError(f"the network makes {out} of a sample and a loss takes vectors: put Flatten() last")
    k = loss.classes(out[-1])
    if not data.stored:
        if data.classes is None and data.outputs != out[-1]:
            raise ValueError(
                f"targets of width {data.outputs} do not fit outputs (n, {out[-1]}): expected width {out[-1]}"
            )
        if data.classes is not None and not k:
            raise ValueError(f"{type(loss).__name__} does not take labels: use CrossEntropy, or other data")
    fits = data.classes is None or data.classes <= k
    if fits or data.stored:  # of stored data it names the row
        with model.ops.active():
            data.check(lambda target, ops: loss.check(out, target, ops), model.ops)
    if not fits:
        other = ", or BinaryCrossEntropy" if data.classes == 2 else ""
        raise ValueError(
            f"{data.classes} classes do not fit outputs (n, {out[-1]}): expected width {data.classes}{other}"
        )


def draw(spec: Spec, seed: int, ops: Backend, dtype: str) -> Iterator[Array]:
    """The initial weights (p,) and state (s,) that a seed makes."""
    host, key, first = get_backend("numpy"), streams.key(seed, streams.WEIGHTS), 0
    for tree in (spec.params, spec.state):
        requests = [p for _, p in leaves(tree)]
        vector = ops.empty((sum(prod(p.shape) for p in requests),), ops.dtype(dtype))
        stop = 0
        for number, p in enumerate(requests, start=first):
            start, stop = stop, stop + prod(p.shape)
            drawn = p.init.draw(p.shape, key, (number, 0, 0), host)
            vector[start:stop] = ops.asarray(host.xp.reshape(drawn, (-1,)), dtype)
        first += len(requests)
        yield vector


def views(vector: Array, tree: Mapping[str, Any], ops: Backend) -> dict[str, Any]:
    """Views of ``vector`` (..., p), one after another, in the shapes of the `Param` in ``tree``."""
    start = 0

    def walk(tree: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal start
        out: dict[str, Any] = {}
        for name, value in tree.items():
            if isinstance(value, Param):
                stop = start + prod(value.shape)
                out[name] = ops.xp.reshape(vector[..., start:stop], (*vector.shape[:-1], *value.shape))
                start = stop
            else:
                out[name] = walk(value)
        return out

    return walk(tree)


def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Two nested dicts as one."""
    out = dict(a)
    for name, value in b.items():
        out[name] = merge(out[name], value) if isinstance(out.get(name), dict) else value
    return out


def _shape(n_in: int | tuple[int, ...]) -> Shape:
    shape = [checks.as_int(d) or 0 for d in (n_in if isinstance(n_in, (tuple, list)) else (n_in,))]
    if not shape or min(shape) < 1:
        shown = checks.short_repr(n_in)
        raise ValueError(f"n_in {shown} is out of range: give the number of features, or the shape of one sample")
    return tuple(shape)


def _written(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)
