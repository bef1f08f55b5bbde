"""Jobs for several processes that test `objectives.contrast` (they must be importable there, hence a module of their own)."""

import torch
from helpers_processes import averaged, joined

from skelnb.objectives.contrast import MemoryBank, dense_info_nce, distribution_matching, info_nce, similarity_distillation, snippet_key


def contrast_steps(steps: int = 3) -> dict:
    "Some steps of a linear encoder with all losses, on 6 clips of 4 snippets shared by all processes; a queue that wraps."
    torch.set_num_threads(1)
    rank, world = joined()
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 8, generator=g).requires_grad_()
    bank, snippets, values, grads = MemoryBank(8, 16), MemoryBank(8, 10, start="empty"), [], []
    snippets.enqueue(torch.eye(8)[rank * 2 // world:(rank + 1) * 2 // world])
    mine = slice(rank * 6 // world, (rank + 1) * 6 // world)
    for _ in range(steps):
        x, y, h = (torch.randn(6, 4, 5, generator=g) for _ in range(3))
        valid = torch.arange(4) < torch.tensor([4, 1, 2, 4, 4, 3])[:, None]
        x, y, h, valid = (t[mine] for t in (x, y, h, valid))
        p, p_key = x @ weight, (y @ weight).detach()
        q, k = p.mean(1), p_key.mean(1)
        loss = (info_nce(q, k, bank, 0.2, neighbours=2) + similarity_distillation(q, k, bank, top_k=8)
                + distribution_matching(q, p[:, 0], k, bank) + dense_info_nce(p, p_key, h, h, snippets, 0.2, valid=valid, valid_key=valid))
        bank.enqueue(k)
        snippets.enqueue(snippet_key(p_key, valid))
        grad, = torch.autograd.grad(loss, weight)
        value, grad = averaged(loss.detach().clone(), grad)
        values.append(value)
        grads.append(grad)
        weight = (weight.detach() - 0.1 * torch.tensor(grad)).requires_grad_()
    return {"loss": values, "grads": grads, "queue": bank.queue.tolist(), "snippets": snippets.keys.tolist(), "pointer": [bank.pointer, snippets.pointer]}
