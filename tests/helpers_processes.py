"""Jobs for several processes that test `objectives` (they must be importable there, hence a module of their own)."""

import os

import torch
import torch.distributed as dist

from skelnb.objectives.decorrelation import Weights, decorrelation
from skelnb.objectives.processes import BatchNorm, gathered, process, summed


def joined() -> tuple[int, int]:
    "Rank and number of processes, the process group made where there are several."
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return process()


def averaged(*tensors) -> list:
    "As DistributedDataParallel averages gradients."
    rank, world = process()
    for t in tensors:
        if world > 1:
            dist.all_reduce(t)
        t /= world
    return [t.tolist() for t in tensors]


def projected_loss(form: str) -> dict:
    "Loss and gradients of a linear layer with batch normalisation and decorrelation, 3 views of 8 clips shared by all processes."
    torch.set_num_threads(1)
    rank, world = joined()
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 8, 5, generator=g), torch.randn(5, 6, generator=g).requires_grad_()
    norm = BatchNorm(6)
    mine = x[:, rank * 8 // world:(rank + 1) * 8 // world]
    terms = decorrelation([norm(view @ weight) for view in mine], Weights(form=form))
    terms["loss"].backward()
    return {"loss": terms["loss"].item(), "grads": averaged(weight.grad, norm.weight.grad, norm.bias.grad), "var": norm.running_var.tolist(),
            "mean": norm.running_mean.tolist()}


def sums() -> dict:
    "Gradients through `summed` and `gathered` when every process has a loss of its own."
    rank, world = joined()
    x = torch.arange(4.0).reshape(4, 1)[rank * 4 // world:(rank + 1) * 4 // world].clone().requires_grad_()
    everyone = gathered(x)
    loss = ((everyone * torch.arange(1.0, 5.0)[:, None]).sum() + summed(x.sum()) ** 2) * (rank + 1)
    loss.backward()
    return {"everyone": everyone.flatten().tolist(), "grad": gathered(x.grad).flatten().tolist()}
