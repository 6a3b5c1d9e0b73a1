"""A model: a network together with its parameters, all of them in one vector ``theta``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from os import PathLike
from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet import checks, streams
from tinynet.data import as_dataset
from tinynet.evaluation import Evaluation
from tinynet.history import History
from tinynet.initializers import Shape
from tinynet.labels import as_labels, boundary
from tinynet.layers import Array, Context, Layer, checked_build, checked_forward, checked_gradients, leaves
from tinynet.losses import Loss
from tinynet.matching import as_inputs, check_fit, check_inputs
from tinynet.metrics import Metric, as_metrics
from tinynet.network import Network
from tinynet.parameters import Views, draw, on_its_device, vector, views
from tinynet.sequential import Sequential
from tinynet.standardize import mean_and_scale, standardizer
from tinynet.summary import Summary, drawing, summarize


class Model(Network):
    """A network with its parameters, on a backend.

    ``net`` is a layer, usually a `Sequential`. ``n_in`` is the number of features, or the shape of one sample; all other
    widths follow from it. ``seed``, an integer in [0, 2**64), decides the initial weights, which have the same bits on
    every backend. ``backend`` is a name or a `Backend`, by default the current one. ``dtype``, "float32" or "float64",
    is that of parameters and outputs.

    ``theta`` (p,) holds all parameters, ``state`` (s,) the other arrays of the layers, such as running statistics. Both
    are changed in place only, because the arrays in ``params`` and those that `weights` returns are views of them: an
    assignment ``model.theta = values`` copies the values. ``loss``, ``metrics``, ``history`` and ``columns`` (the names
    in a table) are those of the last fit.

    TypeError or ValueError for other arguments, and for layers whose shapes do not fit together.

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
        self._plan(net, n_in, seed, backend, dtype)
        with self.ops.active():
            self._bind(*draw(self.spec, self.seed, self.ops, dtype))

    def _plan(
        self, net: Layer, n_in: int | tuple[int, ...], seed: int, backend: str | Backend | None, dtype: str
    ) -> None:
        """Set everything but the vectors and their views."""
        if not isinstance(net, Layer):
            raise TypeError(f"net {net!r} is not a layer: give one, such as Sequential(Dense(8), ReLU(), Dense(1))")
        if not isinstance(dtype, str) or dtype not in checks.DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}: choose from {', '.join(checks.DTYPES)}")
        self.net = net
        self.in_shape = _shape(n_in)
        self.seed = streams.check_seed(seed)
        self.dtype = dtype
        self.ops = get_backend(backend)
        self.spec = checked_build(net, self.in_shape)
        self.out_shape = self.spec.shape
        self.history: History | None = None

    def __repr__(self) -> str:
        shapes = f"{checks.written_shape(self.in_shape)} -> {checks.written_shape(self.out_shape)}"
        return f"Model({self.net!r}, {shapes}, {self.theta.shape[0]} parameters, {self.dtype} on {self.ops.name})"

    def __str__(self) -> str:
        p = self.theta.shape[0]
        head = f"{type(self).__name__}, {p:,} parameters, {self.dtype} on {self.ops.name}"
        return f"{head}\n\n{drawing(self.net, self.in_shape)}"

    def summary(self) -> Summary:
        """Shapes, parameters, bytes and FLOPs of each layer, as a table.

        Examples
        --------
        >>> model = tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), n_in=2)
        >>> print(model.summary())
           layer           output  parameters  bytes  FLOPs
        ───────────────────────────────────────────────────
        0  Dense(width=8)       8          24     96     32
        1  ReLU()               8           0      0      0
        2  Dense(width=3)       3          27    108     48
        ───────────────────────────────────────────────────
                            total          51    204     80
        """
        return summarize(self.net, self.in_shape, self.dtype)

    def weights(self, vector: Array | None = None) -> dict[str, Array]:
        """Parameters and layer state by name, as views of ``theta`` and ``state``: "0.w" (i, o), "0.b" (o,), …

        An assignment to a name copies the values into the view; KeyError for a name that is not there. If a ``vector``
        (p,) is given, such as a gradient, its parts are returned instead, under the names of the parameters. ValueError
        if its shape is not that of ``theta``.

        Examples
        --------
        >>> model = tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), n_in=2)
        >>> {name: w.shape for name, w in model.weights().items()}
        {'0.w': (2, 8), '0.b': (8,), '2.w': (8, 3), '2.b': (3,)}
        """
        if vector is None:
            return Views(leaves(self.params), self.ops)
        if tuple(vector.shape) != tuple(self.theta.shape):
            raise ValueError(f"vector {tuple(vector.shape)} is not like theta: expected {tuple(self.theta.shape)}")
        return Views(leaves(views(vector, self.spec.params, self.ops)), self.ops)

    def to(self, backend: str | Backend) -> Model:
        """A copy of this model on another backend, with its loss, metrics and columns, but without its history."""
        copy = undrawn(self.net, self.in_shape, seed=self.seed, backend=backend, dtype=self.dtype)
        copy.theta, copy.state = self.ops.to_numpy(self.theta), self.ops.to_numpy(self.state)
        copy.loss, copy.metrics, copy.columns = self.loss, self.metrics, self.columns
        return copy

    # Using it ------------------------------------------------------------------------------------------------------

    @on_its_device
    def predict(self, x: Any, *, batch_size: int | None = None) -> Array:
        """Outputs of the network: (n, *in_shape) -> (n, *out_shape), an array of the model's backend.

        ``x`` is an array, a list of rows, a data frame, or a data set, whose inputs are used. The outputs are those of the
        last layer, so they are logits if the network was trained with a cross-entropy; see `predict_proba`. They are computed
        ``batch_size`` rows at a time, by default as many as fit in a cache. ValueError if the samples do not have the
        shape ``in_shape``.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(2.0)), n_in=2)
        >>> model.predict([[1.0, 0.5], [0.0, -1.0]]).tolist()
        [[3.0], [-2.0]]
        """
        return self._outputs(x, batch_size)

    @on_its_device
    def forward(
        self, x: Any, *, train: bool = False, step: int = 0
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """``y, backprop``: outputs (n, *out_shape) of one forward pass, and a function for the backward pass.

        ``dx, gradient = backprop(dy)`` takes the gradient of a loss with respect to the outputs and gives those with
        respect to ``x`` and ``theta`` (p,). Call it before ``x``, the outputs or the weights change. With ``train``,
        layers act as in training step ``step``: dropout uses the masks of that step, and batch norm the statistics of
        the batch, with which it also updates its running statistics.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(2.0)), n_in=2)
        >>> y, backprop = model.forward([[1.0, 0.5], [0.0, -1.0]])
        >>> dx, gradient = backprop([[1.0], [1.0]])  # of the sum of the outputs
        >>> y.tolist(), dx.tolist(), gradient.tolist()
        ([[3.0], [-2.0]], [[2.0, 2.0], [2.0, 2.0]], [1.0, -0.5, 2.0])
        """
        data = as_inputs(x, self)
        x = data.batch(range(data.n), self.ops, self.dtype).x
        ctx = Context(self.ops, train, self.seed, step)
        y, inner = checked_forward(self.net, self.out_shape, self.params, x, ctx)

        def backprop(dy: Array) -> tuple[Array, Array]:
            with self.ops.active():
                dy = self.ops.asarray(dy, self.dtype)
                if tuple(dy.shape) != tuple(y.shape):
                    raise ValueError(f"dy {tuple(dy.shape)} does not fit the outputs: expected {tuple(y.shape)}")
                dx, dparams = inner(dy)
                gradient = self.ops.empty(self.theta.shape, self.theta.dtype)
                self.ops.pack(checked_gradients(self.gradient_names, dparams, self.params), gradient)
                return dx, gradient

        return y, backprop

    @on_its_device
    def predict_labels(self, x: Any, *, batch_size: int | None = None) -> Array:
        """Predicted labels, (n, *in_shape) -> (n,) int64: the index of the largest output.

        With a single output the label is 1 if the output is positive, else 0; if the network ends in `Sigmoid`, 1 if the
        output is above 1/2. ValueError for outputs that are NaN, as those of a row with a missing value are.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(2.0)), n_in=2)
        >>> model.predict_labels([[1.0, 0.5], [0.0, -1.0]]).tolist()
        [1, 0]
        """
        y = self.predict(x, batch_size=batch_size)
        row = checks.first_false_row(y == y, self.ops)
        if row is not None:  # every comparison with NaN is false: it would be of class 0
            raise ValueError(f"the outputs of row {row} are NaN, which is no label: fill or drop what X lacks there")
        return as_labels(y, self.ops.xp, boundary(self.net))

    @on_its_device
    def predict_proba(self, x: Any, *, batch_size: int | None = None) -> Array:
        """Probabilities, (n, *in_shape) -> (n, k), if the model was trained with a cross-entropy.

        With `CrossEntropy` they are the softmax of the outputs. With `BinaryCrossEntropy` they are the sigmoid of each
        output or, if there is only one output, the probabilities of labels 0 and 1. TypeError for any other loss,
        ValueError before the first fit, unless ``model.loss`` was set.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(3), n_in=2)
        >>> history = model.fit(tn.data.Spirals(1000), epochs=1)
        >>> model.predict_proba([[0.5, 0.0]]).shape
        (1, 3)
        """
        if self.loss is None:
            raise ValueError("the model has no loss yet, by which outputs are probabilities: fit it, or set model.loss")
        return self.loss.probabilities(self.predict(x, batch_size=batch_size), self.ops)

    @on_its_device
    def evaluate(
        self,
        data: Any,
        *,
        loss: Loss | None = None,
        metrics: Iterable[str | Metric] | None = None,
        batch_size: int = 4096,
    ) -> dict[str, float]:
        """``{"loss": …, "accuracy": …}`` over all of ``data``, as floats.

        ``data`` is what `fit` takes, except for loaders and batches. ``loss`` and ``metrics`` are by default those of the
        last fit. ``batch_size`` samples are computed at a time, which changes memory and rounding only. ValueError if
        the data do not fit the model, or if there is no loss yet.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(2.0)), n_in=1)
        >>> model.evaluate(([[1.0], [2.0]], [[2.0], [6.0]]), loss=tn.MeanSquaredError(), metrics=["mae"])
        {'loss': 2.0, 'mae': 1.0}
        """
        loss = self.loss if loss is None else loss
        if loss is None:
            raise ValueError("the model has no loss yet: fit it, or give evaluate(loss=…)")
        data = as_dataset(data, self.ops, self.columns)
        chosen = self.metrics if metrics is None else as_metrics(metrics)
        check_fit(self, data, loss, chosen)
        evaluation = Evaluation(self, loss, chosen)
        return evaluation(data, checks.positive("batch_size", batch_size))

    @on_its_device
    def adapt(self, data: Any, *, samples: int | None = None) -> None:
        """Set the leading `Standardize` to the mean and scale of ``data``, or of its first ``samples`` samples.

        It takes one pass over the data; sample weights count. ValueError if the network does not begin with `Standardize`,
        or if a feature varies too much or too little for the model's dtype. A feature that varies so little around its mean
        that float32 rounds most of it away, as seconds since 1970 do within an hour, is a warning of the logger ``tinynet``.

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
        data = as_dataset(data, self.ops, self.columns)
        check_inputs(data.shape, self)
        layer["mean"][...], layer["scale"][...] = mean_and_scale(data, self.dtype, self.ops, samples)

    @on_its_device
    def fit(self, data: Any, **options: Any) -> History:
        """Train on ``data`` and return the history; the options are those of `tinynet.fit`."""
        from tinynet.fitting import fit

        return fit(self, data, **options)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a safetensors file, completely or not at all; `tinynet.load` reads it.

        The file holds weights, layer state, architecture, loss, metrics and columns, and no code. TypeError for a layer of
        your own that is not in ``tinynet.registry.TABLE``, or could not be made again from its hyperparameters. Metrics of your
        own that are not in that table are left out.

        Examples
        --------
        >>> model = tn.Model(tn.Dense(1), n_in=2)
        >>> model.save("one.safetensors")
        >>> bool((tn.load("one.safetensors").theta == model.theta).all())
        True
        """
        from tinynet.files import save

        save(self, path)


def undrawn(net: Layer, n_in: int | Shape, *, seed: int, backend: str | Backend | None, dtype: str) -> Model:
    """A model without initial weights: its caller sets ``theta`` and ``state``, which takes less time than to draw them."""
    model = Model.__new__(Model)
    model._plan(net, n_in, seed, backend, dtype)
    with model.ops.active():
        model._bind(*(vector(tree, model.ops, dtype) for tree in (model.spec.params, model.spec.state)))
    return model


def without_standardize(model: Model) -> Model:
    """``model`` without its first layer, a `Standardize`, on the same vectors: what changes in one changes in the other."""
    _, *layers = model.net.layers  # type: ignore[attr-defined]
    rest = Model.__new__(Model)  # draws no weights
    vars(rest).update(vars(model), net=Sequential(*layers))
    rest.spec = rest.net.build(model.in_shape)
    rest._bind(model.theta, model.state[2 * prod(model.in_shape) :])
    return rest


def _shape(n_in: int | tuple[int, ...]) -> Shape:
    shape = [checks.as_int(d) or 0 for d in (n_in if isinstance(n_in, (tuple, list)) else (n_in,))]
    if not shape or min(shape) < 1:
        shown = checks.short_repr(n_in)
        raise ValueError(f"n_in {shown} is out of range: give the number of features, or the shape of one sample")
    return tuple(shape)
