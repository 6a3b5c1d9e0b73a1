"""Models: shapes, predictions and evaluation; and every mistake at the door, in the same words on every backend."""

import copy
import pickle
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from test_losses import usual

import tinynet as tn
from tinynet import metrics
from tinynet.layers import Param, Spec

RNG = np.random.default_rng(0)
X, LABELS, REAL = RNG.standard_normal((30, 4)), RNG.integers(0, 3, 30), RNG.standard_normal((30, 3))


EXAMPLE = "Sequential(Dense(8), ReLU(), Dense(1))"


def made(backend="numpy", dtype="float64"):
    return tn.Model(tn.Sequential(tn.Dense(5), tn.BatchNorm(), tn.Tanh(), tn.Dense(3)), 4, backend=backend, dtype=dtype)


@pytest.mark.double
def test_predictions_do_not_depend_on_the_batch(ops):
    model = made(ops)
    whole = ops.to_numpy(model.predict(X))
    assert whole.shape == (30, 3)
    for size in (1, 7, 30, 4096):
        np.testing.assert_allclose(ops.to_numpy(model.predict(X, batch_size=size)), whole, rtol=1e-12)
    np.testing.assert_allclose(ops.to_numpy(model.predict(X.tolist())), whole, rtol=1e-12)
    np.testing.assert_array_equal(ops.to_numpy(model.predict_labels(X)), whole.argmax(1))
    assert model.predict(X[:0]).shape == (0, 3)


def test_inputs_and_targets_are_one_argument():
    model = made()
    uses = model.fit, model.evaluate, model.adapt, *(partial(f, model) for f in (tn.fit, tn.fit_many, tn.find_rate))
    for use in uses:
        with pytest.raises(
            TypeError, match=r" takes data as one argument and was given 2: give X and y as a tuple, \(X, y\)$"
        ):
            use(X, LABELS)


def test_predictions_stay_when_the_next_are_made():
    model = made()
    first = model.predict(X)
    kept = first.copy()
    model.predict(X + 1)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.double
def test_forward_and_back_are_those_of_training(ops):
    """One step of SGD by hand, with batch norm and dropout, is the step that fit makes."""
    net = tn.Sequential(tn.Dense(5), tn.BatchNorm(), tn.Tanh(), tn.Dropout(0.4), tn.Dense(3))
    by_hand, fitted = (tn.Model(net, 4, backend=ops, dtype="float64") for _ in range(2))
    y, backprop = by_hand.forward(X, train=True)
    loss, dy = tn.CrossEntropy()(y, ops.asarray(LABELS), ops)
    _, gradient = backprop(dy)
    by_hand.theta -= 0.5 * gradient
    history = fitted.fit((X, LABELS), optimizer=tn.SGD(0.5), batch_size=30, shuffle=False)
    assert history[-1]["loss"] == pytest.approx(float(loss), rel=1e-12)
    np.testing.assert_allclose(ops.to_numpy(by_hand.theta), ops.to_numpy(fitted.theta), rtol=1e-12)
    np.testing.assert_allclose(ops.to_numpy(by_hand.state), ops.to_numpy(fitted.state), rtol=1e-12)
    np.testing.assert_allclose(ops.to_numpy(by_hand.forward(X)[0]), ops.to_numpy(by_hand.predict(X)), rtol=1e-12)
    parts = by_hand.weights(gradient)
    assert list(parts) == list(by_hand.gradient_names)
    np.testing.assert_array_equal(
        np.concatenate([ops.to_numpy(g).ravel() for g in parts.values()]), ops.to_numpy(gradient)
    )


@pytest.mark.double
def test_the_way_back_to_the_inputs(ops):
    """Against differences of predictions; truncation and rounding are of order 1e-10."""
    model, step = made(ops), 1e-5
    y, backprop = model.forward(X)
    dx = ops.to_numpy(backprop(np.ones(y.shape))[0])
    for j in range(4):
        shift = step * np.eye(4)[j]
        above, below = (ops.to_numpy(model.predict(X + sign * shift)).sum(1) for sign in (1, -1))
        np.testing.assert_allclose(dx[:, j], (above - below) / (2 * step), atol=1e-8)


def test_what_does_not_fit_forward_and_back():
    model = made()
    with pytest.raises(ValueError, match=r"samples of shape \(3,\) do not fit the model: expected \(4,\)"):
        model.forward(X[:, :3])
    with pytest.raises(ValueError, match=r"dy \(30,\) does not fit the outputs: expected \(30, 3\)"):
        model.forward(X)[1](np.ones(30))
    with pytest.raises(ValueError, match=r"vector \(3,\) is not like theta: expected \(53,\)"):
        model.weights(np.ones(3))


def test_probabilities_are_those_of_the_loss(ops):
    model = tn.Model(tn.Dense(3), 4, backend=ops)
    with pytest.raises(ValueError, match="no loss yet, by which outputs are probabilities: fit it, or set model.loss"):
        model.predict_proba(X)
    model.loss = tn.CrossEntropy()
    p = ops.to_numpy(model.predict_proba(X, batch_size=7))
    np.testing.assert_array_equal(p, ops.to_numpy(ops.softmax(model.predict(X, batch_size=7))))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    assert p.argmax(axis=1).tolist() == ops.to_numpy(model.predict_labels(X)).tolist()


