"""Draws other than each sample once an epoch, and batches got ready in the background."""

import multiprocessing
import os
import threading
from itertools import pairwise

import numpy as np
import pytest
from tinynet_backends import BackendUnavailable, get_backend

import tinynet as tn
from tinynet.data import dataset, sampling, stacked, supply
from tinynet.data import loader as loading
from tinynet.data import prefetch as prefetching

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 3], [70, 25, 5])[RNG.permutation(100)]
DATA = tn.Arrays(np.arange(100.0).reshape(100, 1), LABELS)


def draws(loader, epochs, first=0):
    steps = range(first * len(loader), (first + epochs) * len(loader))
    return np.concatenate([np.asarray(loader.index(t)) for t in steps])


@pytest.mark.parametrize("size", [1, 7, 100])
def test_balance_deals_the_classes_out_in_turn(size):
    loader = tn.Loader(DATA, size, seed=2, balance=True)
    d = draws(loader, 9)
    assert len(d) == 900
    np.testing.assert_array_equal(np.bincount(LABELS[d]), [300, 300, 0, 300])
    for window in range(0, 900, 3):
        assert set(LABELS[d[window : window + 3]]) == {0, 1, 3}
    for c, m in ((0, 70), (1, 25), (3, 5)):  # within a class each sample once before any comes again
        own = d[LABELS[d] == c]
        passes = [own[s : s + m] for s in range(0, len(own) - m + 1, m)]
        assert all(len(set(p)) == m for p in passes)
        assert not all((a == b).all() for a, b in pairwise(passes))


def test_labels_are_read_in_small_pieces_in_which_any_feature_is_finite(monkeypatch):
    """Only the labels are kept: wide features need not fit in memory, nor in float32."""
    most = []

    class Wide(tn.Arrays):
        def rows(self, index, ops, dtype):
            most.append(len(index) * self.shape[0])
            return super().rows(index, ops, dtype)

    monkeypatch.setattr(dataset, "_PIECE", 100)
    wide = Wide(np.full((45, 30), 1e39), np.arange(45) % 3)
    train, held_out = tn.data.stratified(wide, 0.2, seed=0)
    assert (train.n, held_out.n) == (36, 9)
    assert sorted(tn.Loader(wide, 45, balance=True).index(0).tolist()) == list(range(45))
    assert max(most) <= 100


@pytest.mark.parametrize("options", [{"balance": True}, {"weights": RNG.uniform(0, 1, 100)}, {"shuffle": True}])
def test_draws_are_a_function_of_the_step_and_the_seed(options):
    loader = tn.Loader(DATA, 7, seed=2, **options)
    forth = [loader.index(t) for t in range(40)]
    for t in reversed(range(40)):
        np.testing.assert_array_equal(tn.Loader(DATA, 7, seed=2, **options).index(t), forth[t])
    other = tn.Loader(DATA, 7, seed=3, **options)
    assert not all((other.index(t) == forth[t]).all() for t in range(40))


def test_weights_have_their_expectation():
    w = RNG.uniform(0, 1, 100) ** 3
    w[[0, 50, 99]] = 0.0
    loader = tn.Loader(DATA, 100, seed=5, weights=w)
    epochs = 2000
    counts = np.bincount(draws(loader, epochs), minlength=100)
    p = w / w.sum()
    n = 100 * epochs
    assert (np.abs(counts - n * p) <= 5 * np.sqrt(n * p * (1 - p))).all()
    assert (counts[w == 0] == 0).all()
    assert loader.order.bounds[-1] == 2**62  # the line is full: each draw finds a sample
    widths = np.diff(loader.order.bounds, prepend=0) / 2.0**62
    np.testing.assert_allclose(widths, p, rtol=1e-12, atol=1e-15)


def test_one_weight_alone_is_always_drawn():
    for value in (1e-300, 1e308):
        w = np.zeros(100)
        w[99] = value
        assert set(draws(tn.Loader(DATA, 10, weights=w), 3)) == {99}
    assert len(set(draws(tn.Loader(DATA, 10, weights=np.full(100, 1e308)), 9))) > 90


