"""The numba backend's own matrix products: every edge of their tiles, panels and blocks, and how they are divided.

Whole numbers have exact products, so most tests compare every bit with integer arithmetic.
"""

import mmap
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from tinynet_backends import blas, get_backend

pytest.importorskip("numba", reason="the backend needs numba")
from tinynet_backends.compiled import products, program, tiles

if not tiles.available():
    pytest.skip("products are NumPy's here: the processor has no AVX-512", allow_module_level=True)

BITS, ROWS, DEPTH = tiles.BITS, tiles.ROWS, products.DEPTH
DTYPES = pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])


def whole(rng, *shape):
    """Whole numbers, small enough for float32 to add up thousands of their products without rounding, as real numbers:
    NumPy's products of those are BLAS'."""
    return rng.integers(-9, 10, shape).astype(float)


def laid(x, dtype, turned=False, gap=0):
    """``x`` with gaps between its rows, or its columns if it is ``turned``, amid NaN."""
    down, right = x.shape[:-2] + (x.shape[-2:][::-1] if turned else x.shape[-2:]), 3
    around = np.full((*down[:-2], down[-2] + 2, down[-1] + right * gap), np.nan, dtype)
    inside = around[..., 1:-1, gap : gap + down[-1]]
    inside[...] = x.mT if turned else x
    return inside.mT if turned else inside


def multiply(ops, a, b, c, bias=None):
    """``c[...] = a @ b + bias`` by our own kernels."""
    ops._by_tiles(a, b, c, bias, networks=c.ndim == 3)


def check(dtype, m, n, k, *, count=None, turned=(False, False), gap=0, biased=True, multiply=multiply):
    ops, rng = get_backend("numba"), np.random.default_rng(m * 10007 + n * 101 + k)
    many = () if count is None else (count,)
    a, b, bias = whole(rng, *many, m, k), whole(rng, *many, k, n), whole(rng, *many, n)
    around = np.full((*many, m + 2, n + 2 * gap), -77.0, dtype)
    c = around[..., 1:-1, gap : gap + n]
    shift = bias.astype(dtype) if biased else None
    multiply(ops, laid(a, dtype, turned[0], gap), laid(b, dtype, turned[1], gap), c, shift)
    np.testing.assert_array_equal(c, a @ b + biased * bias[..., None, :], err_msg=f"{m} x {k} @ {k} x {n}, {turned}")
    c[...] = -77.0
    assert (around == -77.0).all(), "written outside"


@DTYPES
def test_every_edge(dtype):
    lanes = BITS // 8 // np.dtype(dtype).itemsize
    panel = lanes * tiles.PANEL
    heights = (1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 2)
    widths = (
        1,
        2,
        lanes - 1,
        lanes,
        lanes + 1,
        2 * lanes,
        panel,
        panel + 1,
        panel + lanes,
        2 * panel - 1,
        7 * panel + 1,
    )
    depths = (1, 2, lanes - 1, lanes + 1, DEPTH, DEPTH + 1)
    for number, (m, n, k) in enumerate(product(heights, widths, depths)):
        turned = ((False, False), (True, False), (False, True), (True, True))[number % 4]
        check(dtype, m, n, k, turned=turned, gap=number % 2, biased=number % 3 > 0)
        check(dtype, m, n, k, turned=(False, not turned[1]), gap=1, biased=False)


@DTYPES
@pytest.mark.parametrize("turned", list(product((False, True), repeat=2)))
def test_many_blocks_and_parts(dtype, turned):
    check(dtype, 301, 700, 2 * DEPTH + 3, turned=turned)
    check(dtype, 260, 1100, 70, turned=turned, gap=1)  # rows on pages of their own
    assert products.pays(260, 1100 * np.dtype(dtype).itemsize)


@DTYPES
@pytest.mark.parametrize("turned", list(product((False, True), repeat=2)))
def test_many_networks(dtype, turned):
    for count, m, n, k in ((1, 5, 3, 4), (3, 9, 50, 7), (40, 17, 33, 65), (2, 300, 90, 300), (2, 600, 260, 70)):
        check(dtype, m, n, k, count=count, turned=turned, gap=1)
    assert products.pays(260, 600 * np.dtype(dtype).itemsize)  # so both operands of the last are packed