def test_behind_a_sigmoid_the_boundary_is_at_one_half(ops):
    """The labels and scores of the same network without it: each output is positive, and all were of class 1."""
    y = (X[:, 1:2] > 0.2).astype(float)
    logits = tn.Model(tn.Dense(1), 4, backend=ops)

    class Net(tn.Sequential):
        """One that is a name only."""

    ended = tn.Model(Net(tn.Dense(1), tn.Sequential(tn.Sigmoid())), 4, backend=ops)
    frozen = tn.Model(tn.Sequential(tn.Dense(1), tn.Frozen(tn.Sequential(tn.Sigmoid()))), 4, backend=ops)
    added = tn.Model(tn.Sequential(tn.Dense(1), tn.Residual(tn.Sigmoid())), 4, backend=ops)  # no probability
    wanted = ops.to_numpy(logits.predict(X))[:, 0] > 0
    assert 0 < wanted.sum() < len(X)
    for model in (logits, ended, frozen):
        assert ops.to_numpy(model.predict_labels(X)).tolist() == wanted.tolist()
        scores = model.evaluate((X, y), loss=tn.SumSquaredError(), metrics=["accuracy", "f1", "mae"])
        assert scores["accuracy"] == pytest.approx((wanted == y[:, 0]).mean())
        right = (wanted * y[:, 0]).sum()
        assert scores["f1"] == pytest.approx(2 * right / (wanted.sum() + y.sum()))
        assert scores["mae"] == pytest.approx(np.abs(ops.to_numpy(model.predict(X)) - y).mean(), rel=1e-5)
    z = ops.to_numpy(logits.predict(X))[:, 0]
    assert ops.to_numpy(added.predict_labels(X)).tolist() == (z + 1 / (1 + np.exp(-z)) > 0).tolist()


@pytest.mark.parametrize("width", [1, 3])
def test_what_is_missing_has_no_label(width, ops):
    """It was of class 0, in silence, as no comparison with NaN is true."""
    x = X.copy()
    x[[3, 5], 1] = np.nan
    with pytest.raises(ValueError, match="^the outputs of row 3 are NaN, which is no label: fill or drop what X lacks"):
        tn.Model(tn.Dense(width), 4, backend=ops).predict_labels(x)


def test_small_outputs_of_a_last_sigmoid_are_told_apart(ops):
    """Where there are several, their scores are those of their labels: less 1/2, outputs of 1e-8 were all alike."""
    net = tn.Sequential(tn.Dense(3, bias_init=tn.initializers.Constant(-18.0)), tn.Sigmoid())
    model = tn.Model(net, 4, backend=ops)
    labels = ops.to_numpy(model.predict_labels(X))
    assert model.evaluate((X, np.eye(3)[labels]), loss=tn.BinaryCrossEntropy(), metrics=["accuracy"])["accuracy"] == 1.0


def test_a_data_set_is_predicted_too():
    data = tn.data.Blobs(50, n_features=4)
    model = made()
    x = data.batch(range(50), model.ops, "float64").x
    np.testing.assert_array_equal(model.predict(data), model.predict(x))


def test_weights_are_views_of_one_vector(ops):
    model = made(ops)
    model.theta[...] = ops.asarray(np.arange(float(model.theta.shape[0])))
    assert {name: tuple(w.shape) for name, w in model.weights().items()} == {
        "0.w": (4, 5), "0.b": (5,), "1.gamma": (5,), "1.beta": (5,), "1.mean": (5,), "1.var": (5,), "3.w": (5, 3), "3.b": (3,),
    }  # fmt: skip
    np.testing.assert_array_equal(ops.to_numpy(model.weights()["0.w"]), np.arange(20.0).reshape(4, 5))
    assert model.theta.shape == (53,)
    assert model.state.shape == (10,)


def test_what_is_assigned_to_a_name_is_copied(ops):
    model = made(ops)
    weights = model.weights()
    weights["0.b"] = np.arange(5.0)
    weights["1.beta"] = [9, 9, 9, 9, 9]
    weights["3.b"] += 2.0
    weights.update({"1.mean": 7.0})
    weights |= {"1.gamma": 8.0}
    found = {name: ops.to_numpy(array).tolist() for name, array in model.weights().items() if array.ndim == 1}
    assert [found[name] for name in ("0.b", "3.b", "1.mean")] == [[0, 1, 2, 3, 4], [2] * 3, [7] * 5]
    assert [found[name] for name in ("1.gamma", "1.beta")] == [[8] * 5, [9] * 5]
    with pytest.raises(KeyError, match=r"there is no array '0.c' to set: there are 0.w, 0.b, 1.gamma"):
        weights["0.c"] = 0.0
    kept = copy.deepcopy(weights)
    kept["0.b"] = None  # a copy is a dict like any other
    assert float(model.weights()["0.b"][4]) == 4.0


