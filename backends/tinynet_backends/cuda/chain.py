"""Dense layers one after another, with ReLU between them: bias, ReLU, its gradient and the bias gradient are done by the
products themselves, and where those take bfloat16, that is what lies between layers."""

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
        and all(w.ndim == 2 and w.dtype == x.dtype for w, *_ in layers)
        and all(f is None or (traced(f, 1), traced(df, 3)) == relu for *_, f, df in layers)
    )


class Chain:
    """One pass through ``layers``, forward and back. ``ops`` has products, kernels and memory (`cuda.device`).

    In bfloat16 the weights are rounded once, outputs of inner layers and their gradients as they are stored; biases too,
    and their gradients, which epilogues of such products have in the type of the result. The first layer's input and the
    last one's output are float32, as are the gradients that come out.
    """

    def __init__(self, ops: Any, layers: Sequence[DenseLayer], need_dx: bool) -> None:
        self.ops, self.products, self.layers, self.need_dx = ops, ops._products, layers, need_dx
        self.inputs: list[Array] = []
        self.weights: list[Array] = []
        self.masks: list[Array | None] = []

    def forward(self, x: Array) -> Array | None:
        """The last layer's output; None if cublasLt has no way for one of them."""
        real, last = x.dtype, len(self.layers) - 1
        half = self.products.precision == "bf16" and real.name == "float32"
        for n, (w, b, f, _) in enumerate(self.layers):
            self.inputs.append(self._operand(x, half))
            self.weights.append(self._operand(w, half))
            inner = half and n < last
            y = self._padded((x.shape[0], w.shape[1])) if inner else self.ops.empty((x.shape[0], w.shape[1]), real)
            epilogue = Epilogue.NONE if b is None else Epilogue.BIAS
            mask = None
            if f is not None and n < last:
                epilogue |= Epilogue.RELU_KEEP
                planned = self.products.planned(self.inputs[n], self.weights[n], epilogue, y)
                if planned is None:
                    return None
                mask = self.ops.empty((planned.aux_bytes,), "uint8")
            elif f is not None:
                epilogue = epilogue & ~Epilogue.NONE | Epilogue.RELU
            bias = b if b is None or not inner else self._operand(b, half)
            if self.products.product(self.inputs[n], self.weights[n], epilogue, bias, mask, y) is None:
                return None
            self.masks.append(mask)
            x = y
        self.output = x
        return x

    def backward(self, dy: Array) -> Gradients:
        """The gradient of the input, if it is needed, and those of each layer's weights and bias."""
        if self.layers[-1].f is not None:
            dy = self.ops.elementwise(_relu_grad, dy, self.output, self.output)
        real, half = dy.dtype, self.inputs[0].dtype != dy.dtype
        gradients: list[tuple[Array, Array | None]] = []
        db: Array | None = None
        for n in reversed(range(len(self.layers))):
            b = self.layers[n].b
            dy = self._operand(dy, half)
            dw, sums = self._weight_gradient(n, dy, real, b is not None and db is None)
            gradients.append((dw, db if sums is None else sums))
            if n or self.need_dx:
                dy, db = self._input_gradient(n, dy, real, half)
        return (dy if self.need_dx else None), gradients[::-1]

    def _weight_gradient(self, n: int, dy: Array, real: Any, bias: bool) -> tuple[Array, Array | None]:
        x, w = self.inputs[n].swapaxes(0, 1), self.layers[n].w
        dw = self.ops.gradient(w.shape, real)
        db = self.ops.gradient(w.shape[1:], real) if bias else None
        if self.products.product(x, dy, Epilogue.SUM_A if bias else Epilogue.NONE, db, None, dw) is None:
            self.products.product(x, dy, Epilogue.NONE, None, None, dw)
            if db is not None:
                db[...] = self._real(dy, real).sum(axis=0)
        return dw, db

    def _input_gradient(self, n: int, dy: Array, real: Any, half: bool) -> tuple[Array, Array | None]:
        """What comes out before layer n, through the ReLU of the one before; and the gradient of that one's bias."""
        w, shape = self.weights[n].swapaxes(0, 1), self.inputs[n].shape
        if n == 0:
            return self.products.product(dy, w, out=self.ops.empty(shape, real)), None
        mask, biased = self.masks[n - 1], self.layers[n - 1].b is not None
        if mask is None:
            return self.products.product(dy, w, out=self.ops.empty(shape, real)), None
        dx = self._padded(shape) if half else self.ops.empty(shape, real)
        db = None
        if biased:
            db = self.ops.empty(shape[1:], dx.dtype) if half else self.ops.gradient(shape[1:], real)
        epilogue = Epilogue.DRELU | (Epilogue.BIAS_GRADIENT if biased else 0)
        if self.products.product(dy, w, epilogue, db, mask, dx) is not None:
            return dx, self.ops.widened(db, self.ops.gradient(db.shape, real)) if biased and half else db
        dx = self.products.product(dy, w, out=self.ops.empty(shape, real))
        y = self._real(self.inputs[n], real)
        return self.ops.elementwise(_relu_grad, dx, y, y), None

    def _operand(self, x: Array, half: bool) -> Array:
        """``x`` (n, k) or (k,) as products take it."""
        if not half or x.dtype.name == _HALF:
            return x
        rounded = self._padded(x.shape)
        self.ops.rounded(x, rounded)
        return rounded

    def _padded(self, shape: tuple[int, ...]) -> Array:
        """Room for bfloat16 whose rows begin where tensor cores can read them."""
        k = shape[-1]
        return self.ops.empty((*shape[:-1], k + -k % _ROW), _HALF)[..., :k]

    def _real(self, x: Array, real: Any) -> Array:
        return self.ops.widened(x, self.ops.empty(x.shape, real)) if x.dtype.name == _HALF else x


def through(
    ops: Any, x: Array, layers: Sequence[DenseLayer], need_dx: bool
) -> tuple[Array, Callable[[Array], Gradients]] | None:
    """See `Backend.dense`."""
    if not fits(x, layers):
        return None
    chain = Chain(ops, layers, need_dx)
    y = chain.forward(x)
    return None if y is None else (y, chain.backward)
