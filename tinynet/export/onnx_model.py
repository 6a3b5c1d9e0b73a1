"""Models as ONNX: raw rows in, and probabilities out if the loss is computed from logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from tinynet_backends.tracing import Untraceable

from tinynet import activations, dense, frozen, losses, regularization, sequential, standardize
from tinynet.activations import Activation
from tinynet.atomic import write_atomically
from tinynet.checks import DTYPES
from tinynet.export.graph import INPUT, LOGITS, OPSET, PROBABILITIES, Graph, Tensor
from tinynet.files import is_finite
from tinynet.layers import Layer
from tinynet.model import Model

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST = 2**31 - 2**20  # bytes of weights: a protobuf message holds 2 GiB, which includes the graph
BATCH = "n"

Names = Mapping[str, Any]  # a layer's parameters: name -> the tensor, or the Names of an inner layer
Exporter = Callable[[Any, Names, Tensor, Graph], Tensor]


def to_onnx(
    model: Model,
    path: str | PathLike[str] | None = None,
    *,
    probabilities: bool = True,
    classes: Sequence[str | int] | None = None,
) -> ModelProto:
    """``model`` at inference as an ONNX model (opset 20), also written to ``path``, completely or not at all.

    Its input "x" is (n, *in_shape) for any number of rows n; weights and rows have the model's dtype. A leading
    `Standardize` is included. The output is "probabilities" if the model's loss is `CrossEntropy` (a softmax) or
    `BinaryCrossEntropy` (a sigmoid; a single output is then the probability of label 1 alone, (n, 1)); otherwise, or with
    ``probabilities=False``, it is "y", the output of `Model.predict`, which with `Poisson` is the logarithm of the expected
    count. ``classes`` are the names of the classes, by default those of the table that the model was fitted to, stored as
    JSON in the metadata entry "classes"; the names of features, in the order of the inputs, are in "features" if the model
    was fitted to a table.

    TypeError for a layer without ONNX operators: add layers of your own to `NODES`. ValueError for weights that are not
    finite or take more than 2 GiB, and for ``classes`` that repeat or whose number is not the model's. ImportError without
    the extra ``onnx``.
    """
    try:
        import onnx
    except ImportError:
        raise ImportError("onnx is needed for this export: install the extra onnx", name="onnx") from None
    from tinynet import __version__

    graph = Graph(model.dtype)
    y = export_layer(model.net, _weights(model, graph), INPUT, graph)
    op, attributes = _head(model.loss if probabilities else None)
    out = graph.add(op, y, name=LOGITS if op == "Identity" else PROBABILITIES, **attributes)

    helper, opset = onnx.helper, onnx.helper.make_opsetid("", OPSET)
    rows, predictions = (
        helper.make_tensor_value_info(name, graph.kind, [BATCH, *shape])
        for name, shape in ((INPUT, model.in_shape), (out, model.out_shape))
    )
    constants = list(graph.constants.values())
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "tinynet", [rows], [predictions], constants, doc_string=repr(model.net)),
        producer_name="tinynet",
        producer_version=__version__,
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),  # older runtimes reject newer ones outright
    )
    helper.set_model_props(proto, _metadata(model, classes))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ValueError(f"the graph of {model.net!r} is not valid ONNX: {' '.join(str(e).split())}") from None
    if path is not None:
        write_atomically(path, proto.SerializeToString(deterministic=True))
    return proto


def _weights(model: Model, graph: Graph) -> Names:
    """Parameters and layer state as constants of the graph, under their names in `Model.weights`."""
    size = (model.theta.shape[0] + model.state.shape[0]) * DTYPES[model.dtype]
    if size > LARGEST:
        raise ValueError(
            f"weights of {size} bytes do not fit into an ONNX file: expected at most {LARGEST}; save() takes any"
        )

    def walk(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                names[key] = walk(value, f"{name}.")
                continue
            host = model.ops.to_numpy(value)
            if not is_finite(host):
                raise ValueError(f"weight {name!r} has a value that is NaN or infinite: the model cannot be exported")
            names[key] = graph.constant(host, name)
        return names

    return walk(model.params, "")


def _head(loss: losses.Loss | None) -> tuple[str, dict[str, Any]]:
    """The operator, with attributes, that turns the inputs of ``loss`` into predictions: logits into probabilities."""
    if isinstance(loss, losses.CrossEntropy):
        return "Softmax", {"axis": -1}
    return ("Sigmoid" if isinstance(loss, losses.BinaryCrossEntropy) else "Identity"), {}


def _metadata(model: Model, classes: Sequence[str | int] | None) -> dict[str, str]:
    """The names of features and of classes as JSON, where they have names."""
    known = model.columns
    classes = known.classes if classes is None and known else classes
    features = {"features": json.dumps(known.features)} if known else {}
    return features if classes is None else {**features, "classes": _as_json(classes, model)}


def _as_json(classes: Any, model: Model) -> str:
    names = [name.item() if hasattr(name, "item") else name for name in classes]  # numbers of NumPy's as Python's
    width = model.out_shape[-1]
    if len(names) != max(width, 2):
        raise ValueError(f"{len(names)} classes do not fit outputs (n, {width}): expected {max(width, 2)}")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise ValueError(f"classes {names!r} has {twice[0]!r} twice: give each class a name of its own")
    try:
        return json.dumps(names)
    except TypeError:
        raise TypeError(f"classes {names!r} are not names: give strings or numbers") from None


# Layers ---------------------------------------------------------------------------------------------------------------


def export_layer(layer: Layer, params: Names, x: Tensor, graph: Graph) -> Tensor:
    """Add ``layer`` to ``graph`` and return the name of its output for the input ``x``, as ``layer.forward`` does."""
    export = NODES.get(type(layer))  # not that of a base class, whose forward a subclass may override
    if export is None and isinstance(layer, Activation) and type(layer).forward is Activation.forward:
        export = _formula
    place = f"layer {graph.path[:-1]}" if graph.path else "the network"
    kind = type(layer).__name__
    if export is None:
        raise TypeError(
            f"{place}, {layer!r}, cannot be exported: {kind} is not in the table of ONNX operators: "
            f"tinynet.export.NODES[{kind}] = lambda layer, params, x, graph: graph.add(…) adds it"
        )
    try:
        return export(layer, params, x, graph)
    except Untraceable as e:
        raise TypeError(
            f"{place}, {layer!r}, cannot be exported: its formula cannot be traced ({e}): "
            f"tinynet.export.NODES[{kind}] = lambda layer, params, x, graph: graph.add(…) gives its operators"
        ) from None


def _formula(layer: Any, params: Names, x: Tensor, graph: Graph) -> Tensor:
    return graph.formula(layer.f, x)


def _operator(name: str, **attributes: Any) -> Exporter:
    """A layer that is one ONNX operator, whatever its hyperparameters."""
    return lambda layer, params, x, graph: graph.add(name, x, **attributes)


def _float32(op: Exporter) -> Exporter:
    """``op`` in float32, the only type in which ONNX Runtime has it; in float64 the layer's own formula."""
    return lambda layer, params, x, graph: (op if graph.dtype == "float32" else _formula)(layer, params, x, graph)