def test_a_layer_may_assign_to_its_state(ops):
    @dataclass(frozen=True, repr=False)
    class Count(tn.Layer):
        def build(self, shape):
            return Spec(shape, state={"n": Param((), tn.initializers.Constant(0.0))})

        def forward(self, params, x, ctx):
            params["n"] = params["n"] + 1.0
            return x, lambda dy: (dy, {})

    model = tn.Model(tn.Sequential(tn.Dense(3), Count()), 4, backend=ops)
    model.fit((X, X[:, :3]), batch_size=10, shuffle=False, epochs=4)
    assert float(model.state[0]) == 4 * -(-len(X) // 10)


@pytest.mark.double
def test_what_is_assigned_to_the_vectors_is_copied(ops):
    model, other = made(ops), made(ops)
    other.theta[...] = 0.5 * other.theta + 0.1
    wanted = ops.to_numpy(other.predict(X)).copy()
    model.predict(X), model.predict(X)  # the second call is captured
    model.theta = ops.to_numpy(model.theta).tolist()
    model.theta *= 0.5
    model.theta = model.theta + 0.1
    np.testing.assert_array_equal(ops.to_numpy(model.predict(X)), wanted)
    with pytest.raises(ValueError) as e:
        model.state = ops.asarray([1.0])
    assert str(e.value) == "state (1,) does not fit the model's: expected (10,)"
    np.testing.assert_array_equal(ops.to_numpy(model.predict(X)), wanted)


@pytest.mark.double
def test_a_model_moves(ops):
    model = made()
    model.fit((X, LABELS), epochs=2)
    there = model.to(ops)
    assert there.ops is ops
    np.testing.assert_allclose(ops.to_numpy(there.predict(X)), model.predict(X), rtol=1e-12)
    assert there.evaluate((X, LABELS))["loss"] == pytest.approx(model.evaluate((X, LABELS))["loss"], rel=1e-12)


def test_a_model_that_gets_other_weights_draws_none(tmp_path, monkeypatch):
    """It takes longer than to read them, above all for orthogonal ones."""
    model = made()
    ensemble = tn.fit_many(model, (X, LABELS), seeds=[1, 2])
    model.save(tmp_path / "model.safetensors")
    monkeypatch.setattr(tn.initializers, "_drawn", None)
    for again in (model.to("strict"), tn.load(tmp_path / "model.safetensors")):
        np.testing.assert_array_equal(again.ops.to_numpy(again.theta), model.theta)
    np.testing.assert_array_equal(ensemble[1].theta, ensemble.theta[1])
    with pytest.raises(TypeError):
        made()


def test_a_model_can_be_copied_and_pickled(ops):
    model = made(ops, usual(ops))
    model.fit((X, LABELS), validation=(X, LABELS))
    wanted = ops.to_numpy(model.predict(X)).copy()
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert again.ops is ops
        assert (again.evaluate((X, LABELS)), again.history.rows) == (model.evaluate((X, LABELS)), model.history.rows)
        again.fit((X, LABELS), epochs=3)
        assert not np.array_equal(ops.to_numpy(again.predict(X)), wanted)
        np.testing.assert_array_equal(ops.to_numpy(model.predict(X)), wanted)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_what_holds_a_backend_can_be_copied_and_pickled(copied, ops):
    """There is one of each in a process: data in memory, and a callback with data, keep theirs."""
    data = tn.Arrays(X, LABELS)
    assert copied(ops) is ops
    assert copied(data).ops is data.ops
    model = made(ops, usual(ops))
    diagnosis = copied(tn.Diagnosis(data))
    assert (
        model.fit(copied(data), callbacks=[diagnosis]).rows[0]["loss"]
        == made(ops, usual(ops)).fit(data).rows[0]["loss"]
    )
    assert diagnosis.losses


WEIGHT = RNG.uniform(0.1, 2.0, 30)


@pytest.mark.double
@pytest.mark.parametrize("size", [30, 8, 1])
@pytest.mark.parametrize("weight", [None, WEIGHT, WEIGHT * (X[:, 0] > 0)], ids=["plain", "weighted", "with zeros"])
@pytest.mark.parametrize(
    ("loss", "target"),
    [(tn.CrossEntropy(0.1, (1, 2, 3)), LABELS), (tn.SumSquaredError(), REAL), (tn.MeanAbsoluteError(), REAL)],
)
@pytest.mark.long
def test_evaluation_in_batches_is_that_of_the_whole(loss, target, weight, size, ops):
    model = made(ops)
    data = (X, target) if weight is None else (X, target, weight)
    w = None if weight is None else ops.asarray(weight)
    wanted = float(loss(model.predict(X), ops.asarray(target), ops, w)[0])
    assert model.evaluate(data, loss=loss, batch_size=size)["loss"] == pytest.approx(wanted, rel=1e-12)


def test_a_model_says_what_it_is():
    wanted = "Model(Sequential(Dense(width=3), ReLU()), 2 -> 3, 9 parameters, float32 on numpy)"
    assert repr(tn.Model(tn.Sequential(tn.Dense(3), tn.ReLU()), 2)) == wanted


def test_a_network_without_parameters():
    model = tn.Model(tn.Sequential(tn.Flatten(), tn.Softmax()), (2, 2))
    np.testing.assert_allclose(model.predict(np.zeros((1, 2, 2))), 0.25)
    model.fit((np.zeros((3, 2, 2)), [0, 1, 2]))


@dataclass(frozen=True, repr=False)
class Scale(tn.Layer):
    """``x * a``, with a way to give something else than it should."""

    wrong: str = ""

    def build(self, shape):
        return Spec(shape, {"a": Param(shape, tn.initializers.Constant(2.0))})

    def forward(self, params, x, ctx):
        y, xp = x * params["a"], ctx.ops.xp

        def backprop(dy):
            da = xp.sum(x * dy, axis=None if self.wrong == "gradient" else 0)
            return dy * params["a"], {"other" if self.wrong == "name" else "a": da}

        return y[:, :1] if self.wrong == "output" else y, backprop


@dataclass(frozen=True, repr=False)
class Gain(tn.Layer):
    """``x * a`` with one number for all: a parameter of shape ()."""

    def build(self, shape):
        return Spec(shape, {"a": Param((), tn.initializers.Constant(2.0))})

    def forward(self, params, x, ctx):
        return x * params["a"], lambda dy: (dy * params["a"], {"a": ctx.ops.xp.sum(x * dy)})


@pytest.mark.double
@pytest.mark.long
def test_a_parameter_may_be_a_number(ops):
    tn.check_gradients(Gain(), backend=ops)
    model = tn.Model(Gain(), 4, backend=ops, dtype="float64")
    model.fit((X, 3.0 * X), loss=tn.SumSquaredError(), optimizer=tn.SGD(3e-3), epochs=100)
    np.testing.assert_allclose(float(model.weights()["a"]), 3.0)


def test_a_loss_takes_vectors(ops):
    model = tn.Model(Gain(), (2, 2), backend=ops)
    assert model.predict(np.ones((3, 2, 2))).shape == (3, 2, 2)
    with pytest.raises(ValueError, match=r"^the network makes \(2, 2\) of a sample and a loss takes vectors: put Flat"):
        model.fit((np.ones((3, 2, 2)), np.ones((3, 2, 2))))


LAYER_MISTAKES = {
    "output": "Sequential gives (30, 1) in forward and says (30, 4) in build: make them equal",
    "gradient": "the gradient of '0.a' is (): expected (4,), the shape of the parameter",
    "name": "backprop gives no gradient of '0.a': it gives 0.other",
}


@pytest.mark.long
@pytest.mark.parametrize("wrong", LAYER_MISTAKES)
def test_a_layer_that_does_not_do_what_it_says(wrong, ops):
    model = tn.Model(tn.Sequential(Scale(wrong)), 4, backend=ops)
    with pytest.raises(ValueError) as e:
        model.fit((X, X))
    assert str(e.value) == LAYER_MISTAKES[wrong]
    for look in (lambda: model.predict(X), lambda: model.evaluate((X, X), loss=tn.MeanSquaredError())):
        with pytest.raises(ValueError, match="in build") if wrong == "output" else nullcontext():
            look()
    with pytest.raises(ValueError, match="'a'|in build"):
        tn.check_gradients(Scale(wrong), backend=ops)


class Bad(tn.Layer):
    """A layer in which one thing, by name, is replaced."""

    def __init__(self, name, value):
        setattr(self, name, value)


INIT = tn.initializers.Constant(1.0)
NO_LAYERS = [
    ("forward", lambda params, x, ctx: 2 * x, "Bad.forward does not give two results: return (y, backprop)"),
    ("forward", lambda params, x, ctx: (x, lambda dy: dy), "Bad.backprop does not give two results: return (dx, gradients)"),
    ("forward", lambda params, x, ctx: (x, lambda dy: None), "Bad.backprop does not give two results: return (dx, gradients)"),
    ("build", lambda shape: shape, "Bad.build gives (4,): return a Spec"),
    ("build", lambda shape: Spec(4), "Spec shape 4 is not a shape: give a tuple, such as (4,)"),
    ("build", lambda shape: Spec(shape, {"a": shape}), "Spec has (4,) as 'a': give a Param(shape, init)"),
    ("build", lambda shape: Spec(shape, {"a": Param(4, INIT)}), "Param shape 4 is not a shape: give a tuple, such as (4,)"),
    (
        "build", lambda shape: Spec(shape, {"a": Param(shape, 0.5)}),
        "Param init 0.5 is not an initializer: give one, such as initializers.HeNormal()",
    ),
]  # fmt: skip


def test_a_method_that_is_missing():
    class Square(tn.activations.Activation):
        def f(self, xp, x):
            return x * x

    said = []
    for net, options in (
        (tn.Layer(), {}), (tn.activations.Activation(), {}), (tn.Sequential(tn.Dense(4), Square()), {}),
        (tn.Dense(4), {"loss": tn.losses.Loss()}), (tn.Dense(4), {"optimizer": tn.optim.Optimizer(0.1)}),
    ):  # fmt: skip
        with pytest.raises(NotImplementedError) as e:
            tn.Model(net, 4).fit((X, X), **options)
        said.append(str(e.value))
    assert said == [
        "Layer has no forward: write one",
        "Activation has no f: write one",
        "Square has no df, the derivative: write one",
        "Loss has no formula: write one, or a __call__",
        "Optimizer has no rule: write one",
    ]


@pytest.mark.long
@pytest.mark.parametrize(("name", "value", "said"), NO_LAYERS)
def test_a_layer_that_lacks_a_part(name, value, said, ops):
    for net in (Bad(name, value), tn.Sequential(tn.Identity(), Bad(name, value), tn.Identity())):
        for use in (
            lambda net=net: tn.Model(net, 4, backend=ops).fit((X, X)),
            lambda net=net: tn.check_gradients(net, backend=ops),
        ):
            with pytest.raises(TypeError) as e:
                use()
            assert str(e.value) == said


NO_ARRAYS = {
    r"^Bad.forward gives \[1.0\] as outputs: return an array": lambda x: ([1.0], lambda dy: (dy, {})),
    r"^Bad.backprop gives dx \(6, 1\): expected \(6, 4\), the shape of the inputs": lambda x: (
        x,
        lambda dy: (dy[:, :1], {}),
    ),
    r"^Bad.backprop gives dx None: expected \(6, 4\), the shape of the inputs": lambda x: (x, lambda dy: (None, {})),
}


@pytest.mark.long
@pytest.mark.parametrize("said", NO_ARRAYS)
def test_a_layer_gives_arrays_of_the_right_shape(said, ops):
    bad = Bad("forward", lambda params, x, ctx: NO_ARRAYS[said](x))
    with pytest.raises((TypeError, ValueError), match=said):
        tn.check_gradients(bad, backend=ops)
    model = tn.Model(tn.Sequential(tn.Dense(4), bad), 4, backend=ops)
    with pytest.raises((TypeError, ValueError), match=said.replace("6", "30")):
        model.fit((X, X), batch_size=30)


def test_a_shape_may_be_a_list(ops):
    layer = Bad("build", lambda shape: Spec([*shape], {"a": Param([*shape], INIT)}))
    layer.forward = lambda params, x, ctx: (
        x * params["a"],
        lambda dy: (dy * params["a"], {"a": ctx.ops.xp.sum(x * dy, axis=0)}),
    )
    assert tn.Model(layer, 4, backend=ops).out_shape == (4,)
    assert tn.check_gradients(tn.Residual(layer), backend=ops) < 1e-6


# Bad input --------------------------------------------------------------------------------------------------------------


def bad(array, row, value):
    array = array.astype(float).copy()
    array[row] = value
    return array


NAMES = ("price", "size")
EXPECTED = (
    "expected integer labels (30,) or probabilities (30, 3); "
    "astype(int) makes labels of whole numbers, data.read(path, task='classification') those of a file"
)
MISTAKES = [
    ((X[:, :3], LABELS), "samples of shape (3,) do not fit the model: expected (4,)"),
    ((X[:, 0], LABELS), "X (30,) is not a table: expected (n, features); reshape(-1, 1) makes one column"),
    ((X[:29], LABELS), "y (30,) does not fit X (29, 4): expected 29 rows"),
    ((X, np.float64(1.0)), "y () does not fit X (30, 4): expected 30 rows"),
    ((X[:0], LABELS[:0]), "X (0, 4) has no samples: give at least one"),
    ((X, LABELS[:, None]), "labels (30, 1) do not fit outputs (30, 3): expected (30,); reshape(-1) makes labels of whole numbers"),
    ((X, bad(LABELS, 0, 1.0)),
     f"targets (30,) of a floating type do not fit outputs (30, 3): {EXPECTED}"),
    ((X, np.where(np.arange(30) == 7, 3, LABELS)),
     "CrossEntropy: labels must be in [0, 3), the numbers of the outputs; row 7 is 3"),
    ((X, np.where(np.arange(30) == 9, -1, LABELS)),
     "CrossEntropy: labels must be in [0, 3), the numbers of the outputs; row 9 is -1"),
    ((bad(X, (11, 2), np.nan), LABELS), "X has a value that is NaN or infinite: first in row 11"),
    ((bad(X, (12, 0), -np.inf), LABELS), "X has a value that is NaN or infinite: first in row 12"),
    ((X, bad(REAL, (5, 1), np.nan)), "y has a value that is NaN or infinite: first in row 5"),
    ((X, LABELS, WEIGHT[:4]), "weight (4,) does not fit 30 samples: expected (30,)"),
    ((X, LABELS, bad(WEIGHT, 3, -1)), "weight has a negative value: first in row 3"),
    ((X, LABELS, 0 * WEIGHT), "weight is zero everywhere: give some sample a positive one"),
]  # fmt: skip


@pytest.mark.double
def test_numbers_beyond_float32_are_refused_where_they_would_be_infinite(ops):
    data = bad(X, (9, 1), 1e39), LABELS
    with tn.use_backend(ops):
        made(ops).fit(data, loss=tn.CrossEntropy())
        with pytest.raises(ValueError) as e:
            made(ops, "float32").fit(data, loss=tn.CrossEntropy())
    assert str(e.value) == "X has a value too large for float32, first in row 9: scale it, or take dtype='float64'"


@pytest.mark.parametrize(
    "beyond",
    [
        {"data": tn.data.LabelNoise(tn.Arrays(bad(X, (9, 1), 1e39), LABELS), 0.1)},  # which reads float64
        {"data": tn.Arrays(X, LABELS).take(20), "validation": tn.Arrays(bad(X, (9, 1), 1e39), LABELS).take(5)},
        {"data": (X, LABELS, 1e-40 * WEIGHT)},
        {"data": tn.data.Concatenated([tn.Arrays(X, LABELS), tn.Arrays(X, LABELS, 1e38 * WEIGHT)])},
    ],
    ids=["wrapped", "validation", "small weights", "large weights"],
)
def test_numbers_beyond_float32_are_refused_before_the_first_step(beyond):
    model = made(tn.get_backend("numpy"), "float32")
    theta = model.theta.copy()
    with pytest.raises(ValueError, match=r"too (large|small) .*float32.*: scale it, or take dtype='float64'$"):
        model.fit(**beyond, loss=tn.CrossEntropy(), batch_size=4)
    np.testing.assert_array_equal(model.theta, theta)
    made(tn.get_backend("numpy")).fit(**beyond, loss=tn.CrossEntropy(), clip=1.0, optimizer=tn.SGD(0.0))


@pytest.mark.parametrize("factor", [1e-320, 1e307])
def test_weights_that_float64_cannot_add_up_are_refused(factor):
    with pytest.raises(
        ValueError, match=r"^weight has values up to .*, too (large|small) to add up in float64: scale it$"
    ):
        tn.Arrays(X, LABELS, factor * WEIGHT)


@pytest.mark.parametrize(("data", "said"), MISTAKES, ids=[said[:30] for _, said in MISTAKES])
def test_bad_data_says_the_same_on_every_backend(data, said, ops):
    before = [a.copy() for a in data]
    with tn.use_backend(ops):
        model = made(ops)
        theta = ops.to_numpy(model.theta).copy()
        for arrays in (data, tuple(ops.asarray(a) for a in data)):
            for use in (
                lambda d: model.fit(d, loss=tn.CrossEntropy()),
                lambda d: model.evaluate(d, loss=tn.CrossEntropy()),
            ):
                with pytest.raises(ValueError) as e:
                    use(arrays)
                assert str(e.value) == said
    np.testing.assert_array_equal(ops.to_numpy(model.theta), theta)
    for a, b in zip(data, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_column_against_a_vector():
    model = tn.Model(tn.Dense(1), 4)
    with pytest.raises(
        ValueError, match=r"^targets \(30,\) do not fit .*: expected \(30, 1\); reshape\(-1, 1\) makes one column$"
    ):
        model.fit((X, REAL[:, 0]))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (X[:, :2], "samples of shape (2,) do not fit the model: expected (4,)"),
        (X[0], "X (4,) is not a table: expected (n, 4); reshape(1, -1) makes one row"),
        (X[0, :3], "X (3,) is not a table: expected (n, 4)"),
        (np.array([["a", "b", "c", "d"]]), "X of dtype <U1 is not numeric: give real or whole numbers"),
        (X + 1j, "X of dtype complex128 is not numeric: give real or whole numbers"),
        ([[1, 2], [3]], "X is not an array: its rows differ in length"),
        ({"a": 1}, "X is a dict, not an array: give an array or a list"),
        ("x.csv", "X is a str, not an array: give an array or a list"),
        (np.float64(3), "X () is not a table: expected (n, 4)"),
        ((row for row in X), "X is a generator, not an array: give an array or a list"),
        (tn.data.Moons(5), "samples of shape (2,) do not fit the model: expected (4,)"),
    ],
)
def test_bad_inputs_to_predict(x, said):
    with pytest.raises((ValueError, TypeError)) as e:
        made().predict(x)
    assert str(e.value) == said


