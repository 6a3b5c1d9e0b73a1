"""A device that is not the current one: whatever computes with its arrays makes it that first.

CuPy refuses to compute with arrays of another device, or warns, and makes new arrays on the current one; so do the arrays here.
"""

from contextlib import contextmanager
from copy import deepcopy

import array_api_compat.numpy as xp
import numpy as np
import pytest
from tinynet_backends import get_backend
from tinynet_backends.backend import Backend

import tinynet as tn

ACTIVE = [False]
# of the namespace, what makes arrays; functions of NumPy that only look at them
MAKERS = (
    "asarray",
    "astype",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "zeros",
    "ones",
    "full",
    "arange",
    "empty",
)
VIEWS = (
    "reshape",
    "broadcast_to",
    "shape",
    "ndim",
    "size",
    "result_type",
    "can_cast",
    "may_share_memory",
    "transpose",
    "swapaxes",
)


def bare(a):
    return a.view(np.ndarray) if isinstance(a, There) else a


def there(a):
    return np.asarray(a).view(There)


def demand(what):
    assert ACTIVE[-1], f"{what} on another device than the current one"


class There(np.ndarray):
    """An array of that device."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        demand(ufunc.__name__)
        options |= {} if out is None else {"out": tuple(map(bare, out))}
        made = getattr(ufunc, method)(*map(bare, inputs), **options)
        return there(made) if out is None else out[0]

    def __array_function__(self, function, types, args, options):
        if function.__name__ not in VIEWS:
            demand(function.__name__)
        return super().__array_function__(function, types, args, options)

    def __setitem__(self, key, value):
        demand("an assignment")
        super().__setitem__(key, value)


class Namespace:
    def __getattr__(self, name):
        function = getattr(xp, name)
        if name not in MAKERS:
            return function

        def make(*args, **options):
            demand(name)
            return there(function(*args, **options))

        return make


class Second(Backend):
    """What `CupyBackend` does on its device, whichever is the current one, it does here, too."""

    def __init__(self):
        super().__init__("second", Namespace())

    @contextmanager
    def active(self):
        ACTIVE.append(True)
        try:
            yield
        finally:
            ACTIVE.pop()

    def owns(self, x):
        return isinstance(x, There)

    def asarray(self, x, dtype=None):
        return there(np.array(bare(x), dtype))

    def to_numpy(self, x):
        return np.array(bare(x))

    def empty(self, shape, dtype):
        return there(np.empty(shape, dtype))

    def zeros(self, shape, dtype):
        return there(np.zeros(shape, dtype))

    def constant(self, shape, value, dtype):
        return there(np.full(shape, value, dtype))

    def arange(self, start, stop):
        return there(np.arange(start, stop))

    def assign(self, to, what):
        with self.active():
            super().assign(to, what)

    @property
    def generator(self):
        return get_backend("numpy")


class Drawing(Second):
    """It makes samples and random numbers itself, as CUDA devices do."""

    @property
    def generator(self):
        return self


NET = tn.Sequential(tn.Standardize(), tn.Dense(4), tn.BatchNorm(), tn.ReLU(), tn.Dense(3))
DATA = tn.data.Blobs(60, n_features=5, n_classes=3, seed=1)
X = np.ones((3, 5), "float32")


def test_there_nothing_is_computed_unless_it_is_the_current_one():
    ops = Second()
    a = ops.zeros((2,), np.float32)
    for compute in (lambda: a + a, lambda: a.__setitem__(0, 1.0), lambda: ops.xp.stack([a]), lambda: ops.xp.zeros(2)):
        with pytest.raises(AssertionError, match="on another device"):
            compute()
        with ops.active():
            compute()


def test_a_model():
    host, model = tn.Model(NET, 5, seed=1), tn.Model(NET, 5, seed=1, backend=Second())
    assert model.theta.tobytes() == host.theta.tobytes()
    assert host.to(model.ops).theta.tobytes() == model.to("numpy").theta.tobytes() == host.theta.tobytes()
    model.adapt(DATA)
    model.fit(DATA, batch_size=20, epochs=2, validation=DATA, ema=0.9, metrics=["accuracy"])
    model.evaluate(DATA)
    for method in (model.predict, model.predict_labels, model.predict_proba):
        method(X)
    model.theta = host.theta
    model.params["1"]["w"] = np.zeros((5, 4))
    backprop = model.forward(X)[1]
    backprop(np.ones((3, 3)))


def test_a_loop_of_one_s_own():
    model = tn.Model(NET, 5, backend=Second())
    reports = tn.train(model, tn.Loader(DATA, 20), tn.CrossEntropy(class_weight=(1, 2, 3)), tn.Adam(), steps=4, ema=0.9)
    assert all(bare(report.loss) > 0 for report in reports)


def test_files(tmp_path):
    model = tn.Model(NET, 5, backend=Second(), seed=3)
    model.save(tmp_path / "model.safetensors")
    assert tn.load(tmp_path / "model.safetensors", backend=model.ops).theta.tobytes() == model.theta.tobytes()
    for epochs in (1, 2):
        again = tn.Model(NET, 5, backend=model.ops, seed=3)
        again.fit(DATA, batch_size=20, epochs=epochs, checkpoint=tmp_path / "run", resume=True)


def test_many_networks():
    networks = tn.fit_many(tn.Model(NET, 5, backend=Second()), DATA, seeds=[0, 1], epochs=1, batch_size=20, ema=0.9)
    for method in (networks.predict, networks.mean, networks.spread, networks[0].predict):
        method(X)


SETS = DATA, tn.data.Teacher(60, n_features=5), tn.data.LabelNoise(DATA)


@pytest.mark.parametrize("data", SETS, ids=lambda data: type(data).__name__)
def test_samples(data):
    ops, host = Drawing(), get_backend("numpy")
    for make in (
        lambda ops: data.batch(range(3), ops, "float32"),
        lambda ops: data.batch(np.array([3, 1]), ops, "float32"),
        lambda ops: tn.Loader(data, 8, shuffle=True).batch(2, ops, "float32"),
    ):
        for a, b in zip(make(ops)[:2], make(host)[:2], strict=True):
            np.testing.assert_array_equal(bare(a), b)
    with tn.use_backend(ops):
        assert isinstance(data[3:5].x, There)


def test_arrays_that_lie_there(monkeypatch):
    ops = Second()
    monkeypatch.setattr(type(get_backend("numpy")), "owns", lambda self, x: type(x) is np.ndarray)
    with tn.use_backend(ops):
        data = tn.Arrays(there(X), there(np.array([0, 1, 2])), there(np.ones(3)))
    assert data.ops is ops
    assert data.fingerprint() == tn.Arrays(X, [0, 1, 2], np.ones(3)).fingerprint()
    tn.Model(NET, 5, backend=ops).fit(data)


def test_a_diagnosis():
    tn.Diagnosis(DATA).look(tn.Model(NET, 5, backend=Second()), loss=tn.CrossEntropy())


def test_random_numbers():
    stream, ops = tn.Stream(1), Drawing()
    for make in (
        lambda ops: stream.words(range(5), ops),
        lambda ops: stream.uniform([5, 1], "float32", ops),
        lambda ops: stream.normal([5, 1], ops=ops),
        lambda ops: stream.integers(range(9), 2**63 - 2**61, ops),
        lambda ops: stream.bernoulli(range(9), 0.5, ops),
        lambda ops: stream.permute([5, 1], 9, ops),
        lambda ops: stream.unpermute([5, 1], 9, ops),
    ):
        np.testing.assert_array_equal(bare(make(ops)), make(get_backend("numpy")))


def test_gradients_are_checked():
    for what in (NET, tn.CrossEntropy(), tn.Huber()):
        tn.check_gradients(what, 5, backend=Drawing())


def test_a_rate():
    tn.find_rate(tn.Model(NET, 5, backend=Second()), DATA, steps=10, batch_size=20)


def test_an_estimator_that_was_loaded(monkeypatch):
    """Its numbers are on the host, where X was, and it predicts on the device."""
    pytest.importorskip("sklearn", reason="estimators need scikit-learn")
    from tinynet.sklearn import MLPClassifier

    estimator = MLPClassifier((4,), max_iter=60, tol=1.0, n_iter_no_change=1)
    ops = Second()
    monkeypatch.setattr("tinynet.sklearn.base.training_backend", lambda *_: ops)
    estimator.fit(np.array(DATA[:].x), np.array(DATA[:].y))
    loaded = deepcopy(estimator)
    loaded.theta_, loaded.layer_state_ = np.array(bare(loaded.theta_)), np.array(bare(loaded.layer_state_))
    assert bare(loaded.model_.theta).tobytes() == bare(estimator.theta_).tobytes()
