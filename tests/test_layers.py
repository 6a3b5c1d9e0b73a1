"""Layers: the derivative of each against differences, its numbers against PyTorch's, its shapes against its word."""

import numpy as np
import pytest

import tinynet as tn
from tinynet import initializers
from tinynet.layers import Context, leaves

ACTIVATIONS = [
    tn.Sigmoid(), tn.Tanh(), tn.ReLU(), tn.LeakyReLU(), tn.LeakyReLU(0.2), tn.ELU(), tn.ELU(0.7), tn.GELU(),
    tn.GELU(approximate=True), tn.SiLU(), tn.Softplus(), tn.Identity(), tn.Softmax(),
]  # fmt: skip
LAYERS = [
    *ACTIVATIONS, tn.Dense(3), tn.Dense(3, bias=False), tn.Dropout(0.4), tn.LayerNorm(), tn.LayerNorm(0.1), tn.BatchNorm(),
    tn.Standardize(),
    tn.Sequential(tn.Dense(5), tn.Tanh(), tn.Sequential(tn.LayerNorm(), tn.Dense(2))),
    tn.Sequential(tn.Dropout(0.3), tn.Dense(4), tn.BatchNorm(), tn.SiLU(), tn.Dropout(0.3)),
    tn.Residual(tn.Dense(7), tn.Sigmoid(), tn.Dense(4)),
    tn.Sequential(),
    tn.Sequential(tn.Dense(3), tn.Frozen(tn.Sequential(tn.Dense(4), tn.BatchNorm(), tn.Dropout(0.3)))),
]  # fmt: skip


def names(layers):
    return [repr(layer) for layer in layers]


def model(layer, n_in, ops, seed=0, dtype="float64"):
    """Parameters that are not at their special initial values of 0 and 1."""
    made = tn.Model(layer, n_in, backend=ops, dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed)
    made.theta[...] = made.theta + ops.asarray(0.3 * rng.standard_normal(made.theta.shape), dtype)
    return made


def check_gradient(layer, n_in, ops, train):
    """<v, backprop(v)> against a central difference along one random direction, in inputs and parameters together.

    Two evaluations whatever the size. Truncation is of order step**2 = 1e-10, rounding of order 1e-16 / step.
    """
    rng = np.random.default_rng(1)
    m = model(layer, n_in, ops)
    shape = n_in if isinstance(n_in, tuple) else (n_in,)
    x, dx = rng.standard_normal((2, 6, *shape))
    theta, dtheta = ops.to_numpy(m.theta).copy(), rng.standard_normal(m.theta.shape)
    ctx = Context(ops, train=train, seed=3, step=2)

    def forward(shift):
        m.theta[...] = ops.asarray(theta + shift * dtheta)
        return layer.forward(m.params, ops.asarray(x + shift * dx), ctx)

    y, backprop = forward(0.0)
    v = rng.standard_normal(y.shape)
    gx, gparams = backprop(ops.asarray(v))
    flat = dict(leaves(gparams))
    assert set(flat) == set(m.gradient_names)
    along = np.sum(ops.to_numpy(gx) * dx)
    along += sum(np.sum(ops.to_numpy(flat[n]).ravel() * d) for n, d in split(m, dtheta))
    step = 1e-5
    above, below = (ops.to_numpy(forward(sign * step)[0]).copy() for sign in (1, -1))
    assert np.sum(v * (above - below)) / (2 * step) == pytest.approx(along, rel=1e-7, abs=1e-8)
    assert y.shape == (6, *m.out_shape)


def check_numbers(layer, n_in, ops, train):
    """Outputs and gradients in float32 against those of the numpy backend in float64."""
    x, v = np.random.default_rng(1).standard_normal((2, 6, n_in))
    got, wanted = [], []
    for numbers, backend, dtype in ((got, ops, "float32"), (wanted, tn.get_backend("numpy"), "float64")):
        m = model(layer, n_in, backend, dtype=dtype)
        y, backprop = layer.forward(m.params, backend.asarray(x, dtype), Context(backend, train=train, seed=3, step=2))
        dx, gradients = backprop(backend.asarray(v[:, : y.shape[1]], dtype))
        numbers += [backend.to_numpy(a) for a in (y, dx, *dict(leaves(gradients)).values())]
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def split(m, vector):
    start = 0
    for name, param in leaves(m.spec.params):
        size = int(np.prod(param.shape))
        yield name, vector[start : start + size]
        start += size