def test_the_shape_that_images_should_have():
    with pytest.raises(ValueError, match=r"^X \(2,\) is not a table: expected \(n, 2, 3\)$"):
        tn.Model(tn.Flatten(), (2, 3)).predict([1.0, 2.0])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            (("u", "w", "v", "x"), ("kind",), tuple("abc")),
            "feature 1 of the table is 'w', and that of the training data 'v'",
        ),
        (
            (("u", "V", "w", "x"), ("kind",), tuple("abc")),
            "feature 1 of the table is 'V', and that of the training data 'v': name it 'v'",
        ),
        ((tuple("uvwx"), ("sort",), ("b", "c")), "class 0 of the table is 'b', and that of the training data 'a'"),
        ((tuple("uvwx"), ("sort",), ("a", "b")), ""),
        (None, ""),
    ],
)
def test_a_table_is_numbered_as_the_training_data(columns, said):
    """Features in another order, and labels that stood for other classes, gave wrong numbers in silence."""
    data, other = tn.Arrays(X, LABELS), tn.Arrays(X, LABELS)
    data.columns = tn.data.Columns(tuple("uvwx"), ("kind",), tuple("abc"))
    other.columns = columns and tn.data.Columns(*columns)
    model = made()
    model.fit(data)
    uses = [
        lambda: model.evaluate(other),
        lambda: model.fit(data, validation=other),
        lambda: tn.fit_many(model, data, seeds=[1, 2], validation=other),
        lambda: model.predict(other),
    ]
    for use in uses[: 3 if said.startswith("class") else 4]:  # outputs do not depend on the labels
        if not said:
            use()
            continue
        with pytest.raises(ValueError) as e:
            use()
        in_order = "" if "name it" in said else ": data.read(path, columns=model.columns) numbers them as there"
        assert str(e.value) == said + in_order
    if said.startswith("class"):
        model.predict(other)


