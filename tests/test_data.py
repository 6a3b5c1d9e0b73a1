"""Data by number: the same bits however they are asked for, what the sets look like, and the order of a loader."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet.data import Part

D = tn.data
N = 10**6
SETS = [
    D.Spirals(N, seed=1),
    D.Spirals(N, seed=2**64 - 1, n_classes=5, noise=0.0, turns=1.5),
    D.Blobs(N, seed=1, n_classes=4, n_features=7),
    D.AnisotropicBlobs(N, seed=1, n_features=3),
    D.Moons(N, seed=1, noise=0.2),
    D.Circles(N, seed=1, factor=0.5),
    D.Checkerboard(N, seed=1, cells=3, n_features=3),
    D.Parity(N, seed=1, n_features=5),
    D.GaussianQuantiles(N, seed=1, n_features=5, n_classes=4),
    D.Logistic(N, seed=1, n_features=3, n_classes=3),
    D.Linear(N, seed=1, n_features=6, n_informative=2, n_outputs=2, noise=0.1),
    D.Linear(N, seed=1, n_features=1),
    D.Friedman1(N, seed=1, n_features=7, noise=1.0),
    D.Friedman2(N, seed=1),
    D.Friedman3(N, seed=1, noise=0.1),
    D.SparseUncorrelated(N, seed=1),
    D.Sinusoid(N, seed=1, n_features=3),
    D.Polynomial(N, seed=1, n_features=3, degree=4),
    D.Teacher(N, seed=1, n_features=6, n_outputs=3, noise=0.1),
    D.Teacher(N, seed=1, n_features=5, hidden=(7, 4), n_classes=4),
    D.LabelNoise(D.Blobs(N, seed=1), 0.2, seed=3),
    D.FeatureNoise(D.Checkerboard(N, seed=1), 0.05, seed=3),
    D.Nuisance(D.Moons(N, seed=1), 3, seed=3),
    D.Imbalanced(D.Spirals(N, seed=1), (5.0, 1.0, 0.0), seed=3),
    D.LabelNoise(D.FeatureNoise(D.Imbalanced(D.Nuisance(D.Moons(N), 2), (0.9, 0.1)), 0.1), 0.05),
]
# repr of a set -> dtype -> first 16 digits of the SHA-256 of samples 999 000 to 999 256, features then targets
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
sets = pytest.mark.parametrize("data", SETS, ids=repr)
STRICT_IS_SLOW = [
    "numpy", "numba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("strict:CPU_DEVICE", "strict:device2", "torch")),
    pytest.param("cupy", marks=pytest.mark.gpu),
]  # fmt: skip


def digest(batch, ops):
    return hashlib.sha256(b"".join(ops.to_numpy(a).tobytes() for a in batch[:2])).hexdigest()[:16]


def assert_golden(data, ops, *dtypes):
    for dtype in dtypes:
        batch = data.batch(range(999_000, 999_257), ops, dtype)
        assert digest(batch, ops) == GOLDEN[repr(data)][dtype], dtype


@sets
def test_golden_bits(data, ops):
    assert_golden(data, ops, *(["float32", "float64"] if ops.name == "numpy" else ["float32"]))


@pytest.mark.slow  # numba compiles each set anew
@pytest.mark.parametrize("ops", ["numba", "strict", "torch"], indirect=True)
@sets
def test_golden_bits_in_float64(data, ops):
    assert_golden(data, ops, "float64")


@sets
@pytest.mark.parametrize("ops", STRICT_IS_SLOW, indirect=True)
def test_any_way_to_ask_gives_the_same_bits(data, ops):
    index = np.array([5, 999_999, 0, 17, 17, 6])
    whole = [ops.to_numpy(a) for a in data.batch(index, ops, "float32")[:2]]
    np.testing.assert_array_equal(whole[0][3], whole[0][4])
    single = [data.batch(range(i, i + 1), ops, "float32")[:2] for i in index[:4].tolist()]
    for j in range(2):
        np.testing.assert_array_equal(whole[j][:4], np.concatenate([ops.to_numpy(s[j]) for s in single]))
    halves = [data.batch(r, ops, "float32").x for r in (range(3, 8), range(8, 20))]
    together = ops.to_numpy(data.batch(range(3, 20), ops, "float32").x)
    np.testing.assert_array_equal(together, np.concatenate([ops.to_numpy(h) for h in halves]))


def test_the_last_samples_of_the_largest_set(ops):
    data = D.Spirals(2**62)
    tail = data.batch(range(2**62 - 3, 2**62), ops, "float32")
    again = data.batch(np.arange(2**62 - 3, 2**62), ops, "float32")
    np.testing.assert_array_equal(ops.to_numpy(tail.x), ops.to_numpy(again.x))
    assert len(data) == 2**62
    assert len({*map(tuple, ops.to_numpy(tail.x).tolist())}) == 3


@sets
@pytest.mark.long
def test_shapes_types_and_classes(data, ops):
    x, y, weight = data.batch(range(50), ops, "float32")
    assert x.shape == (50, *data.shape)
    assert x.dtype == ops.dtype("float32")
    assert weight is None
    if data.classes:
        assert y.shape == (50,)
        assert y.dtype == ops.dtype("int64")
    else:
        assert y.shape == (50, data.outputs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_checked_before_training_is_asked_for_in_its_dtype(dtype):
    """A backend compiles for each dtype: numba waited a second for what nobody else asked for."""
    asked = []

    class Own(D.Moons):
        def rows(self, index, ops, dtype):
            asked.append(dtype)
            return super().rows(index, ops, dtype)

    tn.Model(tn.Dense(2), 2, dtype=dtype).fit(Own(8), validation=Own(4).take(2))
    assert set(asked) == {dtype}


EVEN = (D.Spirals, D.Blobs, D.Moons, D.Circles, D.Parity, D.GaussianQuantiles)


@pytest.mark.parametrize("data", [s for s in SETS if isinstance(s, EVEN)], ids=repr)
def test_classes_are_equally_likely(data):
    n, k = 50_000, data.classes
    y = data.batch(range(n), tn.get_backend("numpy"), "float64").y
    p = np.bincount(y, minlength=k) / n
    assert np.abs(p - 1 / k).max() < 5 * ((1 / k) * (1 - 1 / k) / n) ** 0.5


def test_seeds_make_different_sets_and_samples_are_independent():
    host = tn.get_backend("numpy")
    a, b = (D.Moons(1000, seed=s).batch(range(1000), host, "float64").x for s in (0, 1))
    assert not (a == b).any()
    lag = np.corrcoef(a[:-1, 0], a[1:, 0])[0, 1]
    assert abs(lag) < 5 / 1000**0.5


@pytest.mark.parametrize(
    "between",
    [lambda d: d, lambda d: d.take(500), lambda d: D.Subset(d, range(500)), lambda d: D.Concatenated([d, d])],
    ids=["nothing", "a part", "a subset", "another"],
)
def test_noise_upon_noise_is_independent(between):
    """Whatever lies between: from a stream that both had, it was the same noise twice."""
    blank = tn.Arrays(np.zeros((500, 1)), np.zeros(500, int))
    once = between(D.FeatureNoise(blank))
    first = once[:500].x[:, 0]
    second = D.FeatureNoise(once)[:500].x[:, 0] - first
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 500**0.5


def test_points_lie_where_the_formula_says():
    host, n = tn.get_backend("numpy"), 20_000
    x, y, _ = D.Spirals(n, noise=0.0, n_classes=4, turns=1.25).batch(range(n), host, "float64")
    t = np.hypot(*x.T)
    np.testing.assert_allclose(t * np.cos(2 * np.pi * (1.25 * t + y / 4)), x[:, 0], atol=1e-12)
    assert abs(t.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    x, y, _ = D.Moons(n, noise=0.0).batch(range(n), host, "float64")
    np.testing.assert_allclose(np.where(y == 0, np.hypot(*x.T), np.hypot(x[:, 0] - 1, x[:, 1] - 0.5)), 1, atol=1e-12)
    assert (x[y == 0, 1] >= 0).all()
    assert (x[y == 1, 1] <= 0.5).all()
    blobs = D.Blobs(n, n_classes=3, n_features=2, noise=0.5)
    x, y, _ = blobs.batch(range(n), host, "float64")
    z = (x - blobs.centres(host)[y]) / 0.5
    assert abs(z.mean()) < 5 / (2 * n) ** 0.5
    assert abs(z.var() - 1) < 5 * (1 / n) ** 0.5


def test_moons_are_distributed_as_scikit_learn_s():
    datasets = pytest.importorskip("sklearn.datasets", reason="the namesake is scikit-learn's")
    theirs, labels = datasets.make_moons(20_000, noise=0.1, random_state=0)
    x, y, _ = D.Moons(20_000, noise=0.1).batch(range(20_000), tn.get_backend("numpy"), "float64")
    for c in range(2):
        np.testing.assert_allclose(x[y == c].mean(0), theirs[labels == c].mean(0), atol=0.05)
        np.testing.assert_allclose(np.cov(x[y == c].T), np.cov(theirs[labels == c].T), atol=0.03)


def test_the_best_accuracy_is_a_bound_that_the_data_meet():
    clear = D.Spirals(1000, noise=0.0)
    assert clear.best_accuracy() == (1.0, 0.0)
    data = D.Spirals(8_000, noise=0.1)
    best, error = data.best_accuracy(range(4_000))
    assert abs(data.best_accuracy(range(4_000, 8_000))[0] - best) < 5 * 2**0.5 * error
    assert abs(data.best_accuracy(range(4_000), points=512)[0] - best) < 0.001  # the quadrature is fine enough
    # arms far apart for their noise, and arms of many turns: a fixed grid along them is too coarse for both
    assert D.Spirals(1_000, noise=1e-6).best_accuracy()[0] > 0.995
    wound = D.Spirals(500, noise=0.02, turns=10.0, n_classes=2)
    assert abs(wound.best_accuracy()[0] - wound.best_accuracy(points=256)[0]) < 0.005
    # the nearest arm, a good classifier but not the best, must be a little worse
    host = tn.get_backend("numpy")
    x, y, _ = data.batch(range(4_000), host, "float64")
    t = np.linspace(0, 1, 300)
    arms = [np.stack(data.arm(host, t, np.full(300, c)), axis=1) for c in range(3)]
    near = [((x[:, None, :] - arm) ** 2).sum(-1).min(1) for arm in arms]
    nearest = (np.argmin(near, axis=0) == y).mean()
    assert best - 0.03 < nearest < best


# Parts and arrays -------------------------------------------------------------------------------------------------


def test_a_subset_is_its_samples_in_their_order():
    index = np.array([5, 2, 2])
    chosen = D.Subset(D.Moons(9), index)
    index[0] = 7  # the numbers are its own
    np.testing.assert_array_equal(chosen[:].x, D.Moons(9)[[5, 2, 2]].x)
    assert D.Subset(D.Moons(9), [5, 2, 2]).fingerprint() == chosen.fingerprint()


def test_split_and_take(ops):
    data = D.Moons(100)
    first, rest = data.split(0.75)
    assert (len(first), len(rest), len(data.take(7)), len(rest.split(5)[0])) == (75, 25, 7, 5)
    whole = ops.to_numpy(data.batch(range(100), ops, "float32").x)
    np.testing.assert_array_equal(ops.to_numpy(rest.batch(range(25), ops, "float32").x), whole[75:])
    np.testing.assert_array_equal(
        ops.to_numpy(rest.split(5)[1].batch(np.array([3, 0]), ops, "float32").x), whole[[83, 80]]
    )
    assert isinstance(rest, Part)
    assert rest.classes == 2
    for wrong in (0, 100, 0.0, 1.0, 0.001, -3):
        with pytest.raises(ValueError, match="leaves nothing on one side of 100 samples"):
            data.split(wrong)


def test_arrays_are_taken_as_they_are(ops):
    x, y, w = np.arange(12.0).reshape(6, 2), np.arange(6) % 3, np.linspace(0, 1, 6)
    for data in (D.Arrays(x, y, w), D.Arrays(x.tolist(), y.tolist(), w.tolist())):
        assert (data.n, data.shape, data.classes, data.outputs) == (6, (2,), 3, None)
        for index in (range(2, 5), np.array([4, 0, 4])):
            batch = data.batch(index, ops, "float32")
            picked = np.arange(6)[index.start : index.stop] if isinstance(index, range) else index
            for got, wanted in zip(batch, (x, y, w), strict=True):
                np.testing.assert_allclose(ops.to_numpy(got), wanted[picked], rtol=1e-7)


def test_arrays_of_the_backend_s_own_library(ops):
    with tn.use_backend(ops):
        x, y = ops.asarray(np.random.default_rng(0).standard_normal((20, 3))), ops.asarray(np.arange(20) % 2)
        model = tn.Model(tn.Dense(2), 3)
        model.fit((x, y), epochs=2, batch_size=6)
        assert ops.owns(model.predict(x))


@pytest.mark.parametrize("options", [{"balance": True}, {"checkpoint": "run"}], ids=str)
def test_what_the_host_asks_of_arrays_on_a_device(options, ops, tmp_path, monkeypatch):
    """Labels to balance, and a fingerprint."""
    monkeypatch.chdir(tmp_path)
    x, y = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2
    with tn.use_backend(ops):
        there = D.Arrays(ops.asarray(x), ops.asarray(y), ops.asarray(y + 1.0))
    assert there.fingerprint() == D.Arrays(x, y, y + 1.0).fingerprint()
    model = tn.Model(tn.Sequential(tn.Standardize(), tn.Dense(2)), 3, backend=ops)
    assert model.fit(there, **options).rows


# The loader -------------------------------------------------------------------------------------------------------


def test_numbers_of_any_library_make_the_same_set():
    """And the same text, so that a checkpoint knows its data again."""
    mine = D.Spirals(np.int64(9), seed=np.uint64(2), n_classes=np.int32(4), noise=np.float64(0.5), turns=1)
    assert mine == D.Spirals(9, seed=2, n_classes=4, noise=0.5, turns=1.0)
    assert repr(mine) == "Spirals(n=9, seed=2, n_classes=4, noise=0.5, turns=1.0)"
    assert repr(D.Teacher(9, hidden=[np.int64(3), 2])) == repr(D.Teacher(9, hidden=(3, 2)))
    assert tn.Loader(mine, np.int64(3)).fingerprint() == tn.Loader(mine, 3).fingerprint()


@pytest.mark.parametrize(("n", "size"), [(1, 1), (1, 9), (10, 3), (100, 100), (1000, 64), (70_000, 999)])
def test_every_epoch_goes_through_all_samples_in_an_order_of_its_own(n, size):
    loader = tn.Loader((np.zeros((n, 1)), np.zeros(n, int)), size, seed=4)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * len(loader), (epoch + 1) * len(loader))
        order = np.concatenate([np.asarray(loader.index(t)) for t in steps])
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
        epochs.append(order)
    if n >= 100:
        assert not (epochs[0] == epochs[1]).all()
        other = np.concatenate([np.asarray(tn.Loader(loader.data, size, seed=5).index(t)) for t in range(len(loader))])
        assert not (epochs[0] == other).all()
        assert not (epochs[1] == other).all()  # epoch 1 of seed 4 is not epoch 0 of seed 5


def test_a_loader_is_a_function_of_the_step():
    loader = tn.Loader(D.Moons(200_000), 700, shuffle=True)
    forth = [loader.index(t) for t in range(0, 900, 97)]
    back = [loader.index(t) for t in reversed(range(0, 900, 97))]
    for a, b in zip(forth, reversed(back), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_and_what_is_left_over():
    loader = tn.Loader(D.Moons(10), 4)
    assert [list(loader.index(t)) for t in range(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    loader = tn.Loader(D.Moons(10), 4, drop_last=True)
    assert [list(loader.index(t)) for t in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_a_shuffle_of_2_to_the_62_is_evaluated_by_index(ops):
    loader = tn.Loader(D.Spirals(2**62), 100, shuffle=True)
    assert loader.batch(2**50 + 1, ops, "float32").x.shape == (100, 2)  # an order that is written down never comes


KINDS_OF_DATA = "give a data set, a path, or a tuple (X, y) or (X, y, weight)"


def test_what_is_shuffled_by_default():
    """Stored data, and parts that are joined: a run would otherwise see one kind of samples, then another."""
    same = D.Moons(10, seed=0)
    joined, stored = D.Concatenated([same, D.Moons(10, seed=1)]), tn.Arrays(same[:].x, same[:].y)
    for data, shuffled in ((same, False), (joined, True), (stored, True)):
        order = list(tn.Loader(data, data.n).index(0))
        assert (order != sorted(order)) is shuffled, data


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: D.Spirals(0), "Spirals n 0 is out of range: give a whole number in [1, 2**62]"),
        (lambda: D.Spirals(2**62 + 1), f"Spirals n {2**62 + 1} is out of range: give a whole number in [1, 2**62]"),
        (lambda: D.Spirals(True), "Spirals n True is out of range: give a whole number in [1, 2**62]"),
        (lambda: D.Spirals(9, seed=True), "seed True is not a whole number: give one in [0, 2**64)"),
        (lambda: D.Moons(9, noise="a"), "Moons noise 'a' is out of range: give a standard deviation in [0, 1e30]"),
        (lambda: D.Moons(9, noise=1e300), "Moons noise 1e+300 is out of range: give a standard deviation in [0, 1e30]"),
        (lambda: D.Teacher(9, hidden=2.5), "Teacher hidden 2.5 is out of range: give a whole number in [1, 65536)"),
        (lambda: D.Teacher(9, hidden=(2.5,)), "Teacher hidden 2.5 is out of range: give a whole number in [1, 65536)"),
        (lambda: D.Spirals(9, turns=2**40), f"Spirals turns {2**40} is out of range: give a number in [-2**20, 2**20]"),
        (
            lambda: D.Moons(9)[np.array([1, 2**63], np.uint64)],
            f"sample {2**63} is out of range: there are 9, numbered from 0",
        ),
        (lambda: D.Moons(9)[[1, 2**70]], f"sample {2**70} is out of range: there are 9, numbered from 0"),
        (
            lambda: D.Moons(9).split("a"),
            "split at 'a' leaves nothing on one side of 9 samples: choose a point in between",
        ),
        (
            lambda: D.Moons(9).split(float("nan")),
            "split at nan leaves nothing on one side of 9 samples: choose a point in between",
        ),
        (lambda: D.Moons(9).take(np.ones(2)), "take(array([1., 1.])) is out of range: there are 9 samples"),
        (
            lambda: tn.Loader(D.Moons(9), 3, shuffle="False"),
            "Loader shuffle 'False' is not True or False: give one of them",
        ),
        (lambda: tn.Loader(D.Moons(9), 3).index(-1), "step -1 is out of range: give a whole number in [0, 2**63)"),
        (lambda: D.Spirals(1e3), "Spirals n 1000.0 is out of range: give a whole number in [1, 2**62]"),
        (lambda: D.Spirals(9, seed=2**64), f"seed {2**64} is out of range: give one in [0, 2**64)"),
        (lambda: D.Spirals(9, seed=0.5), "seed 0.5 is not a whole number: give one in [0, 2**64)"),
        (lambda: D.Spirals(9, n_classes=1), "Spirals n_classes 1 is out of range: give a whole number in [2, 65536)"),
        (lambda: D.Blobs(9, n_features=0), "Blobs n_features 0 is out of range: give a whole number in [1, 65536)"),
        (lambda: D.Moons(9, noise=-1), "Moons noise -1 is out of range: give a standard deviation in [0, 1e30]"),
        (lambda: D.Teacher(9, hidden=0), "Teacher hidden 0 is out of range: give a whole number in [1, 65536)"),
        (lambda: D.Subset(D.Moons(9), [8, 9]), "sample 9 is out of range: there are 9, numbered from 0"),
        (lambda: D.Subset(D.Moons(9), np.array([-1])), "sample -1 is out of range: there are 9, numbered from 0"),
        (
            lambda: D.Subset(D.Moons(9), np.ones(9, bool)),
            "samples are chosen by whole numbers in a list or a range, not bool (9,)",
        ),
        (lambda: D.Subset(D.Moons(9), []), "a subset of no samples: give the number of at least one"),
        (lambda: D.Concatenated([D.Moons(2**62)] * 2), f"{2**63} samples are too many: give at most 2**62 in all"),
        (lambda: D.Part(D.Moons(9), 3, 10), "samples 3 to 10 are not a part of 9: give 0 <= start < stop <= 9"),
        (lambda: D.Moons(9).take(10), "take(10) is out of range: there are 9 samples"),
        (lambda: tn.Loader(D.Moons(9), 3, seed=-1), "seed -1 is out of range: give one in [0, 2**64)"),
        (
            lambda: tn.Loader(3, 3),
            f"data int is not understood: {KINDS_OF_DATA}",
        ),
        (
            lambda: tn.Loader(iter(()), 3),
            f"data tuple_iterator is not understood: {KINDS_OF_DATA}, or Batches(…) of what yields them",
        ),
    ],
)
def test_mistakes(make, said):
    with pytest.raises((ValueError, TypeError, IndexError)) as e:
        make()
    assert str(e.value) == said
