"""Metrics against scikit-learn's, in one batch and in several, and against small cases by hand."""

import itertools

import numpy as np
import pytest
from test_losses import EPS, usual

import tinynet as tn
from tinynet import metrics

N, K = 60, 4
RNG = np.random.default_rng(0)
Z, LABELS = RNG.standard_normal((N, K)), RNG.integers(0, K, N)
LOGIT, BINARY = RNG.standard_normal((N, 1)), RNG.integers(0, 2, (N, 1)) * 1.0
REAL, TARGET = RNG.standard_normal((N, 3)), RNG.standard_normal((N, 3)) + 5.0
WEIGHT = RNG.uniform(0.1, 2.0, N)


def measure(metric, y, target, weight, ops, size):
    total = None
    for start in range(0, N, size):
        rows = slice(start, start + size)
        parts = [None if a is None else ops.asarray(a[rows]) for a in (y, target, weight)]
        sums = ops.to_numpy(metric.sums(*parts, ops)).tolist()
        total = sums if total is None else metric.merge(total, sums)
    return metric.result(total)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


CASES = [
    ("accuracy", Z, LABELS, lambda m, w: m.accuracy_score(LABELS, Z.argmax(1), sample_weight=w)),
    ("accuracy", LOGIT, BINARY, lambda m, w: m.accuracy_score(BINARY, LOGIT > 0, sample_weight=w)),
    ("accuracy", LOGIT, 0.05 + 0.9 * BINARY, lambda m, w: m.accuracy_score(BINARY, LOGIT > 0, sample_weight=w)),
    ("accuracy", Z, np.eye(K)[LABELS], lambda m, w: m.accuracy_score(LABELS, Z.argmax(1), sample_weight=w)),
    ("log_loss", Z, LABELS, lambda m, w: m.log_loss(LABELS, softmax(Z), sample_weight=w)),
    ("log_loss", LOGIT, BINARY, lambda m, w: m.log_loss(BINARY[:, 0], sigmoid(LOGIT[:, 0]), sample_weight=w)),
    ("f1", Z, LABELS, lambda m, w: m.f1_score(LABELS, Z.argmax(1), average="macro", sample_weight=w)),
    ("f1", LOGIT, BINARY, lambda m, w: m.f1_score(BINARY[:, 0], LOGIT[:, 0] > 0, sample_weight=w)),
    ("r2", REAL, TARGET, lambda m, w: m.r2_score(TARGET, REAL, sample_weight=w)),
    ("mae", REAL, TARGET, lambda m, w: m.mean_absolute_error(TARGET, REAL, sample_weight=w)),
    ("rmse", REAL, TARGET, lambda m, w: m.mean_squared_error(TARGET, REAL, sample_weight=w) ** 0.5),
    ("top_1", LOGIT, BINARY, lambda m, w: m.accuracy_score(BINARY, LOGIT > 0, sample_weight=w)),
    ("top_k", Z, LABELS, lambda m, w: m.top_k_accuracy_score(LABELS, Z, k=5, labels=range(K), sample_weight=w)),
]


@pytest.mark.filterwarnings("ignore:'k'")  # five of four classes: always right, in both
@pytest.mark.parametrize(
    ("name", "y", "target", "oracle"), CASES, ids=[f"{c[0]}-{c[1].shape[1]}-{c[2].ndim}" for c in CASES]
)
def test_scikit_learn_s_numbers(name, y, target, oracle, ops):
    judge = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn")
    metric = metrics.TopK(1) if name == "top_1" else metrics.METRICS[name]
    for weight, size in itertools.product((None, WEIGHT), (N, 17)):
        got = measure(metric, y, target, weight, ops, size)
        assert got == pytest.approx(oracle(judge, weight), rel=1e-10)


@pytest.mark.parametrize("weight", [None, np.where(np.arange(N) % 7 < 3, 0.0, WEIGHT)], ids=["plain", "weighted"])
def test_r2_far_from_0(weight, ops):
    """A billion deviations away, where numbers keep 7 digits of their deviation and sums of squares none."""
    judge = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn")
    y, target = REAL + 1e9, 0.5 * (REAL + TARGET) + 1e9
    got = measure(metrics.R2(), y, target, weight, ops, 3)
    assert got == pytest.approx(judge.r2_score(target, y, sample_weight=weight), rel=1e-6)


def test_r2_of_one_number_in_parts(ops):
    """0.1 does not vary, though its mean over the batches would be rounded."""
    target = np.full((N, 1), 0.1)
    weight = np.where(np.arange(N) < 20, 0.0, WEIGHT)
    target[:20] = 7.0
    assert measure(metrics.R2(), target, target, weight, ops, 17) == 1.0
    assert measure(metrics.R2(), target + 1.0, target, weight, ops, 17) == 0.0