def test_labels_beyond_int64_are_refused():
    """They became negative where no loss looks at them."""
    with pytest.raises(
        ValueError, match=r"^y has the label 9223372036854775808, which int64 does not have: number classes"
    ):
        tn.Arrays(X[:2], np.asarray([0, 2**63], np.uint64))
    assert tn.Arrays(X[:2], np.asarray([0, 2**63 - 1], np.uint64))[1].y.tolist() == [2**63 - 1]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_is_in_the_order_of_the_training_data(library):
    """Its names were not looked at, and each feature was taken for another."""
    frames = pytest.importorskip(library)
    data = tn.Arrays(X, LABELS)
    data.columns = tn.data.Columns(tuple("uvwx"), ("kind",))
    model = made()
    model.fit(data)
    frame = frames.DataFrame({name: X[:, n] for n, name in enumerate("uvwx")})
    np.testing.assert_array_equal(model.predict(frame), model.predict(X))
    model.evaluate((frame, LABELS))
    turned = frame[["v", "u", "w", "x"]]
    for use in (lambda: model.predict(turned), lambda: model.evaluate((turned, LABELS))):
        with pytest.raises(ValueError) as e:
            use()
        assert str(e.value) == (
            "feature 0 of the table is 'v', and that of the training data 'u': "
            "X[list(model.columns.features)] has them in that order"
        )
    np.testing.assert_array_equal(model.predict(turned[list(model.columns.features)]), model.predict(X))
    with pytest.raises(ValueError) as e:
        model.predict(frames.DataFrame(dict.fromkeys((*"uvwx", "id"), X[:, 0])))
    assert str(e.value) == (
        "column 'id' of the table is no feature of the training data: X[list(model.columns.features)] has only those"
    )


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_the_names_of_a_frame_are_kept(library):
    """A model that was fitted to one took each feature of another for the one in its place, in silence."""
    frames, y = pytest.importorskip(library), X[:, :2] * 3.0
    make = frames.table if library == "pyarrow" else frames.DataFrame
    frame, turned = (make({name: X[:, "uvwx".index(name)] for name in names}) for names in ("uvwx", "vuwx"))
    targets, exchanged = (make({name: y[:, NAMES.index(name)] for name in names}) for names in (NAMES, NAMES[::-1]))
    model = tn.Model(tn.Dense(2), 4)
    model.fit((frame, targets), validation=(frame, y))
    assert model.columns == tn.data.Columns(tuple("uvwx"), NAMES)
    model.evaluate((frame, y))
    for use in (
        lambda: model.predict(turned),
        lambda: model.evaluate((turned, y)),
        lambda: tn.Model(tn.Dense(2), 4).fit((frame, y), validation=(turned, y)),
        lambda: tn.Model(tn.Dense(2), 4).fit(tn.data.Batches([(frame, y), (turned, y)])),
    ):
        with pytest.raises(ValueError, match="feature 0 of the table is 'v', and that of the training data 'u'"):
            use()
    with pytest.raises(ValueError, match="target 0 of the table is 'size', and that of the training data 'price'"):
        model.evaluate((frame, exchanged))


