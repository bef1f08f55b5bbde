"""SLiM's ten views and their masks: the whole batch at once against a loop over samples, one sample at a time through plain Python.

Both cut two global and eight local views of each clip, mirror, scale, turn and shake each with the release's probabilities, and draw a tube mask for each
masked view. The loop is written as a data set's `__getitem__` would be: NumPy, frame lists, one tube after the other; it draws numbers of its own, so only
shapes and statistics are compared. Prints CPU seconds and their ratio, measured in one run on one thread."""

import sys
import time

import numpy as np
import torch

from skelnb.transforms import tubes, views
from skelnb.transforms.augment import SLIM_PARENTS
from skelnb.transforms.draws import Draws

SWAP = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22]
ORDER = [1, 20, 2, 3, 4, 5, 6, 7, 21, 22, 8, 9, 10, 11, 23, 24, 12, 13, 14, 15, 16, 17, 18, 19]
GROUP = {v: 0 if v in (1, 20, 2, 3) else 1 if v in (*range(4, 12), *range(21, 25)) else 2 for v in range(1, 25)}


def crop(x, start, length, w, low, high, rng):
    "x (C, T, V) -> (C, w, V), first frame, frames shown."
    least = max(8, min(16, w))
    if length < least:
        start, length = 0, 150
    taken = min(max(int(length * rng.uniform(low, high)), least), length)
    first = start + rng.integers(0, length - taken + 1)
    if taken < w:
        place = np.clip((np.arange(w) + 0.5) * taken / w - 0.5, 0, taken - 1)
        lo = place.astype(int)
        hi, share = np.minimum(lo + 1, taken - 1), (place - lo)[None, :, None]
        return x[:, first + lo] * (1 - share) + x[:, first + hi] * share, first, taken
    if taken < 2 * w:
        chosen = np.sort(rng.choice(taken, w, replace=False))
    else:
        edge = np.arange(w + 1) * taken // w
        chosen = np.array([rng.integers(edge[i], edge[i + 1]) for i in range(w)])
    return x[:, first + chosen], first + chosen[0], chosen[-1] - chosen[0] + 1


def saa(x, view, rng):
    if rng.random() < 0.5:
        x = x[:, :, SWAP] * np.array([-1, 1, 1])[:, None, None]
    if rng.random() < 0.5:
        factor, y = rng.uniform(0.85, 1.15, 3), x.copy()
        for v in ORDER:
            parent = SLIM_PARENTS[v]
            y[:, :, v] = y[:, :, parent] + factor[GROUP[v]] * (x[:, :, v] - x[:, :, parent])
        x = y
    if rng.random() < 0.5:
        (a, b, c), (p, q, r) = (f(rng.uniform(-1, 1, 3) * (np.pi / 6, np.pi, np.pi / 6)) for f in (np.cos, np.sin))
        R = np.array([[c, r, 0], [-r, c, 0], [0, 0, 1]]) @ np.array([[b, 0, -q], [0, 1, 0], [q, 0, b]]) @ np.array([[1, 0, 0], [0, a, p], [0, -p, a]])
        x = np.tensordot(R, x, 1)
    sigma, p = {"global_1": (0.01, 1), "global_2": (0.05, 0.1), "local": (0.01, 0.5)}[view]
    if rng.random() < p:
        x = x + sigma * rng.standard_normal(x.shape)
    if view == "global_2" and rng.random() < 0.2:
        x = x.copy()
        x[rng.integers(3)] = 0
    return x.astype(np.float32)


def tube_mask(steps, target, rng):
    mask, count, groups = np.zeros((steps, 25), bool), 0, tubes.semantic_groups()
    while count < target:
        budget = min(target - count, 100)
        for _ in range(10):
            group = groups[rng.integers(5)]
            k = rng.integers(1, len(group) + 1)
            s = rng.integers(0, len(group) - k + 1)
            h = int(np.clip(round(rng.uniform(*sorted((steps, budget))) / k), 1, steps))
            t, joints = rng.integers(0, steps - h + 1), list(group[s:s + k])
            new = h * k - mask[t:t + h, joints].sum()
            if 0 < new <= budget:
                mask[t:t + h, joints] = True
                count += new
                break
        else:
            break
    return mask


def loop(x, valid, rng):
    views_, masks = [], []
    for i in range(len(x)):
        for g in (1, 2):
            view, start, length = crop(x[i], 0, valid[i], 64, 0.5, 1.0, rng)
            views_.append(saa(view, f"global_{g}", rng))
            masks.append(tube_mask(8, int(200 * rng.uniform(0.5, 0.9)), rng) if rng.random() < 0.5 else np.zeros((8, 25), bool))
            for kind in views.ViewSpec().locals:
                for _ in range(kind.count):
                    views_.append(saa(crop(x[i], start, length, kind.frames, kind.low, kind.high, rng)[0], "local", rng))
                    masks.append(tube_mask(kind.frames // 8, int(25 * kind.frames // 8 * rng.uniform(0.5, 0.9)), rng))
    return views_, masks


def batch(x, valid, step):
    draws = Draws(0, step)
    some = views.augment_views(views.global_local_views(x, valid, draws=draws.child("views")), draws.child("saa"))
    return some, tubes.view_masks(some, draws.child("masks"))


def seconds(work, times: int):
    best = np.inf
    for i in range(times):
        began = time.process_time()
        result = work(i)
        best = min(best, time.process_time() - began)
    return result, best


def main(n: int = 192) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, valid = rng.standard_normal((n, 3, 300, 25)).astype(np.float32), rng.integers(40, 300, n)
    fast = torch.from_numpy(x), torch.from_numpy(valid)
    (some, (masks, local_masks)), batch_s = seconds(lambda i: batch(*fast, i), 4)
    (slow, slow_masks), loop_s = seconds(lambda i: loop(x, valid, rng), 1)
    assert 10 * n == len(slow) == n * (2 + sum(map(len, some.locals.values())))
    ours = torch.stack(local_masks[16]).float().mean().item()
    theirs = np.mean([m.mean() for m in slow_masks if m.shape[0] == 2])
    assert abs(ours - theirs) < 0.03, (ours, theirs)
    print(f"{n} clips, 10 views each, masks; 16-frame views {ours:.3f} hidden (batch), {theirs:.3f} (loop)")
    print(f"whole batch {batch_s:.2f} s  loop over samples {loop_s:.2f} s  ratio {loop_s / batch_s:.1f}")
    for name, part in (("views", lambda i: views.global_local_views(*fast, draws=Draws(i))), ("augmentation", lambda i: views.augment_views(some, Draws(i))),
                       ("masks", lambda i: tubes.view_masks(some, Draws(i)))):
        print(f"  {name:13} {seconds(part, 3)[1]:.3f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
