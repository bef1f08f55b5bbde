"""One training step of LoDE at the paper's size (8 + 3 layers of 256, 120 frames, one person): what LERR costs, and what the rest saves.

    python tests/bench/bench_lode.py [clips in a batch, 4] [rounds, 7]

A step is forward, backward, AdamW and the code books. All rows come from one run in which the variants take turns, round by round; `ratio`
is the median over the rounds of a variant's time over that of the first row in the same round (processor time on the CPU, wall time on a
GPU), with its quartiles. GFLOP counts matrix products (2 m n k, attention included, nothing recomputed); "of matmul" is their share of the
throughput that a large square product of the same number format reaches in the same run. "none" as regulariser still logs the LER;
"LER not computed" leaves that out too. "textbook" is the same step written plainly: before it is timed, its losses and gradients are
compared with ours on the same weights, masks and code books. One thread on the CPU; on a GPU bf16 and batches of 64.
"""

import copy
import math
import sys
import time
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skelnb.methods import lode
from skelnb.training.schedule import parameter_groups
from skelnb.transforms.draws import Draws
from skelnb.transforms.spatial import center, random_rotation


class TextbookBlock(nn.Module):
    """A pre-norm transformer block: three linear layers and an attention matrix in memory. The weights are those of one of our blocks."""

    def __init__(self, ours):
        super().__init__()
        self.norm1, self.norm2, self.mlp, self.proj = (copy.deepcopy(m) for m in (ours.norm1, ours.norm2, ours.mlp, ours.attn.proj))
        self.heads, dim = ours.attn.heads, ours.attn.proj.in_features
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        parts = zip((self.q, self.k, self.v), ours.attn.qkv.weight.chunk(3), ours.attn.qkv.bias.chunk(3))
        for layer, weight, bias in parts:
            layer.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, x):
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attention = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
        x = x + self.proj((attention @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TextbookBook(nn.Module):
    """A code book with all distances, one-hot codes and moving averages by matrix product."""

    def __init__(self, ours):
        super().__init__()
        self.decay, self.eps, self.restart = ours.decay, ours.eps, ours.restart
        for name in ("codebook", "counts", "sums"):
            self.register_buffer(name, getattr(ours, name).clone())

    def forward(self, z):
        self.z = z.reshape(-1, z.shape[-1]).float()
        self.one_hot = F.one_hot(torch.cdist(self.z, self.codebook).argmin(1), len(self.codebook)).float()
        return (self.one_hot @ self.codebook).view(z.shape)

    def step(self, draws):
        usage = self.one_hot.sum(0)
        self.counts = self.decay * self.counts + (1 - self.decay) * usage
        self.sums = self.decay * self.sums + (1 - self.decay) * self.one_hot.T @ self.z
        total = self.counts.sum()
        self.codebook = self.sums / ((self.counts + self.eps) / (total + len(self.counts) * self.eps) * total)[:, None]
        fresh = self.z[draws.rand(len(self.z)).argsort(descending=True)]
        dead = (self.counts < self.restart * usage.mean()).nonzero()[:, 0].tolist()
        for code, vector in zip(dead, fresh):
            self.codebook[code], self.counts[code], self.sums[code] = vector, usage.mean(), vector * usage.mean()


class Textbook(nn.Module):
    """The paper's Eq. 10 to 13, line by line, with our weights: masks, shuffles and singular values sample by sample."""

    def __init__(self, ours):
        super().__init__()
        self.p = p = ours.preset
        linear = ours.encoder.embedding.proj
        self.patches = nn.Conv2d(p.channels, p.dim, (p.unit, 1), (p.unit, 1))
        kernel = linear.weight.unflatten(1, (p.unit, p.channels)).transpose(1, 2)[..., None]
        self.patches.load_state_dict({"weight": kernel, "bias": linear.bias})
        self.positions, self.decoder_positions = copy.deepcopy(ours.encoder.positions), copy.deepcopy(ours.decoder.positions)
        self.encoder = nn.Sequential(*map(TextbookBlock, ours.encoder.blocks), copy.deepcopy(ours.encoder.norm))
        self.decoder = nn.Sequential(*map(TextbookBlock, ours.decoder.blocks), copy.deepcopy(ours.decoder.norm))
        self.project, self.widen = copy.deepcopy(ours.project), copy.deepcopy(ours.decoder.embed)
        self.to_frame, self.to_motion = copy.deepcopy(ours.to_frame), copy.deepcopy(ours.to_motion)
        self.book_motion, self.book_sequence = TextbookBook(ours.teacher.vq_motion), TextbookBook(ours.teacher.vq_sequence)

    def target(self, x):
        motion = torch.zeros_like(x)
        motion[:, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
        n, c, t, v = x.shape
        u = motion.view(n, c, t // self.p.unit, self.p.unit, v).permute(0, 2, 4, 3, 1).reshape(n, -1, self.p.unit * c)
        return (u - u.mean(-1, keepdim=True)) / (u.var(-1, keepdim=True) + 1e-6) ** 0.5

    def losses(self, x, draws):
        p = self.p
        x = random_rotation(center(x, p.center_joint, p.center), draws.child("rotation"), p.rotation)[..., 0]
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions()
        n, length, _ = tokens.shape
        mask = torch.ones(n, length, device=x.device)  # 1: hidden
        for i, noise in enumerate(draws.child("masks").rand(n, length)):
            mask[i, noise.argsort()[: math.ceil(round(length * (1 - p.mask_ratio), 6))]] = 0
        z = self.encoder(torch.stack([tokens[i][mask[i] == 0] for i in range(n)]))
        sequence = self.project(z.mean(1))
        with torch.no_grad():
            whole = self.encoder(tokens)
            y_motion, y_sequence = self.book_motion(whole), self.book_sequence(self.project(whole.mean(1)))
        seen = self.widen(z)
        full = seen.new_zeros(n, length, p.dim)
        for i in range(n):
            full[i, mask[i] == 0] = seen[i]
        hidden = mask[..., None]
        decoded = self.decoder(full * (1 - hidden) + sequence[:, None] * hidden + self.decoder_positions())
        frame = ((self.to_frame(decoded) - self.target(x)) ** 2).mean(-1)
        motion = 1 - F.cosine_similarity(self.to_motion(decoded).float(), y_motion.float(), dim=-1)
        ranks = []
        for matrix in z:
            sigma = torch.linalg.svdvals(matrix.float())
            share = sigma / sigma.sum()
            ranks.append(torch.exp(-(share * share.log()).sum()))
        terms = {
            "sequence": (1 - F.cosine_similarity(sequence.float(), y_sequence.float(), dim=-1)).mean(),
            "frame": (frame * mask).sum() / mask.sum(),
            "motion": (motion * mask).sum() / mask.sum(),
            "regulariser": (1 / torch.stack(ranks)).mean(),
        }
        return {"loss": sum(getattr(p, f"w_{k}") * v for k, v in terms.items()), **terms}

    def after_step(self, draws, progress):
        self.book_motion.step(draws.child("motion"))
        self.book_sequence.step(draws.child("sequence"))


class Step:
    """Training steps of one variant, and what they cost."""

    def __init__(self, method, x, bf16=False, logs_ler=True, lr=1e-4):
        self.method, self.x, self.bf16, self.logs_ler, self.count = method, x, bf16, logs_ler, 0
        plain = isinstance(method, Textbook)
        options = {"foreach": False, "fused": False} if plain else {"fused": True}
        self.optimizer = torch.optim.AdamW(parameter_groups(method, 0.05), lr=lr, betas=(0.9, 0.95), **options)
        self.cpu, self.wall, self.gflop = [], [], 0.0

    def losses(self, draws):
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.bf16):
            if self.logs_ler:
                return self.method.losses(self.x, draws)
            with patch.object(lode, "effective_rank", lambda z: z.new_ones(len(z))):
                return self.method.losses(self.x, draws)

    def run(self):
        draws = Draws(0, self.count, device=self.x.device)
        self.count += 1
        self.losses(draws)["loss"].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.method.after_step(draws, 0.0)

    def timed(self):
        cpu, wall = time.process_time(), time.perf_counter()
        self.run()
        _wait(self.x.device)
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def count_products(self):
        "GFLOP per clip, from a step of two clips."
        batch, self.x = self.x, self.x[:2]
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self.run()
        self.gflop, self.x = counter.get_total_flops() / len(self.x) / 1e9, batch


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_gflops(device, dtype, repeats=10):
    "Measured throughput of a large square product."
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    seconds = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter() if device.type == "cuda" else time.process_time()
        a @ b
        _wait(device)
        seconds.append((time.perf_counter() if device.type == "cuda" else time.process_time()) - start)
    return 2 * n**3 / min(seconds) / 1e9


def walk(batch, device):
    "Clips (batch, 3, 120, 25, 1): joints that wander from a resting place."
    generator = torch.Generator().manual_seed(0)
    rest = torch.randn(batch, 3, 1, 25, 1, generator=generator) * 0.3
    return (rest + 0.01 * torch.randn(batch, 3, 120, 25, 1, generator=generator).cumsum(2)).to(device)


def agree(ours, x):
    "A textbook model with the weights and code books of `ours`, after its losses and gradients were found to be the same."
    plain, tolerance = Textbook(ours), 1e-4 if x.is_cuda else 1e-5
    a, b = (m.losses(x, Draws(1, device=x.device)) for m in (ours, plain))
    for name, value in b.items():
        torch.testing.assert_close(a[name], value, rtol=tolerance, atol=tolerance / 10, msg=lambda m, name=name: f"{name}: {m}")
    a["loss"].backward()
    b["loss"].backward()
    split = ours.encoder.blocks[0].attn.qkv.weight.grad.chunk(3)
    pairs = [(split[0], plain.encoder[0].q.weight.grad), (split[2], plain.encoder[0].v.weight.grad)]
    pairs += [(m.grad, n.grad) for m, n in zip(ours.decoder.positions.parameters(), plain.decoder_positions.parameters())]
    for grad, plain_grad in pairs:
        assert (grad - plain_grad).norm() < 10 * tolerance * grad.norm(), "gradients differ"
    for model in (ours, plain):
        model.zero_grad()
        model.after_step(Draws(1, device=x.device), 0.0)
    for name in ("motion", "sequence"):
        book, plain_book = getattr(ours.teacher, f"vq_{name}").codebook, getattr(plain, f"book_{name}").codebook
        assert (book - plain_book).norm() < 10 * tolerance * book.norm(), f"code books ({name}) differ"
    return plain


def variants(x, gpu):
    "Name -> Step. On a GPU in bf16 throughout."
    def model(**changes):
        torch.manual_seed(0)
        return lode.Lode(lode.LodePreset(**changes)).to(x.device)

    ours = model()
    Step(ours, x).run()  # fills the code books
    plain = agree(ours, x)
    steps = {
        "LERR": Step(ours, x, gpu),
        'regulariser "none"': Step(model(regulariser="none"), x, gpu),
        "LER not computed": Step(model(regulariser="none"), x, gpu, logs_ler=False),
        "textbook": Step(plain, x, gpu),
        "decode_tokens=75": Step(model(decode_tokens=75), x, gpu),
    }
    return steps if gpu else steps | {"bf16": Step(model(), x, True)}


def table(device, batch, rounds):
    "Measure all variants on a device and print the table."
    gpu = device.type == "cuda"
    steps = variants(walk(batch, device), gpu)
    for step in steps.values():
        step.count_products()
        step.run()  # warm up
    peak = {bf16: matmul_gflops(device, torch.bfloat16 if bf16 else torch.float32) for bf16 in {s.bf16 for s in steps.values()}}
    for _ in range(rounds):
        for step in steps.values():
            step.timed()
    name = torch.cuda.get_device_name(device) if gpu else "CPU, one thread"
    print(f"\n{name}: {batch} clips a step, {'bf16' if gpu else 'float32 but in the last row'}, {rounds} rounds; matmul "
          + ", ".join(f"{'bf16' if k else 'float32'} {v:,.0f} GFLOP/s" for k, v in peak.items()))
    print(f"{'':20}{'CPU ms/clip':>12}{'wall ms/clip':>14}{'clips/s':>9}{'GFLOP/clip':>12}{'of matmul':>11}{'ratio':>8}  (quartiles)")
    first = next(iter(steps.values()))
    for name, step in steps.items():
        mine, reference = (torch.tensor(s.wall if gpu else s.cpu) for s in (step, first))
        low, ratio, high = (mine / reference).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        cpu, wall, busy = (torch.tensor(t).median().item() / batch for t in (step.cpu, step.wall, mine.tolist()))
        share = step.gflop / busy / peak[step.bf16]
        print(f"{name:20}{1e3 * cpu:>12.1f}{1e3 * wall:>14.1f}{1 / wall:>9.2f}{step.gflop:>12.1f}{share:>11.0%}{ratio:>8.3f}"
              f"  ({low:.3f} - {high:.3f})")


def main(batch=4, rounds=7):
    torch.set_num_threads(1)
    table(torch.device("cpu"), batch, rounds)
    if torch.cuda.is_available():
        table(torch.device("cuda"), 64, 20)
    else:
        print("\nno GPU")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
