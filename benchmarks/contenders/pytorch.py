"""PyTorch, eager. bf16 is automatic mixed precision: products in bfloat16, weights and optimizer in float32.

For bf16x3 all is float32.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from benchmarks.contenders import Step
from benchmarks.tasks import Array, Task


def _dense(w: Array, b: Array | None) -> nn.Linear:
    dense = nn.Linear(*w.shape, bias=b is not None)
    with torch.no_grad():
        dense.weight.copy_(torch.tensor(w.T))
        if b is not None:
            dense.bias.copy_(torch.tensor(b))
    return dense


def _network(task: Task) -> nn.Sequential:
    parts: list[nn.Module] = []
    for w, b in task.start():
        parts += [_dense(w, b), nn.Sigmoid() if task.article else nn.ReLU()]
    return nn.Sequential(*(parts if task.article else parts[:-1]))


def settle(precision: str) -> None:
    """Set how this process computes float32 products."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def make(task: Task, device: str = "cpu", precision: str = "float32") -> Step:
    settle(precision)
    net = _network(task).to(device)
    kind = partial(torch.optim.SGD, lr=1.0) if task.article else partial(torch.optim.Adam, lr=1e-3)
    optimizer = kind(net.parameters(), fused=True)  # faster than the default, on the CPU too
    loss_of = nn.MSELoss(reduction="sum") if task.article else nn.CrossEntropyLoss()
    x, y = (torch.tensor(a, device=device) for a in task.data())

    def forward() -> torch.Tensor:
        return loss_of(net(x), y)

    if precision == "bf16":
        forward = torch.autocast(device, torch.bfloat16)(forward)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = forward()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def product(task: Task, n: int, device: str = "cpu", precision: str = "float32") -> Step:
    """Not a step of the task, but one product of n × n matrices that have the precision already."""
    settle(precision)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn((2, n, n), device=device).to(kind)
    c = torch.empty_like(a)
    return lambda: torch.matmul(a, b, out=c)[0, 0]
