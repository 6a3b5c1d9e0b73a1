"""Ctrl-C at any moment: an alarm that raises KeyboardInterrupt in the middle of what runs."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Sequence


def interrupt(action: Callable[[], object], check: Callable[[], object], delays: Sequence[float], times: int) -> None:
    """Run ``action`` again and again, interrupted after one of ``delays`` (seconds) each, in turns, and ``check`` after each
    run, until so many were cut short; in 2000 runs at most. The garbage collector rests meanwhile: Python swallows what is
    raised within its callbacks (hypothesis registers one), and the interrupt would be lost."""

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
