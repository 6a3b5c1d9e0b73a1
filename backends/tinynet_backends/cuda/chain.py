"""A chain of dense layers with ReLU between them: bias and ReLU in the products' epilogues.

In the backward pass, one pass over memory does everything between two products. If products take bfloat16, so is what lies
between layers. cublasLt has ReLU's gradient as an epilogue too, but on Hopper runs it as a separate kernel that takes three
times as long as a pass over memory (an H200, cuBLAS 13: 104 µs for 8192 x 2048 in bfloat16).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tinynet_backends.backend import Array, DenseLayer, Gradients
from tinynet_backends.cuda.operations import Sum
from tinynet_backends.cuda.plan import ALIGNED, SIZES, STORED, Epilogue
from tinynet_backends.tracing import traced

_HALF, _ROW = STORED["bfloat16"], ALIGNED // SIZES["bfloat16"]


def _relu(xp: Any, x: Array) -> Array:
    return xp.maximum(x, 0.0)


def _relu_grad(xp: Any, dy: Array, x: Array, y: Array) -> Array:
    return xp.where(y > 0, dy, xp.zeros_like(dy))


RELU = traced(_relu, 1), traced(_relu_grad, 3)


def fits(x: Array, layers: Sequence[DenseLayer]) -> bool:
    """Whether a `Chain` can compute these layers."""
    return (
        x.ndim == 2
        and x.size > 0
        and x.dtype.name in ("float32", "float64")
        and any(layer.f is not None for layer in layers)
        and all(w.ndim == 2 and w.dtype == x.dtype and w.flags.c_contiguous for w, *_ in layers)
        and all(b is None or b.flags.c_contiguous for _, b, *_ in layers)
        and all(f is None or df is None or (traced(f, 1), traced(df, 3)) == RELU for *_, f, df in layers)
    )


class Pass:
    """Forward and backward pass through layers, on ``ops`` (`cuda.device`)."""

    ops: Any

    def forward(self, x: Array) -> Array | None:
        """The last layer's output; None if cublasLt has no algorithm for one of the layers."""
        raise NotImplementedError

    def back(self, dy: Array, sums: list[Sum]) -> Gradients:
        """`backward`, except that pending sums are appended to ``sums``."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Gradients:
        """The gradient of the input, if it is needed, and those of each layer's weights and bias."""
        sums: list[Sum] = []
        gradients = self.back(dy, sums)
        self.ops.add_up(sums)
        return gradients


