"""The numbers of a network, or of many, in two vectors: ``theta``, parameters, and ``state``, what layers keep besides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import wraps
from math import prod
from typing import Any, Self, TypeVar

from tinynet_backends import Backend, get_backend

from tinynet import checks, streams
from tinynet.layers import Array, Param, Spec, leaves

F = TypeVar("F", bound=Callable[..., Any])


def on_its_device(function: F) -> F:
    """The function or method, with the device of its first argument, a model, as the current one while it runs.

    TypeError if it takes ``data`` and is given X and y apart, as other libraries take them.
    """

    @wraps(function)
    def active(model: Any, *args: Any, **options: Any) -> Any:
        if args[1:] and "data" in function.__annotations__:
            name = function.__name__
            raise TypeError(
                f"{name} takes data as one argument and was given {len(args)}: give X and y as a tuple, (X, y)"
            )
        with model.ops.active():
            return function(model, *args, **options)

    return active  # type: ignore[return-value]


class Vector:
    """An attribute that is an array of which others are views: assigning to it copies, in place."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.kept = name, f"_{name}"

    def __get__(self, model: Any, owner: type | None = None) -> Array:
        return self if model is None else getattr(model, self.kept)

    def __set__(self, model: Any, value: Any) -> None:
        own = getattr(model, self.kept)
        if value is own:  # as after `model.theta *= 0.5`
            return
        with model.ops.active():
            new = model.ops.asarray(value, model.dtype)
            if new.shape != own.shape:
                raise ValueError(
                    f"{self.name} {tuple(new.shape)} does not fit the model's: expected {tuple(own.shape)}"
                )
            own[...] = new


class Views(dict[str, Any]):
    """Arrays by name that are views of a vector: an assignment to one of them copies, in place.

    The assignment makes the device of ``ops`` the current one. A captured step has a copy without ``ops``, as its device
    is current already.
    """

    def __init__(self, arrays: Iterable[tuple[str, Any]], ops: Backend | None = None) -> None:
        super().__init__(arrays)
        self.ops = ops

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise KeyError(f"there is no array {name!r} to set: there are {checks.listed(list(self))}")
        if value is not self[name]:  # as after `weights["0.w"] *= 0.5`
            with nullcontext() if self.ops is None else self.ops.active():
                own = self[name]
                own[...] = value if self.ops is None else self.ops.asarray(value, self.ops.real_name(own.dtype))

    def update(self, *args: Any, **named: Any) -> None:
        for name, value in dict(*args, **named).items():
            self[name] = value

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:  # copies are views of nothing
        return dict, (dict(self),)


def vector(tree: Mapping[str, Any], ops: Backend, dtype: str) -> Array:
    """An uninitialized vector (p,) for the numbers of all `Param` in ``tree``."""
    return ops.empty((sum(prod(p.shape) for _, p in leaves(tree)),), ops.dtype(dtype))


def draw(spec: Spec, seed: int, ops: Backend, dtype: str) -> Iterator[Array]:
    """The initial weights (p,) and state (s,) that a seed makes."""
    host, key, number = get_backend("numpy"), streams.key(seed, streams.WEIGHTS), 0
    for tree in (spec.params, spec.state):
        drawn, stop = vector(tree, host, dtype), 0
        for _, p in leaves(tree):
            values = host.asarray(p.init.draw(p.shape, key, (number, 0, 0), host))
            if tuple(values.shape) != tuple(p.shape):
                raise ValueError(f"{p.init!r} draws {tuple(values.shape)} for {tuple(p.shape)}: give that shape")
            start, stop = stop, stop + prod(p.shape)
            drawn[start:stop] = host.xp.reshape(values, (-1,))
            number += 1
        yield ops.asarray(drawn)


def views(vector: Array, tree: Mapping[str, Any], ops: Backend) -> dict[str, Any]:
    """Views of ``vector`` (..., p), one after another, in the shapes of the `Param` in ``tree``."""
    start = 0

    def walk(tree: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal start
        out: dict[str, Any] = {}
        for name, value in tree.items():
            if isinstance(value, Param):
                stop = start + prod(value.shape)
                out[name] = ops.xp.reshape(vector[..., start:stop], (*vector.shape[:-1], *value.shape))
                start = stop
            else:
                out[name] = walk(value)
        return out

    return walk(tree)


def protected(tree: Mapping[str, Any], ops: Backend) -> Views:
    """Nested dicts as `Views`: if a layer assigned to its state in a plain dict, the vector would not change."""
    pairs = ((name, protected(value, ops) if isinstance(value, dict) else value) for name, value in tree.items())
    return Views(pairs, ops)
