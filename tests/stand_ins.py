"""Contenders for workers to run in the tests: one that works, and several that fail."""

import os
import time
from itertools import count

import tinynet as tn
from benchmarks import contenders


def steady(task, precision):
    return contenders.make("numpy", task)


def other(task, precision):
    step = steady(task, precision)
    return lambda: 1.1 * step()


def tired(task, precision):
    """Its process ends after the first steps."""
    step, number = steady(task, precision), count()
    return lambda: step() if next(number) < 5 else os._exit(7)


def sleep(seconds):
    time.sleep(seconds)


def divide(by):
    return 1 / by


def talk(text):
    os.system(f"echo {text}")
    print(text)
    return text


def device(device):
    return "CuPy 1, a device"


def no_device(device):
    raise tn.BackendUnavailable("backend 'cupy' finds no CUDA device")


def write(name, file):
    """A part of a report."""
    if name == "products":
        time.sleep(60)
    with open(file, "a") as out:
        print(f"- {name} {os.getpid()}", file=out, flush=True)
    if name == "captured":
        os._exit(3)
    return name != "training"
