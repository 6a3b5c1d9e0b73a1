"""``pytest --rehearse``: the gpu tests, except those whose kernels take minutes on the host."""

from contextlib import ExitStack

import pytest
from cuda_shim import shim

from rehearsal import modules

WIDE, LONG = "g++'s kernels take minutes for layers as wide", "g++'s kernels take minutes for as many steps"
TOO_LONG = {  # part of a test's id: why it is not rehearsed
    "::test_layers_behind_one_of_odd_size": WIDE,
    "-(300, ": WIDE,
    "-(9000, ": WIDE,
    "::test_estimators_learn_on_the_device": LONG,
    "::test_weights_rounded_when_they_are_updated": WIDE,
}


class Rehearsal:
    def __init__(self, config):
        if shim.missing():
            raise pytest.UsageError(f"--rehearse: {shim.missing()}")
        self.place = ExitStack()
        self.place.enter_context(modules.installed(config.cache.mkdir("cuda_shim")))

    def pytest_collection_modifyitems(self, items):
        for item in items:
            for part, why in TOO_LONG.items():
                if part in item.nodeid:
                    item.add_marker(pytest.mark.skip(reason=f"not rehearsed: {why}"))

    def pytest_unconfigure(self):
        self.place.close()