@pytest.mark.parametrize("train", [True, False], ids=["train", "evaluate"])
@pytest.mark.parametrize("layer", LAYERS, ids=names(LAYERS))
def test_gradient(layer, ops, train):
    check = check_numbers if ops.name == "numba" else check_gradient  # it compiles a formula for each dtype
    check(layer, 4, ops, train)


@pytest.mark.slow
@pytest.mark.parametrize("ops", ["numba"], indirect=True)
@pytest.mark.parametrize("train", [True, False], ids=["train", "evaluate"])
@pytest.mark.parametrize("layer", LAYERS, ids=names(LAYERS))
def test_gradient_of_compiled_layers(layer, ops, train):
    check_gradient(layer, 4, ops, train)


@pytest.mark.double
def test_gradient_of_flatten(ops):
    check_gradient(tn.Sequential(tn.Flatten(), tn.Dense(2)), (2, 3), ops, True)


def test_the_first_layer_need_not_make_the_input_s_gradient():
    layer = tn.Sequential(tn.Dense(3), tn.Tanh(), tn.Dense(2))
    m = model(layer, 4, tn.get_backend("numpy"))
    x, v = np.ones((5, 4)), np.ones((5, 2))
    wanted = layer.forward(m.params, x, Context(m.ops))[1](v)
    saved = layer.forward(m.params, x, Context(m.ops, need_dx=False))[1](v)
    assert saved[0] is None
    for (name, a), (_, b) in zip(leaves(wanted[1]), leaves(saved[1]), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


# Against PyTorch --------------------------------------------------------------------------------------------------


def torch_of(layer):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    nn = torch.nn
    return {
        tn.Identity(): nn.Identity(), tn.Sigmoid(): nn.Sigmoid(), tn.Tanh(): nn.Tanh(), tn.ReLU(): nn.ReLU(),
        tn.LeakyReLU(): nn.LeakyReLU(), tn.LeakyReLU(0.2): nn.LeakyReLU(0.2), tn.ELU(): nn.ELU(), tn.ELU(0.7): nn.ELU(0.7),
        tn.GELU(): nn.GELU(), tn.GELU(approximate=True): nn.GELU("tanh"), tn.SiLU(): nn.SiLU(),
        tn.Softplus(): nn.Softplus(), tn.Softmax(): nn.Softmax(-1),
    }[layer]  # fmt: skip


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=names(ACTIVATIONS))
def test_activation_is_pytorch_s(layer, ops):
    other = torch_of(layer)
    torch = pytest.importorskip("torch")
    x = np.linspace(-30, 19, 197).reshape(1, -1)  # PyTorch's softplus goes over to x above 20
    v = np.cos(x)
    y, backprop = layer.forward({}, ops.asarray(x), Context(ops))
    t = torch.tensor(x, requires_grad=True)
    other(t).backward(torch.tensor(v))
    np.testing.assert_allclose(ops.to_numpy(y), other(t).detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ops.to_numpy(backprop(ops.asarray(v))[0]), t.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["LayerNorm", "BatchNorm"])