def test_top_k_by_hand(ops):
    y = ops.asarray(np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 1.0, 3.0]]))
    target = ops.asarray(np.array([1, 0, 2]))
    ranks = {1: 1 / 3, 2: 2 / 3, 3: 1.0}
    for k, wanted in ranks.items():
        assert measure_one(metrics.TopK(k), y, target, ops) == pytest.approx(wanted)


def test_outputs_that_are_nan_are_not_right(ops):
    """As those of a network that diverged among others."""
    y = ops.asarray(np.array([[np.nan] * 3, [0.0, np.nan, -1.0], [0.0, 1.0, 2.0]]))
    assert measure_one(metrics.TopK(1), y, ops.asarray(np.array([0, 0, 2])), ops) == pytest.approx(1 / 3)


def measure_one(metric, y, target, ops):
    return metric.result(ops.to_numpy(metric.sums(y, target, None, ops)).tolist())


def test_edges(ops):
    constant = ops.asarray(np.full((4, 1), 2.5))
    assert measure_one(metrics.R2(), constant, constant, ops) == 1.0
    assert measure_one(metrics.R2(), constant + 1.0, constant, ops) == 0.0
    never = ops.asarray(np.array([[1.0, 0.0, 0.0]]))  # classes 1 and 2 neither occur nor are said
    assert measure_one(metrics.F1(), never, ops.asarray(np.array([0])), ops) == 1.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of 0 * inf on the way
def test_a_class_that_cannot_occur(ops):
    """It costs nothing where no target asks for it, here as in the loss."""
    z, labels = ops.asarray([[0.0, 1.0, -np.inf], [-np.inf, 2.0, 0.5]], usual(ops)), ops.asarray([1, 2])
    loss = float(tn.CrossEntropy()(z, labels, ops)[0])
    total, rows = ops.to_numpy(metrics.LogLoss().sums(z, labels, None, ops))
    assert total / rows == pytest.approx(loss, rel=8 * EPS[usual(ops)])
    assert np.isfinite(loss)


def test_names_that_clash():
    """One of two TopK was in no result, in silence, and a metric called "loss" in place of the loss."""
    model, data = tn.Model(tn.Dense(3), 1), ([[1.0], [2.0]], [0, 2])
    for chosen, said in (
        ([metrics.TopK(1), metrics.TopK(2)], "two metrics are called 'top_k': give one of them another name"),
        ([metrics.TopK(1, name="loss")], "a metric cannot be called 'loss': give it another name"),
        ([metrics.TopK(1, name=None)], "a metric cannot be called None: give it another name"),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            model.fit(data, metrics=chosen)
    scores = model.evaluate(data, loss=tn.CrossEntropy(), metrics=["top_k", metrics.TopK(1, name="top_1"), "top_k"])
    assert list(scores) == ["loss", "top_k", "top_1"]


def test_a_metric_of_one_s_own():
    class Bias(metrics.MAE):
        def sums(self, y, target, weight, ops):
            return self._mean(y - target, weight, ops)

    model = tn.Model(tn.Dense(1), 1)
    x = np.ones((4, 1))
    wanted = float((model.predict(x) - 3.0).mean())
    got = model.evaluate((x, 3.0 * x), loss=tn.MeanSquaredError(), metrics=[Bias(name="bias")])
    assert got["bias"] == pytest.approx(wanted, rel=1e-6)


def test_several_labels_a_sample(ops):
    """Each sample's first label was taken for its class, and R² was that of logits, in silence."""
    x, several = RNG.standard_normal((20, 2)), np.array([[0, 1, 0], [1, 0, 1]] * 10)
    model, signs = tn.Model(tn.Dense(3), 2, backend=ops), 2.0 * several - 1.0
    for y, loss in ((signs, tn.Hinge()), (several, tn.BinaryCrossEntropy()), (several * 1.0, tn.BinaryCrossEntropy())):
        data = x, y
        history = model.fit(data, loss=loss, validation=data)
        assert [name for name in history[-1] if name.startswith("val_")] == ["val_loss"]
        for name in ("accuracy", "top_k", "log_loss", "f1"):
            said = rf"metric '{name}' is for one class a sample, and row 1 has targets \[1\S*, (0|-1)\S*, 1\S*\]: leave it out, or"
            with pytest.raises(ValueError, match=said):
                model.evaluate(data, metrics=[name])
    scores = model.evaluate((x, np.eye(3)[several[:, 0]]), metrics=["accuracy"])  # one a sample, each of it a question
    assert set(scores) == {"loss", "accuracy"}
    soft = tn.Model(tn.Dense(1), 2, backend=ops).fit(
        (x, several[:, :1]), loss=tn.Poisson(), validation=(x, several[:, :1])
    )
    assert "val_r2" not in soft[-1]
