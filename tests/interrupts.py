"""Ctrl-C at any moment: an alarm that raises KeyboardInterrupt in the middle of what runs."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Sequence

import pytest


def interrupt(action: Callable[[], object], check: Callable[[], object], delays: Sequence[float], times: int) -> None:
    """Run ``action`` over and over, interrupted after each of ``delays`` (seconds) in turn, with ``check`` after every run.

    It ends when ``times`` runs were cut short, and fails after 2000 runs. The garbage collector is off meanwhile: Python
    swallows what is raised in its callbacks (hypothesis registers one), and the interrupt would be lost.
    """
    if not hasattr(signal, "setitimer"):
        pytest.skip("alarms are POSIX")

    def raise_it(*_: object) -> None:
        raise KeyboardInterrupt

    collects = gc.isenabled()
    gc.disable()
    before, met = signal.signal(signal.SIGALRM, raise_it), 0
    try:
        for n in range(2000):
            try:
                signal.setitimer(signal.ITIMER_REAL, delays[n % len(delays)])
                action()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                met += 1
            check()
            if met == times:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if collects:
            gc.enable()
    assert met == times