def test_normalisation_is_pytorch_s(kind, ops):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    layer = getattr(tn, kind)()
    other = (torch.nn.LayerNorm if kind == "LayerNorm" else torch.nn.BatchNorm1d)(5, dtype=torch.float64)
    m = model(layer, 5, ops)
    with torch.no_grad():
        other.weight.copy_(torch.tensor(ops.to_numpy(m.params["gamma"])))
        other.bias.copy_(torch.tensor(ops.to_numpy(m.params["beta"])))
    rng = np.random.default_rng(0)
    for train in (True, True, True, False):
        other.train(train)
        x, v = 3.0 + rng.standard_normal((2, 8, 5))
        t = torch.tensor(x, requires_grad=True)
        other.zero_grad()
        out = other(t)
        out.backward(torch.tensor(v))
        y, backprop = layer.forward(m.params, ops.asarray(x), Context(ops, train=train))
        dx, dparams = backprop(ops.asarray(v))
        for mine, theirs in (
            (y, out.detach()), (dx, t.grad), (dparams["gamma"], other.weight.grad), (dparams["beta"], other.bias.grad),
        ):  # fmt: skip
            np.testing.assert_allclose(ops.to_numpy(mine), theirs.numpy(), rtol=1e-11, atol=1e-12)
    if kind == "BatchNorm":
        np.testing.assert_allclose(ops.to_numpy(m.params["mean"]), other.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(ops.to_numpy(m.params["var"]), other.running_var.numpy(), rtol=1e-12)


# At the edges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=names(ACTIVATIONS))
def test_activation_is_finite_far_out_and_does_not_hide_nan(layer, ops):
    for dtype in ["float32"] if ops.name == "numba" else ["float32", "float64"]:
        check_far_out(layer, ops, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("ops", ["numba"], indirect=True)
@pytest.mark.parametrize("layer", ACTIVATIONS, ids=names(ACTIVATIONS))
def test_compiled_activation_is_finite_far_out_in_float64(layer, ops):
    check_far_out(layer, ops, "float64")


def check_far_out(layer, ops, dtype):
    x = ops.asarray(np.array([[-1e30, -1e4, -50.0, 0.0, 50.0, 1e4, 1e30]]), dtype)
    # strict passes on what its NumPy says of exp(1e4) in 1 / (1 + exp(1e4)); the numpy backend does not
    with np.errstate(over="ignore" if ops.name.startswith("strict") else "warn"):
        y, backprop = layer.forward({}, x, Context(ops))
        dx = backprop(ops.asarray(np.ones((1, 7)), dtype))[0]
    assert y.dtype == x.dtype == dx.dtype
    assert np.isfinite(ops.to_numpy(y)).all()
    assert np.isfinite(ops.to_numpy(dx)).all()
    y = ops.to_numpy(layer.forward({}, ops.asarray(np.array([[np.nan]]), dtype), Context(ops))[0])
    assert np.isnan(y).all()


@pytest.mark.parametrize("ops", ["numpy", "numba"], indirect=True)
def test_batch_norm_of_large_numbers(ops):
    """Where they vary little, float32 has few digits of the differences, and a mean that is off takes away more than those."""
    x = 1e4 + np.random.default_rng(0).standard_normal((2**16, 3)).astype("float32")
    exact = x.astype("float64")
    exact = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    one, zero = np.ones(3, "float32"), np.zeros(3, "float32")
    np.testing.assert_allclose(ops.normalize(x, one, zero, -2, 1e-5)[0], exact, atol=2e-2)


@pytest.mark.double
def test_batch_norm_of_a_single_row(ops):
    """Its deviation is no measure of that of others: the running statistics stay."""
    m = model(tn.BatchNorm(), 3, ops)
    before = ops.to_numpy(m.state).copy()
    y, _ = m.net.forward(m.params, ops.asarray(np.ones((1, 3))), Context(ops, train=True))
    np.testing.assert_allclose(ops.to_numpy(y)[0], ops.to_numpy(m.params["beta"]))
    np.testing.assert_array_equal(ops.to_numpy(m.state), before)


def test_dropout_has_the_same_mask_everywhere(ops):
    host = tn.get_backend("numpy")
    x = np.ones((65, 33), "float32")
    ctx = {"train": True, "seed": 5, "step": 7, "path": 9}
    here = ops.to_numpy(tn.Dropout(0.3).forward({}, ops.asarray(x), Context(ops, **ctx))[0])
    there = tn.Dropout(0.3).forward({}, x, Context(host, **ctx))[0]
    np.testing.assert_array_equal(here, there)
    assert set(np.unique(here)) == {0.0, np.float32(1 / 0.7)}
    kept, n = (here > 0).mean(), here.size
    assert abs(kept - 0.7) < 5 * (0.21 / n) ** 0.5  # five standard errors


def test_dropout_differs_by_step_place_and_seed_and_rests_in_evaluation():
    host, x = tn.get_backend("numpy"), np.ones((40, 40))
    contexts = [{}, {"step": 1}, {"path": 1}, {"seed": 1}, {"part": 1}]
    masks = [tn.Dropout(0.5).forward({}, x, Context(host, train=True, **c))[0] for c in contexts]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert 0.4 < (a == b).mean() < 0.6  # independent halves agree half the time: 1600 trials, 8 deviations
    assert tn.Dropout(0.5).forward({}, x, Context(host))[0] is x


@pytest.mark.parametrize("wrap", [lambda layer: layer, tn.Sequential], ids=["plain", "nested"])
def test_two_dropouts_in_a_network_have_masks_of_their_own(wrap):
    net = tn.Sequential(wrap(tn.Dropout(0.5)), wrap(tn.Dropout(0.5)))
    y = net.forward({}, np.ones((100, 100)), Context(tn.get_backend("numpy"), train=True))[0]
    # one mask twice would keep half, two keep a quarter
    assert abs((y > 0).mean() - 0.25) < 5 * (0.25 * 0.75 / y.size) ** 0.5


HALF = np.float32(0.5)


@pytest.mark.parametrize(
    ("made", "same"),
    [
        (tn.Dense(np.int8(3), np.bool_(False)), tn.Dense(3, False)),
        (tn.Dropout(HALF), tn.Dropout(0.5)),
        (tn.LayerNorm(HALF), tn.LayerNorm(0.5)),
        (tn.BatchNorm(HALF, np.float64(0.25)), tn.BatchNorm(0.5, 0.25)),
        (tn.LeakyReLU(HALF), tn.LeakyReLU(0.5)),
        (tn.ELU(HALF), tn.ELU(0.5)),
        (tn.GELU(np.bool_(True)), tn.GELU(True)),
        (tn.initializers.Constant(HALF), tn.initializers.Constant(0.5)),
        (tn.initializers.Uniform(-HALF, np.int64(2)), tn.initializers.Uniform(-0.5, 2)),
        (tn.initializers.HeNormal(HALF), tn.initializers.HeNormal(0.5)),
        (tn.initializers.Orthogonal(HALF), tn.initializers.Orthogonal(0.5)),
        (tn.Huber(HALF), tn.Huber(0.5)),
        (tn.Quantile(HALF), tn.Quantile(0.5)),
        (tn.CrossEntropy(HALF), tn.CrossEntropy(0.5)),
        (tn.schedules.OneCycle(HALF, np.int64(9), HALF), tn.schedules.OneCycle(0.5, 9, 0.5)),
        (tn.schedules.Cosine(HALF, np.int64(9), HALF), tn.schedules.Cosine(0.5, 9, 0.5)),
        (tn.schedules.Warmup(np.int64(9), HALF), tn.schedules.Warmup(9, 0.5)),
        (tn.SGD(0.1, 0.9, np.bool_(True)), tn.SGD(0.1, 0.9, True)),
    ],
)
def test_numbers_of_a_library_become_python_s(made, same):
    """Their text is in checkpoints, and a file has them: both would tell np.float32(0.5) from 0.5."""
    assert repr(made) == repr(same)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: tn.Dense(3, tn.ReLU()),
            "Dense bias ReLU() is neither True nor False: an activation is a layer of its own, put it after this one",
        ),
        (lambda: tn.GELU("none"), "GELU approximate 'none' is neither True nor False: True is the tanh form"),
        (lambda: tn.LayerNorm(-1.0), "LayerNorm epsilon -1.0 is out of range: give a finite number of at least 0"),
        (lambda: tn.BatchNorm(0.1, "a"), "BatchNorm epsilon 'a' is out of range: give a finite number of at least 0"),
        (lambda: tn.LeakyReLU("a"), "LeakyReLU slope 'a' is out of range: give a finite number"),
        (lambda: tn.ELU(None), "ELU alpha None is out of range: give a finite number"),
        (
            lambda: tn.initializers.Uniform(2, 1),
            "Uniform high 1 is out of range: give a finite number of at least 2",
        ),
        (lambda: tn.initializers.HeNormal("a"), "HeNormal gain 'a' is out of range: give a finite number"),
        (lambda: tn.initializers.Constant(np.inf), "Constant value inf is out of range: give a finite number"),
        (lambda: tn.Dense(0), "Dense width 0 is not a positive whole number"),
        (lambda: tn.Dense(2.0), "Dense width 2.0 is not a positive whole number"),
        (lambda: tn.Dense(True), "Dense width True is not a positive whole number"),
        (
            lambda: tn.Dense(3, init="he"),
            "Dense init 'he' is not an initializer: give one, such as initializers.HeNormal()",
        ),
        (lambda: tn.Dropout("a"), "Dropout rate 'a' is out of range: give the fraction dropped, in [0, 1)"),
        (
            lambda: tn.Model(tn.Dense(3), 2.0),
            "n_in 2.0 is out of range: give the number of features, or the shape of one sample",
        ),
        (
            lambda: tn.Model(tn.Dense(3), 2, dtype=np.dtype("float32")),
            "unknown dtype dtype('float32'): choose from float32, float64",
        ),
        (
            lambda: tn.Model(tn.Dense(3), 2).predict([[1.0, 2.0]], batch_size=0.5),
            "batch_size 0.5 is not a positive whole number",
        ),
        (
            lambda: tn.Model(tn.Dense(3), 2).evaluate(([[1.0, 2.0]], [0]), loss=tn.CrossEntropy(), batch_size=0),
            "batch_size 0 is not a positive whole number",
        ),
        (
            lambda: tn.Model(tn.Dense(3), 2).evaluate(([[1.0, 2.0]], [0]), loss="mse"),
            "loss 'mse' is not a loss: give one, such as CrossEntropy()",
        ),
        (
            lambda: tn.find_rate(tn.Model(tn.Dense(3), 2), ([[1.0, 2.0]], [0]), loss="mse"),
            "loss 'mse' is not a loss: give one, such as CrossEntropy()",
        ),
        (
            lambda: tn.EarlyStopping(3, ["val_loss"]),
            "EarlyStopping monitor ['val_loss'] is not a name: give one, such as 'loss'",
        ),
        (
            lambda: tn.EarlyStopping(3, min_delta=np.inf),
            "EarlyStopping min_delta inf is out of range: give a finite number of at least 0",
        ),
        (lambda: tn.Dropout(1.0), "Dropout rate 1.0 is out of range: give the fraction dropped, in [0, 1)"),
        (
            lambda: tn.BatchNorm(momentum=2),
            "BatchNorm momentum 2 is out of range: give the weight of the new, in [0, 1]",
        ),
        (
            lambda: tn.Sequential(tn.Dense(3), tn.ReLU),
            "Sequential takes layers, not <class 'tinynet.activations.ReLU'>: write it with parentheses",
        ),
        (
            lambda: tn.Sequential([tn.Dense(3)]),
            "Sequential takes layers, not [Dense(width=3)]: give them one by one, Sequential(*layers)",
        ),
        (
            lambda: tn.Model(tn.Sequential(tn.Dense(3)), (28, 28)),
            "layer 0: Dense takes vectors, not samples of shape (28, 28): put Flatten() before it",
        ),
        (
            lambda: tn.Model(tn.Residual(tn.Dense(3)), 2),
            "Residual takes samples (2,) and its layers give (3,): the two must be equal",
        ),
    ],
)
def test_mistakes(make, said):
    with pytest.raises((ValueError, TypeError)) as e:
        make()
    assert str(e.value) == said


