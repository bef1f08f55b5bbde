"""Jobs for several processes that test the prototypes (they must be importable there, hence a module of their own)."""

import torch
import torch.nn.functional as F
from helpers_processes import averaged, joined

from skelnb.objectives.processes import gathered
from skelnb.objectives.prototypes import prototype_cross_entropy, sinkhorn, sinkhorn_weights


def masked_tokens() -> list[dict]:
    "Targets, loss and gradients of 14 tokens, a sixth of the loss each view, shared by all processes unevenly; the last time one has none."
    torch.set_num_threads(1)
    rank, world = joined()
    g = torch.Generator().manual_seed(0)
    teacher, student = (F.normalize(torch.randn(14, 5, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    teacher_weight, weight = (F.normalize(torch.randn(11, 5, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    omega = torch.rand(14, generator=g, dtype=torch.float64)
    results = []
    for cut in (9, 14):
        mine = slice(None) if world == 1 else slice(0, cut) if rank == 0 else slice(cut, None)
        t, s, w = teacher[mine], student[mine], weight.clone().requires_grad_()
        log_r = sinkhorn_weights(t, teacher_weight, 0.05, chunk=4, weights=omega[mine])
        q = sinkhorn(t @ teacher_weight.T, 0.05, weights=omega[mine])
        loss = prototype_cross_entropy(s, w, t, teacher_weight, log_r, teacher_temperature=0.05, sample_weight=omega[mine] * world, chunk=3)
        loss.backward()
        padded = torch.zeros(14, 11, dtype=q.dtype)
        padded[mine] = q
        q = gathered(padded[None]).sum(0)
        results.append({"log_r": log_r.tolist(), "q": q.tolist(), "loss": averaged(loss.detach()), "grad": averaged(w.grad)})
    return results