def test_balanced_training_learns_the_rare_class():
    x = np.concatenate([RNG.normal(0, 1, (980, 2)), RNG.normal(1.5, 1, (20, 2))])
    y = np.repeat([0, 1], [980, 20])
    recall = []
    for balance in (False, True):
        model = tn.Model(tn.Dense(2), 2)
        model.fit((x, y), epochs=20, batch_size=50, optimizer=tn.Adam(0.05), balance=balance)
        recall.append((np.asarray(model.predict_labels(x))[980:] == 1).mean())
    assert recall[0] < 0.3 < 0.7 < recall[1]


@pytest.mark.long
@pytest.mark.parametrize("prefetch", [True, False, None])
@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_the_same_from_a_thread(prefetch, first, drop_last, ops, monkeypatch):
    monkeypatch.setattr(loading, "LARGEST_CHUNK", 3 * 7)  # several chunks in an epoch
    monkeypatch.setattr(prefetching, "_SOON", 0.0)
    loader = tn.Loader(
        (DATA.x, DATA.y, np.linspace(0.1, 1, 100)), 7, shuffle=True, prefetch=prefetch, drop_last=drop_last
    )
    coming = supply.supply_of(loader, first, ops, "float32")
    for t in range(first, first + 30):
        batch, wanted = coming.batch(t), loader.data.batch(loader.index(t), ops, "float32")
        for a, b in zip(batch, wanted, strict=True):
            assert ops.owns(a)
            np.testing.assert_array_equal(ops.to_numpy(a), ops.to_numpy(b))
    coming.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tinynet-loader")]


@pytest.mark.parametrize(
    ("tick", "ticks", "with_thread", "threads"),
    [(1.0, 3, (7, 7, 7), 3), (1.0, 3, (11,), 1), (1.0, 3, (7, 11), 2), (1.0, 0.1, (1,), 0), (1e-6, 3, (7,), 0)],
)
def test_a_thread_is_tried_and_kept_where_it_pays(tick, ticks, with_thread, threads, monkeypatch):
    """With a clock of ours: without a thread a batch takes so many ticks and its step 7, with one as many as is said for each
    turn. One that was faster once and not again was faster by chance; where batches cost next to nothing, or are there in no
    time, none is tried."""
    now, begun, running = [0.0], [], []
    monkeypatch.setattr(prefetching, "perf_counter", lambda: now[0])
    ahead, chunk = prefetching._ahead, tn.Loader.chunk

    def watched(*args):
        begun.append(args[1])
        running.append(True)
        try:
            yield from ahead(*args)
        finally:
            running.clear()

    def slow(*args):
        made = chunk(*args)
        now[0] += 0.0 if running else ticks * tick * made[1]
        return made

    monkeypatch.setattr(prefetching, "_ahead", watched)
    monkeypatch.setattr(tn.Loader, "chunk", slow)
    loader = tn.Loader(DATA, 10)
    ops = tn.get_backend("numpy")
    coming = supply.supply_of(loader, 0, ops, "float32")
    for t in range(16 * loader.steps_per_chunk(ops)):
        batch_of_step = coming.batch(t)
        np.testing.assert_array_equal(batch_of_step.x, DATA.x[loader.index(t)])
        now[0] += tick * (with_thread[len(begun) - 1] if running else 7)
    assert (len(begun), bool(running)) == (threads, threads == 3)
    coming.close()


@pytest.mark.parametrize("prefetch", [True, False, None])
def test_batches_from_a_thread_are_fed_and_no_others(prefetch, monkeypatch):
    """Those that nobody makes while the device computes are copied to it as they are asked for."""
    ops, chunk, in_thread, fed = get_backend("strict:device2"), tn.Loader.chunk, set(), []

    def noted(*args):
        first, steps, batches = chunk(*args)
        here = threading.current_thread() is threading.main_thread()  # also one that was made ahead of a trial's end
        (in_thread.difference_update if here else in_thread.update)(range(first, first + steps))
        return first, steps, batches

    def feed(self):
        return lambda arrays: fed.append(t) or [None if a is None else self.asarray(a) for a in arrays]

    monkeypatch.setattr(loading, "LARGEST_CHUNK", 2 * 10)  # two steps each
    monkeypatch.setattr(prefetching, "_SOON", 0.0)
    monkeypatch.setattr(tn.Loader, "chunk", noted)
    monkeypatch.setattr(type(ops), "feed", feed)
    loader = tn.Loader(DATA, 10, prefetch=prefetch)
    coming = supply.supply_of(loader, 0, ops, "float32")
    for t in range(40):
        np.testing.assert_array_equal(ops.to_numpy(coming.batch(t).x), DATA.x[loader.index(t)])
    coming.close()
    assert fed == [t for t in range(40) if t in in_thread]
    if prefetch is not None:
        assert len(fed) == 40 * prefetch


