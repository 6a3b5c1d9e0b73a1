"""Dense layers one after another, with ReLU between them: products add biases and cut off what is below 0, one pass does all
that is between two products on the way back, and where those take bfloat16, that is what lies between layers.

cublasLt has ReLU's gradient as an epilogue too, but does it, on Hopper, by a kernel of its own that takes three times as
long as a pass over memory (an H200, cuBLAS 13: 104 µs for 8192 x 2048 in bfloat16).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinynet_backends.backend import Array, DenseLayer, Gradients
from tinynet_backends.cuda.plan import ALIGNED, SIZES, STORED, Epilogue
from tinynet_backends.tracing import traced

_HALF, _ROW = STORED["bfloat16"], ALIGNED // SIZES["bfloat16"]


def _relu(xp: Any, x: Array) -> Array:
    return xp.maximum(x, 0.0)


def _relu_grad(xp: Any, dy: Array, x: Array, y: Array) -> Array:
    return xp.where(y > 0, dy, xp.zeros_like(dy))


def fits(x: Array, layers: Sequence[DenseLayer]) -> bool:
    """Whether these are layers that a `Chain` can do."""
    relu = traced(_relu, 1), traced(_relu_grad, 3)
    return (
        x.ndim == 2
        and x.size > 0
        and x.dtype.name in ("float32", "float64")
        and any(layer.f is not None for layer in layers)
        and all(w.ndim == 2 and w.dtype == x.dtype and w.flags.c_contiguous for w, *_ in layers)
        and all(b is None or b.flags.c_contiguous for _, b, *_ in layers)
        and all(f is None or df is None or (traced(f, 1), traced(df, 3)) == relu for *_, f, df in layers)
    )


class Chain:
    """One pass through ``layers``, forward and back. ``ops`` has products, kernels and memory (`cuda.device`).

    With bfloat16 operands, outputs of inner layers are stored as such, and so are the gradients that products give; biases
    are rounded too, because epilogues have them in the type of the result. The last layer's output is float32, and so
    are all gradients that come out.
    """

    def __init__(self, ops: Any, layers: Sequence[DenseLayer], need_dx: bool) -> None:
        self.ops, self.products, self.layers, self.need_dx = ops, ops._products, layers, need_dx
        self.inputs: list[Array] = []

    def forward(self, x: Array) -> Array | None:
        """The last layer's output; None if cublasLt has no way for one of them."""
        self.real, last = x.dtype, len(self.layers) - 1
        self.half = self.products.precision == "bf16" and x.dtype.name == "float32"
        self.weights, biases = self._parameters()
        for n, ((w, b, f, _), bias) in enumerate(zip(self.layers, biases, strict=True)):
            self.inputs.append(self._operand(x))
            shape = x.shape[0], w.shape[1]
            x = self._inner(shape) if n < last else self.ops.empty(shape, self.real)
            epilogue = (Epilogue.BIAS if b is not None else 0) | (Epilogue.RELU if f is not None else 0)
            if self.products.product(self.inputs[n], self.weights[n], epilogue or Epilogue.NONE, bias, out=x) is None:
                return None
        self.output = x
        return x

    def backward(self, dy: Array) -> Gradients:
        """The gradient of the input, if it is needed, and those of each layer's weights and bias."""
        gradients: list[tuple[Array, Array | None]] = []
        for n in reversed(range(len(self.layers))):
            w, b, f, _ = self.layers[n]
            last = n == len(self.layers) - 1
            y = None if f is None else self.output if last else self.inputs[n + 1]
            dz = self._inner(dy.shape) if last and (self.half or y is not None) else None if last else dy
            db = None if b is None else self.ops.gradient(b.shape, self.real)
            if db is not None or y is not None or dz is not dy:
                self.ops.back(dy, y, dz, db)
            dy = dy if dz is None else dz
            dw = self.ops.gradient(w.shape, self.real)
            self._product(self.inputs[n].swapaxes(0, 1), dy, dw)
            gradients.append((dw, db))
            if n or self.need_dx:
                dx = self._inner(self.inputs[n].shape) if n else self.ops.empty(self.inputs[n].shape, self.real)
                self._product(dy, self.weights[n].swapaxes(0, 1), dx)
                dy = dx
        return (dy if self.need_dx else None), gradients[::-1]

    def _product(self, x: Array, w: Array, out: Array) -> None:
        if self.products.product(x, w, out=out) is None:
            raise RuntimeError(f"cublasLt has no algorithm for the product of {x.shape} and {w.shape}: update cuBLAS")

    def _parameters(self) -> tuple[list[Array], list[Array | None]]:
        """Weights and biases as products take them."""
        weights, biases = [layer.w for layer in self.layers], [layer.b for layer in self.layers]
        if self.half:
            inner = [b for b in biases[:-1] if b is not None]
            rounded = [self._inner(a.shape) for a in (*weights, *inner)]
            self.ops.rounded_together([*weights, *inner], rounded)
            weights, rest = rounded[: len(weights)], iter(rounded[len(weights) :])
            biases = [*(None if b is None else next(rest) for b in biases[:-1]), biases[-1]]
        return weights, biases

    def _operand(self, x: Array) -> Array:
        """``x`` (n, k) as products take it."""
        if not self.half or x.dtype.name == _HALF:
            return x
        rounded = self._inner(x.shape)
        self.ops.rounded(x, rounded)
        return rounded

    def _inner(self, shape: tuple[int, ...]) -> Array:
        """Room for what lies between products; bfloat16 in rows that begin where tensor cores can read them."""
        if not self.half:
            return self.ops.empty(shape, self.real)
        k = shape[-1]
        return self.ops.empty((*shape[:-1], k + -k % _ROW), _HALF)[..., :k]


def through(
    ops: Any, x: Array, layers: Sequence[DenseLayer], need_dx: bool
) -> tuple[Array, Callable[[Array], Gradients]] | None:
    """See `Backend.dense`."""
    if not fits(x, layers):
        return None
    chain = Chain(ops, layers, need_dx)
    y = chain.forward(x)
    return None if y is None else (y, chain.backward)
