"""Products planned for cublasLt and executed by an interpreter of its descriptors equal the portable ones."""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import cublaslt
import fake_cuda
import numpy as np
import pytest
from tinynet_backends import Backend, get_backend
from tinynet_backends.cuda import plan as plans
from tinynet_backends.cuda.lt import Algorithm
from tinynet_backends.cuda.plan import Epilogue
from tinynet_backends.cuda.products import Products
from tinynet_backends.cuda.tune import Choices, fastest, key

RNG = np.random.default_rng(0)
PORTABLE = get_backend("numpy")
MACHINE = {"gpu": "fake", "driver": 1, "cublaslt": 2}
CHOICE = ["a", fake_cuda.CODE.hex()]
RTOL = {"float64": 1e-12, "float32": 2e-6, "bf16x3": 2e-5, "tf32": 2e-3, "bf16": 2e-2}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path))


def products(precision="float32", runtime=None, choices=None):
    """With choices that are not kept in a file, unless they are given: writing it takes longer than a product."""
    rt, choices = runtime or fake_cuda.Runtime(), choices or fake_cuda.Choices()
    return Products(rt, partial(fake_cuda.Problem, rt), None, choices, precision, fake_cuda.rounded, fake_cuda.split)


class Decided(fake_cuda.Runtime):
    """Every candidate is so much slower than the one before that none is timed again."""

    def seconds(self, run):
        return 10.0 ** (super().seconds(run) % 300)


def real(*shape):
    return RNG.standard_normal(shape)


def near(got, wanted, precision):
    """Assert equality to within the rounding of the precision, relative to the numbers that were added."""
    scale = max(1.0, float(np.abs(wanted).max())) if wanted.size else 1.0
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=RTOL[precision] * scale * 4)