def test_an_initializer_gives_the_shape_that_it_is_asked_for():
    """Its transpose was taken, row for row, in silence."""
    own = type("Own", (), {"draw": lambda self, shape, *_: np.zeros(shape[::-1]), "__repr__": lambda self: "Own()"})()
    with pytest.raises(ValueError, match=r"^Own\(\) draws \(3, 2\) for \(2, 3\): give that shape$"):
        tn.Model(tn.Dense(3, init=own), 2)


# Initial weights --------------------------------------------------------------------------------------------------

SCALED = {
    initializers.GlorotNormal: lambda i, o: 2 / (i + o),
    initializers.GlorotUniform: lambda i, o: 2 / (i + o),
    initializers.HeNormal: lambda i, o: 2 / i,
    initializers.HeUniform: lambda i, o: 2 / i,
    initializers.LeCunNormal: lambda i, o: 1 / i,
    initializers.LeCunUniform: lambda i, o: 1 / i,
}


@pytest.mark.parametrize("kind", SCALED)
def test_initial_variance(kind):
    i, o = 50, 300
    w = tn.Model(tn.Dense(o, init=kind(gain=1.5)), i, dtype="float64").weights()["w"]
    wanted = 2.25 * SCALED[kind](i, o)
    # the variance of a squared normal is 2, of a squared uniform 0.8 times its mean squared: 5 standard errors
    assert abs((w**2).mean() / wanted - 1) < 5 * (2 / w.size) ** 0.5
    assert abs(w.mean()) < 5 * (wanted / w.size) ** 0.5
    if "Uniform" in kind.__name__:
        assert np.abs(w).max() <= (3 * wanted) ** 0.5


