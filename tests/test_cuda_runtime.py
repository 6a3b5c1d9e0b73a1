"""What is said to CuPy, to one that is none."""

import fake_cupy
import pytest
from tinynet_backends.cuda import runtime


def test_the_memory_of_a_device_is_not_taken_for_the_current_one_s(monkeypatch):
    monkeypatch.delenv("TINYNET_GPU_MEMORY", raising=False)
    cp = fake_cupy.Cupy()
    first, second = cp.cuda.pools
    rt = runtime.Runtime(cp, 1)
    pool = rt.new_pool()
    second.total = 300
    rt.room.admit(1, "a step")
    del pool  # by whoever looks for garbage, wherever that is
    assert rt.room.limit == second.limit == 2000
    assert (first.limit, first.freed) == (1000, 0)
    assert set(cp.cuda.asked) == {1}
    assert cp.cuda.current == 0


@pytest.mark.parametrize(
    ("work", "eager", "captured"),
    [([2e-6], 2, 8), ([4e-6, 5e-6], 2, 8), ([2e-3], 2, 3), ([1e-3] * 7, 4, 0), ([3e-2], 4, 0)],
)
def test_the_clock_tells_what_the_device_takes(work, eager, captured):
    """And not what the host takes to queue it, which is 100 µs a kernel here."""
    cp, calls = fake_cupy.Cupy(), []
    rt = runtime.Runtime(cp, 0)

    def run():
        calls.append(cp.cuda.work is None)
        for seconds in work:
            cp.cuda.do(seconds)

    found = rt.seconds(run)
    assert found == pytest.approx(sum(work) + (cp.cuda.launch / captured if captured else 0))
    assert calls == [True] * eager + [False] * captured


def test_what_cannot_be_captured_has_no_time():
    cp = fake_cupy.Cupy()

    def run():
        if cp.cuda.work is not None:
            raise RuntimeError("cuBLAS is not supported here")

    with pytest.raises(RuntimeError, match="cuBLAS"):
        runtime.Runtime(cp, 0).seconds(run)
    assert cp.cuda.work is None