def test_a_model_goes_on_with_the_columns_that_it_knows(tmp_path, monkeypatch):
    """A second fit took features and classes for others, in silence, where a file had them in another order."""
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    rows = [(x[0], x[1], "xyz"[label]) for x, label in zip(X.tolist(), LABELS.tolist(), strict=True)]
    first = pandas.DataFrame(rows, columns=["u", "v", "y"])
    second = first[first["y"] != "x"][["v", "u", "y"]]
    first.to_csv("a.csv", index=False)
    second.to_csv("b.csv", index=False)
    model, other = (tn.Model(tn.Dense(3), 2) for _ in range(2))
    model.fit("a.csv")
    other.fit((X[:, :2], LABELS))
    assert (model.theta == other.theta).all()
    model.fit("b.csv", shuffle=False)
    left = LABELS > 0
    other.fit((X[left, :2], LABELS[left]), shuffle=False)
    assert (model.theta == other.theta).all()
    for data in (tn.data.read("b.csv"), tn.Loader("b.csv", 8), (second[["v", "u"]], LABELS[left])):
        with pytest.raises(ValueError, match="feature 0 of the table is 'v', and that of the training data 'u'"):
            model.fit(data)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_a_frame_that_differ_in_type(library):
    """Flags beside numbers, which pandas makes objects of, as `get_dummies` leaves them; text is named."""
    frames = pytest.importorskip(library)
    columns = {"u": X[:, 0], "v": X[:, 1] > 0, "w": np.arange(30)}
    frame, text = frames.DataFrame(columns), frames.DataFrame(columns | {"city": ["Rome"] * 30})
    plain = np.column_stack(list(columns.values()))
    model = tn.Model(tn.Dense(3), 3, dtype="float64")
    np.testing.assert_array_equal(model.predict(frame), model.predict(plain))
    np.testing.assert_array_equal(tn.Arrays(frame, LABELS).x, plain)
    with pytest.raises(
        TypeError, match=r"^X has the column 'city' of dtype \w+, which is not numeric: encode or drop it$"
    ):
        tn.Model(tn.Dense(3), 4).fit((text, LABELS))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_model_of_a_frame_reads_files(library, tmp_path):
    """By the frame's names, and with the target that they may lack by that of the file."""
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({name: X[:, n] for n, name in enumerate("uvwx")})
    named = frames.Series(name="kind", **{"data" if library == "pandas" else "values": LABELS})
    rows = [",".join(map(repr, [*x[[3, 0, 2, 1]].tolist(), int(label)])) for x, label in zip(X, LABELS, strict=True)]
    for y, target in ((LABELS, ()), (frames.Series(LABELS), ()), (named, ("kind",))):
        model = made()
        model.fit((frame, y))
        model.save(tmp_path / "m.safetensors")
        again = tn.load(tmp_path / "m.safetensors")
        assert again.columns == tn.data.Columns(tuple("uvwx"), target)
        (tmp_path / "t.csv").write_text("\n".join([f"x,u,w,v,{target[0] if target else 'y'}", *rows]))
        assert again.evaluate(tmp_path / "t.csv") == model.evaluate((frame, y))


