"""Losses: gradients against differences, numbers against PyTorch's, and what weights mean."""

import re
from dataclasses import dataclass

import numpy as np
import pytest

import tinynet as tn

N, K = 12, 4
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, K))
REAL = RNG.standard_normal((N, K))
LABELS = RNG.integers(0, K, N)
SOFT = RNG.dirichlet(np.ones(K), N)
WEIGHT = RNG.uniform(0.1, 2.0, N)
CLASSES = (0.5, 1.0, 2.0, 0.25)

CASES = [
    (tn.SumSquaredError(), REAL), (tn.MeanSquaredError(), REAL), (tn.MeanAbsoluteError(), REAL), (tn.Huber(), REAL),
    (tn.Huber(0.3), REAL), (tn.Quantile(0.5), REAL), (tn.Quantile(0.9), REAL), (tn.Poisson(), np.abs(REAL).round()),
    (tn.Hinge(), np.sign(REAL)), (tn.BinaryCrossEntropy(), (REAL > 0) * 1.0), (tn.BinaryCrossEntropy(), SOFT),
    (tn.BinaryCrossEntropy((0.5, 3.0)), (REAL > 0) * 1.0), (tn.CrossEntropy(), LABELS), (tn.CrossEntropy(0.1), LABELS),
    (tn.CrossEntropy(0.1, CLASSES), LABELS), (tn.CrossEntropy(class_weight=CLASSES), SOFT), (tn.CrossEntropy(0.2), SOFT),
]  # fmt: skip
IDS = [f"{loss!r}-{target.ndim}" for loss, target in CASES]
cases = pytest.mark.parametrize(("loss", "target"), CASES, ids=IDS)


EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def usual(ops):
    """The dtype in which numba compiles a loss for other tests too, and float64 where that costs nothing."""
    return "float32" if ops.name == "numba" else "float64"


def put(ops, *arrays, dtype="float64"):
    """Arrays on a backend, and those of reals in ``dtype``."""
    return [None if a is None else ops.asarray(a, dtype if a.dtype == np.float64 else None) for a in arrays]


