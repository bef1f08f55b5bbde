"""ActCLR's augmentation chains for a batch against one clip at a time with NumPy, in sequence, as the releases of AimCLR and ActCLR do it.

The four views of a step are strong, normal, weak and weak. The per-clip way is written plainly, one function an augmentation, float32 until the shear makes it
float64, then stacked and turned into a float32 tensor as a loader does; blur and speed go through torch there as well. With the numbers drawn by ours it
is first checked to give the same clips.

Prints medians of runs in turns, and the median of the ratios of neighbouring runs: CPU time for one thread, wall time for more.
Arguments: batch (128), repeats (15), threads (both 1 and 2 where left out)."""

import ctypes
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from skelnb.topology import layout
from skelnb.transforms.augment import NORMAL, STRONG, actclr_steps, augment, draw_region, partners, random_mix, skeleton_mask
from skelnb.transforms.draws import Draws

KINECT = layout("kinect_v2")
VIEWS = {"strong": (STRONG, 0.05), "normal": (NORMAL, 0.01), "weak": ((), 0.0), "weak again": ((), 0.0)}


# ---- one clip x (C, T, V, M) at a time


def crop(x, start, pad):
    frames = x.shape[1]
    x = np.concatenate([x[:, :pad][:, ::-1], x, x[:, -pad:][:, ::-1]], 1)
    return x[:, start:start + frames]


def shear(x, off):
    matrix = np.eye(3)
    matrix[~np.eye(3, dtype=bool)] = off
    return np.dot(x.transpose(1, 2, 3, 0), matrix.T).transpose(3, 0, 1, 2)


def flip(x):
    return x[:, :, KINECT.swap]


def rotate(x, angles):
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        matrix = np.array({0: [[1, 0, 0], [0, c, s], [0, -s, c]], 1: [[c, 0, -s], [0, 1, 0], [s, 0, c]], 2: [[c, s, 0], [-s, c, 0], [0, 0, 1]]}[axis])
        x = np.dot(x.transpose(1, 2, 3, 0), matrix.T).transpose(3, 0, 1, 2)
    return x


def noise(x, numbers):
    return x + numbers


def blur(x, sigma):
    c, frames, v, m = x.shape
    kernel = np.exp(-np.arange(-7, 8) ** 2 / (2 * sigma**2))
    rows = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).float().view(-1, 1, frames)
    return F.conv1d(rows, torch.from_numpy(kernel / kernel.sum()).float().view(1, 1, -1), padding=7).view(c, v, m, frames).numpy().transpose(0, 3, 1, 2)


def axis_mask(x, axis):
    x = x.copy()
    x[axis] = 0
    return x


def speed(x, length):
    c, frames, v, m = x.shape
    rows = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).view(1, -1, frames)
    x = F.interpolate(rows, size=length, mode="linear").view(c, v, m, length).numpy().transpose(0, 3, 1, 2)[:, :frames]
    return np.concatenate([x, np.repeat(x[:, -1:], frames - x.shape[1], 1)], 1)


def rescale_bones(x, factors):
    y = x.copy()
    for joint in KINECT.order[1:]:
        parent = KINECT.parents[joint]
        y[:, :, joint] = y[:, :, parent] + factors[joint] * (x[:, :, joint] - x[:, :, parent])
    return y


def one_clip(x, rng, ids, sigma):
    "A chain of the ids given, in the releases' order, each with numbers of its own."
    pad = x.shape[1] // 6
    x = shear(crop(x, rng.integers(2 * pad + 1), pad), rng.uniform(-0.5, 0.5, 6))
    if 1 in ids and rng.random() < 0.5:
        x = flip(x)
    if 2 in ids:
        angles = np.radians(rng.uniform(0, 1, 3))
        angles[rng.integers(3)] *= 30
        x = rotate(x, angles)
    if 3 in ids and rng.random() < 0.5:
        x = noise(x, rng.normal(0, sigma, x.shape))
    if 4 in ids and rng.random() < 0.5:
        x = blur(x, rng.uniform(0.1, 2))
    if 5 in ids and rng.random() < 0.5:
        x = axis_mask(x, rng.integers(3))
    if 8 in ids and rng.random() < 0.5:
        x = speed(x, int(x.shape[1] * (rng.random() + 0.5)))
    return rescale_bones(x, 0.5 * rng.random(x.shape[2])) if 9 in ids else x


def one_by_one(clips, rng, ids, sigma):
    return torch.from_numpy(np.stack([one_clip(clip, rng, ids, sigma) for clip in clips])).float()


# ---- both ways


