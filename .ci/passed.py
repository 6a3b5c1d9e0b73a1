"""A pytest plugin: tests that passed in an earlier run, as the file ``$PASSED`` says, are left out.

A test runs again if it looked for a module that was not there, which may be there now, or started another Python.
"""

import os
import sys
from pathlib import Path

import pytest

RECORD = Path(os.environ["PASSED"])
BEFORE = set(RECORD.read_text().splitlines()) if RECORD.exists() else set()
unsure: list[str] = []  # why the test that runs may end otherwise in another environment


class Missing:
    """The last finder of modules: it is asked for what no other has found."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        unsure.append(name)


def heard(event, args):
    if event == "subprocess.Popen" and args[0] == sys.executable:
        unsure.append(event)


sys.meta_path.append(Missing)
sys.addaudithook(heard)


def pytest_collection_modifyitems(config, items):
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in BEFORE])
    items[:] = [item for item in items if item.nodeid not in BEFORE]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.passed and not unsure:
        with RECORD.open("a") as record:
            record.write(f"{item.nodeid}\n")
    if report.when == "teardown":
        unsure.clear()
    return report
