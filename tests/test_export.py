"""Export: ONNX against ONNX Runtime, weights against PyTorch's modules, and what cannot be exported says why."""

import json
import os
import sys
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest

import tinynet as tn
from tinynet import export
from tinynet.layers import Layer, Param, Spec
from tinynet.registry import TABLE

DTYPES = ["float32", "float64"]
# float32: what is promised. float64: attributes, such as the epsilon of LayerNormalization, are float32 in ONNX.
TOLERANCE = {"float32": 1e-5, "float64": 1e-7}
ACTIVATIONS = [
    tn.Identity(), tn.Sigmoid(), tn.Tanh(), tn.ReLU(), tn.LeakyReLU(), tn.LeakyReLU(0.2), tn.ELU(), tn.ELU(0.7), tn.GELU(),
    tn.GELU(approximate=True), tn.SiLU(), tn.Softplus(),
]  # fmt: skip
LAYERS = [
    *ACTIVATIONS, tn.Softmax(), tn.Dense(3), tn.Dense(3, bias=False), tn.Dropout(0.4), tn.LayerNorm(), tn.LayerNorm(0.1),
    tn.BatchNorm(), tn.BatchNorm(epsilon=0.1), tn.Standardize(), tn.Flatten(), tn.Sequential(), tn.Residual(),
    tn.Sequential(tn.Dense(5), tn.Tanh(), tn.Sequential(tn.LayerNorm(), tn.Dense(2))),
    tn.Residual(tn.Dense(7), tn.Sigmoid(), tn.Residual(tn.Dense(7), tn.BatchNorm()), tn.Dense(4)),
    tn.Sequential(tn.Frozen(tn.Sequential(tn.Dense(4), tn.BatchNorm(), tn.Dropout())), tn.Dense(2)),
]  # fmt: skip


@pytest.fixture(scope="module")
def rt():
    pytest.importorskip("onnx", reason="ONNX needs the extra onnx")
    return pytest.importorskip("onnxruntime", reason="the oracle is ONNX Runtime")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the oracle is PyTorch")


def served(rt, model, x, **options):
    """What ONNX Runtime, with all its optimizations, gives for the rows."""
    proto = export.to_onnx(model, **options)
    session = rt.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.asarray(x, model.dtype)})
    assert y.dtype == model.dtype
    return y


def moved(net, n_in, dtype="float32", backend="numpy", seed=0):
    """A model with no weight at the special values of 0 and 1; variances and scales are positive."""
    model = tn.Model(net, n_in, dtype=dtype, backend=backend)
    rng = np.random.default_rng(seed)
    for name, a in model.weights().items():
        start = model.ops.to_numpy(a) + 0.3 * rng.standard_normal(a.shape)
        if name.rpartition(".")[2] in ("var", "scale"):
            start = np.abs(start) + 0.1
        a[...] = model.ops.asarray(start, dtype)
    return model


def some_layers(rng, width, depth=0):
    """Random layers of all kinds, which take vectors of any width and give ``width``."""
    parts = []
    for _ in range(rng.integers(1, 4)):
        inner = int(rng.integers(4, 17))
        choice = [tn.BatchNorm(epsilon=10.0 ** -rng.integers(2, 6)), tn.LayerNorm(), tn.Dropout(0.2), tn.Sequential()]
        if depth < 2:
            choice.append(tn.Residual(*some_layers(rng, inner, depth + 1)))
            choice.append(tn.Sequential(tn.Flatten(), *some_layers(rng, inner, depth + 1)))
        parts.append(tn.Dense(inner, bias=bool(rng.integers(2))))
        parts += [choice[i] for i in rng.permutation(len(choice))[: rng.integers(4)]]
        parts.append(ACTIVATIONS[rng.integers(len(ACTIVATIONS))])
    return [*parts, tn.Dense(width)]


