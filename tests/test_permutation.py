"""Keyed permutations: each is one, its inverse undoes it, and all of them together look like uniformly random ones.

SciPy says how likely what is seen would be of uniformly random permutations: a probability below 1e-6 (that of 5
standard errors) fails. Seeds are fixed, so that a test that passes passes always.
"""

from itertools import pairwise

import numpy as np
import pytest
from tinynet_backends import permutation

import tinynet as tn

UNLIKELY = 1e-6


@pytest.fixture(scope="module")
def stats():
    return pytest.importorskip("scipy.stats", reason="SciPy's distributions are the judges")


def draw_keys(count, seed=0):
    """24 keys for each of ``count`` permutations: (24, count) uint64."""
    return np.random.default_rng(seed).integers(0, 2**32, (24, count), dtype=np.uint64)


def images(index, n, keys):
    """``index`` (m,) under each of many permutations, (count, m): keys broadcast as arrays as they do as ints."""
    count, m = keys.shape[1], len(index)
    spread = [np.repeat(k, m) for k in keys]
    return permutation.permute(np, np.tile(index, count), n, spread).reshape(count, m)


def orders(n, count, seed=0):
    return images(np.arange(n), n, draw_keys(count, seed))


def one(seed=0):
    return tuple(map(int, draw_keys(1, seed)[:, 0]))


# A bijection, and its inverse ----------------------------------------------------------------------------------------


def check_whole(n, keys):
    index = np.arange(n)
    there = permutation.permute(np, index, n, keys)
    assert there.dtype == np.int64
    np.testing.assert_array_equal(np.sort(there), index)
    np.testing.assert_array_equal(permutation.unpermute(np, there, n, keys), index)  # and so it is undone from anywhere


def test_sizes_up_to_4096_here_and_there():
    for n in sorted({*range(1, 40), *np.random.default_rng(0).integers(40, 4096, 110).tolist()}):
        check_whole(n, one(n))


@pytest.mark.slow
def test_every_size_up_to_4096():
    for n in range(1, 4097):
        check_whole(n, one(n))


@pytest.mark.parametrize("k", range(1, 17))
def test_sizes_beside_a_power_of_two(k):
    for n in (2**k - 1, 2**k, 2**k + 1):
        check_whole(n, one(k))


def check_some(n, keys, rng):
    """Neighbours at both ends, and numbers from everywhere between."""
    ends = np.concatenate([np.arange(500), np.arange(n - 500, n)])
    index = np.unique(np.concatenate([ends, rng.integers(0, n, 4000)]))
    there = permutation.permute(np, index, n, keys)
    assert ((there >= 0) & (there < n)).all()
    assert len(np.unique(there)) == len(index)
    np.testing.assert_array_equal(permutation.unpermute(np, there, n, keys), index)
    back = permutation.unpermute(np, index, n, keys)
    assert ((back >= 0) & (back < n)).all()
    np.testing.assert_array_equal(permutation.permute(np, back, n, keys), index)


@pytest.mark.parametrize("k", [pytest.param(k, marks=pytest.mark.slow) if k % 5 != 2 else k for k in range(17, 63)])
def test_large_sizes_beside_a_power_of_two(k):
    rng = np.random.default_rng(k)
    for n in (2**k - 1, 2**k, 2**k + 1)[: 2 if k == 62 else 3]:
        check_some(n, one(k), rng)


def test_large_sizes_of_every_kind():
    rng = np.random.default_rng(1)
    for exponent in rng.uniform(17, 61.99, 25):
        check_some(int(2.0**exponent), one(int(exponent)), rng)


def test_an_index_goes_where_it_goes_in_any_company():
    n, keys = 4093, one()
    whole = permutation.permute(np, np.arange(n), n, keys)
    index = np.array([4092, 7, 7, 0, 2000])
    kept = index.copy()
    np.testing.assert_array_equal(permutation.permute(np, index, n, keys), whole[kept])
    np.testing.assert_array_equal(index, kept)  # nor is it written to
    assert [int(permutation.permute(np, index[j : j + 1], n, keys)[0]) for j in range(5)] == whole[kept].tolist()
    assert permutation.permute(np, index[:0], n, keys).shape == (0,)


