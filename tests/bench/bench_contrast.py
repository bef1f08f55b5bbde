"""ActCLR's strong chain for a batch against one clip at a time with NumPy, and InfoNCE on the queue in place against cloning it first.

The per-clip chain is written as the releases write it (NumPy, float64 where they have it), with the same probabilities. Prints CPU time and the ratio,
and for the loss the peak memory as well. Arguments: batch (128), queue (65536)."""

import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from skelnb.objectives.contrast import MemoryBank, info_nce
from skelnb.topology import layout
from skelnb.transforms.augment import STRONG, actclr_steps, augment
from skelnb.transforms.draws import Draws

KINECT = layout("kinect_v2")


def rotation(axis, angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array({0: [[1, 0, 0], [0, c, s], [0, -s, c]], 1: [[c, 0, -s], [0, 1, 0], [s, 0, c]], 2: [[c, s, 0], [-s, c, 0], [0, 0, 1]]}[axis])


def one_clip(x, rng):
    "The strong chain for x (C, T, V, M)."
    c, frames, v, m = x.shape
    pad = frames // 6
    start = rng.integers(2 * pad + 1)
    x = np.concatenate([x[:, :pad][:, ::-1], x, x[:, -pad:][:, ::-1]], 1)[:, start:start + frames]
    matrix = np.eye(3)
    matrix[~np.eye(3, dtype=bool)] = rng.uniform(-0.5, 0.5, 6)
    x = np.dot(x.transpose(1, 2, 3, 0), matrix.T).transpose(3, 0, 1, 2)
    if rng.random() < 0.5:
        x = x[:, :, KINECT.swap]
    main, angles = rng.integers(3), np.radians(rng.uniform(0, 1, 3))
    angles[main] *= 30
    for axis in range(3):
        x = np.dot(x.transpose(1, 2, 3, 0), rotation(axis, angles[axis])).transpose(3, 0, 1, 2)
    if rng.random() < 0.5:
        x = x + rng.normal(0, 0.05, x.shape)
    if rng.random() < 0.5:
        kernel = np.exp(-np.arange(-7, 8) ** 2 / (2 * rng.uniform(0.1, 2) ** 2))
        rows = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).float().reshape(-1, 1, frames)
        x = F.conv1d(rows, torch.from_numpy(kernel / kernel.sum()).float().view(1, 1, -1), padding=7).view(c, v, m, frames).numpy().transpose(0, 3, 1, 2)
    if rng.random() < 0.5:
        x = x.copy()
        x[rng.integers(3)] = 0
    if rng.random() < 0.5:
        length = int(frames * (rng.random() + 0.5))
        rows = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).reshape(1, -1, frames)
        x = F.interpolate(rows, size=length, mode="linear").view(c, v, m, length).numpy().transpose(0, 3, 1, 2)[:, :frames]
        x = np.concatenate([x, np.repeat(x[:, -1:], frames - x.shape[1], 1)], 1)
    bones, y = 0.5 * rng.random(v), x.copy()
    for joint in KINECT.order[1:]:
        parent = KINECT.parents[joint]
        y[:, :, joint] = y[:, :, parent] + bones[joint] * (x[:, :, joint] - x[:, :, parent])
    return y


def timed(*functions, repeats=6):
    "Least CPU seconds of each, measured in turns: others may use the machine."
    seconds = [[] for _ in functions]
    for _ in range(repeats):
        for f, mine in zip(functions, seconds):
            began = time.process_time()
            f()
            mine.append(time.process_time() - began)
    return [min(mine) for mine in seconds]


def chain(n):
    x = torch.randn(n, 3, 50, 25, 2, generator=torch.Generator().manual_seed(0))
    steps, rng, clips = actclr_steps(STRONG, 0.05), np.random.default_rng(0), x.numpy()
    batched, loop = timed(lambda: augment(x, Draws(0), steps), lambda: np.stack([one_clip(clip, rng) for clip in clips]))
    print(f"strong chain, {n} clips of 50 frames and two persons: batched {batched / n * 1e3:.2f} ms a clip, one by one {loop / n * 1e3:.2f} ms, "
          f"ratio {loop / batched:.1f}")


def cloned(q, k, bank):
    "As MoCo and its heirs: whole logits, on a copy of the queue that autograd may keep."
    q, k, keys = F.normalize(q, dim=1), F.normalize(k, dim=1), bank.queue.clone().detach()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ keys.T], 1) / 0.07
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))


def loss(n, size, dim=128):
    bank = MemoryBank(dim, size)
    q, k = torch.randn(2, n, dim, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()

    def step(f):
        value = f(q, k.detach(), bank)
        bank.enqueue(k)
        return value.detach(), torch.autograd.grad(value, q)[0]

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = peak()
    step(info_nce)
    between = peak()
    b, _ = step(cloned)
    ours, direct = timed(lambda: step(info_nce), lambda: step(cloned))
    assert abs(info_nce(q, k, bank) - cloned(q, k, bank)) < 1e-4 * b
    print(f"InfoNCE and gradient, {n} queries, {size:,} keys: in place {ours * 1e3:.0f} ms and {between - before:.0f} MB, "
          f"cloned {direct * 1e3:.0f} ms and {peak() - between:.0f} MB more, ratio {direct / ours:.2f}")


def main(n: int = 128, size: int = 65536) -> None:
    print(f"{torch.get_num_threads()} thread(s)")
    loss(n, size)
    chain(n)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