def test_names_pass_through_noise_that_changes_no_column():
    data = tn.Arrays(X, LABELS)
    data.columns = tn.data.Columns(tuple("uvwx"), ())
    assert tn.data.LabelNoise(tn.data.FeatureNoise(data)).columns == data.columns
    assert tn.data.Nuisance(data, 2).columns is None


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_a_batch_of_predictions_has_a_whole_number_of_samples(size):
    with pytest.raises(ValueError) as e:
        made().predict(X, batch_size=size)
    assert str(e.value) == f"batch_size {size!r} is not a positive whole number"


@pytest.mark.parametrize(
    ("y", "remedy"),
    [
        (np.array(["a"] * 30), r"number the classes, as .* does, or as model.columns.classes has them"),
        (np.array([None] * 30), r"number the classes, as unique\(y, return_inverse=True\) does, or .*"),
        (LABELS * 1j, "give real or whole numbers"),
    ],
    ids=["text", "object", "complex"],
)
def test_targets_that_are_no_numbers(y, remedy):
    with pytest.raises(TypeError, match=rf"^y of dtype .* is not numeric: {remedy}$"):
        made().fit((X, y))


@pytest.mark.parametrize("name", ["torch", "strict:device2"])
def test_a_model_takes_arrays_of_its_own_backend_whichever_is_in_force(name):
    try:
        ops = tn.get_backend(name)
    except tn.BackendUnavailable as e:
        pytest.skip(str(e))
    data = ops.asarray(X), ops.asarray(LABELS)
    runs = []
    for mine, in_force in ((data, "numpy"), (data, ops), ((X, LABELS), "numpy")):
        with tn.use_backend(in_force):
            model = made(ops)
            model.fit(mine, validation=mine, batch_size=10, shuffle=False)
            runs.append((model.evaluate(mine), ops.to_numpy(model.theta).tolist()))
            assert ops.owns(model.predict(mine[0]))
            assert tn.fit_many(model, mine, seeds=[1, 2]).theta.shape[0] == 2
            assert len(tn.find_rate(model, mine, steps=10).losses) == 10
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", [np.matrix, np.ma.masked_array])
def test_of_subclasses_only_the_numbers_count(kind, ops):
    """``*`` of two of `np.matrix` is another product, and a row of one is a table."""
    scores, outputs = [], []
    for like in (np.asarray, kind):
        model = made(ops, usual(ops))
        model.fit((like(X), like(REAL)), epochs=2, batch_size=8)
        scores.append(model.evaluate((like(X), like(REAL))))
        outputs.append(ops.to_numpy(model.predict(like(X))))
    assert scores[0] == scores[1]
    np.testing.assert_array_equal(*outputs)


def test_declared_classes_are_compared_where_targets_are_not_all_checked():
    class Mine(tn.Dataset):
        n, shape, classes, outputs = 100, (4,), 4, None

        def rows(self, index, ops, dtype):
            x = ops.xp.ones((len(index), 4), dtype=ops.dtype(dtype))
            return tn.data.Batch(x, ops.asarray([3 * (i == 99) for i in index], "int64"), None)

    with pytest.raises(ValueError, match=r"^4 classes do not fit outputs \(n, 3\): expected outputs \(n, 4\)$"):
        made().fit(Mine())


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (lambda x, y: (x, y, None), "Mine.rows gives a tuple: return a Batch(x, y, weight)"),
        (lambda x, y: None, "Mine.rows gives a NoneType: return a Batch(x, y, weight)"),
        (
            lambda x, y: tn.data.Batch(x[:1], y, None),  # which NumPy would repeat, in silence
            "Mine.rows gives arrays (1, 4), (50, 3) for 50 samples: expected x (50, 4), and as many in the others",
        ),
        (
            lambda x, y: tn.data.Batch(x[:, :3], y, y[:9, 0]),
            "Mine.rows gives arrays (50, 3), (50, 3), (9,) for 50 samples: expected x (50, 4), and as many in the others",
        ),
        (
            lambda x, y: tn.data.Batch(x.tolist(), y, None),
            "Mine.rows gives arrays (), (50, 3) for 50 samples: expected x (50, 4), and as many in the others",
        ),
        (
            lambda x, y: tn.data.Batch(x > 0, y, None),
            "Mine.rows gives x of dtype bool: return it in the dtype that is asked for",
        ),
    ],
)
def test_rows_that_are_not_what_they_should_be(batch, said):
    class Mine(tn.Dataset):
        n, shape, classes, outputs = 50, (4,), None, 3

        def rows(self, index, ops, dtype):
            return batch(np.ones((len(index), 4)), np.ones((len(index), 3)))

    for use in (made().fit, lambda data: tn.fit_many(made(), data)):
        with pytest.raises((TypeError, ValueError)) as e:
            use(Mine())
        assert str(e.value) == said