# Layouts of an operand of a given shape
LYING = {
    "in rows": lambda put, x: put(x),
    "in columns": lambda put, x: put(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "rows apart": lambda put, x: put(np.pad(x, [(0, 0)] * (x.ndim - 1) + [(2, 3)], constant_values=np.nan))[..., 2:-3],
    "columns apart": lambda put, x: LYING["rows apart"](put, x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "every other row": lambda put, x: put(np.repeat(x, 2, axis=-2))[..., ::2, :],
    "every other column": lambda put, x: put(np.repeat(x, 2, axis=-1))[..., ::2],
    "backwards": lambda put, x: put(x[..., ::-1, ::-1])[..., ::-1, ::-1],
    "all rows alike": lambda put, x: np.broadcast_to(put(x[..., :1, :]), x.shape),
}
HALVES = ["bf16", "bf16x3"]
SHAPES = pytest.mark.parametrize(
    "shapes",
    [[(4, 3, 5), (17, 10, 1)], pytest.param([(8, 16, 8), (1, 7, 3)], marks=pytest.mark.slow)],
    ids=["uneven", "even and a row"],
)


def kind(precision):
    return "float64" if precision == "float64" else "float32"


# in bf16 and bf16x3 all operands are copied, each for itself
@pytest.mark.parametrize(
    ("precision", "layouts"),
    [("float64", [*itertools.product(LYING, LYING)]), *((p, [(lies, lies) for lies in LYING]) for p in HALVES)],
    ids=lambda v: v if isinstance(v, str) else "",
)
@SHAPES
def test_affine_in_every_layout(shapes, precision, layouts):
    p = products(precision, Decided())
    for (n, i, o), (x_lies, w_lies) in itertools.product(shapes, layouts):
        put = lambda a: p.runtime.array(a.astype(kind(precision)))  # noqa: E731
        x, w, b = LYING[x_lies](put, real(n, i)), LYING[w_lies](put, real(i, o)), put(real(o))
        for bias in (b, None):
            near(p.affine(x, w, bias), Backend.affine(PORTABLE, x, w, bias), precision)


@pytest.mark.parametrize(
    ("precision", "layouts"),
    [
        ("float32", [(a, *two) for a in LYING for two in itertools.pairwise(LYING)]),
        *((p, [(lies, lies, lies) for lies in LYING]) for p in HALVES),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
@SHAPES
def test_affine_grad_in_every_layout(shapes, precision, layouts):
    p = products(precision, Decided())
    for (n, i, o), (x_lies, dy_lies, w_lies) in itertools.product(shapes, layouts):
        put = lambda a: p.runtime.array(a.astype(kind(precision)))  # noqa: E731
        x, w, dy = LYING[x_lies](put, real(n, i)), LYING[w_lies](put, real(i, o)), LYING[dy_lies](put, real(n, o))
        dx, dw, db = Backend.affine_grad(PORTABLE, dy, x, w, True)
        near(p.input_gradient(dy, w), dx, precision)
        for got, wanted in zip(p.weight_gradient(x, dy, True), (dw, db), strict=True):
            near(got, wanted, precision)
        assert p.weight_gradient(x, dy, False)[1] is None


@pytest.mark.parametrize("precision", ["float64", *HALVES])
@pytest.mark.parametrize("w_axes", [(3,), (), (2, 3), (2, 1)])
def test_leading_axes_are_a_batch(w_axes, precision):
    p = products(precision)
    put = lambda a: p.runtime.array(a.astype(kind(precision)))  # noqa: E731
    for x_axes, lies in itertools.product([(3,), (), (1,), (2, 3)], ["in rows", "in columns", "rows apart"]):
        x, w = LYING[lies](put, real(*x_axes, 5, 6)), LYING[lies](put, real(*w_axes, 6, 3))
        axes = np.broadcast_shapes(x_axes, w_axes)
        b, dy = put(real(*axes, 3)), put(real(*axes, 5, 3))
        got = p.affine(x, w, b)
        uneven = axes == (2, 3) and {x_axes, w_axes} & {(3,), (1, 3), (2, 1)}
        assert (got is None) == bool(uneven)
        if uneven:
            continue
        near(got, Backend.affine(PORTABLE, x, w, b), precision)
        _, dw, db = Backend.affine_grad(PORTABLE, dy, x, np.broadcast_to(w, (*axes, 6, 3)), True)
        for mine, wanted in zip(p.weight_gradient(x, dy, True), (dw, db), strict=True):
            near(mine, wanted, precision)


@pytest.mark.parametrize("precision", RTOL)
def test_many_networks_may_share_their_samples(precision):
    p = products(precision)
    x, w = (p.runtime.array(real(*s).astype(kind(precision))) for s in ((4, 3), (2, 3, 5)))
    near(p.affine(np.broadcast_to(x, (2, 4, 3)), w, None), x @ w, precision)


@pytest.mark.parametrize("precision", ["float32", "tf32", *HALVES])
def test_matrices_that_lie_unusually_one_after_another(precision):
    p = products(precision)
    put = lambda a: p.runtime.array(a.astype("float32"))  # noqa: E731
    w = put(real(3, 6, 4))
    for x in (put(real(3, 5, 6))[::-1], put(real(3, 7, 6))[:, 1:6], put(real(3, 31)).reshape(3, 31)[:, :30].reshape(3, 5, 6),
              np.lib.stride_tricks.sliding_window_view(put(real(7, 6)), 5, axis=0).swapaxes(1, 2)):  # fmt: skip
        near(p.affine(x, w, None), x @ w, precision)
        near(p.affine(x, w[::-1], None), x @ w[::-1], precision)


@pytest.mark.parametrize("last", [3, 6, 9])
def test_every_variant_gives_the_result(last):
    p = products("tf32")
    rt = p.runtime
    rt.clock = dict.fromkeys(range(1, 10), 1.0) | {last: 0.5}
    x, w = rt.array(real(8, 15).astype("float32")), rt.array(real(15, 10).astype("float32"))
    for _ in range(2):
        near(p.affine(x, w, None), x @ w, "tf32")
    assert p._ready[p.planned(x, w)].plan.copied == {3: "", 6: "ab", 9: "abd"}[last]


def test_sums_are_written_to_vectors_that_lie_together():
    p = products()
    x, w, sums = (p.runtime.array(real(*s).astype("float32")) for s in ((5, 3), (3, 4), (4, 2)))
    assert p.product(x, w, Epilogue.SUM_A, sums[:, 0]) is None
    near(p.product(x, w, Epilogue.BIAS, sums[:, 0]), x @ w + sums[:, 0], "float32")


@pytest.mark.parametrize("shapes", [((0, 3), (3, 4)), ((5, 0), (0, 4)), ((5, 3), (3, 0)), ((0, 5, 3), (0, 3, 4))])
def test_nothing_to_compute_is_left_to_the_portable_operation(shapes):
    p = products()
    assert p.affine(*[p.runtime.array(np.zeros(s, "float32")) for s in shapes], None) is None


def test_other_dtypes_and_shapes_are_left_to_the_portable_operation():
    p = products()
    x, w = p.runtime.array(np.ones((2, 3), "float32")), p.runtime.array(np.ones((3, 4)))
    assert p.affine(x, w, None) is None
    assert p.affine(x.astype("int32"), w.astype("int32"), None) is None
    assert p.affine(x[0], w.astype("float32"), None) is None
    for bias in (np.ones(3, "float32"), np.ones(4)):
        assert p.product(x, w.astype("float32"), Epilogue.BIAS, p.runtime.array(bias)) is None


@pytest.mark.parametrize("precision", RTOL)
@pytest.mark.parametrize("axes", [(), (3,)])
def test_relu_in_the_epilogue(axes, precision):
    p = products(precision)
    put = lambda a: p.runtime.array(a.astype(kind(precision)))  # noqa: E731
    for n, i, o in ((4, 3, 5), (1, 1, 1), (30, 10, 131), (9, 2, 16)):
        x, w, b = put(real(*axes, n, i)), put(real(*axes, i, o)), put(real(*axes, o))
        near(p.product(x, w, Epilogue.RELU), np.maximum(x @ w, 0), precision)
        wanted = np.maximum(Backend.affine(PORTABLE, x, w, b), 0)
        got = p.product(x, w, Epilogue.RELU | Epilogue.BIAS, b)
        if axes and o != 16:
            assert got is None  # rows of biases that are not aligned
            wanted, got = Backend.affine(PORTABLE, x, w, b), p.affine(x, w, b)
        near(got, wanted, precision)


@pytest.mark.parametrize("precision", RTOL)
@pytest.mark.parametrize("axes", [(), (3,)])
def test_biases_that_are_not_aligned(axes, precision):
    """As in a model's vector of parameters, behind a layer of odd size. cublasLt's kernels read and write 16 bytes at a time."""
    p, size = products(precision), int(np.prod(axes)) * 8
    room = p.runtime.array(real(size + 1).astype(kind(precision)))
    x, w = (p.runtime.array(real(*axes, *shape).astype(kind(precision))) for shape in ((5, 6), (6, 8)))
    b, db = room[1:].reshape(*axes, 8), room[1:].reshape(*axes, 8)
    near(p.affine(x, w, b), Backend.affine(PORTABLE, x, w, b), precision)
    dy = p.runtime.array(real(*axes, 5, 8).astype(kind(precision)))
    given = iter([p.runtime.empty((*axes, 6, 8), dy.dtype), db])
    got = p.weight_gradient(x, dy, True, lambda shape, dtype: next(given))
    assert got[1] is db
    for mine, wanted in zip(got, Backend.affine_grad(PORTABLE, dy, x, w, True)[1:], strict=True):
        near(mine, wanted, precision)


def test_nothing_but_results_is_written():
    p = products("bf16")
    rt = p.runtime
    x, w, b = (rt.array(real(*s).astype("float32")) for s in ((5, 3), (3, 7), (7,)))
    before, end = rt.memory.copy(), rt.next
    p.affine(x, w, b)
    np.testing.assert_array_equal(rt.memory[:end], before[:end])


def test_operands_in_either_order_are_not_copied():
    for shape, strides in (
        ((6, 8), (8, 1)),
        ((6, 8), (1, 6)),
        ((6, 8), (24, 1)),
        ((6, 8), (1, 100)),
        ((3, 6, 8), (48, 8, 1)),
    ):
        x = plans.Array(shape, strides, "float32")
        w = plans.Array((8, 4), (4, 1), "float32")
        out = plans.Array((*shape[:-1], 4), (24, 4, 1)[-len(shape) :], "float32")
        assert plans.plan(x, w, out).copied == ""
        assert plans.plan(x, w, out, "tf32").copied == ""
        assert [plans.plan(x, w, out, p).copied for p in HALVES] == ["ab"] * 2


def test_odd_widths_are_tried_with_padding_where_tensor_cores_work():
    x, w, out = (plans.Array(s, (s[1], 1), "float32") for s in ((64, 784), (784, 10), (64, 10)))
    assert [p.copied for p in plans.variants(plans.plan(x, w, out, "float32"))] == [""]
    assert [p.copied for p in plans.variants(plans.plan(x, w, out, "tf32"))] == ["", "a", "ad"]
    assert [p.copied for p in plans.variants(plans.plan(x, w, out, "bf16"))] == ["ab", "abd"]
    for variant in plans.variants(plans.plan(x, w, out, "bf16")):
        assert (variant.a.ld, variant.b.ld) == (16, 784)
    even = plans.Array((784, 16), (16, 1), "float32")
    out = plans.Array((64, 16), (16, 1), "float32")
    assert [p.copied for p in plans.variants(plans.plan(x, even, out, "tf32"))] == [""]
    off = plans.Array((784, 16), (16, 1), "float32", alignment=4)
    plain, padded = plans.variants(plans.plan(x, off, out, "tf32"))
    assert (plain.copied, padded.copied) == ("", "a")
    assert (plain.alignments, padded.alignments) == ((4, 16, 16), (16, 16, 16))
    off = plans.Array((64, 16), (16, 1), "float32", alignment=4)
    assert [p.copied for p in plans.variants(plans.plan(x, even, off, "tf32"))] == ["", "d"]


def test_the_alignment_that_is_promised_is_there():
    rt = fake_cuda.Runtime()
    a = rt.empty((9, 8), "float32")
    found = [plans.Array.of(v, rt.address(v)).alignment for v in (a, a[1:], a[:, 1:], a[:, 2:], a[:, 4:])]
    assert found == [16, 16, 4, 8, 16]


# Tuning


def test_the_fastest_variant_is_taken_and_the_choice_is_kept():
    p = products("tf32", choices=Choices(MACHINE))
    rt = p.runtime
    x, w = rt.array(real(8, 16).astype("float32")), rt.array(real(16, 10).astype("float32"))
    rt.clock = dict.fromkeys(range(1, 10), 1.0) | {5: 0.5}  # the second algorithm of the second variant
    wanted = p.affine(x, w, None)
    planned = p.planned(x, w)
    assert rt.timed == 9
    assert p._ready[planned].plan.copied == "a"
    assert p._ready[planned].algorithm.code[0] == 1
    p.affine(x, w, None)
    assert rt.timed == 9
    other = products("tf32", rt, Choices(MACHINE))  # another process
    near(other.affine(x, w, None), wanted, "tf32")
    assert rt.timed == 9
    assert other._ready[planned].plan.copied == "a"


def test_long_products_are_timed_under_load(monkeypatch):
    rt = fake_cuda.Runtime()
    p = products("bf16", rt)
    x = rt.array(np.ones((16, 8), "float32"))
    monkeypatch.setattr("tinynet_backends.cuda.products._LONG", 2 * 16 * 16 * 8)
    p.product(x[:8], x.T)
    assert (rt.timed > 0, rt.under_load) == (True, 0)
    rt.timed = 0
    p.product(x, x.T)
    assert rt.timed == rt.under_load > 0


def test_choices_are_a_machine_s_own(tmp_path):
    p = plans.plan(*(plans.Array(s, (s[1], 1), "float32") for s in ((4, 3), (3, 2), (4, 2))))
    Choices(MACHINE).keep(p, CHOICE)
    assert Choices(MACHINE).find(p) == CHOICE
    for name in MACHINE:
        assert Choices(MACHINE | {name: "another"}).find(p) is None


@pytest.mark.parametrize("damage", ["", "{", "null", "[]", "cut", "flip", "machine", "format", "short", "binary"])
def test_a_damaged_file_is_tuned_again(damage, caplog):
    p = plans.plan(*(plans.Array(s, (s[1], 1), "float32") for s in ((4, 3), (3, 2), (4, 2))))
    choices = Choices(MACHINE)
    choices.keep(p, CHOICE)
    text = choices.path.read_text()
    whole = json.loads(text)
    code = fake_cuda.CODE.hex()
    damaged = {
        "cut": text[: len(text) // 2], "flip": text.replace(code, code[:-1] + "f"), "short": text.replace(code, code[:-2]),
        "machine": json.dumps(whole | {"machine": {}}), "format": json.dumps(whole | {"format": 1}), "binary": None,
    }.get(damage, damage)  # fmt: skip
    if damaged is None:
        choices.path.write_bytes(b"\xff\xfe\x00")
    else:
        assert damaged != text
        choices.path.write_text(damaged)
    with caplog.at_level("INFO", logger="tinynet"):
        again = Choices(MACHINE)
    assert again.find(p) is None
    assert "timed again" in caplog.text
    again.keep(p, CHOICE)
    assert Choices(MACHINE).find(p) == CHOICE


def test_an_algorithm_that_no_longer_fits_is_tuned_again():
    p = products(choices=Choices(MACHINE))
    x, w = (p.runtime.array(real(*s).astype("float32")) for s in ((4, 3), (3, 2)))
    planned = p.planned(x, w)
    for choice in (["", "3f" * 64], ["abd", fake_cuda.CODE.hex()]):
        p.choices.keep(planned, choice)
        p._ready.clear()
        before = p.runtime.timed
        near(p.affine(x, w, None), x @ w, "float32")
        assert p.runtime.timed > before


def test_an_algorithm_has_the_memory_that_it_asks_for(monkeypatch):
    p, asked = products(), []
    x, w = (p.runtime.array(real(*s).astype("float32")) for s in ((4, 3), (3, 2)))
    empty = p.runtime.empty
    monkeypatch.setattr(p.runtime, "empty", lambda shape, dtype: asked.append((shape, dtype)) or empty(shape, dtype))
    monkeypatch.setattr(fake_cuda.Problem, "candidates", lambda self, handle: [Algorithm(fake_cuda.CODE, 300)])
    near(p.affine(x, w, None), x @ w, "float32")
    assert ((300,), "uint8") in asked


def test_two_processes_add_to_one_file():
    shapes = [((n, 3), (3, 2), (n, 2)) for n in (4, 5)]
    first, second = Choices(MACHINE), Choices(MACHINE)
    made = [plans.plan(*(plans.Array(s, (s[1], 1), "float32") for s in group)) for group in shapes]
    first.keep(made[0], CHOICE)
    second.keep(made[1], CHOICE)
    assert all(Choices(MACHINE).find(p) for p in made)
    assert len({key(p) for p in made}) == 2


def test_two_threads_write_one_file_each(monkeypatch, caplog):
    """As two devices of one kind, or two precisions of one device."""
    both, replace = Barrier(2, timeout=10), os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (both.wait(), replace(*paths)))
    caplog.set_level("INFO", logger="tinynet")
    planned = products().planned(*(np.zeros(shape, "float32") for shape in ((4, 3), (3, 2))))
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda _: Choices(MACHINE).keep(planned, CHOICE), range(2)):
            pass
    assert Choices(MACHINE).find(planned) == CHOICE
    assert not caplog.records


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "file"))
    with caplog.at_level("INFO", logger="tinynet"):
        p = products(choices=Choices(MACHINE))
        x, w = (p.runtime.array(real(*s).astype("float32")) for s in ((4, 3), (3, 2)))
        near(p.affine(x, w, None), x @ w, "float32")
    assert "timed again in every process" in caplog.text


def test_a_candidate_that_fails_is_out(caplog):
    def fails():
        raise RuntimeError("no")

    assert fastest([fails, lambda: None, lambda: None], lambda run: (run(), 1.0)[1]) == (1, True)
    assert fastest([fails], lambda run: (run(), 1.0)[1]) == (None, True)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert caplog.records[0].getMessage().startswith("none of 1 candidates runs on this device: no")
    assert fastest([], lambda run: 0.0) == (None, True)


def test_too_little_memory_is_no_property_of_a_product(caplog, monkeypatch):
    p = products()
    x, w = (p.runtime.array(real(*s).astype("float32")) for s in ((4, 3), (3, 2)))

    def lacks_memory(run):
        raise MemoryError("no memory for a workspace")

    with monkeypatch.context() as patch:
        patch.setattr(p.runtime, "seconds", lacks_memory)
        with pytest.raises(MemoryError, match="a workspace"):
            p.affine(x, w, None)
    near(p.affine(x, w, None), x @ w, "float32")
    assert not caplog.records


def test_what_is_chosen_while_memory_is_short_is_not_kept():
    """The fastest candidate lacks memory now, not in the next process."""

    class Short(fake_cuda.Runtime):
        lacking = frozenset((0,))

        def seconds(self, run):
            seconds = super().seconds(run)
            if self.timed - 1 in self.lacking:
                raise MemoryError("no memory for a workspace")
            return 10.0 * seconds

    p = products(runtime=Short(), choices=Choices(MACHINE))
    x, w = (p.runtime.array(real(*s).astype("float32")) for s in ((4, 3), (3, 2)))
    planned = p.planned(x, w)
    for lacking, code in ((frozenset((0,)), 1), (frozenset(), 0)):
        p.runtime.timed, p.runtime.lacking = 0, lacking
        near(p.affine(x, w, None), x @ w, "float32")
        assert p._ready[planned].algorithm.code[0] == code
        p = products(runtime=p.runtime, choices=Choices(MACHINE))  # another process
    assert p.choices.find(planned) == ["", (b"\0" + fake_cuda.CODE[1:]).hex()]


@pytest.mark.parametrize("refused", [{4}, {256}, {4, 256}, {1, 4, 256}])
def test_without_an_algorithm_for_the_epilogue_it_is_the_plain_product(refused, monkeypatch, caplog):
    monkeypatch.setattr(fake_cuda.Problem, "refused", frozenset(refused))
    p = products()
    x, w, b, dy = (p.runtime.array(real(*s).astype("float32")) for s in ((5, 3), (3, 4), (4,), (5, 4)))
    got, gradients = p.affine(x, w, b), p.weight_gradient(x, dy, True)
    if 1 in refused:
        assert got is None
        assert gradients is None
        said = "cublasLt cannot compute {} in float32: CuPy does, which no graph can contain"
        assert [r.getMessage() for r in caplog.records] == [
            said.format(s) for s in ("(5, 3) x (3, 4)", "(3, 5) x (5, 4)")
        ]
        return
    assert not caplog.records
    near(got, x @ w + b, "float32")
    near(gradients[0], x.T @ dy, "float32")
    near(gradients[1], dy.sum(axis=0), "float32")


def test_those_close_to_the_fastest_are_timed_again_in_turns():
    asked, clock = [], iter([1.3, 9.0, 1.1, 1.0, 1.2, 1.0, 1.1, 1.2, 3.0, 1.1, 1.2, 1.2, 1.1, 1.3])  # one is disturbed
    runs = [lambda n=n: asked.append(n) for n in range(5)]
    assert fastest(runs, lambda run: (run(), next(clock))[1]) == (2, True)
    assert asked == [0, 1, 2, 3, 4] + [3, 2, 4] * 3

    def fails():
        asked.append(5)
        if asked.count(5) > 1:
            raise RuntimeError("no memory any more")

    assert fastest([fails, runs[0]], lambda run: run() or 1.0) == (1, True)


@pytest.mark.parametrize("shapes", [((6, 5), (5, 7)), ((3, 6, 5), (3, 5, 7))])
def test_three_products_in_one(shapes):
    """Infinities and NaN as in float32, the largest numbers too; sums over the samples are added up elsewhere."""
    p = products("bf16x3")
    rng = np.random.default_rng(3)
    x, w = (p.runtime.array(rng.standard_normal(s).astype("float32")) for s in shapes)
    dropped = np.linalg.norm(p.affine(x, w, None) - x.astype("float64") @ w) / np.linalg.norm(x @ w)
    assert 1e-7 < dropped < 1e-5  # lo lo, and the bits below lo
    for special in (np.inf, -np.inf, np.nan, 3.4e38):
        x[..., 1, 2] = w[..., 2, 1] = 0.5  # whose lo is 0
        x[..., 2, 2] = special
        w[..., 2, :] = np.sign(w[..., 2, :]) * 0.5
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(p.affine(x, w, None), x @ w, rtol=1e-4, atol=1e-4)
    assert p.product(x, w, Epilogue.SUM_A, p.runtime.array(np.ones((*shapes[1][:-2], 7), "float32"))) is None


def test_nothing_is_timed_in_a_capture():
    p = products()
    x, w = (p.runtime.array(real(*s).astype("float32")) for s in ((4, 3), (3, 2)))
    with p.runtime.capture(None) as made:
        y = p.affine(x, w, None)
    assert p.runtime.timed == 0
    assert np.isnan(y).all()
    p.runtime.launch(made[0])
    near(y, x @ w, "float32")
    assert p.planned(x, w) not in p._ready
    p.affine(x, w, None)
    assert p.runtime.timed > 0


def test_the_interpreter_rounds_as_bfloat16_does():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the oracle for bfloat16")
    x = np.concatenate([real(1000), [0.0, -0.0, 1e38, 3.0, 1e-30]]).astype("float32")
    np.testing.assert_array_equal(cublaslt.rounded(x, "bf16"), x.astype(ml_dtypes.bfloat16).astype("float32"))
