"""A network as a table and as a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from tinynet import checks
from tinynet.frozen import Frozen
from tinynet.initializers import Shape
from tinynet.layers import Layer, leaves
from tinynet.sequential import Residual, inner_layers, is_composite, simple_layers

_LONGEST = 32  # characters of a layer in the table


class Row(NamedTuple):
    """A layer: its place ("2.0" is the first layer inside the third), the shape of an output sample, and its costs.

    ``bytes`` are those of parameters and layer state, ``flops`` those of the forward pass of one sample.
    """

    place: str
    layer: Layer
    shape: Shape
    parameters: int
    bytes: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """A `Row` for each layer, and the sums ``parameters``, ``bytes`` and ``flops``; ``str(summary)`` is the table.

    ``flops`` are those of the forward pass of one sample; a multiplication and an addition are two. Only matrix products
    are counted: twice the size of every array of weights with two or more axes, frozen ones too, as in PyTorch's
    ``FlopCounterMode``. The backward pass takes about twice as many.
    """

    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    @property
    def flops(self) -> int:
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        head = ("", "layer", "output", "parameters", "bytes", "FLOPs")
        body = [
            (row.place, _short(repr(row.layer)), _written(row.shape), *map("{:,}".format, _costs(row)))
            for row in self.rows
        ]
        total = ("", "", "total", *map("{:,}".format, _costs(self)))
        widths = [max(map(len, column)) for column in zip(head, *body, total, strict=True)]
        lines = [
            "  ".join([*map(str.ljust, cells[:2], widths[:2]), *map(str.rjust, cells[2:], widths[2:])]).rstrip()
            for cells in (head, *body, total)
        ]
        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _costs(of: Row | Summary) -> tuple[int, int, int]:
    return of.parameters, of.bytes, of.flops


def _short(text: str) -> str:
    """``text`` cut so that the table fits a terminal of 80 columns."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def summarize(net: Layer, shape: Shape, dtype: str) -> Summary:
    """The table of ``net`` for samples of ``shape``."""
    return Summary(tuple(_row(*layer, checks.DTYPES[dtype]) for layer in simple_layers(net, shape)))


def _row(place: str, layer: Layer, shape: Shape, size: int) -> Row:
    spec = layer.build(shape)
    learned, kept = (sum(prod(p.shape) for _, p in leaves(tree)) for tree in (spec.params, spec.state))
    return Row(place, layer, spec.shape, learned, (learned + kept) * size, 2 * _in_matrices(layer, shape))


def _in_matrices(layer: Layer, shape: Shape) -> int:
    """How many numbers the matrices of a layer have, frozen ones too; other layer state takes part in no product."""
    if isinstance(layer, Frozen):
        return sum(_in_matrices(inner, own) for _, inner, own in simple_layers(layer.layer, shape))
    return sum(prod(p.shape) for _, p in leaves(layer.build(shape).params) if len(p.shape) > 1)


def drawing(net: Layer, shape: Shape) -> str:
    """A sample's path from top to bottom: layers beside a line, the shape wherever it changes, parameters on the right.

    A residual block is a line that leaves and returns.
    """
    lines = [(_written(shape), ""), *_drawn(net, shape, "")]
    width = max(len(text) for text, _ in lines)
    places = max(len(count) for _, count in lines)
    return "\n".join(f"{text:<{width}}  {count:>{places}}".rstrip() for text, count in lines)


def _drawn(layer: Layer, shape: Shape, left: str) -> Iterator[tuple[str, str]]:
    """Lines of text, each with its number of parameters; ``left`` draws the lines of the blocks around."""
    if is_composite(layer):
        block = isinstance(layer, Residual)
        if block:
            yield f"{left}├─╮", ""
        for inner in inner_layers(layer, shape):
            yield from _drawn(*inner, f"{left}│ " if block else left)
        if block:
            yield f"{left}+─╯", ""
    else:
        spec = layer.build(shape)
        count = sum(prod(p.shape) for _, p in leaves(spec.params))
        yield f"{left}│  {layer!r}", f"{count:,}" if count else ""
        if spec.shape != shape:
            yield f"{left}{_written(spec.shape)}", ""


def _written(shape: Shape) -> str:
    return " × ".join(map(str, shape))