def same_draws(clips, draws):
    "The strong chain without noise, one by one, with the numbers that ours draws."
    n, c, frames, v, _ = clips.shape
    stream = {name: draws.child(name) for name in actclr_steps(STRONG)}
    start, off = stream["crop"].randint(n, 1, high=2 * (frames // 6) + 1)[:, 0].tolist(), stream["shear"].uniform(n, 6, low=-0.5, high=0.5).numpy()
    flips = (stream["flip"].rand(n) < 0.5).tolist()
    main, angles = stream["rotate"].randint(n, 1, high=3)[:, 0].numpy(), np.radians(stream["rotate"].rand(n, 3).double().numpy())
    angles[np.arange(n), main] *= 30
    sigmas, blurs = stream["blur"].uniform(n, low=0.1, high=2.0).tolist(), (stream["blur"].rand(n) < 0.5).tolist()
    axes, masks = stream["axis_mask"].randint(n, 1, high=c)[:, 0].tolist(), (stream["axis_mask"].rand(n) < 0.5).tolist()
    lengths, speeds = (frames * stream["speed"].uniform(n, 1, low=0.5, high=1.5))[:, 0].long().tolist(), (stream["speed"].rand(n) < 0.5).tolist()
    factors, done = stream["rescale_bones"].uniform(n, v, low=0.0, high=0.5).numpy(), []
    for i, x in enumerate(clips):
        x = shear(crop(x, start[i], frames // 6), off[i])
        x = rotate(flip(x) if flips[i] else x, angles[i])
        x = blur(x, sigmas[i]) if blurs[i] else x
        x = axis_mask(x, axes[i]) if masks[i] else x
        x = speed(x, lengths[i]) if speeds[i] else x
        done.append(rescale_bones(x, factors[i]))
    return torch.from_numpy(np.stack(done)).float()


def in_turns(ours, theirs, repeats):
    "Medians of the seconds of both, and of the ratio theirs / ours; others may use the machine."
    clock, seconds = time.process_time if torch.get_num_threads() == 1 else time.perf_counter, []
    for _ in range(repeats + 1):
        pair = []
        for f in (ours, theirs):
            began = clock()
            f()
            pair.append(clock() - began)
        seconds.append((*pair, pair[1] / pair[0]))
    return [statistics.median(column) for column in zip(*seconds[1:])]  # the first run warms up


def measure(n, repeats):
    x, rng = torch.randn(n, 3, 50, 25, 2, generator=torch.Generator().manual_seed(0)), np.random.default_rng(0)
    clips = x.numpy()
    silent = {name: step for name, step in actclr_steps(STRONG).items() if name != "noise"}
    torch.testing.assert_close(augment(x, Draws(0), silent), same_draws(clips, Draws(0)), atol=1e-4, rtol=1e-4)
    chains = {name: (actclr_steps(ids, sigma), ids, sigma) for name, (ids, sigma) in VIEWS.items()}

    def show(what, names):
        a, b, ratio = in_turns(lambda: [augment(x, Draws(0).child(name), chains[name][0]) for name in names],
                               lambda: [one_by_one(clips, rng, *chains[name][1:]) for name in names], repeats)
        print(f"  {what:22s} batched {a * 1e3:7.2f} ms   one by one {b * 1e3:7.2f} ms, {b / n * 1e3:.2f} ms a clip   ratio {ratio:5.1f}")

    print(f"{torch.get_num_threads()} thread(s), {n} clips of 50 frames and two persons")
    for name in ("strong", "normal", "weak"):
        show(f"{name} view", [name])
    show("all four views", list(VIEWS))
    region = draw_region(n, 50, Draws(0), per="sample")
    for what, f in {"draw_region": lambda: draw_region(n, 50, Draws(0)), "random_mix": lambda: random_mix(n, 50, Draws(0)),
                    "random_mix and use": lambda: random_mix(n, 50, Draws(0))(x, x[partners(n, Draws(0))]),
                    "skeleton_mask": lambda: skeleton_mask(x, region)}.items():
        print(f"  {what:22s} {in_turns(f, lambda: None, repeats)[0] * 1e3:7.2f} ms")


def keep_memory():
    "glibc gives large blocks back at once and gets them again page by page; in a training the heap has long grown. Both ways profit."
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**30), libc.mallopt(-1, 2**31 - 1)
    except (OSError, AttributeError):
        pass  # not glibc


def main(n: int = 128, repeats: int = 15, *threads: int) -> None:
    keep_memory()
    for count in threads or (1, 2):
        torch.set_num_threads(count)
        measure(n, repeats)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
