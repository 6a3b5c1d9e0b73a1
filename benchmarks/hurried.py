"""A plugin for pytest, ``-p benchmarks.hurried``, for a device that is there for minutes: the run may have to be ended early.

So what is least known runs first, and each failure is printed when it happens, not at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

# Tests of what has changed most since they last ran on a device; then those of what only a device shows
FIRST = "test_gpu.py::test_steps_", "test_gpu.py::"
_BEGIN, _END = "____ failed: ", "____ end of "


def pytest_configure(config: Any) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers report to the process that started them
        config.pluginmanager.register(_Printed())


def pytest_collection_modifyitems(items: list[Any]) -> None:
    items.sort(key=lambda item: next((n for n, name in enumerate(FIRST) if name in item.nodeid), len(FIRST)))


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