def test_a_data_set_without_its_parts():
    class Mine(tn.Dataset):
        n, shape, classes, outputs = 50, 4, None, 3

    with pytest.raises(TypeError, match=r"^Mine.shape 4 is not the shape of a sample: set a tuple, as \(3,\)$"):
        made().fit(Mine())
    Mine.shape = (4,)
    with pytest.raises(NotImplementedError, match="^Mine has no rows: write them$"):
        made().fit(Mine())


def test_libraries_are_not_mixed():
    strict = tn.get_backend("strict:device1")
    other = tn.get_backend("strict:device2")
    with pytest.raises(
        TypeError, match=r"^X is a array_api_strict array on .*device1.*, which backend 'numpy' does not own: "
    ):
        made().fit((strict.asarray(X), LABELS))
    with (
        tn.use_backend(strict),
        pytest.raises(TypeError, match=r"^y is a .*device2.* and X lies on 'strict:device1': bring"),
    ):
        made(strict).fit((strict.asarray(X), other.asarray(LABELS)))
    with (
        tn.use_backend(strict),
        pytest.raises(TypeError, match=r"^y is a array_api_strict array on .* and X lies on 'numpy'"),
    ):
        made(strict).fit((X, strict.asarray(LABELS)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: tn.Model(tn.Dense(1), 0),
            "n_in 0 is out of range: give the number of features, or the shape of one sample",
        ),
        (
            lambda: tn.Model(tn.Dense(1), ()),
            "n_in () is out of range: give the number of features, or the shape of one sample",
        ),
        (lambda: tn.Model(tn.Dense(1), 2, dtype="int8"), "unknown dtype 'int8': choose from float32, float64"),
        (lambda: tn.Model(tn.Dense(1), 2, seed=-1), "seed -1 is out of range: give one in [0, 2**64)"),
        (lambda: tn.Model(tn.Dense, 2), f"net {tn.Dense!r} is not a layer: give one, such as " + EXAMPLE),
        (
            lambda: tn.Model(tn.Dense(1), 2, backend=3),
            "backend 3 is not a name: choose from auto, numpy, numba, cupy, strict, torch, dpnp",
        ),
        (
            lambda: made().evaluate((X, LABELS), loss=tn.CrossEntropy(), metrics=["accuracy", "r2"]),
            "metric 'r2' does not take labels: choose from accuracy, top_k, log_loss, f1",
        ),
        (
            lambda: made().fit((X, LABELS), validation=(X, LABELS), metrics=["mae"]),
            "metric 'mae' does not take labels: choose from accuracy, top_k, log_loss, f1",
        ),
        (
            lambda: tn.fit_many(made(), (X, LABELS), seeds=[0, 1], validation=(X, LABELS), metrics=["rmse"]),
            "metric 'rmse' does not take labels: choose from accuracy, top_k, log_loss, f1",
        ),
        (lambda: made().fit((X, LABELS), metrics=3), "metrics 3 is not a list: give one, such as ['accuracy']"),
        (
            lambda: made().fit((X, LABELS), metrics=[[1]]),
            f"unknown metric [1]: choose from {', '.join(metrics.METRICS)}",
        ),
        (
            lambda: made().fit((X, LABELS), callbacks=[print, "stop"]),
            "callback 'stop' cannot be called: give functions (model, row) in a list",
        ),
        (
            lambda: made().fit((X, LABELS), callbacks=3),
            "callback 3 cannot be called: give functions (model, row) in a list",
        ),
        (
            lambda: made().fit((X, LABELS), callbacks=[tn.EarlyStopping(3)]),
            "callback EarlyStopping(patience=3, monitor='val_loss', min_delta=0.0) cannot be called: early_stopping=… takes it",
        ),
        (
            lambda: made().predict(np.ma.masked_array(X, X > 0)),
            "X is a masked array, and no value can be missing: give X.filled(…)",
        ),
        (
            lambda: made().fit((X, np.ma.masked_array(LABELS, LABELS > 0))),
            "y is a masked array, and no value can be missing: give y.filled(…)",
        ),
        (lambda: made().fit((X, [[1], [1, 2]])), "y is not an array: its rows differ in length"),
        (lambda: made().fit((X, X[:, :0])), "y (30, 0) has no columns: give at least one"),
        (lambda: made().evaluate((X, LABELS)), "the model has no loss yet: fit it, or give evaluate(loss=…)"),
        (
            lambda: made().fit(X),
            "data ndarray is not understood: give a data set, a path, or a tuple (X, y) or (X, y, weight)",
        ),
    ],
)
def test_mistakes(make, said):
    with pytest.raises((ValueError, TypeError)) as e:
        make()
    assert str(e.value) == said


class Doubled(tn.Layer):
    """Writes to its inputs."""

    def forward(self, params, x, ctx):
        x *= 2.0
        return x, lambda dy: (2.0 * dy, {})


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_layer_cannot_change_the_user_s_arrays(backend):
    """It did, in silence, where a batch is a view of them."""
    if backend == "numba":
        pytest.importorskip("numba")
    model, before = tn.Model(tn.Sequential(Doubled(), tn.Dense(3)), 4, backend=backend, dtype="float64"), X.copy()
    for use in (
        lambda: model.predict(X),
        lambda: model.evaluate((X, LABELS), loss=tn.CrossEntropy()),
        lambda: model.fit((X, LABELS), shuffle=False, batch_size=10),
    ):
        with pytest.raises(ValueError, match="read-only") as e:
            use()
        assert e.value.__notes__ == ["in layer 0, Doubled()"]
    np.testing.assert_array_equal(X, before)
    X[0, 0] = X[0, 0]  # they themselves stay what they were