@DTYPES
def test_products_of_numpys_blas(dtype):
    """What other processors have."""
    library = blas.find()
    if library is None:
        pytest.skip("NumPy's BLAS is not the OpenBLAS of its wheels")

    def multiply(ops, a, b, c, bias):
        ops._by_blas(library.gemm[c.dtype], a, b, c, bias, networks=c.ndim == 3)

    for count, turned in product((None, 3), product((False, True), repeat=2)):
        for m, n, k in ((1, 1, 1), (5, 3, 4), (90, 130, 70), (130, 90, 70)):
            check(dtype, m, n, k, count=count, turned=turned, gap=1, multiply=multiply)


@DTYPES
def test_products_with_a_vector(dtype):
    if blas.find() is None:
        pytest.skip("NumPy's BLAS is not the OpenBLAS of its wheels")

    def multiply(ops, a, b, c, bias):
        ops._products(a, b, c, bias)

    for turned, gap in product(product((False, True), repeat=2), (0, 1)):
        for m, n, k in ((1, 1, 70000), (1, 515, 260), (515, 1, 260), (1, 20, 4000), (20, 1, 4000), (5000, 1, 63)):
            check(dtype, m, n, k, turned=turned, gap=gap, biased=gap == 0, multiply=multiply)


def test_matrices_of_few_rows_or_columns_are_divided():
    for count, m, n, k in product((1, 2, 5, 1000), (1, 7, 8, 9, 1000), (1, 16, 100, 4096), (1, 300)):
        for cores in (1, 2, 3, 16):
            for networks in (False, True):
                groups, down, across = products.grid(count, m, n, k, 4, cores, networks)
                assert 1 <= groups <= count
                assert 1 <= down <= -(-m // ROWS)
                assert 1 <= across <= products.panels(n, 4)[1]
                assert count == 1 or across == 1
                assert count == 1 or not networks or down == 1  # many of them are chained


def test_no_bit_depends_on_how_a_product_is_divided(monkeypatch):
    ops, rng = get_backend("numba"), np.random.default_rng(0)
    a, b, bias = (rng.standard_normal(shape).astype("float32") for shape in ((150, 600), (600, 333), (333,)))
    c, found = np.empty((150, 333), "float32"), set()
    for turned, pays, grid in product((False, True), (False, True), ((1, 1, 1), (1, 2, 1), (1, 19, 7), (1, 1, 3))):
        monkeypatch.setattr(products, "pays", lambda m, step, pays=pays: pays)
        monkeypatch.setattr(products, "grid", lambda *sizes, grid=grid: grid)
        multiply(ops, np.asfortranarray(a) if turned else a, np.asfortranarray(b) if turned else b, c, bias)
        found.add(c.tobytes())
        c[...] = np.nan
    assert len(found) == 1
    monkeypatch.undo()
    for row in (0, 77, 149):  # nor on the other rows of a batch
        multiply(ops, a[row : row + 1], b, c[:1], bias)
        assert c[0].tobytes() == np.frombuffer(next(iter(found)), "float32").reshape(150, 333)[row].tobytes()


@pytest.mark.parametrize(
    ("tiled", "turned"),
    [(False, True), (True, False), *(pytest.param(way, way, marks=pytest.mark.slow) for way in (False, True))],
)
@DTYPES
def test_blocks_that_are_added_up_apart(dtype, turned, tiled, monkeypatch):
    library = blas.find()
    if library is None and not tiled:
        pytest.skip("NumPy's BLAS is not the OpenBLAS of its wheels")
    monkeypatch.setattr(program.machine(), "tiles", tiled)
    ops, made, ways = get_backend("numba"), [], set()
    by_tiles, by_blas = ops._by_tiles, ops._by_blas
    monkeypatch.setattr(ops, "_by_tiles", lambda a, *b, **c: made.append(("tiles", a.ndim)) or by_tiles(a, *b, **c))
    monkeypatch.setattr(
        ops, "_by_blas", lambda gemm, a, *b, **c: made.append(("blas", a.ndim)) or by_blas(gemm, a, *b, **c)
    )
    sizes = *product((3, 100), (3, 150)), (20, 20)  # of the last a block alone would be a product for BLAS
    for m, n in sizes:
        for k in (4 * DEPTH - 5, 8 * DEPTH, 8 * DEPTH + 1):
            rng, found = np.random.default_rng(m * n), []
            a, b, shift = rng.standard_normal((m, k)), rng.standard_normal((k, n)), rng.standard_normal(n)
            laid_out = np.asfortranarray if turned else np.ascontiguousarray
            for cores in (2, 1):
                monkeypatch.setattr(ops, "_cores", cores)
                c = np.full((m, n), np.nan, dtype)
                ops._products(laid_out(a.astype(dtype)), b.astype(dtype), c, shift.astype(dtype))
                found.append(c)
            np.testing.assert_allclose(found[0], a @ b + shift, rtol=2e-3 if dtype == "float32" else 1e-10, atol=1e-4)
            blocks = [3] + [2] * (k % DEPTH > 0) if products.split_k_pays(m, n, k, turned) else [2]
            (way,) = {one for one, _ in made}  # the same for blocks as for the whole
            assert [ndim for _, ndim in made] == blocks + (blocks if way == "blas" else [2])
            ways |= {*made}
            made.clear()
            assert found[0].tobytes() == found[1].tobytes()
    assert ways == set(product(["tiles"] * tiled + ["blas"] * (library is not None), (2, 3)))


def test_threads_do_not_change_a_bit(monkeypatch):
    library, ops, rng = blas.find(), get_backend("numba"), np.random.default_rng(1)
    if library is None:
        pytest.skip("NumPy's BLAS is not the OpenBLAS of its wheels")
    x, w = (rng.standard_normal((400, 400)).astype("float32") for _ in range(2))
    before, found = library.threads(), set()
    try:
        for limit, cores in ((1, 2), (2, 1), (1, 1), (2, 2)):
            library._set(limit)
            monkeypatch.setattr(ops, "_cores", cores)
            made = [ops.affine(x, w), ops.affine_grad(x, x, w, False)[0]]
            made += [ops.affine(x, w[:, :7]), ops.affine(x[None], w[None, :, :7])]  # by BLAS; of one of many networks
            found.add(b"".join(y.tobytes() for y in made))
    finally:
        library._set(before)
    assert len(found) == 1


@DTYPES
def test_what_is_not_finite_goes_where_it_belongs(dtype):
    ops = get_backend("numba")
    rng = np.random.default_rng(2)
    for bad in (np.nan, np.inf, -np.inf):
        x, w = rng.standard_normal((19, 30)).astype(dtype), rng.standard_normal((30, 21)).astype(dtype)
        x[5, 7], w[3, 20] = bad, -bad
        y = ops.affine(x, w)
        wrong = ~np.isfinite(y)
        assert wrong[5].all()
        assert wrong[:, 20].all()
        assert wrong.sum() == 19 + 21 - 1
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(y[wrong], (x @ w)[wrong])
    assert np.isnan(ops.affine(np.full((1, 2), np.inf, dtype), np.array([[1.0], [-1.0]], dtype))).all()


@pytest.mark.slow  # all sizes, in a process of its own
def test_nothing_is_read_or_written_outside():
    """Operands and result end where a page ends whose successor may not be touched: a step too far kills the process."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    if done.stdout == "no mprotect":
        pytest.skip("pages cannot be protected here")
    assert done.returncode == 0, done.stderr


def outside():
    import ctypes

    try:
        protect = ctypes.CDLL(None, use_errno=True).mprotect
    except (AttributeError, TypeError, OSError):
        print("no mprotect", end="")
        return
    ops, kept = get_backend("numba"), []

    def at_the_end(shape, dtype, turned):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(-1, room + mmap.PAGESIZE)
        kept.append(pages)
        last = ctypes.addressof(ctypes.c_char.from_buffer(pages, room))
        if protect(ctypes.c_void_p(last), ctypes.c_size_t(mmap.PAGESIZE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        flat = np.frombuffer(pages, dtype, int(np.prod(shape)), room - size)
        return flat.reshape(shape[::-1]).T if turned else flat.reshape(shape)

    for dtype in ("float32", "float64"):
        for m, n, k in ((1, 1, 1), (3, 5, 2), (7, 17, 9), (9, 49, 15), (8, 48, 16), (13, 100, 33)):
            for *turned, packed in product((False, True), repeat=3):
                products.pays = lambda m, step, packed=packed: packed
                a, b = at_the_end((m, k), dtype, turned[0]), at_the_end((k, n), dtype, turned[1])
                c, bias = at_the_end((m, n), dtype, False), at_the_end((n,), dtype, False)
                a[...], b[...], bias[...] = 1.0, 2.0, 3.0
                multiply(ops, a, b, c, bias)
                assert (c == 2.0 * k + 3.0).all()


if __name__ == "__main__":
    outside()
