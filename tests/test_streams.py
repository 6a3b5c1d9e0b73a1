"""The public `Stream`: NumPy's words by number, and what is made of them."""

import numpy as np
import pytest
from tinynet_backends import permutation

import tinynet as tn
from tinynet.streams import ORDER, Stream

STREAM = Stream(seed=2**64 - 3, purpose=300, counter=(7, 2**64 - 1, 5))


def raw(n, counter=STREAM.counter):
    key = np.array([STREAM.seed, STREAM.purpose], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, *counter], np.uint64)).random_raw(n)


def test_words_are_numpy_s_however_they_are_asked_for(ops):
    wanted = raw(1000)
    np.testing.assert_array_equal(ops.to_numpy(STREAM.words(range(1000), ops)), wanted)
    np.testing.assert_array_equal(ops.to_numpy(STREAM.words(range(501, 507), ops)), wanted[501:507])
    np.testing.assert_array_equal(ops.to_numpy(STREAM.words(range(507, 501, -2), ops)), wanted[507:501:-2])
    index = [999, 0, 4, 4, 3]
    for form in (index, np.array(index), np.array(index, np.int32)):
        np.testing.assert_array_equal(ops.to_numpy(STREAM.words(form, ops)), wanted[index])
    assert ops.to_numpy(STREAM.words([], ops)).shape == (0,)
    assert ops.to_numpy(STREAM.words(range(3, 3), ops)).shape == (0,)


def test_uniform_numbers(ops):
    w = raw(500)
    u = ops.to_numpy(STREAM.uniform(range(500), ops=ops))
    np.testing.assert_array_equal(u, (w >> np.uint64(11)) * 2.0**-53)
    u = ops.to_numpy(STREAM.uniform(range(500), "float32", ops))
    assert u.dtype == np.float32
    np.testing.assert_array_equal(u, (w >> np.uint64(40)) * 2.0**-24)


@pytest.mark.parametrize("n", [1, 2, 6, 2**32 + 1, 2**62, 3 * 2**61 + 5, 2**63 - 1, 2**63])
def test_integers_are_lemire_s_by_the_book(n, ops):
    streams = [raw(200, (*STREAM.counter[:2], STREAM.counter[2] + again * 2**32)) for again in range(40)]
    wanted = []
    for i in range(200):
        products = (int(words[i]) * n for words in streams)
        wanted.append(next(p >> 64 for p in products if p % 2**64 >= 2**64 % n))
    got = ops.to_numpy(STREAM.integers(range(200), n, ops))
    assert got.dtype == np.int64
    assert got.tolist() == wanted
    np.testing.assert_array_equal(ops.to_numpy(STREAM.integers([7, 3], n, ops)), got[[7, 3]])


def test_integers_have_no_favourites():
    """Where the upper half of word * n alone would give every third number twice as often."""
    n = 3 * 2**61  # 2**64 words over n numbers: two words for some, three for others
    draws = STREAM.integers(range(60_000), n)
    counts = np.bincount(draws % 3, minlength=3)
    assert np.abs(counts - 20_000).max() < 5 * (60_000 * (1 / 3) * (2 / 3)) ** 0.5
    counts = np.bincount(STREAM.integers(range(60_000), 7), minlength=7) / 60_000
    assert np.abs(counts - 1 / 7).max() < 5 * ((1 / 7) * (6 / 7) / 60_000) ** 0.5


def test_bernoulli(ops):
    w = raw(300)
    for p in (0.0, 2.0**-60, 0.3, 0.5, 1.0):
        got = ops.to_numpy(STREAM.bernoulli(range(300), p, ops))
        assert got.tolist() == [int(word) < int(p * 2**64) for word in w]


def test_normals(ops):
    z = ops.to_numpy(STREAM.normal(range(4000), ops=ops))
    np.testing.assert_array_equal(z[[9, 1]], ops.to_numpy(STREAM.normal([9, 1], ops=ops)))
    np.testing.assert_array_equal(ops.to_numpy(STREAM.normal(range(4000), "float32", ops)), z.astype(np.float32))
    assert abs(z.mean()) < 5 / 4000**0.5
    assert abs(z.var() - 1) < 5 * (2 / 4000) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 4097])