@pytest.mark.parametrize("dtype", ["float64"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@cases
def test_gradient(loss, target, weight, dtype, ops):
    y, t, w = put(ops, Y, target, weight)
    _, dy = loss(y, t, ops, w)
    v, step = np.random.default_rng(1).standard_normal(Y.shape), 1e-6
    above, below = (float(loss(ops.asarray(Y + s * step * v), t, ops, w)[0]) for s in (1, -1))
    # kinks (|e|, hinge) are 1e-2 away or more from these points
    assert (above - below) / (2 * step) == pytest.approx(np.sum(ops.to_numpy(dy) * v), rel=1e-7)


@cases
def test_weights_are_copies_and_zero_is_absence(loss, target, ops):
    dtype = usual(ops)
    times = np.arange(N) % 3
    again = np.repeat(np.arange(N), times)
    y, t, w = put(ops, Y, target, times * 1.0, dtype=dtype)
    value, dy = loss(y, t, ops, w)
    copies, dcopies = loss(*put(ops, Y[again], target[again], dtype=dtype), ops)
    assert float(value) == pytest.approx(float(copies), rel=500 * EPS[dtype])
    summed = np.zeros_like(Y)
    np.add.at(summed, again, ops.to_numpy(dcopies))
    np.testing.assert_allclose(ops.to_numpy(dy), summed, rtol=5000 * EPS[dtype], atol=EPS[dtype] / 2)


@cases
def test_a_batch_without_weight_costs_nothing(loss, target, ops):
    dtype = usual(ops)
    value, dy = loss(*put(ops, Y, target, dtype=dtype), ops, *put(ops, 0.0 * WEIGHT, dtype=dtype))
    assert float(value) == 0.0
    assert not ops.to_numpy(dy).any()


@DTYPES
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_of_classes_without_weight_cost_nothing(smoothing, dtype, ops):
    """Whatever the samples' weights: these, divided by the smallest number, would be infinite."""
    loss = tn.CrossEntropy(smoothing, (0.0, 1.0, 2.0))
    y, weight = (ops.asarray(a, dtype) for a in (Y[:, :3], np.full(N, 100.0)))
    value, dy = loss(y, ops.asarray(np.zeros(N, np.int64)), ops, weight)
    assert float(value) == 0.0
    assert not ops.to_numpy(dy).any()


@cases
def test_parts_with_the_whole_s_denominator_add_up(loss, target, ops):
    dtype = usual(ops)
    y, t, w = put(ops, Y, target, WEIGHT, dtype=dtype)
    value, dy = loss(y, t, ops, w)
    denominator = loss.denominator(t, w, ops)
    parts = [loss(y[s, ...], t[s, ...], ops, w[s], denominator) for s in (slice(0, 5), slice(5, N))]
    assert sum(float(p[0]) for p in parts) == pytest.approx(float(value), rel=500 * EPS[dtype])
    rtol = 500 * EPS[dtype]
    np.testing.assert_allclose(np.concatenate([ops.to_numpy(p[1]) for p in parts]), ops.to_numpy(dy), rtol=rtol)


@DTYPES
@cases
def test_one_loss_on_every_backend_in_both_precisions(loss, target, dtype, ops):
    for weight in (None, WEIGHT):
        wanted, dwanted = loss(Y, target, tn.get_backend("numpy"), weight)
        y, t, w = put(ops, Y, target, weight, dtype=dtype)
        value, dy = loss(y, t, ops, w)
        assert value.shape == ()
        assert value.dtype == dy.dtype == ops.dtype(dtype)
        rtol = {"float32": 1e-5, "float64": 1e-12}[dtype]
        assert float(value) == pytest.approx(float(wanted), rel=rtol)
        np.testing.assert_allclose(ops.to_numpy(dy), dwanted, rtol=rtol * 10, atol=rtol)


def torch_of(loss):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    f, tensor = torch.nn.functional, torch.tensor
    match loss:
        case tn.SumSquaredError():
            return lambda y, t: f.mse_loss(y, t, reduction="sum")
        case tn.MeanSquaredError():
            return f.mse_loss
        case tn.MeanAbsoluteError():
            return f.l1_loss
        case tn.Huber():
            return lambda y, t: f.huber_loss(y, t, delta=loss.delta)
        case tn.Poisson():
            return lambda y, t: f.poisson_nll_loss(y, t, log_input=True, full=False)
        case tn.BinaryCrossEntropy(class_weight=None):
            return f.binary_cross_entropy_with_logits
        case tn.BinaryCrossEntropy():
            # pos_weight stands beside a weight of 1 for the negative
            w0, w1 = loss.class_weight
            return lambda y, t: w0 * f.binary_cross_entropy_with_logits(y, t, pos_weight=tensor(w1 / w0))
        case tn.CrossEntropy():
            weight = None if loss.class_weight is None else tensor(loss.class_weight, dtype=torch.float64)
            return lambda y, t: f.cross_entropy(y, t, weight, label_smoothing=loss.smoothing)
    raise AssertionError(f"no oracle for {loss}")


OURS_ALONE = (tn.Quantile, tn.Hinge)  # PyTorch has no such loss: their formulas are tested below


@pytest.mark.parametrize("dtype", ["float64"])
@pytest.mark.parametrize(("loss", "target"), [case for case in CASES if not isinstance(case[0], OURS_ALONE)])
def test_pytorch_s_numbers(loss, target, dtype, ops):
    other = torch_of(loss)
    torch = pytest.importorskip("torch")
    y = torch.tensor(Y, requires_grad=True)
    wanted = other(y, torch.tensor(target))
    wanted.backward()
    value, dy = loss(*put(ops, Y, target), ops)
    assert float(value) == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(ops.to_numpy(dy), y.grad.numpy(), rtol=1e-12, atol=1e-16)


def test_hinge_and_quantile_by_their_formulas():
    host = tn.get_backend("numpy")
    t = np.sign(REAL)
    assert float(tn.Hinge()(Y, t, host)[0]) == pytest.approx(np.maximum(0, 1 - t * Y).mean(), rel=1e-14)
    e = REAL - Y
    wanted = np.maximum(0.9 * e, (0.9 - 1) * e).mean()
    assert float(tn.Quantile(0.9)(Y, REAL, host)[0]) == pytest.approx(wanted, rel=1e-14)


@DTYPES
def test_large_logits_stay_finite(ops, dtype):
    z = ops.asarray(np.array([[1e4, -1e4], [-1e4, 1e4]]), dtype)
    value, dz = tn.CrossEntropy()(z, ops.asarray(np.array([0, 0])), ops)
    assert float(value) == 1e4  # half of the samples pay 2e4
    assert np.isfinite(ops.to_numpy(dz)).all()
    t = ops.asarray(np.array([[1.0, 0.0], [1.0, 0.0]]), dtype)
    value, dz = tn.BinaryCrossEntropy()(z, t, ops)
    assert float(value) == 5e3
    assert np.isfinite(ops.to_numpy(dz)).all()


@pytest.mark.parametrize("loss", [tn.CrossEntropy(), tn.CrossEntropy(class_weight=(1, 2)), tn.BinaryCrossEntropy()])
def test_weights_whose_sum_is_infinite_are_not_nothing(loss, ops):
    """Each loss was 0, and nothing was learned, in silence."""
    y, labels = ops.zeros((2, 2 if loss.labels else 1), ops.dtype("float32")), ops.asarray(np.array([0, 1]))
    with np.errstate(all="ignore"):
        value, dy = loss(y, labels, ops, ops.asarray([2e38, 2e38], "float32"))
    assert not np.isfinite(float(value))
    assert not np.isfinite(ops.to_numpy(dy)).any()


@DTYPES
def test_probabilities(ops, dtype):
    logits = [[0.0, 1.0, -2.0], [80.0, -80.0, 0.0], [-1e4, 1e4, -1e4]]
    z = np.asarray(logits, np.longdouble)
    tolerance = {"rtol": 4 * np.finfo(dtype).eps, "atol": 1e-38}  # below it, numbers may be taken for 0

    def said(loss, y):
        return ops.to_numpy(loss.probabilities(ops.asarray(y, dtype), ops))

    e = np.exp(z - z.max(axis=1, keepdims=True))
    np.testing.assert_allclose(said(tn.CrossEntropy(0.1), logits), e / e.sum(axis=1, keepdims=True), **tolerance)
    each = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(said(tn.BinaryCrossEntropy((2.0, 1.0)), logits), each, **tolerance)
    both = np.stack([1 / (1 + np.exp(z[:, 0])), each[:, 0]], axis=1)
    np.testing.assert_allclose(said(tn.BinaryCrossEntropy(), z[:, :1].tolist()), both, **tolerance)
    with pytest.raises(
        TypeError, match=r"loss Huber\(delta=1.0\) gives no probabilities: train it with a cross-entropy"
    ):
        tn.Huber().probabilities(ops.asarray(logits, dtype), ops)


@pytest.mark.double
def test_labels_of_a_dtype_with_fewer_numbers_than_classes(ops):
    """The array API has no comparison of int8 with 300."""
    data = ops.asarray(np.ones((4, 2))), ops.asarray(np.array([0, 1, 127, 3], "int8"))
    with tn.use_backend(ops):
        model = tn.Model(tn.Dense(300), 2, dtype="float64")
        scores = model.evaluate(data, loss=tn.CrossEntropy(), metrics=["accuracy", "top_k", "log_loss", "f1"])
    assert scores["loss"] == pytest.approx(scores["log_loss"], rel=1e-12)


@pytest.mark.double
@pytest.mark.parametrize("kind", ["uint8", "int16"])
@pytest.mark.parametrize("weights", [None, tuple(range(1, 301))], ids=["plain", "weighted"])
def test_labels_of_any_dtype_are_the_same_labels(kind, weights, ops):
    """The numbers from 0 to 299 begin again at 0 in uint8."""
    z, labels = ops.asarray(RNG.standard_normal((3, 300))), np.array([2, 100, 120])
    (value, dz), (same, dsame) = (
        tn.CrossEntropy(class_weight=weights)(z, ops.asarray(labels.astype(of)), ops) for of in (kind, "int64")
    )
    assert float(value) == pytest.approx(float(same), rel=1e-13)  # an integer of 64 bits may have a kernel
    np.testing.assert_allclose(ops.to_numpy(dz), ops.to_numpy(dsame), rtol=1e-13)
    for metric in tn.metrics.as_metrics(["top_k", "log_loss", "accuracy", "f1"]):
        got, wanted = (metric.sums(z, ops.asarray(labels.astype(of)), None, ops) for of in (kind, "int64"))
        np.testing.assert_array_equal(ops.to_numpy(got), ops.to_numpy(wanted))


@pytest.mark.double
def test_a_class_that_cannot_occur_costs_nothing(ops):
    z = ops.asarray(np.array([[0.0, -np.inf, 1.0]]))
    value, dz = tn.CrossEntropy()(z, ops.asarray(np.array([0])), ops)
    assert float(value) == pytest.approx(np.log(1 + np.e))
    assert ops.to_numpy(dz)[0, 1] == 0.0


def test_two_classes_take_one_output_and_labels(ops):
    """The same bits as from a column of zeros and ones, in the weights too."""
    X, labels = np.asarray(tn.data.Moons(64)[:].x), np.asarray(tn.data.Moons(64)[:].y)
    runs = []
    for y in (labels, labels.reshape(-1, 1).astype(float)):
        model = tn.Model(tn.Dense(1), n_in=2, backend=ops)
        model.fit((X, y, np.arange(64) % 3), loss=tn.BinaryCrossEntropy((1, 2)), batch_size=16, epochs=3, accumulate=2)
        runs.append((model.evaluate((X, y)), ops.to_numpy(model.theta).tolist()))
    assert runs[0][0].pop("accuracy") > 0.5  # numbers have none: R² would be that of logits
    assert runs[0] == runs[1]
    model.fit(tn.data.Moons(64), loss=tn.BinaryCrossEntropy())
    with pytest.raises(ValueError, match=r"3 classes do not fit outputs \(n, 1\): expected width 3$"):
        model.fit(tn.data.Spirals(64), loss=tn.BinaryCrossEntropy())
    with pytest.raises(ValueError, match="expected width 2, or BinaryCrossEntropy"):
        model.fit(tn.data.Moons(64))


@pytest.mark.parametrize("width", [1, 2])
def test_columns_of_whole_numbers_are_numbers(width, ops):
    """As a data set of one's own may give them: the same bits as from real numbers, and no labels."""

    class Own(tn.Dataset):
        n, shape, classes, outputs = 8, (2,), None, width

        def __init__(self, kind):
            self.kind = kind

        def rows(self, index, ops, dtype):
            i = np.asarray(index)[:, None]
            x, y = (ops.asarray(i + np.arange(k), dtype) for k in (2, width))
            return tn.data.Batch(x, ops.asarray(ops.to_numpy(y) % 2, self.kind or dtype), None)

    runs = []
    for kind in ("int64", None):
        model, data = tn.Model(tn.Dense(width), n_in=2, backend=ops), Own(kind)
        history = model.fit(data, loss=tn.BinaryCrossEntropy(), epochs=2, batch_size=4)
        many = tn.fit_many(
            tn.Model(tn.Dense(width), n_in=2, backend=ops), data, seeds=[1, 2], loss=tn.BinaryCrossEntropy()
        )
        runs.append(
            (
                history["loss"],
                model.evaluate(data),
                ops.to_numpy(model.theta).tolist(),
                ops.to_numpy(many.theta).tolist(),
            )
        )
    assert runs[0] == runs[1]


@pytest.mark.parametrize("loss", [tn.MeanSquaredError(), tn.BinaryCrossEntropy(), tn.CrossEntropy()], ids=repr)
def test_a_loss_by_itself_takes_columns_of_whole_numbers(loss, ops):
    y, target = ops.asarray(np.linspace(-2, 2, 6).reshape(3, 2), "float32"), np.array([[0, 1], [1, 1], [0, 0]])
    found = [loss(y, ops.asarray(target, kind), ops) for kind in ("int64", "float32")]
    for whole, real in zip(*found, strict=True):
        assert whole.dtype == real.dtype == ops.dtype("float32")
        np.testing.assert_array_equal(ops.to_numpy(whole), ops.to_numpy(real))


@pytest.mark.parametrize(
    ("loss", "target", "weight", "said"),
    [
        (tn.MeanSquaredError(), (3,), None, "targets (3,) do not fit outputs (3, 2): expected (3, 2)"),
        (tn.MeanSquaredError(), (3, 1), None, "targets (3, 1) do not fit outputs (3, 2): expected (3, 2)"),
        (tn.CrossEntropy(), (3, 1), None,
         "targets (3, 1) do not fit outputs (3, 2): expected integer labels (3,) or probabilities (3, 2)"),
        (tn.CrossEntropy(), (3,), (3, 1), "weights (3, 1) do not fit outputs (3, 2): expected (3,)"),
        (tn.MeanSquaredError(), (3, 2), (1,), "weights (1,) do not fit outputs (3, 2): expected (3,)"),
    ],
)  # fmt: skip
def test_a_loss_by_itself_does_not_broadcast(loss, target, weight, said, ops):
    y, target = ops.asarray(np.ones((3, 2)), usual(ops)), ops.asarray(np.zeros(target, int))
    with pytest.raises(ValueError) as e:
        loss(y, target, ops, None if weight is None else ops.asarray(np.ones(weight), usual(ops)))
    assert str(e.value) == said


def test_a_formula_without_its_derivative(ops):
    class Half(tn.losses.Loss):
        def formula(self, xp, y, target):
            return (y - target) ** 2

    with pytest.raises(TypeError, match=r"Half.formula does not give two results: return \(loss, derivative in y\)"):
        Half()(ops.asarray(np.ones((2, 1)), "float32"), ops.asarray(np.ones((2, 1)), "float32"), ops)


@dataclass(frozen=True)
class Gaussian(tn.losses.Loss):
    """The negative logarithm of a normal density, whose mean and logarithm of its deviation are the outputs."""

    estimates = False

    def outputs(self, columns):
        return 2 * columns

    def __call__(self, y, target, ops, weight=None, denominator=None):
        xp, k = ops.xp, target.shape[-1]
        n = self.denominator(target, weight, ops) if denominator is None else denominator
        w = 1.0 / n if weight is None else weight[..., None] / n
        inverse = xp.exp(-y[..., k:])
        z = (y[..., :k] - target) * inverse
        loss = xp.sum(w * (y[..., k:] + 0.5 * z * z), axis=(-2, -1))
        return loss, xp.concat([w * z * inverse, w * (1.0 - z * z)], axis=-1)


def test_a_loss_with_more_outputs_than_targets(ops):
    def made(width):
        return tn.Model(tn.Dense(width), 1, backend=ops)

    assert tn.check_gradients(Gaussian(), backend=ops) < 1e-6
    assert tn.check_gradients(Gaussian(), target=[[1.0], [2.0]], backend=ops) < 1e-6
    data, model = tn.data.Sinusoid(64, noise=0.1), made(2)
    history = model.fit(data, loss=Gaussian(), validation=(data[:].x, data[:].y), epochs=2)
    assert history[1]["val_loss"] < history[0]["val_loss"]
    assert tn.fit_many(model, data, seeds=[1, 2], loss=Gaussian()).predict(data[:3].x).shape == (2, 3, 2)
    for fit, said in (
        (lambda: made(3).fit(data, loss=Gaussian()), "width 1 do not fit outputs (n, 3): expected outputs (n, 2)"),
        (lambda: made(3).fit(data[:], loss=Gaussian()), "(64, 1) do not fit outputs (64, 3): expected outputs (64, 2)"),
        (lambda: made(2).fit((data[:].x, np.ones(64)), loss=Gaussian()), "expected (64, 1); reshape(-1, 1) makes one"),
        (lambda: model.evaluate(data, metrics=["r2"]), "'r2' compares outputs (64, 2) with targets (64, 1): write"),
        (lambda: model.evaluate(data, metrics=["mae"]), "'mae' compares outputs"),
        (lambda: model.evaluate(data, metrics=["rmse"]), "'rmse' compares outputs"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            fit()


class Own(tn.losses.Loss):
    """Squares, with a mistake."""

    def __init__(self, wrong):
        self.wrong = wrong

    def __call__(self, y, target, ops, weight=None, denominator=None):
        e = y - target
        n = y.shape[0] if denominator is None else denominator
        value, dy = ops.xp.sum(e * e, axis=1 if self.wrong == "value" else None) / n, 2.0 * e / n
        if self.wrong == "pair":
            return value
        return value, dy[:, :1] if self.wrong == "gradient" else dy


LOSS_MISTAKES = {
    "value": r"^Own gives a loss \(2,\) for outputs \(2, 3\): expected \(\)$",
    "gradient": r"^Own gives a gradient \(\d, 1\) for outputs \(\d, 3\): expected \(\d, 3\)$",
    "pair": r"^Own.__call__ does not give two results: return \(loss, gradient in y\)$",
}


@pytest.mark.parametrize("wrong", LOSS_MISTAKES)
def test_a_loss_that_does_not_give_what_it_should(wrong, ops):
    """A gradient of another shape was broadcast, in silence, by a last layer that is elementwise."""
    model = tn.Model(tn.Sequential(tn.Dense(3), tn.Tanh()), 2, backend=ops)
    for use in (
        lambda: model.fit((np.ones((4, 2)), np.ones((4, 3))), loss=Own(wrong)),
        lambda: tn.check_gradients(Own(wrong), target=np.ones((2, 3)), backend=ops),
    ):
        with pytest.raises((ValueError, TypeError), match=LOSS_MISTAKES[wrong]):
            use()


@pytest.mark.double
def test_a_loss_of_labels_of_one_s_own(ops):
    class Doubled(tn.losses.Loss):
        labels = True

        def __call__(self, y, target, ops, weight=None, denominator=None):
            value, dy = tn.CrossEntropy()(y, target, ops, weight, denominator)
            return 2.0 * value, 2.0 * dy

    data = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0, 2, 1]
    model = tn.Model(tn.Dense(3), 2, backend=ops)
    model.fit(data, loss=Doubled())
    assert model.evaluate(data)["loss"] == pytest.approx(2.0 * model.evaluate(data, loss=tn.CrossEntropy())["loss"])
    assert tn.check_gradients(Doubled(), backend=ops) < 1e-6
    with pytest.raises(
        ValueError, match=r"^Doubled: labels must be in \[0, 2\), the numbers of the outputs; row 1 is 2$"
    ):
        tn.Model(tn.Dense(2), 2, backend=ops).fit(data, loss=Doubled())


THE = "the numbers of the outputs"
EXPECTED = "of a floating type do not fit outputs (2, 3): expected integer labels (2,) or probabilities (2, 3)"
MAKES = "; astype(int) makes labels of whole numbers, data.read(path, task='classification') those of a file"


@pytest.mark.parametrize(
    ("loss", "out", "target", "said"),
    [
        (tn.CrossEntropy(), (3,), [[0], [1]], "labels (2, 1) do not fit outputs (2, 3): expected (2,)"),
        (
            tn.CrossEntropy(),
            (2,),
            [[0, 1], [1, 0]],
            "labels (2, 2) do not fit outputs (2, 2): expected (2,); argmax(axis=1) makes labels of columns of 0 and 1",
        ),
        (tn.CrossEntropy(), (3,), [0, 1, 3], f"CrossEntropy: labels must be in [0, 3), {THE}; row 2 is 3"),
        (tn.CrossEntropy(), (3,), [0, -1], f"CrossEntropy: labels must be in [0, 3), {THE}; row 1 is -1"),
        (
            tn.CrossEntropy(), (1,), [0, 1],
            f"CrossEntropy: labels must be in [0, 1), {THE}, or be those of BinaryCrossEntropy; row 1 is 1",
        ),
        (
            tn.CrossEntropy(), (3,), [0.0, 1.0],
            f"targets (2,) {EXPECTED}{MAKES}",
        ),
        (
            tn.CrossEntropy(), (3,), [[0.0, 1.0], [1.0, 0.0]],
            f"targets (2, 2) {EXPECTED}",
        ),
        (
            tn.CrossEntropy(), (1,), [[0.0], [1.0]],
            "CrossEntropy of a single output is always 0: use BinaryCrossEntropy, or an output for each class",
        ),
        (tn.CrossEntropy(), (2,), [[0.5, -0.5]], "CrossEntropy: probabilities must not be negative; row 0 is [0.5, -0.5]"),
        (tn.CrossEntropy(0.0, (1, 2)), (3,), [0], "class_weight has 2 numbers for 3 classes: expected 3"),
        (tn.Huber(), (1,), [1.0, 2.0], "targets (2,) do not fit outputs (2, 1): expected (2, 1); reshape(-1, 1) makes one column"),
        (tn.Huber(), (2,), [[1.0], [2.0]],
         f"targets (2, 1) do not fit outputs (2, 2): expected (2, 2), or labels (2,) with CrossEntropy{MAKES}"),
        (tn.Huber(), (2,), [1, 2], "targets (2,) do not fit outputs (2, 2): expected (2, 2), or labels (2,) with CrossEntropy"),
        (tn.Huber(), (2,), np.zeros((2, 3)), "targets (2, 3) do not fit outputs (2, 2): expected (2, 2)"),
        (tn.Poisson(), (1,), [[1.0], [-1.0]], "Poisson: counts must not be negative; row 1 is [-1.0]"),
        (tn.BinaryCrossEntropy(), (1,), [[1.5]], "BinaryCrossEntropy: targets must be in [0, 1]; row 0 is [1.5]"),
        (tn.BinaryCrossEntropy(), (1,), [1, 2], "BinaryCrossEntropy: targets must be in [0, 1]; row 1 is [2]"),
        (tn.BinaryCrossEntropy(), (2,), [0, 1],
         "targets (2,) do not fit outputs (2, 2): expected (2, 2), or labels (2,) with CrossEntropy"),
        (
            tn.Hinge(), (1,), [[-1.0], [0.0]],
            "Hinge: targets must be -1 or 1 (2 * t - 1 makes them of 0 and 1); row 1 is [0.0]",
        ),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit(loss, out, target, said, ops):
    with pytest.raises(ValueError) as e:
        loss.check(out, ops.asarray(np.array(target)), ops)
    assert str(e.value) == said


def test_a_mean_of_one_s_own_divides_by_its_denominator(ops):
    """Parts of a batch added up to a multiple, and an evaluation to a fraction, in silence."""

    class Mean(tn.losses.Loss):
        def __call__(self, y, target, ops, weight=None, denominator=None):
            n = y.shape[0]
            return ops.xp.sum((y - target) ** 2) / n, 2.0 * (y - target) / n

    class Divided(tn.losses.Loss):
        def __call__(self, y, target, ops, weight=None, denominator=None):
            n = y.shape[0] if denominator is None else denominator
            return ops.xp.sum((y - target) ** 2) / n, 2.0 * (y - target) / n

    class Summed(Mean):
        mean = False

    data = [[1.0], [2.0], [3.0]], [[1.0], [2.0], [6.0]]
    model = tn.Model(tn.Dense(1, init=tn.initializers.Constant(1.0)), 1, backend=ops)
    with pytest.raises(
        TypeError, match=r"^Mean.__call__ does not divide by its denominator: do, if it is not None, or set"
    ):
        model.evaluate(data, loss=Mean())
    assert [model.evaluate(data, loss=loss)["loss"] for loss in (Divided(), Summed())] == [3.0, 3.0]


def test_a_sum_of_one_s_own_is_no_mean(ops):
    """It was trained as a mean and evaluated as a sum."""

    class Summed(tn.MeanSquaredError):
        mean = False

    class SummedLabels(tn.CrossEntropy):
        mean = False

    y, target, weight = (ops.asarray(a, "float32") for a in ([[1.0], [2.0]], [[0.0], [4.0]], [3.0, 0.5]))
    for given in (None, weight):
        for own, wanted in zip(
            Summed()(y, target, ops, given), tn.SumSquaredError()(y, target, ops, given), strict=True
        ):
            np.testing.assert_allclose(ops.to_numpy(own), ops.to_numpy(wanted))
    value, dy = SummedLabels(class_weight=(2.0, 1.0))(ops.xp.concat([y, y], axis=1), ops.asarray([0, 0]), ops)
    np.testing.assert_allclose(ops.to_numpy(value), 4.0 * np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(ops.to_numpy(dy), [[-1.0, 1.0]] * 2, rtol=1e-6)


@pytest.mark.parametrize("pole", [0.0, 0.5])
def test_a_mean_of_one_s_own_may_be_infinite_somewhere(pole, ops):
    """Whether it divides by its denominator is not seen there: a loss of probabilities was refused."""

    class Divergence(tn.losses.Loss):
        def __call__(self, y, target, ops, weight=None, denominator=None):
            n = y.shape[0] if denominator is None else denominator
            with np.errstate(divide="ignore"):
                return -ops.xp.sum(target * ops.xp.log(y - pole)) / n, -target / (y - pole) / n

    model = tn.Model(tn.Sequential(tn.Dense(2), tn.Softmax()), 1, backend=ops)
    model.theta[...] = 0.0
    data = [[1.0], [2.0]], [[1, 2], [2, 1]]
    wanted = np.inf if pole else 3.0 * np.log(2.0)
    assert model.evaluate(data, loss=Divergence())["loss"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tn.Huber(0.0), lambda: tn.Quantile(1.0), lambda: tn.CrossEntropy(1.0), lambda: tn.CrossEntropy(-0.1),
        lambda: tn.CrossEntropy(class_weight=(0, 0)), lambda: tn.BinaryCrossEntropy((1, 2, 3)),
        lambda: tn.BinaryCrossEntropy((1, float("nan"))), lambda: tn.CrossEntropy(class_weight={0: 2.0, 1: 1.0}),
        lambda: tn.CrossEntropy("mean"), lambda: tn.CrossEntropy(class_weight=3.0),
        lambda: tn.CrossEntropy(class_weight=np.array(3.0)), lambda: tn.CrossEntropy(class_weight=b"12"),
        lambda: tn.Huber("a"),
    ],
)  # fmt: skip
def test_hyperparameters_out_of_range(make):
    with pytest.raises(ValueError, match="out of range|expected 2"):
        make()