def test_each_weight_is_of_the_next_word_of_its_stream():
    """Also where they are more than one block."""
    w = tn.Model(tn.Dense(300, init=initializers.Uniform()), 200, seed=5, dtype="float64").weights()["w"]
    stream = np.random.Generator(np.random.Philox(key=np.array([5, tn.streams.WEIGHTS], np.uint64)))
    np.testing.assert_array_equal(w.ravel(), stream.random(200 * 300))


@pytest.mark.parametrize("shape", [(40, 40), (7, 30), (30, 7), (1, 5)])
def test_orthogonal(shape):
    w = tn.Model(tn.Dense(shape[1], init=initializers.Orthogonal(2.0)), shape[0], dtype="float64").weights()["w"]
    small = w @ w.T if shape[0] < shape[1] else w.T @ w
    np.testing.assert_allclose(small, 4.0 * np.eye(min(shape)), atol=1e-13)


def test_initial_weights_have_the_same_bits_everywhere(ops):
    layers = [tn.Dense(5, init=kind()) for kind in SCALED]
    net = tn.Sequential(*layers, tn.Dense(3, init=initializers.Orthogonal()), tn.Dense(2, init=initializers.Uniform()))
    here, host = (tn.Model(net, 4, seed=2**64 - 1, backend=b) for b in (ops, "numpy"))
    assert ops.to_numpy(here.theta).tobytes() == host.theta.tobytes()
    uniform = host.weights()["7.w"]
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert not np.array_equal(host.theta, tn.Model(net, 4, seed=1).theta)


