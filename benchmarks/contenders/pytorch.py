"""PyTorch, eager."""

from __future__ import annotations

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


def make(task: Task, device: str = "cpu") -> Step:
    net = _network(task).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 1.0) if task.article else torch.optim.Adam(net.parameters(), 1e-3)
    loss_of = nn.MSELoss(reduction="sum") if task.article else nn.CrossEntropyLoss()
    x, y = (torch.tensor(a, device=device) for a in task.data())

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
