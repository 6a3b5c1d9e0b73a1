"""PyTorch, the whole step under ``torch.compile`` as one graph: loss, gradient, and Adam written out.

A step of ``loss.backward()`` and ``optimizer.step()`` compiles too, in three graphs with Python between them, and takes
several times as long where the network is small. On a CUDA device the step is one launch of a CUDA graph. bf16 is products
and activations in bfloat16, with weights and Adam in float32; for bf16x3 all is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.contenders import Step
from benchmarks.contenders.pytorch import settle
from benchmarks.tasks import ADAM, Task


def _cross_entropy(p: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    for n in range(0, len(p) - 2, 2):
        x = torch.relu(torch.addmm(p[n + 1], x, p[n]))
    return functional.cross_entropy(torch.addmm(p[-1], x, p[-2]).float(), y)


def _squares(p: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    for w in p:
        x = torch.sigmoid(x @ w)
    return ((x - y) ** 2).sum()


def _adam(p: list[Tensor], m: list[Tensor], v: list[Tensor], g: list[Tensor], t: Tensor) -> None:
    lr, beta1, beta2, epsilon = ADAM.values()
    t.add_(1)
    first, second = lr / (1 - beta1**t), 1 / (1 - beta2**t)
    for p_, m_, v_, g_ in zip(p, m, v, g, strict=True):
        g_ = g_.float()
        m_.mul_(beta1).add_((1 - beta1) * g_)
        v_.mul_(beta2).add_((1 - beta2) * g_ * g_)
        p_.sub_(first * m_ / ((second * v_).sqrt() + epsilon))


def _captured(step: Step, state: list[Tensor]) -> Step:
    """The step as one launch; ``state`` is left as it was."""
    kept = [a.clone() for a in state]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for a, was in zip(state, kept, strict=True):
        a.copy_(was)

    def launch() -> Tensor:
        graph.replay()
        return loss

    launch.memory = step, state  # type: ignore[attr-defined]  # which the graph uses but does not keep alive
    return launch


def make(task: Task, device: str = "cpu", precision: str = "float32") -> Step:
    settle(precision)
    torch.compiler.reset()  # or code compiled for another task would be tried first, and kept
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x, y = (torch.tensor(a, device=device) for a in task.data())
    p = [torch.tensor(a, device=device) for layer in task.start() for a in layer if a is not None]
    m, v = ([torch.zeros_like(a) for a in p] for _ in range(2))
    t = torch.zeros((), device=device)
    loss_of = torch.func.grad_and_value(_squares if task.article else _cross_entropy)

    @torch.compile(fullgraph=True)
    def step() -> Tensor:
        g, value = loss_of([a.to(kind) for a in p], x.to(kind), y)
        if task.article:
            for a, da in zip(p, g, strict=True):
                a.sub_(da)
        else:
            _adam(p, m, v, g, t)
        return value

    return _captured(step, [*p, *m, *v, t]) if device == "cuda" else step
