"""Streams, exact functions and permutations: NumPy's own generator and the standard library are the judges."""

from math import erfc, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from tinynet_backends import exact, get_backend, permutation, philox
from tinynet_backends.special import erf

KEYS = tuple(int(k) for k in np.random.default_rng(0).integers(0, 2**32, 24))


@pytest.fixture(params=["numpy", "strict:device1"])
def lib(request):
    """Backends that compute the portable formulas themselves."""
    return get_backend(request.param)


def words(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def test_words_are_numpy_s(ops):
    rng = np.random.default_rng(0)
    for _ in range(5):
        key, counter = rng.integers(0, 2**64, 2, dtype=np.uint64), rng.integers(0, 2**64, 3, dtype=np.uint64)
        skip, n = (int(v) for v in rng.integers(0, 40, 2))
        wanted = np.random.Philox(key=key, counter=np.array([0, *counter], np.uint64)).random_raw(skip + n)[skip:]
        got = ops.words(tuple(map(int, key)), tuple(map(int, counter)), skip, n)
        np.testing.assert_array_equal(ops.to_numpy(got), wanted)
        width = int(rng.integers(1, 12))
        rows = ops.to_numpy(ops.words_at(tuple(map(int, key)), tuple(map(int, counter)), ops.arange(0, 10), width))
        wanted = np.random.Philox(key=key, counter=np.array([0, *counter], np.uint64)).random_raw(10 * width)
        np.testing.assert_array_equal(rows.ravel(), wanted)


@pytest.mark.parametrize("width", [1, 3, 4, 7, 2**18 - 1])
def test_words_run_on_where_the_first_word_of_the_counter_ends(width, ops):
    """Word 2**66 is the first whose block has a number of more than 64 bits: NumPy's counter carries there."""
    number = min(2**66 // width, 2**62 - 1)
    wide = min(width, 50)
    bits = np.random.Philox(key=np.array([1, 2], np.uint64), counter=np.array([0, 3, 4, 5], np.uint64))
    block, skip = divmod(number * width, 4)
    for part in (block // 2, block - block // 2):
        bits.advance(part)
    wanted = bits.random_raw(skip + wide)[skip:]
    np.testing.assert_array_equal(ops.to_numpy(ops.words((1, 2), (3, 4, 5), number * width, wide)), wanted)
    if width < 1000:
        row = ops.words_at((1, 2), (3, 4, 5), ops.asarray(np.array([number])), width)
        np.testing.assert_array_equal(ops.to_numpy(row)[0], wanted)


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [  # Random123's known answers for philox4x64, 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
        (
            (2**64 - 1,) * 4, (2**64 - 1,) * 2,
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
        (
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
        ),
    ],
)  # fmt: skip
def test_known_answers(counter, key, wanted, lib):
    c0 = lib.xp.asarray([counter[0]], dtype=lib.xp.uint64, device=lib.device)
    got = philox.blocks(lib.xp, c0, *counter[1:], key)
    assert tuple(int(w[0]) for w in got) == wanted


def test_uniforms_are_numpy_s(lib):
    raw = np.random.Philox(key=7).random_raw(1000)
    generator = np.random.Generator(np.random.Philox(key=7))
    w = lib.asarray(raw)
    np.testing.assert_array_equal(lib.to_numpy(exact.uniform64(lib.xp, w)), generator.random(1000))
    generator = np.random.Generator(np.random.Philox(key=7))
    got = lib.to_numpy(exact.uniform32(lib.xp, w))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, generator.random(2000, dtype=np.float32))


def tail(w):
    """The probability of the tail beyond the normal of each word, and the sign."""
    g = ((w << np.uint64(1)) >> np.uint64(11)) | np.uint64(1)
    return g.astype(float) * 2.0**-54, np.where(w >> np.uint64(63) == 1, -1.0, 1.0)


def test_normals_invert_the_distribution_function(lib):
    w = words(20_000)
    p, sign = tail(w)
    wanted = np.array([-NormalDist().inv_cdf(v) for v in p])
    np.testing.assert_allclose(lib.to_numpy(exact.quantile(lib.xp, lib.asarray(p))), wanted, rtol=1e-14, atol=1e-15)
    # lines between 1024 points an octave: h**2 / 8 times the second derivative, at most 0.41 / p**2, is 4.9e-8
    np.testing.assert_allclose(lib.to_numpy(lib.normal(lib.asarray(w))), sign * wanted, atol=5.2e-8, rtol=0)


def test_normals_in_the_tails_and_at_their_ends(lib):
    k = np.array([k for e in range(52) for k in (2**e, 2**e + 1, 2 ** (e + 1) - 1)], dtype=np.uint64)
    w = k << np.uint64(11)
    z = lib.to_numpy(lib.normal(lib.asarray(w)))
    p, sign = tail(w)
    back = np.array([0.5 * erfc(v / sqrt(2)) for v in z])
    # an error of 5.2e-8 in z is one of 5.2e-8 * (z + 1 / z) in p, relatively
    assert (np.abs(back / p - 1) <= 5.2e-8 * (z + 1)).all()
    assert (sign == 1).all()
    assert z.max() > 8
    flipped = lib.to_numpy(lib.normal(lib.asarray(w | np.uint64(2**63))))
    np.testing.assert_array_equal(flipped, -z)
    ends = lib.to_numpy(lib.normal(lib.asarray(np.array([0, 2**64 - 1], np.uint64))))
    np.testing.assert_allclose(ends, [8.292361075813595, 0.0], rtol=1e-12, atol=1e-15)  # of p = 2**-54, and of 1/2


def test_the_tails_have_the_right_weight(lib):
    """Numbers fall as words grow, so the words whose numbers lie beyond each sigma are counted bit by bit."""
    sigma = np.array([0.01, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    count = np.zeros(len(sigma), np.uint64)
    for bit in reversed(range(52)):
        more = count + np.uint64(2**bit)
        last = lib.to_numpy(lib.normal(lib.asarray((more - np.uint64(1)) << np.uint64(11))))
        count = np.where(last > sigma, more, count)
    p = 0.5 * np.array([erfc(s / sqrt(2)) for s in sigma])
    # of 2**53 words with their sign; an error of 5.2e-8 in the number is one of 5.2e-8 * (sigma + 1) in p, relatively
    assert (abs(count - p * 2**53) <= 5.2e-8 * (sigma + 1) * p * 2**53 + 1).all()


def test_normals_fall_as_words_grow(lib):
    w = np.sort(words(20_000) >> np.uint64(1))
    assert (np.diff(lib.to_numpy(lib.normal(lib.asarray(w)))) <= 0).all()


def test_normals_are_distributed_as_they_should(lib):
    n = 200_000
    z = lib.to_numpy(exact.normal(lib.xp, lib.words((1, 2), (3, 4, 5), 0, n)))
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    for bound in (0.5, 1.0, 2.0, 3.0):
        p = erfc(bound / sqrt(2))
        assert abs((np.abs(z) > bound).mean() - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_elementary_functions(lib):
    rng = np.random.default_rng(1)
    x = np.concatenate([np.exp(rng.uniform(-700, 40, 5000)), rng.uniform(0.5, 2.0, 5000), [1.0, 2.0**-1022]])
    np.testing.assert_allclose(lib.to_numpy(exact.log(lib.xp, lib.asarray(x))), np.log(x), rtol=5e-16, atol=3e-16)
    t = np.concatenate([rng.uniform(-3, 3, 5000), np.arange(-16, 17) / 8, [2.0**39 + 0.25]])
    sine, cosine = (lib.to_numpy(v) for v in exact.sincos(lib.xp, lib.asarray(t)))
    r = 2 * np.pi * (t - np.round(t))
    np.testing.assert_allclose(sine, np.sin(r), atol=8e-16)
    np.testing.assert_allclose(cosine, np.cos(r), atol=8e-16)
    y, x = rng.uniform(-3, 3, 5000), rng.uniform(0, 3, 5000)
    y[:3], x[:3] = (1.0, -1.0, 0.0), (0.0, 0.0, 2.0)
    angle = lib.to_numpy(exact.arctan(lib.xp, lib.asarray(y), lib.asarray(x)))
    np.testing.assert_allclose(angle, np.arctan2(y, x), atol=4e-16)
    assert sine[5000:5033:2].tolist() == [0, 1, 0, -1] * 4 + [0]  # quarters of a turn are exact


def test_every_function_has_the_same_bits_everywhere(lib):
    host, w, t = np, words(4096), np.random.default_rng(2).uniform(-5, 5, 4096)
    both = lambda xp, v: exact.arctan(xp, v, xp.abs(v[::-1]))  # noqa: E731
    for f, x in (
        (exact.normal, w), (exact.halves, w), (exact.uniform32, w), (exact.sincos, t), (exact.log, np.abs(t)), (both, t),
    ):  # fmt: skip
        here, there = f(lib.xp, lib.asarray(x)), f(host, x)
        for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (here, there)), strict=True):
            assert lib.to_numpy(a).tobytes() == b.tobytes()


def test_a_permutation_is_one_and_its_inverse_undoes_it():
    for n in (*range(1, 130), *(2**k + d for k in range(8, 13) for d in (-1, 0, 1)), 1000, 3599, 10_007):
        index = np.arange(n)
        there = permutation.permute(np, index, n, KEYS)
        np.testing.assert_array_equal(np.sort(there), index, f"{n}")
        np.testing.assert_array_equal(permutation.unpermute(np, there, n, KEYS), index, f"{n}")


@pytest.mark.parametrize("n", [7, 1001, 10**12, 2**62])
def test_a_permutation_has_the_same_bits_everywhere(n, lib):
    index = np.minimum(np.linspace(0, n - 1, 50).astype(np.int64), n - 1)  # n - 1 may be rounded up
    here = lib.to_numpy(permutation.permute(lib.xp, lib.asarray(index), n, KEYS))
    assert here.dtype == np.int64
    assert ((here >= 0) & (here < n)).all()
    np.testing.assert_array_equal(here, permutation.permute(np, index, n, KEYS))


@pytest.mark.parametrize("n", [97, 200, 1001, 10_007])  # sides whose product is more: some indices go round again
def test_what_many_indices_look_up_is_what_the_rounds_give(n):
    host, rng = get_backend("numpy"), np.random.default_rng(4)
    keys = [KEYS, *map(tuple, rng.integers(0, 2**32, (3, 24)).tolist())]
    for index in (range(n), range(n // 3, n), range(5, n - 3), rng.integers(0, n, n)):
        wanted = [permutation.permute(np, np.asarray(index), n, each) for each in keys]
        np.testing.assert_array_equal(host.permutes(index, n, keys), wanted)
        np.testing.assert_array_equal(host.permute(index, n, keys[1]), wanted[1])


def test_all_orders_are_equally_likely():
    """Chi squared over the 24 orders of four things: 23 degrees of freedom, 54 is passed once in 3000 times."""
    keys = np.random.default_rng(3).integers(0, 2**32, (24, 2400), dtype=np.uint64)
    placed = permutation.permute(np, np.tile(np.arange(4), 2400), 4, [np.repeat(k, 4) for k in keys])
    _, counts = np.unique(placed.reshape(2400, 4), axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 100) ** 2 / 100).sum() < 54


@pytest.mark.parametrize("index", [-1, 9, 2**62])
def test_an_index_without_a_place_is_refused(index, ops):
    """A walk from there might never come back."""
    there = ops.asarray([0, index, 3], "int64")
    if ops.launches:  # an error would have to wait for the device
        assert ops.to_numpy(ops.permute(there, 9, KEYS)).tolist()[1] == -1
    refused = {
        "indices of the host": lambda: ops.permute(np.asarray([0, index, 3]), 9, KEYS),
        "indices of the backend": lambda: ops.permute(there, 9, KEYS),
        "the way back": lambda: permutation.unpermute(ops.xp, there, 9, KEYS),
        "a range": lambda: ops.permute(range(index, index + 1), 9, KEYS),
    }
    del refused["indices of the backend" if ops.launches else "indices of the host"]
    for call in refused.values():
        with pytest.raises(IndexError, match=rf"^index {index} is out of range: this permutation is of range\(9\)$"):
            call()


def test_sizes_that_have_no_permutation():
    with pytest.raises(ValueError, match=r"no permutation of range\(0\): expected 1 <= n <= 2\*\*62"):
        permutation.permute(np, np.arange(0), 0, KEYS)
    with pytest.raises(ValueError, match="^a permutation takes 24 keys, not 16$"):
        permutation.permute(np, np.arange(9), 9, KEYS[:16])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_erf(ops, dtype):
    from math import erf as oracle

    x = np.concatenate([np.linspace(-7, 7, 4001), [0.0, -0.0, 1e-300, np.inf, -np.inf, 0.46875, 4.0]]).astype(dtype)
    got = ops.to_numpy(erf(ops.xp, ops.asarray(x)))
    assert got.dtype == x.dtype
    np.testing.assert_allclose(got, [oracle(float(v)) for v in x], rtol={"float32": 4e-7, "float64": 7e-16}[dtype])
    assert np.isnan(ops.to_numpy(erf(ops.xp, ops.asarray(np.array([np.nan], dtype))))).all()