def _sequential(layer: sequential.Sequential, params: Names, x: Tensor, graph: Graph) -> Tensor:
    for number, inner in enumerate(layer.layers):
        x = export_layer(inner, params.get(str(number), {}), x, graph.child(number))
    return x


def _dense(layer: dense.Dense, params: Names, x: Tensor, graph: Graph) -> Tensor:
    return graph.add("Gemm", x, params["w"], *([params["b"]] if layer.bias else []))


def _standardize(layer: standardize.Standardize, params: Names, x: Tensor, graph: Graph) -> Tensor:
    return graph.add("Mul", graph.add("Sub", x, params["mean"]), params["scale"])


def _layer_norm(layer: regularization.LayerNorm, params: Names, x: Tensor, graph: Graph) -> Tensor:
    gamma, beta = params["gamma"], params["beta"]
    # the type in which mean and deviation are computed is an attribute, float32 by default
    return graph.add("LayerNormalization", x, gamma, beta, axis=-1, epsilon=layer.epsilon, stash_type=graph.kind)


def _batch_norm(layer: regularization.BatchNorm, params: Names, x: Tensor, graph: Graph) -> Tensor:
    """In separate operators, as `BatchNorm` computes it.

    ONNX Runtime's BatchNormalization computes ``x * k + (beta - mean * k)``, which in float32 cancels the digits that
    mean and x have in common: its error is 1e-4 if the mean is a thousand standard deviations, in separate operators
    1e-6.
    """
    deviation = graph.add("Sqrt", graph.add("Add", params["var"], graph.constant(layer.epsilon)))
    normed = graph.add("Div", graph.add("Sub", x, params["mean"]), deviation)
    return graph.add("Add", graph.add("Mul", normed, params["gamma"]), params["beta"])


def _identity(layer: Layer, params: Names, x: Tensor, graph: Graph) -> Tensor:
    return x


# The exporter of each type of layer: like its `forward`, a function of (layer, params, x, graph), but params, x and the
# result are names. `Graph.add` adds an operator, `Graph.formula` an elementwise formula. Add layers of your own here;
# an `Activation` of your own needs no entry, because its formula is traced.
NODES: dict[type[Layer], Exporter] = {
    dense.Dense: _dense,
    dense.Flatten: _operator("Flatten", axis=1),
    sequential.Sequential: _sequential,
    sequential.Residual: lambda layer, params, x, graph: graph.add("Add", x, _sequential(layer, params, x, graph)),
    regularization.Dropout: _identity,
    regularization.LayerNorm: _layer_norm,
    regularization.BatchNorm: _batch_norm,
    standardize.Standardize: _standardize,
    frozen.Frozen: lambda layer, params, x, graph: export_layer(layer.layer, params, x, graph),
    activations.Identity: _identity,
    activations.Sigmoid: _operator("Sigmoid"),
    activations.Tanh: _operator("Tanh"),
    activations.ReLU: _operator("Relu"),
    activations.LeakyReLU: _float32(lambda layer, params, x, graph: graph.add("LeakyRelu", x, alpha=layer.slope)),
    activations.ELU: _float32(lambda layer, params, x, graph: graph.add("Elu", x, alpha=layer.alpha)),
    activations.GELU: _float32(
        lambda layer, params, x, graph: graph.add("Gelu", x, approximate="tanh" if layer.approximate else "none")
    ),
    activations.SiLU: _float32(lambda layer, params, x, graph: graph.add("Mul", x, graph.add("Sigmoid", x))),
    activations.Softplus: _float32(_operator("Softplus")),
    activations.Softmax: _operator("Softmax", axis=-1),
}