@pytest.mark.parametrize("n", [6, 999, 1000, 2**40])
def test_many_permutations_at_once_are_those_one_by_one(n):
    """What the statistics below rest on."""
    keys, index = draw_keys(5), np.unique(np.linspace(0, n - 1, 50).astype(np.int64))
    together = images(index, n, keys)
    for row, words in zip(together, keys.T, strict=True):
        np.testing.assert_array_equal(row, permutation.permute(np, index, n, tuple(map(int, words))))


@pytest.mark.parametrize(
    "of_a_key", [(0, 13, 31), pytest.param(range(32), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_every_bit_of_every_key_that_is_used_matters(of_a_key):
    for n, used, bits in ((500, 24, of_a_key), (4093, 8, (0, 13, 31))):
        keys, index = one(), np.arange(n)
        before = permutation.permute(np, index, n, keys)
        for j in range(24):
            for bit in bits:
                other = (*keys[:j], keys[j] ^ (1 << bit), *keys[j + 1 :])
                same = (permutation.permute(np, index, n, other) == before).mean()
                # A last round moves each of sqrt(n) rows by a step of its own: some, by chance, by the old one.
                assert same == 1 if j >= used else same < 0.5


# Uniform -------------------------------------------------------------------------------------------------------------


def chi_squared(stats, seen, expected, degrees, scale=1.0):
    """Two-sided probability of Pearson's statistic: too even is as wrong as too uneven."""
    x = scale * ((seen - expected) ** 2 / expected).sum()
    return 2 * min(stats.chi2.sf(x, degrees), stats.chi2.cdf(x, degrees))


def all_orders(stats, n, per_order, seed=0):
    """Of every order of n things, how often it came."""
    total = int(np.prod(np.arange(1, n + 1)))
    code = orders(n, per_order * total, seed) @ n ** np.arange(n)
    _, counts = np.unique(code, return_counts=True)
    return chi_squared(stats, np.concatenate([counts, np.zeros(total - len(counts))]), per_order, total - 1)


@pytest.mark.parametrize(("n", "per_order"), [(2, 20_000), (3, 10_000), (4, 5000), (5, 1000), (6, 120)])
def test_every_order_of_a_few_things_is_equally_likely(n, per_order, stats):
    assert all_orders(stats, n, per_order) > UNLIKELY


def poisson(stats, counts, mean):
    """The histogram of ``counts`` against Poisson's: 0, 1, 2, 3 and more."""
    p = stats.poisson.pmf(np.arange(4), mean)
    p = np.append(p, 1 - p.sum())
    return chi_squared(stats, np.bincount(np.minimum(counts, 4), minlength=5), p * len(counts), 4)


def cycles(p):
    """How many cycles each row has."""
    graph = pytest.importorskip("scipy.sparse.csgraph", reason="SciPy counts the cycles")
    from scipy.sparse import coo_array

    count, n = p.shape
    here, there = np.arange(count * n), (p + n * np.arange(count)[:, None]).ravel()
    links = coo_array((np.ones(count * n, np.int8), (here, there)), shape=(count * n, count * n))
    parts, label = graph.connected_components(links.tocsr(), directed=False)
    first = np.full(parts, count * n)
    np.minimum.at(first, label, here)
    return np.bincount(first // n, minlength=count)


def table(left, right, bins):
    """How often bin a of ``left`` meets bin b of ``right`` in each row: (count, bins, bins)."""
    count = len(left)
    code = (np.arange(count)[:, None] * bins + left) * bins + right
    return np.bincount(code.ravel(), minlength=count * bins**2).reshape(count, bins, bins)


def signs(n, cycles):
    """How many of these permutations are even."""
    return int(((n - cycles) % 2 == 0).sum())


def statistics(stats, p):
    """Name -> how likely the rows of p (count, n) are, were they uniformly random permutations of range(n), n large."""
    count, n = p.shape
    found, index = {}, np.arange(n)

    # Spearman's rank correlation with the position has mean 0 and variance 1 / (n - 1), and is all but normal.
    middle = (n - 1) / 2
    rho = (p - middle) @ (index - middle) / ((index - middle) ** 2).sum() * (n - 1) ** 0.5
    found["mean of rank correlations"] = 2 * stats.norm.sf(abs(rho.sum()) / count**0.5)
    found["spread of rank correlations"] = 2 * min(stats.chi2.sf(rho @ rho, count), stats.chi2.cdf(rho @ rho, count))

    # Tables have fixed margins, hence (bins - 1)**2 degrees of freedom; (n - 1) / n is drawing without replacement's.
    bins = 8
    which = index * bins // n
    size = np.bincount(which).astype(float)
    degrees, scale = (bins - 1) ** 2, (n - 1) / n
    seen, expected = table(np.broadcast_to(which, p.shape), which[p], bins), np.outer(size, size) / n
    found["positions, all together"] = chi_squared(stats, seen.sum(0), count * expected, degrees, scale)
    found["positions, one by one"] = chi_squared(stats, seen, expected, count * degrees, scale)

    # Neighbours, the last and the first too: nothing is its own neighbour, so the diagonal is a little emptier.
    seen = table(which[p], which[np.roll(p, -1, axis=1)], bins)
    expected = (np.outer(size, size) - np.diag(size)) / (n - 1)
    found["neighbours, all together"] = chi_squared(stats, seen.sum(0), count * expected, degrees, scale)
    found["neighbours, one by one"] = chi_squared(stats, seen, expected, count * degrees, scale)

    # Steps from one to the next, modulo n: 1, ..., n - 1, equally likely.
    step = (np.roll(p, -1, axis=1) - p) % n * 64 // n
    expected = count * n * np.bincount(np.arange(1, n) * 64 // n) / (n - 1)
    found["steps"] = chi_squared(stats, np.bincount(step.ravel(), minlength=64), expected, 63)

    found["next to its successor"] = poisson(stats, (np.diff(p, axis=1) == 1).sum(1), (n - 1) / n)
    found["fixed points"] = poisson(stats, (p == index).sum(1), 1.0)

    # Cycles: the sum of independent indicators with means 1, 1/2, ..., 1/n (Feller).
    k, c = 1 / np.arange(1, n + 1), cycles(p)
    z = (c - k.sum()) / (k * (1 - k)).sum() ** 0.5
    found["mean of cycles"] = 2 * stats.norm.sf(abs(z.sum()) / count**0.5)
    found["spread of cycles"] = 2 * min(stats.chi2.sf(z @ z, count), stats.chi2.cdf(z @ z, count))
    found["even and odd"] = stats.binomtest(signs(n, c), count).pvalue
    return found


def failing(stats, p):
    return {name for name, likely in statistics(stats, p).items() if likely < UNLIKELY}


@pytest.mark.parametrize("n", [999, 1000, 1024, 4093])
def test_permutations_look_random(n, stats):
    assert failing(stats, orders(n, 400, n)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("n", [400, 600, 800, 1000, 1023, 1024, 1089, 2048, 4093])
def test_many_permutations_look_random(n, stats):
    assert failing(stats, orders(n, 3_000_000 // n, n)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("n", [65_536, 100_000])
def test_long_permutations_look_random(n, stats):
    assert failing(stats, orders(n, 100, n)) == set()


@pytest.mark.parametrize("n", [1000, 1024, 4093])
def test_the_orders_of_an_epoch_after_another_look_random(n, stats):
    """With keys as a loader makes them: the orders themselves, and each as seen from the one before."""
    loader = tn.Loader(tn.data.Moons(n), n, seed=7, shuffle=True)
    p = np.stack([loader.index(epoch) for epoch in range(401)])
    assert failing(stats, p) == set()
    assert failing(stats, np.stack([b[np.argsort(a)] for a, b in pairwise(p)])) == set()


def test_the_orders_of_neighbouring_seeds_look_random(stats):
    loaders = [tn.Loader(tn.data.Moons(1000), 1000, seed=seed, shuffle=True) for seed in range(401)]
    p = np.stack([loader.index(0) for loader in loaders])
    assert failing(stats, p) == set()
    assert failing(stats, np.stack([b[np.argsort(a)] for a, b in pairwise(p)])) == set()


def few(stats, n, count, seed=0):
    """How likely it is, were keys to give uniform permutations, where a few indices go: alone, in pairs, and apart."""
    index = np.array([0, 1, 2, n // 2, n - 1])
    p, bins, found = images(index, n, draw_keys(count, seed)), 16, {}
    # n is so large that a bin's share is 1 / bins, to within less than a count.
    which = (p / n * bins).astype(np.int64)
    for j, name in enumerate(index):
        found[name] = chi_squared(stats, np.bincount(which[:, j], minlength=bins), count / bins, bins - 1)
        for k in range(j):
            seen = np.bincount(which[:, j] * bins + which[:, k], minlength=bins**2)
            found[index[k], name] = chi_squared(stats, seen, count / bins**2, bins**2 - 1)
            apart = ((p[:, j] - p[:, k]) % n / n * 256).astype(np.int64)
            found["apart", index[k], name] = chi_squared(stats, np.bincount(apart, minlength=256), count / 256, 255)
    return {name for name, likely in found.items() if likely < UNLIKELY}


@pytest.mark.parametrize("n", [2**17, 10**9, 2**62])
def test_where_an_index_goes_is_uniform_over_keys(n, stats):
    assert few(stats, n, 40_000, 1) == set()


# The statistics can fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        (1, {"mean of cycles", "spread of cycles", "neighbours, all together"}),
        (2, {"spread of rank correlations", "positions, all together", "positions, one by one"}),
        (2, {"neighbours, one by one", "steps", "fixed points", "next to its successor"}),
        (3, {"steps", "fixed points", "next to its successor"}),
        (4, {"next to its successor"}),
    ],
)
def test_too_few_rounds_are_seen(rounds, wanted, stats, monkeypatch):
    monkeypatch.setattr(permutation, "_rounds", lambda n: rounds)
    assert failing(stats, orders(1000, 400)) >= wanted


@pytest.mark.parametrize("rounds", [1, 2])
def test_too_few_rounds_are_seen_in_where_an_index_goes(rounds, stats, monkeypatch):
    monkeypatch.setattr(permutation, "_rounds", lambda n: rounds)
    assert few(stats, 10**9, 40_000)


@pytest.mark.parametrize(("n", "rounds"), [(4, 4), (5, 8), (6, 8)])
def test_too_few_rounds_are_seen_in_the_orders_of_a_few_things(n, rounds, stats, monkeypatch):
    """8 rounds, which do for 1000 things, do not for 5: why small sizes have 24."""
    monkeypatch.setattr(permutation, "_rounds", lambda n: rounds)
    assert all_orders(stats, n, 300) < UNLIKELY


def test_two_odd_sides_would_make_even_permutations_only(stats, monkeypatch):
    """Why `permutation.sides` asks for an even product."""
    monkeypatch.setattr(permutation, "sides", lambda n: (45, 45))
    assert failing(stats, orders(2025, 400)) == {"even and odd"}


def test_orders_that_lean_to_their_old_places_are_seen(stats):
    p = orders(1000, 400)
    late = p.copy()
    late[:, :100] = np.sort(p[:, :100], axis=1)
    assert {"mean of rank correlations", "next to its successor"} <= failing(stats, late)


def test_epochs_whose_orders_resemble_each_other_are_seen(stats):
    """Keys of which only the last is new, epoch by epoch: each order looks random, but not as seen from the last."""
    keys = np.repeat(draw_keys(1), 401, axis=1)
    keys[7] = draw_keys(401, 1)[7]
    p = images(np.arange(1000), 1000, keys)
    assert failing(stats, np.stack([b[np.argsort(a)] for a, b in pairwise(p)]))