def test_a_loader_may_make_batches_of_its_own():
    """One that does is asked for each of them; several networks, whose batches are made together, cannot have it."""

    class Shifted(tn.Loader):
        def batch(self, step, ops, dtype):
            x, y, weight = super().batch(step, ops, dtype)
            return tn.data.Batch(x + step, y, weight)

    for prefetch in (True, False):
        for name in ("numpy", "numba"):
            model, other = (tn.Model(tn.Dense(4), 1, backend=name) for _ in range(2))
            loader = Shifted(DATA, 20, prefetch=prefetch)
            model.fit(loader, epochs=2)
            other.fit(tn.data.Batches([loader.batch(step, model.ops, "float32")[:2] for step in range(10)]))
            assert model.theta.tobytes() == other.theta.tobytes()
    with pytest.raises(TypeError, match="fit_many does not take Shifted"):
        tn.fit_many(model, loader, seeds=2)


def test_a_loader_may_choose_samples_of_its_own(ops):
    """An index of a subclass had no effect."""

    class Backwards(tn.Loader):
        def index(self, step, ops=None):
            return np.asarray(super().index(step, ops))[::-1].copy()

    loader = Backwards(DATA, 20, shuffle=False)
    assert loader.fingerprint() != tn.Loader(DATA, 20, shuffle=False).fingerprint()
    model, other = (tn.Model(tn.Dense(4), 1, backend=ops) for _ in range(2))
    model.fit(loader)
    other.fit(
        tn.data.Subset(DATA, [i for t in range(len(loader)) for i in loader.index(t)]), batch_size=20, shuffle=False
    )
    assert model.history["loss"] == other.history["loss"]
    with pytest.raises(TypeError, match="fit_many does not take Backwards"):
        tn.fit_many(model, loader, seeds=2)


def test_targets_count_in_the_size_of_a_chunk(monkeypatch):
    """Few features and many targets, of one network and of two."""
    monkeypatch.setattr(loading, "LARGEST_CHUNK", 1000)
    monkeypatch.setattr(stacked, "LARGEST_CHUNK", 1000)
    ops, data = get_backend("numpy"), (np.zeros((100, 1)), np.zeros((100, 24)))
    loaders = [tn.Loader(data, 10, seed=seed, shuffle=True) for seed in (1, 2)]
    for source, steps in ((loaders[0], 4), (stacked.StackedLoader(loaders), 2)):
        assert source.chunk(0, ops, "float32")[1] == source.steps_per_chunk(ops) == steps


def test_a_loader_gives_what_is_asked_for_in_turns(ops):
    """Batches are kept for the steps to come: not for another dtype, nor for steps before them."""
    loader = tn.Loader(DATA, 7, shuffle=True)
    for step, dtype in ((0, "float32"), (0, "float64"), (14, "float32"), (3, "float32"), (14, "float32")):
        x = ops.to_numpy(loader.batch(step, ops, dtype).x)
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, DATA.x[loader.index(step)])