class Chain(Pass):
    """Products, with one pass over memory between two of them in the backward pass.

    With bfloat16 operands, outputs of inner layers are stored in bfloat16, and so are the gradients that products return;
    biases are rounded too, because epilogues read them in the type of the result. The last layer's output and all returned
    gradients are float32. Widths are then padded with zeros to multiples of 8: tensor cores take twice as long if rows are
    not aligned.

    With ``through``, the incoming gradient has already passed the last ReLU and is in the type that products take, and
    the last bias is left out. With ``beside``, gradients of weights are computed concurrently with the rest of the
    backward pass.
    """

    def __init__(
        self, ops: Any, layers: Sequence[DenseLayer], need_dx: bool, through: bool = False, beside: bool = False
    ) -> None:
        self.ops, self.products, self.layers, self.need_dx = ops, ops._products, layers, need_dx
        self.through, self.beside = through, beside

    def forward(self, x: Array) -> Array | None:
        self.inputs: list[Array] = []
        self.real = x.dtype
        self.half = self.products.precision == "bf16" and x.dtype.name == "float32"
        weights, biases = [layer.w for layer in self.layers], [layer.b for layer in self.layers]
        if self.half:
            x, weights, biases = self._rounded(x, weights, biases)
        self.weights = weights
        for w, b, layer in zip(weights[:-1], biases[:-1], self.layers, strict=False):
            self.inputs.append(x)
            y = self.ops.empty((len(x), w.shape[1]), x.dtype)
            if self.products.product(x, w, _epilogue(b, layer.f), b, out=y) is None:
                return None
            x = y
        self.inputs.append(x)
        _, b, f, _ = self.layers[-1]
        width, padded = self.layers[-1].w.shape[1], weights[-1].shape[1]
        y = self.ops.empty((len(x), padded), self.real)
        epilogue = _epilogue(b, f) if padded == width else Epilogue.NONE
        if self.products.product(x, weights[-1], epilogue, b if epilogue & Epilogue.BIAS else None, out=y) is None:
            return None
        if padded > width:
            y = y[:, :width] + (0 if b is None else b)
            y = y if f is None else self.ops.elementwise(_relu, y)
        self.output = y
        return y

    def back(self, dy: Array, sums: list[Sum]) -> Gradients:
        runtime, last = self.ops._runtime, len(self.layers) - 1
        beside = runtime.beside if self.beside else nullcontext
        used: list[Any] = [dy]  # keeps alive what the side stream reads
        if not dy.flags.c_contiguous:
            dy = dy.copy()
        gradients: list[tuple[Array, Array | None]] = []
        dz = dy
        for n in reversed(range(last + 1)):
            w, b, f, _ = self.layers[n]
            y = None if f is None else self.output if n == last else self.inputs[n + 1]
            dz = dy  # a product's result may be changed in place, the incoming gradient not
            if n == last and self.through:
                b = y = None
            elif n == last and self.half:
                dz = self.ops.empty((len(dy), wide(dy.shape[1])), _HALF)
            elif n == last:
                dz = dy if y is None else self.ops.empty(dy.shape, self.real)
            dw = self.ops.gradient(w.shape, self.real)
            db = None if b is None else self.ops.gradient(b.shape, self.real)
            if db is not None or y is not None or dz is not dy:
                pending = self.ops.back(w.shape[1], dy, y, None if dz is dy and y is None else dz, db)
                sums += [] if pending is None else [pending]
            with beside():
                self._product(self.inputs[n].swapaxes(0, 1), dz, dw)
            gradients.append((dw, db))
            used.append(dz)
            if n:
                dy = self.ops.empty(self.inputs[n].shape, self.inputs[n].dtype)
                self._multiply(dz, self.weights[n].swapaxes(0, 1), dy)
        dx = None
        if self.need_dx:
            dx = self.ops.empty((len(dz), self.layers[0].w.shape[0]), self.real)
            self._product(dz, self.weights[0].swapaxes(0, 1), dx)
        if self.beside:
            runtime.join()
        return dx, gradients[::-1]

    def _product(self, x: Array, w: Array, out: Array) -> None:
        """``out = x @ w`` without padding."""
        shape = x.shape[0], w.shape[1]
        if shape == out.shape:
            self._multiply(x, w, out)
        else:
            padded = self._multiply(x, w, self.ops.empty(shape, self.real))
            out[...] = padded[: out.shape[0], : out.shape[1]]

    def _multiply(self, x: Array, w: Array, out: Array) -> Array:
        if self.products.product(x, w, out=out) is None:
            raise RuntimeError(f"cublasLt has no algorithm for the product of {x.shape} and {w.shape}: update cuBLAS")
        return out

    def _rounded(
        self, x: Array, weights: list[Array], biases: list[Array | None]
    ) -> tuple[Array, list[Array], list[Array | None]]:
        """The input, weights, and biases of all but the last layer, in bfloat16 and padded."""
        arrays = [*weights, *(b for b in biases[:-1] if b is not None)]
        rounded = [self.ops.empty(tuple(map(wide, a.shape)), _HALF) for a in arrays]
        rounded_x = self.ops.empty((len(x), wide(x.shape[1])), _HALF)
        together = x.flags.c_contiguous
        self.ops.rounded_together([x] * together + arrays, [rounded_x] * together + rounded)
        if not together:
            self.ops.rounded(x, rounded_x)
        rest = iter(rounded[len(weights) :])
        inner: list[Array | None] = [None if b is None else next(rest) for b in biases[:-1]]
        return rounded_x, rounded[: len(weights)], [*inner, biases[-1]]


def wide(k: int) -> int:
    """A padded width."""
    return k + -k % _ROW


def _epilogue(b: Array | None, f: Any) -> int:
    return (Epilogue.BIAS if b is not None else 0) | (Epilogue.RELU if f is not None else 0) or Epilogue.NONE
