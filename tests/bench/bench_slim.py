"""A training step of SLiM at the paper's shapes: prototypes in pieces and local views of one length in one batch, against the same mathematics with
tables of all logits (clips or tokens x prototypes) and one forward pass for each local view.

Both losses and a gradient are first checked to agree, with few prototypes. Then each form runs in a process of its own. Prints CPU seconds of a step, the
largest memory of the process and what a step adds to the model's, and their ratios. Model, views and prototypes are the paper's in size, the batch is not:
what the dense form adds grows with it. Arguments: batch (12), prototypes (65536); about two minutes and 5 GB. With two clips the logits are few, and pieces
save nothing."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

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


def one(kind: str, n: int, prototypes: int) -> dict:
    "Seconds of CPU and of the clock for one step, the better of two after a first; megabytes of the process, and how many of them the steps added."
    def megabytes(what):
        return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    method, x, took = make(kind, prototypes), clips(n), []
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the largest size so far: making the model takes some, too
    before = megabytes("VmRSS")
    for i in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        step(method, x, i)
        took.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = min(took[1:])
    return {"cpu": cpu, "wall": wall, "mb": megabytes("VmHWM"), "added": megabytes("VmHWM") - before, "threads": torch.get_num_threads()}


def child(kind: str, n: int, prototypes: int) -> dict:
    done = subprocess.run([sys.executable, __file__, kind, str(n), str(prototypes)], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def agree(n: int, prototypes: int) -> None:
    "Both forms give the same losses and the same gradient."
    ways = {kind: make(kind, prototypes) for kind in ("pieces", "dense")}
    found = {kind: step(method, clips(n), 0) for kind, method in ways.items()}
    for term in ("mfm", "glcl", "loss"):
        assert abs(found["pieces"][term] - found["dense"][term]) < 1e-4 * found["dense"][term], term
    a, b = (next(w for name, w in m.named_parameters() if "blocks.0" in name and w.ndim == 2).grad for m in ways.values())
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def main(n: int = 12, prototypes: int = 65536) -> None:
    agree(2, 512)
    ours, dense = (child(kind, n, prototypes) for kind in ("pieces", "dense"))
    said = {kind: f"{r['cpu']:.2f} s of CPU ({r['wall']:.2f} s), {r['mb']:.0f} MB of which {r['added']:.0f} for the step"
            for kind, r in (("pieces", ours), ("dense", dense))}
    print(f"a step at the paper's view shapes, {n} clips, {prototypes:,} prototypes, {ours['threads']} thread(s): "
          f"in pieces {said['pieces']}; dense {said['dense']}; "
          f"ratios {dense['cpu'] / ours['cpu']:.2f} of time, {dense['mb'] / ours['mb']:.2f} and {dense['added'] / ours['added']:.2f} of memory")


if __name__ == "__main__":
    if sys.argv[1:2] in (["pieces"], ["dense"]):
        print(json.dumps(one(sys.argv[1], *map(int, sys.argv[2:]))))
    else:
        main(*map(int, sys.argv[1:]))