def test_an_error_in_the_thread_is_the_caller_s():
    class Broken(tn.Arrays):
        def rows(self, index, ops, dtype):
            if 40 in list(index):
                raise OSError("the disk is gone")
            return super().rows(index, ops, dtype)

    loader = tn.Loader(Broken(DATA.x, DATA.y), 10, shuffle=False, prefetch=True)
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in tn.train(tn.Model(tn.Dense(4), 1), loader, tn.CrossEntropy(), tn.Adam(), steps=10):
            pass
    assert not [t for t in threading.enumerate() if t.name.startswith("tinynet-loader")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")  # of Python 3.12, and of JAX where another test has imported it
def test_a_forked_process_makes_its_batches_itself():
    """It waited for a thread that is the parent's alone."""
    coming = prefetching.chunks(lambda step: (step, 2, None), 0, True)
    next(coming)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put([next(coming)[0][0] for _ in range(3)]), daemon=True)
    child.start()
    assert queue.get(timeout=10) == [next(coming)[0][0] for _ in range(3)] == [2, 4, 6]
    child.join()
    coming.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tn.Loader(DATA, 5, weights=np.ma.masked_less(np.ones(100), 2)),
         "weights is a masked array, and no value can be missing: give weights.filled(…)"),
        (lambda: tn.Loader(DATA, 5, weights=[1.0]), "weights (1,) do not fit 100 samples: expected (100,)"),
        (lambda: tn.Loader(DATA, 5, weights=-np.ones(100)),
         "weights have a value that is negative, NaN or infinite: give finite ones of at least 0"),
        (lambda: tn.Loader(DATA, 5, weights=np.zeros(100)),
         "weights are zero everywhere: give some sample a positive one"),
        (lambda: tn.Loader(DATA, 5, weights=np.ones(100), balance=True),
         "weights and balance are two ways to draw: give one of them"),
        (lambda: tn.Loader(DATA, 5, balance=True, shuffle=False),
         "weights and balance draw in an order of their own: leave shuffle out"),
        (lambda: tn.Loader(tn.data.Linear(9), 5, balance=True),
         f"balance needs data with classes, and {tn.data.Linear(9)!r} has none"),
        (lambda: tn.Loader(tn.data.Moons(2**40), 5, balance=True),
         (f"balance keeps a number for each of {2**40} samples, which are too many: take(…) fewer, or have "
          "data.Imbalanced draw the classes")),
    ],
)  # fmt: skip
def test_mistakes(make, said):
    with pytest.raises((ValueError, TypeError)) as e:
        make()
    assert str(e.value) == said


@pytest.mark.parametrize("name", ["strict:device1", "numba", "torch", pytest.param("cupy", marks=pytest.mark.gpu)])
@pytest.mark.long
def test_a_shuffle_is_the_same_wherever_it_is_computed(name):
    try:
        ops = get_backend(name)
    except BackendUnavailable as e:
        pytest.skip(str(e))
    D, host = tn.data, get_backend("numpy")
    hard = D.LabelNoise(D.Nuisance(D.Imbalanced(D.Moons(500), (0.9, 0.1)), n_features=8), rate=0.05)
    for data in (D.Spirals(500), D.Blobs(9000, n_features=12), hard, D.FeatureNoise(D.Moons(500).split(0.7)[0], 0.1),
                 D.Moons(900).shard(1, 3)):  # fmt: skip
        loader = tn.Loader(data, 32, shuffle=True, seed=3)
        assert loader._order_backend(ops) is (host if name == "torch" else ops)
        for step in (0, 7, loader.steps_per_epoch - 1, loader.steps_per_epoch + 1):
            got, wanted = loader.batch(step, ops, "float32"), loader.batch(step, host, "float32")
            assert np.array_equal(ops.to_numpy(got.x), wanted.x)
            assert np.array_equal(ops.to_numpy(got.y), wanted.y)


@pytest.mark.long
def test_the_orders_of_several_epochs_are_those_of_each(ops):
    """Small sets have those of 16 epochs made together, unless only one is asked for."""
    for n in (5, 300, sampling._FEW):
        order = sampling.Shuffled(n, 3)
        for epoch in (14, 15, 14, 16, 2, 2**40):
            keys = sampling.permutation_keys(3, epoch, 0)
            wanted = get_backend("numpy").permute(range(1, n), n, keys).tolist()
            assert ops.to_numpy(order.draws(epoch, 1, n, ops)).tolist() == wanted


def test_shuffles_of_many_seeds_are_those_of_each(ops, monkeypatch):
    monkeypatch.setattr(sampling, "_CHUNK", 100)  # draws from several chunks
    for n, start, stop in ((7, 2, 7), (2000, 90, 1301)):
        seeds = [4, 0, 2**40]
        together = sampling.StackedShuffled(n, seeds).draws(1, start, stop, ops)
        assert together.shape == (3, stop - start)
        for number, seed in enumerate(seeds):
            alone = sampling.Shuffled(n, seed).draws(1, start, stop, ops)
            assert ops.to_numpy(together[number, ...]).tolist() == ops.to_numpy(alone).tolist()
