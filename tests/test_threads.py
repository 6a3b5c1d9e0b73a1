"""Work in pieces on several threads: the same bits, the caller's context, the caller's errors."""

import os
import threading

import numpy as np
import pytest
from tinynet_backends import blas, get_backend, threads

import tinynet as tn


@pytest.fixture
def three(monkeypatch):
    """Three threads, however many cores there are."""
    monkeypatch.setattr(blas, "threads", lambda: 3)


def test_every_piece_is_done_once_and_by_several_threads(three):
    together, done, by = threading.Barrier(3, timeout=20), [], set()

    def do(piece):
        if piece < 3:
            together.wait()  # which one thread alone could never leave
        done.append(piece)
        by.add(threading.get_ident())

    threads.for_each(range(20), do)
    assert sorted(done) == list(range(20))
    assert len(by) == 3
    assert threading.get_ident() not in by


@pytest.mark.parametrize(("allowed", "pieces"), [(1, 5), (8, 1), (8, 0)])
def test_no_thread_where_one_is_enough(allowed, pieces, monkeypatch):
    monkeypatch.setattr(blas, "threads", lambda: allowed)
    by = []
    threads.for_each(range(pieces), lambda piece: by.append(threading.get_ident()))
    assert by == [threading.get_ident()] * pieces


def test_the_context_is_the_caller_s(three):
    seen = []
    with tn.use_backend("strict"), np.errstate(divide="ignore"):
        threads.for_each(range(6), lambda piece: seen.append((tn.get_backend(), np.geterr()["divide"])))
    assert seen == [(get_backend("strict"), "ignore")] * 6


def test_an_error_is_the_caller_s(three):
    def do(piece):
        if piece == 7:
            raise ZeroDivisionError("piece 7")

    with pytest.raises(ZeroDivisionError, match="piece 7"):
        threads.for_each(range(20), do)


@pytest.mark.parametrize("data", [tn.data.Blobs(10**6, n_features=20), tn.data.Friedman1(10**6, noise=0.5)], ids=type)
def test_samples_and_orders_have_the_bits_of_one_thread(data, three, monkeypatch):
    ops, somewhere = get_backend("numpy"), range(77, 60_077)
    several = *data.rows(somewhere, ops, "float32")[:2], ops.permute(somewhere, 70_001, tuple(range(24)))
    monkeypatch.setattr(blas, "threads", lambda: 1)
    one = *data.rows(somewhere, ops, "float32")[:2], ops.permute(somewhere, 70_001, tuple(range(24)))
    for a, b in zip(several, one, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_cores_that_the_process_may_not_use_get_no_threads(monkeypatch):
    monkeypatch.setattr(blas, "find", lambda: None)  # a NumPy with a BLAS of another name
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5}, raising=False)
    assert blas.threads() == 1