def random_model(seed, dtype):
    """A network, its loss, and raw rows far from 0 that it was trained on for a few steps."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 6))
    losses = [tn.CrossEntropy(0.1), tn.BinaryCrossEntropy(), tn.MeanSquaredError(), tn.Poisson()]
    loss = losses[seed % len(losses)]
    n_in = int(rng.integers(1, 9))
    net = tn.Sequential(tn.Standardize(), *some_layers(rng, k))
    x = rng.standard_normal((200, n_in)) * 10.0 ** rng.integers(-3, 4, n_in) + 10.0 ** rng.integers(0, 3)
    y = rng.integers(0, k, 200) if seed % 4 == 0 else rng.integers(0, 2, (200, k)).astype(float)
    model = tn.Model(net, n_in, seed=seed, dtype=dtype)
    model.fit((x, y), loss=loss, batch_size=32, epochs=2, optimizer=tn.Adam(0.01))
    return model, x


def expected(model, x):
    """Predictions, and what the loss makes of them in float64."""
    y = model.ops.to_numpy(model.predict(x))
    e = np.exp(y - y.max(-1, keepdims=True), dtype="float64")
    if isinstance(model.loss, tn.CrossEntropy):
        return e / e.sum(-1, keepdims=True)
    return 1 / (1 + np.exp(-y, dtype="float64")) if isinstance(model.loss, tn.BinaryCrossEntropy) else y


def close(got, want, dtype):
    np.testing.assert_allclose(got, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# ONNX -------------------------------------------------------------------------------------------------------------------


def test_every_layer_has_its_operators():
    assert set(export.NODES) == {kind for kind in TABLE.values() if issubclass(kind, Layer)}


def test_silu_in_float64_is_not_what_onnx_runtime_fuses():
    """Up to 1.30 it made QuickGelu of x * Sigmoid(x), had no kernel for that, and refused the whole model."""
    pytest.importorskip("onnx", reason="ONNX needs the extra onnx")
    for dtype, fused in (("float32", True), ("float64", False)):
        proto = export.to_onnx(moved(tn.SiLU(), 2, dtype))
        assert ("Sigmoid" in [node.op_type for node in proto.graph.node]) == fused


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layer(layer, dtype, rt):
    model = moved(layer, 4, dtype)
    x = 3 * np.random.default_rng(1).standard_normal((1000, 4))
    for rows in (x, x[:1]):
        close(served(rt, model, rows), model.predict(rows), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layer", [tn.Flatten(), tn.Standardize(), tn.Softmax(), tn.GELU(), tn.Dropout(), tn.Residual(tn.SiLU())], ids=repr
)
def test_samples_of_any_shape(layer, dtype, rt):
    model = moved(layer, (2, 3, 2), dtype)
    x = np.random.default_rng(1).standard_normal((7, 2, 3, 2))
    close(served(rt, model, x), model.predict(x), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_activations_far_out(layer, dtype, rt):
    """The runtime computes some functions by approximations: they must hold over all numbers."""
    model = tn.Model(layer, 1, dtype=dtype)
    x = np.concatenate([sign * np.logspace(-12, 6, 2001) for sign in (1, -1)] + [[0.0, np.nan]])[:, None]
    y = model.predict(x.astype(dtype))
    close(served(rt, model, x), y, dtype)
    assert np.isnan(y[-1, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed, dtype, rt):
    model, x = random_model(seed, dtype)
    want = expected(model, x)
    close(served(rt, model, x), want, dtype)
    close(served(rt, model, x[5:6]), want[5:6], dtype)
    close(served(rt, model, x, probabilities=False), model.predict(x), dtype)


def test_a_batch_norm_far_from_zero(rt):
    """The runtime's own BatchNormalization multiplies the mean out, and is off by 1e-4 here; the parts are not."""
    model = moved(tn.BatchNorm(), 8)
    weights, rng = model.weights(), np.random.default_rng(0)
    weights["mean"][...], weights["var"][...] = 1000.0, 1.0
    x = 1000 + rng.standard_normal((1000, 8)).astype("float32")
    want = (x - 1000.0) / np.sqrt(1 + 1e-5) * weights["gamma"].astype(float) + weights["beta"]
    close(model.predict(x), want, "float32")
    close(served(rt, model, x), want, "float32")