def test_a_shuffle_and_its_inverse(n, ops):
    keys = [half for w in raw(12).tolist() for half in (w % 2**32, w // 2**32)]
    places = ops.to_numpy(STREAM.permute(range(n), n, ops))
    assert places.dtype == np.int64
    np.testing.assert_array_equal(places, permutation.permute(np, np.arange(n), n, keys))
    assert sorted(places.tolist()) == list(range(n))
    assert ops.to_numpy(STREAM.unpermute(places, n, ops)).tolist() == list(range(n))
    assert ops.to_numpy(STREAM.permute([n - 1, 0], n, ops)).tolist() == places[[n - 1, 0]].tolist()
    assert ops.to_numpy(STREAM.permute(range(0), n, ops)).shape == (0,)


def test_a_shuffle_of_any_size_and_of_each_epoch():
    n, epochs = 2**62, [Stream(5, ORDER, (epoch, 0, 0)) for epoch in (0, 3)]
    there = epochs[0].permute([0, n - 1], n)
    assert epochs[0].unpermute(there, n).tolist() == [0, n - 1]
    loader = tn.Loader(tn.data.Moons(100), 10, shuffle=True, seed=5)
    assert epochs[1].permute(range(100), 100)[:10].tolist() == loader.index(30).tolist()
    assert epochs[0].permute(range(100), 100).tolist() != epochs[1].permute(range(100), 100).tolist()


def test_streams_have_nothing_to_do_with_one_another():
    others = [
        Stream(1, 300),
        Stream(0, 301),
        Stream(0, 300, (1, 0, 0)),
        Stream(0, 300, (0, 1, 0)),
        Stream(0, 300, (0, 0, 1)),
    ]
    first = Stream(0, 300).uniform(range(2000))
    for other in others:
        assert abs(np.corrcoef(first, other.uniform(range(2000)))[0, 1]) < 5 / 2000**0.5


def test_where_there_is_no_float64():
    ops = tn.get_backend("strict:no_float64")
    u = ops.to_numpy(STREAM.uniform(range(50), "float32", ops))
    np.testing.assert_array_equal(u, (raw(50) >> np.uint64(40)) * 2.0**-24)
    for use in (
        STREAM.integers(range(50), 10, ops),
        STREAM.bernoulli(range(50), 0.5, ops),
        STREAM.words(range(50), ops),
    ):
        assert use.shape == (50,)
    rest = "which 'strict:no_float64' does not have: words, integers, bernoulli and uniform(dtype='float32') do without"
    for make, what in (
        (lambda: STREAM.normal(range(3), "float32", ops), "normal numbers"),
        (lambda: STREAM.uniform(range(3), "float64", ops), "uniform numbers in float64"),
        (lambda: tn.data.Moons(9).batch(range(3), ops, "float32"), "samples"),
    ):
        with pytest.raises(TypeError) as e:
            make()
        assert str(e.value) == f"{what} are computed in float64, {rest}"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Stream(-1), "seed -1 is out of range: give one in [0, 2**64)"),
        (lambda: Stream(0, 2**64), f"Stream purpose {2**64} is out of range: give a whole number in [0, 2**64)"),
        (lambda: Stream(0, 5, (0, 0, 2**32)),
         f"Stream counter[2] {2**32} is out of range: give a whole number in [0, 2**32)"),
        (lambda: STREAM.words(range(-1, 5)), "indices range(-1, 5) are not valid: give a range or a list in [0, 2**62)"),
        (lambda: STREAM.permute(range(-1, 2**60), 5),
         f"indices range(-1, {2**60}) are not valid: give a range or a list in [0, 2**62)"),
        (lambda: STREAM.integers(range(3), 0), "integers below 0 cannot be drawn: give a whole number in [1, 2**63]"),
        (lambda: STREAM.permute([5], 5), "index 5 is out of range: this permutation is of range(5)"),
        (lambda: STREAM.unpermute([5], 5), "index 5 is out of range: this permutation is of range(5)"),
        (lambda: STREAM.permute([-1], 5), "indices [-1] are not valid: give a range or a list in [0, 2**62)"),
        (lambda: STREAM.permute([0.5], 5), "indices [0.5] are not valid: give a range or a list in [0, 2**62)"),
        (lambda: STREAM.permute([0], 0), "no permutation of range(0): expected 1 <= n <= 2**62"),
        (lambda: STREAM.bernoulli(range(3), 1.5), "probability 1.5 is out of range: give one in [0, 1]"),
    ],
)  # fmt: skip
def test_mistakes(make, said):
    with pytest.raises((ValueError, TypeError, IndexError)) as e:
        make()
    assert str(e.value) == said