def test_whole_numbers_of_any_library_become_python_s():
    assert repr(tn.Dense(np.int64(3))) == "Dense(width=3)"
    assert type(tn.EarlyStopping(np.uint8(3)).patience) is int


def test_models_print_as_they_are_written():
    net = tn.Sequential(tn.Dense(3, bias=False), tn.LeakyReLU(0.2), tn.Residual(tn.Dense(3)), tn.Dropout(0.5))
    wanted = "Sequential(Dense(width=3, bias=False), LeakyReLU(slope=0.2), Residual(Dense(width=3)), Dropout())"
    assert repr(net) == wanted
    assert net == tn.Sequential(*net.layers)
    assert net != tn.Residual(*net.layers)


def test_nesting_has_no_depth_at_which_dropout_breaks():
    net = tn.Dropout(0.5)
    for _ in range(30):
        net = tn.Sequential(net)
    y = net.forward({}, np.ones((20, 20)), Context(tn.get_backend("numpy"), train=True))[0]
    assert 0.3 < (y > 0).mean() < 0.7


def test_an_error_within_a_layer_says_which():
    class Bad(tn.Layer):
        def forward(self, params, x, ctx):
            return x

    model = tn.Model(tn.Sequential(tn.Dense(3), tn.Sequential(tn.Tanh(), Bad())), 2)
    with pytest.raises(TypeError, match=r"^Bad.forward does not give two results: return \(y, backprop\)") as e:
        model.predict([[1.0, 2.0]])
    assert e.value.__notes__ == ["in layer 1, Bad()", "in layer 1, Sequential(Tanh(), Bad())"]


@pytest.mark.double
def test_a_frozen_layer_stays_and_the_rest_learns(ops):
    """On the way it is as in prediction, and what is after it learns as if its outputs were the data."""
    front = tn.Sequential(tn.Dense(5), tn.BatchNorm(), tn.Tanh(), tn.Dropout(0.5))
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((64, 4)), rng.integers(0, 3, 64)
    base = model(front, 4, ops)
    tuned = tn.Model(tn.Sequential(tn.Frozen(front), tn.Dense(3)), 4, backend=ops, dtype="float64")
    head = tn.Model(tn.Dense(3), 5, backend=ops, dtype="float64")
    for name, array in base.weights().items():
        tuned.weights()[f"0.{name}"][...] = array
    head.theta = tuned.theta
    kept = ops.to_numpy(tuned.state).copy()
    tuned.fit((x, labels), batch_size=16, epochs=3)
    head.fit((ops.to_numpy(base.predict(x)), labels), batch_size=16, epochs=3)
    np.testing.assert_array_equal(ops.to_numpy(tuned.state), kept)
    np.testing.assert_allclose(ops.to_numpy(tuned.theta), ops.to_numpy(head.theta), rtol=1e-10)


def test_only_a_layer_can_be_frozen():
    with pytest.raises(TypeError, match=r"Frozen takes a layer, not 8: give one, such as Frozen\(Dense\(8\)\)"):
        tn.Frozen(8)
