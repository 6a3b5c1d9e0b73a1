"""Layers made of layers: one after the other, and with a shortcut around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from tinynet_backends import DenseLayer

from tinynet import checks
from tinynet.dense import Dense
from tinynet.initializers import Shape
from tinynet.layers import Array, Backprop, Context, Layer, Params, Spec, checked_build, checked_pass


class Sequential(Layer):
    """Layers one after the other, each on the output of the one before.

    Their parameters are named by position: "0.w", "0.b", "2.w", … ValueError, with the number of the layer, if one does
    not take the shape that it gets.

    Examples
    --------
    >>> net = tn.Sequential(tn.Dense(4), tn.ReLU(), tn.Dense(1))
    >>> net.build((3,)).shape
    (1,)
    >>> net == tn.Sequential(*net.layers)
    True
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Any) -> None:
        for layer in layers:
            if not isinstance(layer, Layer):
                hint = ": write it with parentheses" if isinstance(layer, type) else ""
                hint = ": give them one by one, Sequential(*layers)" if isinstance(layer, (list, tuple)) else hint
                raise TypeError(f"Sequential takes layers, not {layer!r}{hint}")
        self.layers = layers

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)  # a subclass may have hyperparameters

    def __hash__(self) -> int:
        return hash((type(self), self.layers))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([*map(repr, self.layers), *checks.attributes(self)])})"

    def build(self, shape: Shape) -> Spec:
        params, state = {}, {}
        for number, layer in enumerate(self.layers):
            try:
                spec = checked_build(layer, shape)
            except ValueError as e:
                raise ValueError(f"layer {number}: {e}") from None
            shape = spec.shape
            if spec.params:
                params[str(number)] = spec.params
            if spec.state:
                state[str(number)] = spec.state
        return Spec(shape, params, state)

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        steps: list[Backprop] = []
        for numbers, dense in self._rows(params):
            fused = ctx.ops.dense(x, [*dense.values()], ctx.child(numbers[0]).need_dx) if dense else None
            if fused is not None:
                x, gradients = fused
                steps.append(_fused([*dense.items()], gradients))
                continue
            for n in numbers:  # one layer at a time
                try:
                    x, backprop = checked_pass(self.layers[n], params.get(str(n), {}), x, ctx.child(n))
                except Exception as e:
                    e.add_note(f"in layer {n}, {self.layers[n]!r}")
                    raise
                steps.append(_named(str(n), backprop))

        def backward(dy: Array) -> tuple[Array, dict[str, Any]]:
            dparams: dict[str, Any] = {}
            for backprop in reversed(steps):
                dy, d = backprop(dy)
                dparams |= d
            return dy, dparams

        return x, backward

    def _rows(self, params: Params) -> Iterator[tuple[range, dict[str, DenseLayer]]]:
        """The numbers of all layers in order, dense layers that follow one another together, other layers one by one.

        With the numbers come the dense layers among them by name, each with the elementwise layer after it, if there is one.
        """
        number, end = 0, len(self.layers)
        while number < end:
            first, dense = number, dict[str, DenseLayer]()
            while number < end and type(self.layers[number]) is Dense:
                name, (w, b) = str(number), (params[str(number)].get(key) for key in ("w", "b"))
                number += 1
                formulas = self.layers[number].formulas if number < end else None
                dense[name] = DenseLayer(w, b, *(formulas or (None, None)))
                number += formulas is not None
            number = max(number, first + 1)
            yield range(first, number), dense


def _named(name: str, backprop: Backprop) -> Backprop:
    """``backprop`` of an inner layer, with its gradients under its name."""

    def named(dy: Array) -> tuple[Array, dict[str, Any]]:
        dx, dparams = backprop(dy)
        return dx, {name: dparams} if dparams else {}

    return named


def _fused(layers: list[tuple[str, DenseLayer]], gradients: Callable[[Array], Any]) -> Backprop:
    """``gradients`` of dense layers that a backend computed together, under the layers' names."""

    def named(dy: Array) -> tuple[Array, dict[str, Any]]:
        dx, found = gradients(dy)
        both = zip(layers, found, strict=True)
        return dx, {name: {"w": dw} if layer.b is None else {"w": dw, "b": db} for (name, layer), (dw, db) in both}

    return named


class Residual(Sequential):
    """``x + f(x)``, where f is its layers one after the other (He et al. 2016).

    ValueError if the output of f does not have the shape of its input.

    Examples
    --------
    >>> tn.Residual(tn.Dense(4)).build((3,))
    Traceback (most recent call last):
    ValueError: Residual takes samples (3,) and its layers give (4,): the two must be equal
    """

    def build(self, shape: Shape) -> Spec:
        spec = super().build(shape)
        if spec.shape != shape:
            raise ValueError(f"Residual takes samples {shape} and its layers give {spec.shape}: the two must be equal")
        return spec

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        y, inner = super().forward(params, x, ctx)

        def backprop(dy: Array) -> tuple[Array, dict[str, Any]]:
            dx, dparams = inner(dy)
            return dx if dx is None else ctx.ops.elementwise(_add, dy, dx), dparams

        return ctx.ops.elementwise(_add, x, y), backprop


def _add(xp: Any, a: Array, b: Array) -> Array:
    return a + b


def is_composite(layer: Layer) -> TypeGuard[Sequential]:
    """Whether ``layer`` is its inner layers one after the other; a subclass with passes of its own is a layer like others."""
    kind = type(layer)
    return any(kind.forward is own.forward and kind.build is own.build for own in (Sequential, Residual))


def inner_layers(layer: Sequential, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
    """The inner layers, each with the shape of the samples that it gets where ``layer`` gets ``shape``."""
    for inner in layer.layers:
        yield inner, shape
        shape = inner.build(shape).shape


def simple_layers(net: Layer, shape: Shape, place: str = "") -> Iterator[tuple[str, Layer, Shape]]:
    """The layers of ``net`` that are not composite, in order: the place of each ("2.0"), the layer, and the shape that it gets."""
    if not is_composite(net):
        yield place, net, shape
        return
    for number, (inner, own) in enumerate(inner_layers(net, shape)):
        yield from simple_layers(inner, own, f"{place}.{number}" if place else str(number))
