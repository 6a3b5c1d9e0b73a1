"""A builder of ONNX graphs: nodes, constants, and formulas converted to nodes."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from tinynet_backends.tracing import Ref, Trace, Untraceable, trace

OPSET = 20  # of ONNX 1.15: the first that has Gelu; runtimes since the end of 2023 read it

INPUT, LOGITS, PROBABILITIES = "x", "y", "probabilities"  # the names of the input and the possible outputs

Array = Any
Tensor = str  # the name of a value in the graph

# The ONNX operators of traced formulas. ONNX has no expm1, log1p and not_equal.
OPERATORS = {
    "abs": "Abs", "negative": "Neg", "sign": "Sign", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "tanh": "Tanh",
    "floor": "Floor", "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max",
    "minimum": "Min", "where": "Where", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater",
    "greater_equal": "GreaterOrEqual", "equal": "Equal", "logical_and": "And", "logical_or": "Or", "logical_not": "Not",
}  # fmt: skip


class Graph:
    """Nodes and constants; their names begin with ``path``, the number of the layer that they belong to.

    ``dtype`` is 'float32' or 'float64'. A `child` appends to the same lists.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype, self.path = dtype, ""
        self.nodes: list[Any] = []
        self.constants: dict[Tensor, Any] = {}
        self._taken: set[Tensor] = {INPUT, LOGITS, PROBABILITIES}

    @property
    def kind(self) -> int:
        """ONNX's number of the dtype."""
        from onnx import TensorProto

        return int(TensorProto.DOUBLE if self.dtype == "float64" else TensorProto.FLOAT)

    def child(self, number: int) -> Graph:
        """The graph as an inner layer sees it."""
        inner = copy(self)
        inner.path = f"{self.path}{number}."
        return inner

    def add(self, op: str, *inputs: Tensor, name: Tensor | None = None, **attributes: Any) -> Tensor:
        """The (first) output of a new node: an ONNX operator with its inputs and attributes."""
        from onnx import helper

        name = name or self._free(f"{self.path}{op}")
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: float | Array, name: Tensor | None = None) -> Tensor:
        """A number in the graph's dtype, or a host array in its own, called ``name`` (numbered if that is taken)."""
        from onnx import helper, numpy_helper

        if isinstance(value, (int, float)):
            name = f"constant_{float(value)!r}"
            self.constants[name] = helper.make_tensor(name, self.kind, (), [value])
        else:
            name = self._free(name or f"{self.path}constant")
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def formula(self, f: Callable[..., Any], *inputs: Tensor) -> Tensor:
        """``f(xp, *inputs)``, an elementwise formula in array API terms, as nodes: it is run once on symbols.

        Raises `Untraceable`, a TypeError, if it uses what symbols do not support.
        """
        try:
            traced = trace(f, len(inputs))
        except (TypeError, AttributeError) as e:  # a symbol lacks attributes of arrays
            raise Untraceable(str(e)) from None
        return self._write(traced, list(inputs))

    def _write(self, traced: Trace, values: list[Tensor]) -> Tensor:
        for op, args, _ in traced.instructions:
            of = [values[a.number] if isinstance(a, Ref) else self.constant(float(a)) for a in args]
            if op == "not_equal":
                values.append(self.add("Not", self.add("Equal", *of)))
            elif op in _MISSING:
                values.append(self.formula(_MISSING[op], *of))
            else:
                values.append(self.add(OPERATORS[op], *of))
        return values[traced.outputs[0].number]

    def _free(self, name: Tensor) -> Tensor:
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free


def _expm1(xp: Any, x: Array) -> Array:
    """``exp(x) - 1`` without the cancellation near 0: ``2 t / (1 - t)``, t = tanh(x / 2)."""
    t = xp.tanh(0.5 * x)
    return xp.where(xp.abs(x) < 1.0, 2.0 * t / (1.0 - t), xp.exp(x) - 1.0)


def _log1p(xp: Any, x: Array) -> Array:
    """``log(1 + x)``; near 0 the rounding error of ``1 + x`` cancels.

    W. Kahan; N. J. Higham 2002, *Accuracy and Stability of Numerical Algorithms*, problem 1.5.
    """
    u = 1.0 + x
    near = xp.where(u == 1.0, x, xp.log(u) * x / (u - 1.0))
    return xp.where(xp.abs(x) < 1.0, near, xp.log(u))


_MISSING: dict[str, Callable[..., Any]] = {"expm1": _expm1, "log1p": _log1p}
