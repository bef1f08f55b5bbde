"""A training step of SLiM at the paper's shapes: prototypes in pieces and local views of one length in one batch, against the same mathematics with
tables of all logits (clips or tokens x prototypes) and one forward pass for each local view.

Both losses and a gradient are first checked to agree. Prints seconds, their ratio, and the largest memory of a process for each way.
Arguments: batch (4), prototypes (65536)."""

import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from skelnb.methods.slim import Slim, SlimPreset, Targets, hidden_rows, pairs, spread
from skelnb.objectives.prototypes import sinkhorn
from skelnb.transforms.draws import Draws


class Dense(Slim):
    """The same step with dense tables."""

    def losses(self, batch, draws):
        p, (views, global_masks, local_masks) = self.preset, self.views(batch, draws)
        x, mask, n = torch.cat(views.globals), torch.cat(global_masks), len(batch["x"])
        hidden, shares = hidden_rows(mask)
        with torch.no_grad():
            cls_t, tokens_t = self.teacher["encoder"].encode(x)
            q = {name: sinkhorn(self.teacher[name](z), p.teacher_start, p.sinkhorn)
                 for name, z in (("cls_head", cls_t), ("token_head", tokens_t.flatten(0, 1)[hidden]))}
        cls, tokens = self.encoder.encode(x, mask)
        local = [self.encoder.encode(view, m)[0] for frames, some in views.locals.items() for view, m in zip(some, local_masks[frames])]
        student = F.log_softmax(self.token_head(tokens.flatten(0, 1)[hidden]) / p.student_temperature, 1)
        mfm = -(shares * (q["token_head"] * student).sum(1)).sum()
        which, weights = pairs(views.anchors, n, p.pairing)
        student = F.log_softmax(self.cls_head(torch.cat([cls, *local])) / p.student_temperature, 1)
        targets = (q["cls_head"][which.clamp(min=0)] * (which >= 0)[..., None]).sum(1) / (which >= 0).sum(1, keepdim=True)
        glcl = -(weights * (targets * student).sum(1)).sum()
        return {"loss": mfm + p.w_glcl * glcl + p.w_koleo * 2 * spread(cls.unflatten(0, (-1, n)), p.koleo_group), "mfm": mfm, "glcl": glcl}


class Pieces(Slim):
    """Ours, without the look at the targets that is only logged."""

    def losses(self, batch, draws):
        usage, Targets.usage = Targets.usage, lambda self: (torch.zeros(()), torch.zeros(()))
        try:
            return super().losses(batch, draws)
        finally:
            Targets.usage = usage


def make(kind, prototypes):
    torch.manual_seed(0)
    return {"pieces": Pieces, "dense": Dense}[kind](SlimPreset.named("default", prototypes=prototypes)).train()


def step(method, x, i):
    method.zero_grad(set_to_none=True)
    terms = method.losses({"x": x}, Draws(0, i))
    terms["loss"].backward()
    return terms


def clips(n):
    return torch.randn(n, 3, 150, 25, 1, generator=torch.Generator().manual_seed(1)).cumsum(2) * 0.02


def peak(kind, n, prototypes):
    "Megabytes of a process that makes one step, with PyTorch, weights and gradients."
    step(make(kind, prototypes), clips(n), 0)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main(n: int = 4, prototypes: int = 65536) -> None:
    ways, x = {kind: make(kind, min(prototypes, 2048)) for kind in ("pieces", "dense")}, clips(n)
    found = {kind: step(method, x, 0) for kind, method in ways.items()}
    for term in ("mfm", "glcl", "loss"):
        assert abs(found["pieces"][term] - found["dense"][term]) < 1e-4 * found["dense"][term], term
    a, b = (next(w for name, w in m.named_parameters() if "blocks.0" in name and w.ndim == 2).grad for m in ways.values())
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)
    ways, best = {kind: make(kind, prototypes) for kind in ways}, {}
    for i in range(3):
        for kind, method in ways.items():
            began = time.perf_counter()
            step(method, x, i)
            best[kind] = min(best.get(kind, float("inf")), time.perf_counter() - began) if i else float("inf")
    del ways
    memory = {}
    for kind in best:
        done = subprocess.run([sys.executable, __file__, kind, str(n), str(prototypes)], capture_output=True, text=True, check=True)
        memory[kind] = json.loads(done.stdout)
    ratios = best["dense"] / best["pieces"], memory["dense"] / memory["pieces"]
    print(f"step at paper size, {n} clips, {prototypes:,} prototypes: in pieces {best['pieces']:.2f} s and {memory['pieces']:.0f} MB, dense {best['dense']:.2f} s "
          f"and {memory['dense']:.0f} MB, ratios {ratios[0]:.2f} and {ratios[1]:.1f} ({torch.get_num_threads()} thread(s))")


if __name__ == "__main__":
    if sys.argv[1:2] in (["pieces"], ["dense"]):
        peak(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