def test_it_is_the_same_from_every_backend(ops, rt):
    net = tn.Sequential(tn.Standardize(), tn.Dense(4), tn.BatchNorm(), tn.GELU(), tn.Dense(2))
    made = [export.to_onnx(moved(net, 3, backend=backend)).SerializeToString() for backend in ("numpy", ops)]
    assert made[0] == made[1]


def test_another_evaluator_agrees(rt):
    """What ONNX's own reference implementation makes of it: the file is right, and not only to one runtime."""
    from onnx.reference import ReferenceEvaluator

    net = tn.Sequential(tn.Standardize(), *ACTIVATIONS, tn.Dense(5), tn.LayerNorm(), tn.BatchNorm(), tn.Dense(3))
    model = moved(net, 4)
    model.loss = tn.CrossEntropy()
    x = np.random.default_rng(1).standard_normal((20, 4)).astype("float32")
    (y,) = ReferenceEvaluator(export.to_onnx(model)).run(None, {"x": x})
    close(y, expected(model, x), "float32")


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        (tn.CrossEntropy(), "probabilities"),
        (tn.BinaryCrossEntropy((1, 3)), "probabilities"),
        (tn.Hinge(), "y"),
        (None, "y"),
    ],
)
def test_what_the_file_says(loss, output, rt, tmp_path):
    import onnx

    model = moved(tn.Sequential(tn.Dense(5), tn.BatchNorm(), tn.Residual(tn.Dense(5)), tn.Dense(2)), 3, "float64")
    model.loss = loss
    classes = np.array(["ja", "ñ"])
    proto = export.to_onnx(model, tmp_path / "m.onnx", classes=classes)
    assert (tmp_path / "m.onnx").read_bytes() == proto.SerializeToString()
    read = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(read, full_check=True)
    assert [(o.domain, o.version) for o in read.opset_import] == [("", export.OPSET)] == [("", 20)]
    assert (read.ir_version, read.producer_name, read.producer_version) == (9, "tinynet", tn.__version__)
    assert {p.key: json.loads(p.value) for p in read.metadata_props} == {"classes": ["ja", "ñ"]}
    for (value,), name, width in ((read.graph.input, "x", 3), (read.graph.output, output, 2)):
        dims = value.type.tensor_type.shape.dim
        assert (value.name, dims[0].dim_param, dims[1].dim_value) == (name, "n", width)
        assert value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    stored = {c.name: onnx.numpy_helper.to_array(c) for c in read.graph.initializer}
    for name, a in model.weights().items():
        np.testing.assert_array_equal(stored[name], a)
    assert [n.op_type for n in read.graph.node if n.op_type in ("Gemm", "Add")] == [
        "Gemm",
        "Add",
        "Add",
        "Gemm",
        "Add",
        "Gemm",
    ]
    assert len({n.name for n in read.graph.node}) == len(read.graph.node)


def test_names_of_a_table_are_in_the_file(rt):
    """Those of classes were in it only if the command wrote it, though a page of the documentation said so."""
    model = tn.Model(tn.Dense(2), 1)
    model.columns = tn.data.Columns(("a",), ("y",), ("no", "yes"))
    for given, classes in ((None, ["no", "yes"]), ([*np.arange(2)], [0, 1])):
        proto = export.to_onnx(model, classes=given)
        assert {p.key: json.loads(p.value) for p in proto.metadata_props} == {"features": ["a"], "classes": classes}


def test_a_layer_whose_names_are_taken(rt):
    """A lone layer's weights have no number before them, and may be called as the input and the output are."""

    @dataclass(frozen=True, repr=False)
    class Line(tn.Layer):
        def build(self, shape):
            return Spec(shape, {name: Param(shape, tn.initializers.Uniform(1, 2)) for name in ("x", "y", "Mul")})

        def forward(self, params, x, ctx):
            return x * params["x"] + params["y"] * params["Mul"], None

    export.NODES[Line] = lambda layer, p, x, graph: graph.add(
        "Add", graph.add("Mul", x, p["x"]), graph.add("Mul", p["y"], p["Mul"])
    )
    try:
        model, x = tn.Model(Line(), 3), np.ones((2, 3))
        close(served(rt, model, x), model.predict(x), "float32")
    finally:
        del export.NODES[Line]


