"""A training step of ActCLR (the method of CVPR 2023, whose code is public) against the same mathematics in the public implementation's way.

Both make the same passes: two for the masks, one of the teacher, three with gradients. The public way augments one clip after another with NumPy,
projects before it gathers along bones, copies the queue for every loss, and picks the nearest keys twice. With equal views both losses are first
checked to agree. Prints seconds and their ratio; `bench_augment.py` measures the views alone. Arguments: batch (32), repeats (3)."""

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from bench_augment import keep_memory, one_by_one

import skelnb.methods.actclr as module
from skelnb.backbones.stgcn import STGCN
from skelnb.methods.actclr import Actclr, ActclrPreset
from skelnb.transforms.draws import Draws

IDS = {"crop": 0, "shear": 0, "flip": 1, "rotate": 2, "noise": 3, "blur": 4, "axis_mask": 5, "time_flip": 6, "dropout": 7, "speed": 8, "rescale_bones": 9}


class Public(Actclr):
    """The public way."""

    def distil(self, q, k):
        p, q = self.preset, F.normalize(q, dim=1)
        teacher = k.detach() @ self.bank.queue.clone().detach().T
        teacher = torch.where(teacher > p.dedup, -1.0, teacher)
        student = (q @ self.bank.queue.clone().detach().T).square() / p.tau_q
        student = student.gather(1, teacher.topk(p.top_k).indices).log_softmax(1)
        teacher = (teacher.topk(p.top_k).values / p.tau_k).softmax(1)
        return F.kl_div(student, teacher, reduction="batchmean")


def numpy_way(x, draws, steps):
    "`augment` one clip at a time."
    rng = np.random.default_rng(draws.child("numpy").randint(1, 1, high=2**31).item())
    sigma = 0.05 if "speed" in steps or "rescale_bones" in steps else 0.01
    return one_by_one(x.numpy(), rng, {IDS[name] for name in steps}, sigma)


def make():
    "Ours, and the public way with the same weights."
    torch.manual_seed(0)
    p = ActclrPreset.named("cvpr", dropout=0.0, top_k=8192, bugs=False)
    ours = Actclr(p).train()
    theirs = Public(p, STGCN(p.layout, p.channels, p.width, p.dim, p.dropout, mode=p.graph, persons=p.pooling, order="project_first", skip_empty=False)).train()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def main(n: int = 32, repeats: int = 3) -> None:
    keep_memory()
    x = torch.randn(n, 3, 50, 25, 2, generator=torch.Generator().manual_seed(0)).cumsum(2) * 0.02
    ours, theirs = make()
    losses = [m.losses({"x": x}, Draws(0))["loss"] for m in (ours, theirs)]
    assert abs(losses[0] - losses[1]) < 1e-3 * losses[0], losses
    batched, best = module.augment, {}

    def step(method, way, i):
        module.augment = way
        method.zero_grad(set_to_none=True)
        method.losses({"x": x}, Draws(1, i))["loss"].backward()
        method.after_step(Draws(2, i), 0.1)

    for i in range(repeats + 1):
        for name, method, way in (("ours", ours, batched), ("public", theirs, numpy_way)):
            began = time.perf_counter()
            step(method, way, i)
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - began) if i else float("inf")
    module.augment = batched
    print(f"step at paper size, batch {n}: ours {best['ours']:.2f} s, the public way {best['public']:.2f} s, ratio {best['public'] / best['ours']:.2f} "
          f"({torch.get_num_threads()} thread(s))")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
