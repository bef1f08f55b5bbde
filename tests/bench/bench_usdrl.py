"""A training step of USDRL: all views in one batch, shared attention once, losses through Gram matrices, against the equations as they are written.

The direct way encodes the views one after the other, calls torch's attention for each branch, and builds every matrix of dimensions by dimensions.
Prints seconds, their ratio, and the memory the loss needs. Arguments: batch (64), width (1024). The paper's width takes some minutes."""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from skelnb.methods.usdrl import Usdrl, UsdrlPreset
from skelnb.objectives.decorrelation import Weights, decorrelation


def off_diagonal(m):
    return m.square().sum() - m.diagonal().square().sum()


def direct_loss(views):
    "The release's terms and weights with full matrices."
    n, c = views[0].shape
    first, center = views[:-1], sum(views[:-1]) / (len(views) - 1)
    loss = sum(5 * F.mse_loss(z, views[-1]) + 5 * F.mse_loss(z, center) for z in first)
    for z in views:
        centred = z - z.mean(0)
        loss = loss + 5 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() + off_diagonal(centred.T @ centred / (n - 1)) / c
    for i, a in enumerate(views):
        for b in views[i + 1:]:
            m = ((a - a.mean(0)) / a.std(0)).T @ ((b - b.mean(0)) / b.std(0)) / n
            loss = loss + 1e-3 * ((m.diagonal() - 1).square().sum() + 0.005 * off_diagonal(m))
    return loss


class DirectLayer(nn.Module):
    "Eqs. 1 to 5 branch by branch, with torch's attention module."

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.mha = nn.MultiheadAttention(layer.attn.qkv.in_features, layer.attn.heads, batch_first=True)

    def forward(self, x):
        layer, attend = self.layer, lambda z: self.mha(z, z, z)[0]
        ca, dsa = layer.ca, layer.dsa
        v = x + attend(ca.norm1(x + F.relu(layer.conv(x.transpose(1, 2)).transpose(1, 2))))

        def phi(s):
            s = s + attend(dsa.norm1(s))
            return s + dsa.mlp(dsa.norm2(s))

        return 0.5 * ca.mlp(ca.norm2(v)) + 0.25 * (phi(layer.shift(x)) + phi(x))


def direct_step(method, layers, views):
    e, z = method.encoder, {"instance": [], "temporal": [], "spatial": []}
    for x in views:
        y = []
        for tokens, embed, position, stack in ((x.permute(0, 2, 4, 3, 1).flatten(2), e.embed_t, e.position_t, layers[0]),
                                               (x.permute(0, 4, 3, 2, 1).flatten(3).flatten(1, 2), e.embed_s, e.position_s, layers[1])):
            tokens = embed(tokens)
            for layer in stack:
                tokens = layer(tokens + position)
            y.append(tokens.max(1).values)
        for grain, value in {"instance": torch.cat(y, 1), "temporal": y[0], "spatial": y[1]}.items():
            z[grain].append(method.projectors[grain](value)[0])
    return direct_loss(z["instance"]) + 0.5 * (direct_loss(z["temporal"]) + direct_loss(z["spatial"]))


def our_step(method, views):
    z = {grain: decorrelation(v) for grain, v in method.project(views).items()}
    return z["instance"]["loss"] + 0.5 * (z["temporal"]["loss"] + z["spatial"]["loss"])


def timed(*steps, rounds):
    "The least seconds of each, taken in turns, so that a busy machine disturbs all alike."
    least = [float("inf")] * len(steps)
    for n in range(rounds + 1):
        for i, f in enumerate(steps):
            began = time.perf_counter()
            f()
            if n:  # the first round only warms up
                least[i] = min(least[i], time.perf_counter() - began)
    return least


def loss_alone(n=64, d=4096, k=4):
    g = torch.Generator().manual_seed(0)
    z = (torch.randn(k, n, d, generator=g) + torch.randn(1, n, d, generator=g)).requires_grad_()
    ours, direct = decorrelation(z, Weights())["loss"], direct_loss(list(z))
    assert abs(ours - direct) < 1e-5 * direct
    a, b = timed(*(lambda f=f: torch.autograd.grad(f(), z) for f in (lambda: decorrelation(z)["loss"], lambda: direct_loss(list(z)))), rounds=3)
    print(f"loss of one grain, {k} views, N={n}, D={d}: Gram {a * 1e3:.1f} ms, matrices {b * 1e3:.0f} ms, ratio {b / a:.0f}; "
          f"numbers per matrix {n * n:,} instead of {d * d:,}, ratio {d * d // (n * n)}")


def main(n: int = 64, dim: int = 1024) -> None:
    torch.manual_seed(0)
    loss_alone(n, 4 * dim)
    method = Usdrl(UsdrlPreset.named("release", dim=dim, projection=2 * dim, projection_instance=4 * dim, drop_path=0.0))
    views = torch.randn(4, n, 3, 64, 25, 2)
    layers = [nn.ModuleList(map(DirectLayer, stack)) for stack in (method.encoder.layers_t, method.encoder.layers_s)]
    optimizer = torch.optim.Adam([*method.parameters()], lr=5e-4, weight_decay=1e-5)

    def step(loss):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    ours, direct = timed(lambda: step(lambda: our_step(method, views)), lambda: step(lambda: direct_step(method, layers, views)), rounds=2 if dim >= 512 else 5)
    print(f"step at width {dim}, batch {n}: ours {ours:.2f} s, direct {direct:.2f} s, ratio {direct / ours:.2f} ({torch.get_num_threads()} thread(s))")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