# Layers of one's own ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Odd(tn.layers.Layer):
    power: int = 3

    def forward(self, params, x, ctx):
        return x**self.power, None


@dataclass(frozen=True, repr=False)
class Mine(tn.Tanh):
    """A formula of all that ONNX has, and has not: expm1 and log1p, which lose all digits near 0 if written plainly."""

    scale: float = 0.5

    def f(self, xp, x):
        small = xp.expm1(self.scale * x) / self.scale
        kept = xp.where((x != 0.0) & ~(x > 1.0) | (x >= 2.0), small, xp.sign(x) * xp.floor(xp.sqrt(xp.abs(x))))
        return xp.where(kept <= 1.0, xp.log1p(xp.clip(kept, -0.5, 1.0)), xp.minimum(kept, 1e6) - 1.0)


@dataclass(frozen=True, repr=False)
class Branch(tn.Tanh):
    def f(self, xp, x):
        return x if xp.all(x > 0) else -x


@dataclass(frozen=True, repr=False)
class Shaped(tn.Tanh):
    def f(self, xp, x):
        return x * x.shape[-1]


@dataclass(frozen=True, repr=False)
class Hidden(tn.Tanh):
    """Its formula is not what it computes."""

    def forward(self, params, x, ctx):
        return 2 * x, None


@dataclass(frozen=True, repr=False)
class Ends(tn.Tanh):
    def f(self, xp, x):
        return xp.expm1(xp.log1p(x))


