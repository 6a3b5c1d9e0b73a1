"""A plugin for pytest, ``-p benchmarks.failures``: each failure is printed when it happens, not at the end of the run.

Who has a device for minutes may have to end a run early, and would not learn why tests failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

_BEGIN, _END = "____ failed: ", "____ end of "


def pytest_configure(config: Any) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers report to the process that started them
        config.pluginmanager.register(_Printed())


class _Printed:
    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            print(f"\n{_BEGIN}{report.nodeid}\n{report.longreprtext}\n{_END}{report.nodeid}", flush=True)


def failures(output: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The tests that failed, and why, from the lines that were printed."""
    for n, line in enumerate(output):
        if line.startswith(_BEGIN):
            why = [*takewhile(lambda one: not one.startswith(_END), output[n + 1 :])]
            yield line.removeprefix(_BEGIN), why
