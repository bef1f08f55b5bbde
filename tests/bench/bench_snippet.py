"""A training step of Skeleton-Snippet on RVTCLR and AGCN, as the release sets it, against the same mathematics in the public implementations' way.

Both make the same five passes: student and teacher at one tempo, teacher at the other, student on the whole third view, and AGCN throughout. The public way
augments one clip after another with NumPy, convolves subset by subset of the graph, copies a queue for every use, keeps all logits for the backward pass, and
picks positives with masks as large as the queue. With equal views, losses are first checked to agree, before and after mining begins.
Prints seconds and their ratio. Arguments: batch (8), repeats (3), frames of a clip (300)."""

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from bench_augment import keep_memory, one_by_one

from skelnb.backbones.agcn import AdaptiveGraphConv
from skelnb.methods.snippet import Snippet, SnippetPreset
from skelnb.transforms.draws import Draws


def subset_by_subset(layer: AdaptiveGraphConv, x):
    "An adaptive graph convolution as 2s-AGCN writes it."
    n, _, t, v = x.shape
    quarter, out, y = layer.conv.out_channels // 12, layer.conv.out_channels // 3, None
    for k in range(3):
        rows, more = slice(k * quarter, (k + 1) * quarter), slice((3 + k) * quarter, (4 + k) * quarter)
        a = F.conv2d(x, layer.embed.weight[rows], layer.embed.bias[rows]).permute(0, 3, 1, 2).reshape(n, v, quarter * t)
        b = F.conv2d(x, layer.embed.weight[more], layer.embed.bias[more]).reshape(n, quarter * t, v)
        links = torch.softmax(a @ b / (quarter * t), -2) + layer.A[k] + layer.B[k]
        heard = (x.reshape(n, -1, v) @ links).view_as(x)
        z = F.conv2d(heard, layer.conv.weight[k * out:(k + 1) * out], layer.conv.bias[k * out:(k + 1) * out])
        y = z if y is None else y + z
    return F.relu(layer.norm(y) + layer.shortcut(x))


