"""JAX: the whole step under one ``jit``, its state donated, Adam written out.

bf16 is products and activations in bfloat16, with weights and Adam in float32; for bf16x3 all is float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contenders import Step
from benchmarks.tasks import ADAM, Task

Tree = Any
# Operands and precision of products; by default a GPU rounds float32 to fewer bits than the other contenders do.
PRECISIONS = {
    "float32": ("float32", "highest"), "bf16x3": ("float32", "highest"), "tf32": ("float32", "high"),
    "bf16": ("bfloat16", "default"),
}  # fmt: skip


def _dense(x: jax.Array, w: jax.Array, b: jax.Array | None) -> jax.Array:
    return x @ w if b is None else x @ w + b


def _cross_entropy(layers: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = jax.nn.relu(_dense(x, *layer))
    log = jax.nn.log_softmax(_dense(x, *layers[-1]).astype("float32"))
    return -jnp.mean(jnp.take_along_axis(log, y[:, None], axis=1))


def _squares(layers: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
    for layer in layers:
        x = jax.nn.sigmoid(_dense(x, *layer))
    return jnp.sum((x - y) ** 2)


def _adam(layers: Tree, slots: Tree, g: Tree, t: jax.Array) -> tuple[Tree, Tree]:
    lr, beta1, beta2, epsilon = ADAM.values()
    m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, slots[0], g)
    v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, slots[1], g)
    first, second = lr / (1 - beta1**t), 1 / (1 - beta2**t)
    return jax.tree.map(lambda p, m, v: p - first * m / (jnp.sqrt(second * v) + epsilon), layers, m, v), (m, v)


def _descent(layers: Tree, slots: Tree, g: Tree, t: jax.Array) -> tuple[Tree, Tree]:
    return jax.tree.map(lambda p, g: p - g, layers, g), slots


def make(task: Task, device: str = "cpu", precision: str = "float32") -> Step:
    kind, of_products = PRECISIONS[precision]
    jax.config.update("jax_default_matmul_precision", of_products)
    loss, rule = (_squares, _descent) if task.article else (_cross_entropy, _adam)
    put = partial(jax.device_put, device=jax.devices(device)[0])
    x, y = map(put, task.data())
    layers = put(task.start())
    slots = (jax.tree.map(jnp.zeros_like, layers),) * 2
    state = layers, jax.tree.map(jnp.array, slots), put(jnp.float32(0))

    @partial(jax.jit, donate_argnums=0)
    def whole(state: Tree, x: jax.Array, y: jax.Array) -> tuple[Tree, jax.Array]:
        layers, slots, t = state
        rounded, x = jax.tree.map(lambda a: a.astype(kind), (layers, x))
        value, g = jax.value_and_grad(loss)(rounded, x, y)
        g = jax.tree.map(lambda a: a.astype("float32"), g)
        return (*rule(layers, slots, g, t + 1), t + 1), value

    def step() -> jax.Array:
        nonlocal state
        state, value = whole(state, x, y)
        return value  # not waited for: a loop that reads no loss does not wait either

    return step