class Wide(tn.Dense):
    pass


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_activation_of_one_s_own_is_traced(dtype, rt):
    model = tn.Model(Mine(), 1, dtype=dtype)
    x = np.concatenate([sign * np.logspace(-9, 2, 1001) for sign in (1, -1)] + [[0.0]])[:, None].astype(dtype)
    got, want = served(rt, model, x), model.predict(x)
    close(got, want, dtype)
    near = np.abs(x) < 1e-3
    np.testing.assert_allclose(got[near], want[near], rtol=3e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expm1_and_log1p_at_their_ends(dtype, rt):
    x = np.array([[-2.0], [-1.0], [0.0], [1e30], [np.inf], [-np.inf], [np.nan]])
    got = served(rt, tn.Model(Ends(), 1, dtype=dtype), x)
    np.testing.assert_allclose(got[:, 0], [np.nan, -1, 0, 1e30, np.inf, np.nan, np.nan], rtol=1e-5)


def test_a_layer_of_one_s_own_goes_into_the_table(rt, monkeypatch):
    def cube(layer, params, x, graph):
        return graph.add("Pow", x, graph.constant(layer.power))

    net = tn.Sequential(tn.Dense(3), tn.Residual(Odd(3)), tn.Dense(1))
    model, x = tn.Model(net, 2), np.random.default_rng(0).standard_normal((9, 2))
    monkeypatch.setitem(export.NODES, Odd, cube)
    close(served(rt, model, x), model.predict(x), "float32")


def with_nan(net):
    model = tn.Model(net, 2)
    model.theta[-1] = np.nan
    return model


REFUSED = [
    (lambda: tn.Model(tn.Sequential(tn.Dense(2), tn.Residual(Odd(2))), 2), {},
     ("layer 1.0, Odd(power=2), cannot be exported: Odd is not in the table of ONNX operators: "
      "tinynet.export.NODES[Odd] = lambda layer, params, x, graph: graph.add(…) adds it")),
    (lambda: tn.Model(Wide(2), 2), {},
     ("the network, Wide(width=2), cannot be exported: Wide is not in the table of ONNX operators: "
      "tinynet.export.NODES[Wide] = lambda layer, params, x, graph: graph.add(…) adds it")),
    (lambda: tn.Model(tn.Sequential(tn.Dense(2), Branch()), 2), {},
     ("layer 1, Branch(), cannot be exported: its formula cannot be traced (the function all): "
      "tinynet.export.NODES[Branch] = lambda layer, params, x, graph: graph.add(…) gives its operators")),
    (lambda: tn.Model(Shaped(), 2), {},
     ("the network, Shaped(), cannot be exported: its formula cannot be traced ('Symbol' object has no attribute 'shape'): "
      "tinynet.export.NODES[Shaped] = lambda layer, params, x, graph: graph.add(…) gives its operators")),
    (lambda: tn.Model(Hidden(), 2), {},
     ("the network, Hidden(), cannot be exported: Hidden is not in the table of ONNX operators: "
      "tinynet.export.NODES[Hidden] = lambda layer, params, x, graph: graph.add(…) adds it")),
    (lambda: with_nan(tn.Sequential(tn.Dense(2), tn.Dense(3))), {},
     "weight '1.b' has a value that is NaN or infinite: the model cannot be exported"),
    (lambda: tn.Model(tn.Dense(3), 2), {"classes": ["a", "b"]}, "2 classes do not fit outputs (n, 3): expected 3"),
    (lambda: tn.Model(tn.Dense(1), 2), {"classes": ["a"]}, "1 classes do not fit outputs (n, 1): expected 2"),
    (lambda: tn.Model(tn.Dense(3), 2), {"classes": [0, 1, 0]},
     "classes [0, 1, 0] has 0 twice: give each class a name of its own"),
    (lambda: tn.Model(tn.Dense(2), 2), {"classes": [1, {2}]}, "classes [1, {2}] are not names: give strings or numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options", "said"), REFUSED, ids=[said[:25] for *_, said in REFUSED])
def test_what_cannot_be_exported_says_why_and_leaves_no_file(make, options, said, rt, tmp_path):
    model = make()
    with pytest.raises((TypeError, ValueError)) as e:
        export.to_onnx(model, tmp_path / "m.onnx", **options)
    assert str(e.value) == said
    assert os.listdir(tmp_path) == []


def test_operators_that_do_not_fit_are_found_before_they_are_written(rt, monkeypatch, tmp_path):
    monkeypatch.setitem(export.NODES, Odd, lambda layer, params, x, graph: graph.add("Cube", x))
    with pytest.raises(ValueError, match=r"^the graph of Odd\(\) is not valid ONNX: .*Cube") as e:
        export.to_onnx(tn.Model(Odd(), 2), tmp_path / "m.onnx")
    assert "\n" not in str(e.value)
    monkeypatch.setitem(export.NODES, Odd, lambda layer, params, x, graph: graph.add("Shape", x))
    with pytest.raises(ValueError, match=r"^the graph of Odd\(\) is not valid ONNX: "):
        export.to_onnx(tn.Model(Odd(), 2), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_a_model_that_is_too_large(rt, monkeypatch):
    monkeypatch.setattr(export.onnx_model, "LARGEST", 48)
    export.to_onnx(tn.Model(tn.Dense(3), 3))
    with pytest.raises(
        ValueError, match=r"^weights of 96 bytes do not fit into an ONNX file: expected at most 48; save\(\)"
    ):
        export.to_onnx(tn.Model(tn.Dense(3), 3, dtype="float64"))


def test_a_write_that_fails_leaves_the_old_file(rt, monkeypatch, tmp_path):
    model, path = tn.Model(tn.Dense(1), 1), tmp_path / "m"
    export.to_onnx(model, path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for write in (export.to_onnx, export.save_torch_state):
        with pytest.raises(OSError, match="No space left"):
            write(tn.Model(tn.Dense(2), 1), path)
        assert (path.read_bytes(), os.listdir(tmp_path)) == (before, ["m"])


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"^onnx is needed for this export: install the extra onnx$"):
        export.to_onnx(tn.Model(tn.Dense(1), 1), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


# PyTorch ----------------------------------------------------------------------------------------------------------------


def twin(torch, net, n_in):
    """PyTorch's modules for ``net``, written as a user would, in float64; and its width."""
    nn = torch.nn

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    class Standardize(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("scale", torch.ones(width))

        def forward(self, x):
            return (x - self.mean) * self.scale

    def make(layer, width):
        if isinstance(layer, tn.Sequential):
            modules = []
            for inner in layer.layers:
                module, width = make(inner, width)
                modules.append(module)
            return (Residual if isinstance(layer, tn.Residual) else nn.Sequential)(*modules), width
        return {
            tn.Dense: lambda: (nn.Linear(width, layer.width, bias=layer.bias), layer.width),
            tn.BatchNorm: lambda: (nn.BatchNorm1d(width, layer.epsilon, layer.momentum), width),
            tn.LayerNorm: lambda: (nn.LayerNorm(width, layer.epsilon), width),
            tn.Dropout: lambda: (nn.Dropout(layer.rate), width),
            tn.Standardize: lambda: (Standardize(width), width),
            tn.Flatten: lambda: (nn.Flatten(), width),
            tn.LeakyReLU: lambda: (nn.LeakyReLU(layer.slope), width),
            tn.ELU: lambda: (nn.ELU(layer.alpha), width),
            tn.GELU: lambda: (nn.GELU(approximate="tanh" if layer.approximate else "none"), width),
        }.get(type(layer), lambda: (getattr(nn, type(layer).__name__)(), width))()

    return make(net, n_in)[0].double().eval()


@pytest.mark.parametrize("seed", range(8))
def test_pytorch_loads_it_and_gives_it_back(seed, torch, tmp_path):
    from safetensors.torch import load_file, save_file

    model, x = random_model(seed, "float64")
    net = twin(torch, model.net, *model.in_shape)
    assert list(export.to_torch_state(model)) == list(net.state_dict())
    export.save_torch_state(model, tmp_path / "m.safetensors")
    net.load_state_dict(load_file(tmp_path / "m.safetensors"), strict=True)
    rows = torch.tensor(x)
    # Softplus differs by up to 3e-9 above PyTorch's threshold
    np.testing.assert_allclose(net(rows).detach(), model.predict(x), rtol=1e-8, atol=1e-8)

    torch.manual_seed(seed)
    with torch.no_grad():
        for a in [*net.parameters(), *net.buffers()]:
            a.copy_(a + 1 + torch.rand(a.shape))  # variances and scales stay positive
    save_file(net.state_dict(), tmp_path / "other.safetensors")
    want = net(rows).detach()
    alive = {**dict(net.named_parameters()), **dict(net.named_buffers())}  # with their gradients on
    for state in (net.state_dict(), alive, tmp_path / "other.safetensors", str(tmp_path / "other.safetensors")):
        other = tn.Model(model.net, model.in_shape, dtype="float64", seed=99)
        export.from_torch_state(other, state)
        np.testing.assert_allclose(other.predict(x), want, rtol=1e-8, atol=1e-8)


NET = tn.Sequential(
    tn.Standardize(), tn.Dense(4), tn.BatchNorm(), tn.ReLU(), tn.Residual(tn.LayerNorm(), tn.Dense(4, bias=False)), tn.Dense(2)
)  # fmt: skip
SHAPES = {
    "0.mean": (3,), "0.scale": (3,), "1.weight": (4, 3), "1.bias": (4,), "2.weight": (4,), "2.bias": (4,),
    "2.running_mean": (4,), "2.running_var": (4,), "2.num_batches_tracked": (), "4.0.weight": (4,), "4.0.bias": (4,),
    "4.1.weight": (4, 4), "5.weight": (2, 4), "5.bias": (2,),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(dtype, ops, tmp_path):
    model = moved(NET, 3, dtype, ops)
    state = export.to_torch_state(model)
    assert {name: a.shape for name, a in state.items()} == SHAPES
    for name, a in state.items():
        assert type(a) is np.ndarray
        assert a.flags.c_contiguous
        assert str(a.dtype) == ("int64" if name.endswith("tracked") else dtype)
    weights = {name: ops.to_numpy(a).copy() for name, a in model.weights().items()}
    np.testing.assert_array_equal(state["4.1.weight"], weights["4.1.w"].T)
    np.testing.assert_array_equal(state["2.running_var"], weights["2.var"])
    export.save_torch_state(model, tmp_path / "m")
    of_old = {name: a for name, a in state.items() if not name.endswith("num_batches_tracked")}
    for given in (state, of_old, tmp_path / "m"):
        other = tn.Model(NET, 3, dtype=dtype, backend=ops, seed=9)
        export.from_torch_state(other, given)
        for name, a in other.weights().items():
            np.testing.assert_array_equal(ops.to_numpy(a), weights[name])
    for a in state.values():
        a[...] = 0  # copies: the model is its own
    for name, a in model.weights().items():
        np.testing.assert_array_equal(ops.to_numpy(a), weights[name])


def test_one_layer_has_no_number():
    assert list(export.to_torch_state(tn.Model(tn.Dense(2), 3))) == ["weight", "bias"]
    assert export.to_torch_state(tn.Model(tn.Tanh(), 3)) == {}


def changed(**changes):
    state = export.to_torch_state(moved(NET, 3))
    for name, value in changes.items():
        name = name.replace("_", ".", 1)
        if value is None:
            del state[name]
        else:
            state[name] = value(state.get(name)) if callable(value) else value
    return state


NAMES, DTYPE = ": give the names of to_torch_state(model)", ": give net.to(torch.float32).state_dict()"
WRONG = [
    (dict.fromkeys(["5_weight"]), "the state does not fit the network: '5.weight' is missing" + NAMES),
    ({"5_weight": None, "1_bias": None, "6_weight": np.ones(2)},
     "the state does not fit the network: '1.bias' and 1 more are missing, '6.weight' is not part of it" + NAMES),
    ({"7_weight": np.ones(2), "7_a": np.ones(2)},
     "the state does not fit the network: '7.a' and 1 more are not part of it" + NAMES),
    ({"1_weight": lambda a: a.T}, "'1.weight' is float32 (3, 4): expected float32 (4, 3)"),
    ({"1_bias": lambda a: a[:1]}, "'1.bias' is float32 (1,): expected float32 (4,)"),
    ({"1_weight": lambda a: a.astype("float64")}, "'1.weight' is float64 (4, 3): expected float32 (4, 3)" + DTYPE),
    ({"1_weight": lambda a: a.astype("int32")}, "'1.weight' is int32 (4, 3): expected float32 (4, 3)" + DTYPE),
    ({"2_num_batches_tracked": np.ones(2)}, "'2.num_batches_tracked' is float64 (2,): expected int64 ()"),
    ({"5_weight": lambda a: np.where(a == a[1, 1], np.nan, a)}, "'5.weight' has a value that is NaN or infinite"),
    ({"5_bias": lambda a: a + np.float32(np.inf)}, "'5.bias' has a value that is NaN or infinite"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said[:50] for _, said in WRONG])
def test_a_state_that_does_not_fit_changes_nothing(changes, said, ops, tmp_path):
    from safetensors.numpy import save_file

    model = tn.Model(NET, 3, backend=ops)
    before = ops.to_numpy(model.theta).tobytes(), ops.to_numpy(model.state).tobytes()
    state, path = changed(**changes), tmp_path / "m.safetensors"
    save_file({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in state.items()}, path)
    for given, expected in ((state, said), (path, f"{path}: {said}")):
        with pytest.raises(ValueError) as e:
            export.from_torch_state(model, given)
        assert str(e.value) == expected
        assert isinstance(e.value, tn.ModelFileError) == (given is path)
        assert (ops.to_numpy(model.theta).tobytes(), ops.to_numpy(model.state).tobytes()) == before


def test_a_module_is_not_its_state(torch):
    with pytest.raises(TypeError, match=r"^state is a Linear, not its weights: give its state_dict\(\)$"):
        export.from_torch_state(tn.Model(tn.Dense(2), 3), torch.nn.Linear(3, 2))


def test_a_dtype_that_numpy_lacks(torch, tmp_path):
    from safetensors.torch import save_file

    model, path = tn.Model(tn.Dense(2), 3), tmp_path / "m"
    state = torch.nn.Linear(3, 2).bfloat16().state_dict()
    save_file(state, path)
    for given, said in ((state, "'weight' is bfloat16 (2, 3)"), (path, f"{path}: 'weight' is bfloat16 (2, 3)")):
        with pytest.raises(ValueError) as e:
            export.from_torch_state(model, given)
        assert str(e.value) == said + ": expected float32 (2, 3)" + DTYPE


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are POSIX")
def test_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "m")
    monkeypatch.setattr(zipfile, "is_zipfile", lambda path: pytest.fail("opened a pipe, which waits for a writer"))
    with pytest.raises(tn.ModelFileError, match="m: not a regular file"):
        export.from_torch_state(tn.Model(tn.Dense(1), 2), tmp_path / "m")


def test_files_that_are_no_states(tmp_path):
    model, path = tn.Model(tn.Dense(2), 3), tmp_path / "m"
    with pytest.raises(FileNotFoundError):
        export.from_torch_state(model, path)
    with zipfile.ZipFile(path, "w") as f:  # as torch.save writes them
        f.writestr("archive/data.pkl", b"no")
    with pytest.raises(
        tn.ModelFileError, match=r"^.*m: what torch.save wrote, not a safetensors file: safetensors.torch"
    ):
        export.from_torch_state(model, path)
    export.save_torch_state(model, path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:7], whole[:40], whole[:-1], whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(tn.ModelFileError, match=r"^.*m: "):
            export.from_torch_state(model, path)


def test_what_a_layer_of_layers_has_beside_them(monkeypatch):
    """It was left out in silence."""

    class Scaled(tn.Sequential):
        def build(self, shape):
            inner = super().build(shape)
            return tn.layers.Spec(shape, {**inner.params, "gain": Param((1,), tn.initializers.Constant(2.0))})

    model = tn.Model(tn.Sequential(Scaled(tn.Dense(3))), 3)
    with pytest.raises(TypeError, match=r"^layer 0, Scaled\(Dense\(width=3\)\), cannot be exported: .* its 'gain' is"):
        export.to_torch_state(model)
    monkeypatch.setitem(export.STATE_NAMES, Scaled, {"gain": "scale"})
    assert list(export.to_torch_state(model)) == ["0.0.weight", "0.0.bias", "0.scale"]


def test_what_has_no_name_in_pytorch(monkeypatch):
    model = tn.Model(tn.Sequential(tn.Tanh(), Wide(2)), 3)
    for use in (export.to_torch_state, lambda m: export.from_torch_state(m, {})):
        with pytest.raises(TypeError) as e:
            use(model)
        assert str(e.value) == (
            "layer 1, Wide(width=2), cannot be exported: nobody knows what its 'w' is called in PyTorch: "
            "tinynet.export.STATE_NAMES[Wide] = {'w': …} adds it"
        )
    monkeypatch.setitem(export.STATE_NAMES, Wide, {"w": "weight", "b": "bias"})
    assert {n: a.shape for n, a in export.to_torch_state(model).items()} == {"1.weight": (2, 3), "1.bias": (2,)}
    with pytest.raises(ValueError) as e:
        export.to_torch_state(with_nan(tn.Dense(2)))
    assert str(e.value) == "'bias' has a value that is NaN or infinite: the model cannot be exported"
    with pytest.raises(TypeError, match=r"^'weight' is of type list: expected an array or a tensor$"):
        export.from_torch_state(tn.Model(tn.Dense(1), 1), {"weight": [[1.0]], "bias": [1.0]})