class Public(Snippet):
    """The public way, for one person a clip."""

    def public_views(self, x, seed):
        rng, n, frames = np.random.default_rng(seed), len(x), x.shape[2]
        query, key, whole = (one_by_one(x.numpy(), rng, ids, 0.01) for ids in ({0, 3, 4, 5}, {0}, {0}))
        order = torch.from_numpy(rng.permutation(n))
        half, slow, quick = frames // 2, torch.arange(frames // 2), torch.arange(0, frames, 2)
        made = {name: torch.empty(n, 3, half, *x.shape[3:]) for name in ("query", "key", "other")}
        for rows, own, different in ((order[:n // 2], slow, quick), (order[n // 2:], quick, slow)):
            for name, source, frame in (("query", query, own), ("key", key, own), ("other", key, different)):
                made[name][rows] = source.index_select(0, rows).index_select(2, frame)
        return made | {"whole": whole}

    def say(self, branch, x):
        h = branch["encoder"].forward_map(x)
        return h, h.mean((2, 3))

    def by_parts(self, branch, h):
        R = branch["relation"]
        x = torch.stack([h[..., list(joints)].mean(3) for joints in self.encoder.layout.parts.values()], 3)
        x = R.squeeze(x.movedim(1, -1)).movedim(-1, 1)
        n, d, t, v = x.shape
        mean = x.mean(3).mT
        f = torch.softmax(R.theta(mean) @ R.phi(mean).mT, -1)
        g = R.g(x.permute(0, 3, 2, 1)).permute(0, 2, 1, 3).reshape(n, t, -1)
        y = R.out((f @ g).view(n, t, v, -1).permute(0, 2, 1, 3))
        return branch["relation_head"]((x + R.norm(y.reshape(-1, d)).view(n, v, t, d).permute(0, 3, 2, 1)).mean((2, 3)))

    def nce(self, q, k, bank, masks=()):
        tau, k = self.preset.temperature, k[..., None] if k.ndim == 2 else k
        positive = torch.einsum("nc,nck->nk", q, k)
        logits = torch.cat([positive, torch.einsum("nc,ck->nk", q, bank.queue.T.clone().detach())], 1) / tau
        if not len(masks):
            return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        right = torch.cat([torch.ones(len(q), 1), masks], 1)
        return -((logits.log_softmax(1) * right).sum(1) / right.sum(1)).mean()

    def nearest(self, bank, k, *queries):
        mask = torch.zeros(len(queries[0]), len(bank.queue))
        for q in queries:
            mask.scatter_(1, (q @ bank.queue.T.clone()).topk(k).indices, 1)
        return mask

    def public_loss(self, x, mining):
        p, tau, s, t = self.preset, self.preset.temperature, self.student, self.teacher
        unit = lambda z: F.normalize(z, dim=-1)
        with torch.no_grad():
            (_, k), (h_key, o) = self.say(t, x["key"]), self.say(t, x["other"])
            k, o, km, om = unit(t["projector"](k)), unit(t["projector"](o)), unit(t["tempo_head"](k)), unit(t["tempo_head"](o))
            rows_key = F.adaptive_avg_pool1d(h_key.mean(3), p.bins or 19).mT
            found = t["snippet_head"](rows_key.flatten(0, 1)).view(*rows_key.shape[:2], -1)
        h, q = self.say(s, x["query"])
        z = unit(self.by_parts(s, self.say(s, x["whole"])[0]))
        q, m = unit(s["projector"](q)), unit(s["tempo_head"](q))
        masks = self.nearest(self.bank, 1, q, z) if mining else ()
        own, other = self.nce(q, k, self.bank, masks), self.nce(q, o, self.bank, masks)
        tempo = F.margin_ranking_loss((m * km).sum(1) / tau, (m * om).sum(1) / tau, torch.ones(len(m)), margin=1.0)
        logits = lambda z: torch.cat([(z * k).sum(1, keepdim=True), z @ self.bank.queue.T.clone().detach()], 1) / tau
        scaled = logits(z) if mining or not p.dc_unscaled else torch.cat([logits(z)[:, :1] * tau, logits(z)[:, 1:]], 1)
        parts = -(scaled.softmax(1).log() * logits(q).detach().softmax(1)).sum(1).mean()
        rows = F.adaptive_avg_pool1d(h.mean(3), p.bins or 19).mT
        match = torch.einsum("nid,njd->nij", rows, rows_key).argmax(2)
        best = unit(found.gather(1, match[..., None].expand(-1, -1, found.shape[2]))).flatten(0, 1)
        anchors = unit(s["snippet_head"](rows.flatten(0, 1)))
        near = self.nearest(self.snippet_bank, 5, anchors) if mining else ()
        snippets = self.nce(anchors, best, self.snippet_bank, near)
        self.waiting, self.snippets_waiting = o, unit(found.mean(1))
        return own + other + tempo + parts + p.weight * snippets


def make(frames):
    torch.manual_seed(0)
    p = SnippetPreset.named("release", frames=frames, bugs=False)
    ours, theirs = Snippet(p).train(), Public(p).train()
    theirs.load_state_dict(ours.state_dict())
    for layer in theirs.modules():
        if isinstance(layer, AdaptiveGraphConv):
            layer.forward = subset_by_subset.__get__(layer)
    return ours, theirs


def main(n: int = 8, repeats: int = 3, frames: int = 300) -> None:
    keep_memory()
    x = torch.randn(n, 3, frames, 25, 1, generator=torch.Generator().manual_seed(0)).cumsum(2) * 0.02
    ours, theirs = make(frames)
    x = ours.prepare(x)
    views = ours.views({"x": x}, Draws(0))
    ours.views = lambda batch, draws: views
    for progress in (0.0, 0.9):
        ours.progress = progress
        a, b = ours.losses({"x": x}, Draws(0))["loss"].item(), theirs.public_loss({k: w.x for k, w in views.items()}, progress > 0.5).item()
        assert abs(a - b) < 1e-3 * abs(a), (a, b)
    del ours.views
    best = {}

    def mine(i):
        return ours.losses({"x": x}, Draws(1, i))["loss"]

    def public(i):
        return theirs.public_loss(theirs.public_views(x, i), True)

    for i in range(repeats + 1):
        for name, method, loss in (("ours", ours, mine), ("public", theirs, public)):
            began = time.perf_counter()
            method.zero_grad(set_to_none=True)
            loss(i).backward()
            method.after_step(Draws(2, i), 0.9)
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - began) if i else float("inf")
    print(f"step at paper size, batch {n}, {frames} frames: ours {best['ours']:.2f} s, the public way {best['public']:.2f} s, "
          f"ratio {best['public'] / best['ours']:.2f} ({torch.get_num_threads()} thread(s))")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
