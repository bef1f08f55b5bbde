"""Opening, random access, batches and memory of a store the size of NTU RGB+D 120; every ratio within one run.

    python tests/bench/bench_data.py [clips in the set]

The frames are a sparse file: they take no room on the disk, and reading them costs what a warm file cache costs. What carries over to another
machine are the ratios and the megabytes. Targets: opening adds less than 50 MB to a process, a random clip at most 0.1 ms to the reading of its
pages, and batches are made at least 5 times as fast as by a feeder that works sample by sample, on one core.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from skelnb.data.clip import Clip
from skelnb.data.store import SEGMENTS, SkeletonStore
from skelnb.data.windows import ClipLoader
from skelnb.files import read_json, sha256, write_json

NTU120 = 113_945


def sparse_store(path, n, persons=2, seed=0):
    "A store of n clips of 32 to 299 frames whose frames are all zero."
    rng = np.random.default_rng(seed)
    SkeletonStore.write(path, [Clip(rng.normal(size=(2, persons, 25, 3)), 30, "kinect_v2", "x", "action 0")])
    lengths, i = rng.integers(32, 300, n), np.arange(n)
    names = [f"S{k % 32 + 1:03d}C{k % 3 + 1:03d}P{k % 106 + 1:03d}R{k % 2 + 1:03d}A{k % 120 + 1:03d}_{k}" for k in range(n)]
    table = pd.read_csv(path / "index.csv", dtype=str, keep_default_na=False)
    table = pd.concat([table.assign(present="1" * persons)] * n, ignore_index=True)
    known = {"name": names, "start": np.cumsum(lengths) - lengths, "n_frames": lengths, "label": [f"action {k % 120}" for k in range(n)]}
    who = {"subject": i % 106 + 1, "camera": i % 3 + 1, "setup": i % 32 + 1, "xsub": np.where(i % 2, "train", "test"), "xset": np.where(i % 3, "train", "test")}
    table.assign(**known, **who).to_csv(path / "index.csv", index=False)
    pd.DataFrame(columns=SEGMENTS).to_csv(path / "segments.csv", index=False)
    shape = [int(lengths.sum()), persons, 25, 3]
    with open(path / "frames.f32", "wb") as f:
        f.truncate(4 * int(np.prod(shape)))
    facts = read_json(path / "store.json") | {"shape": shape, "n_clips": n, "classes": sorted(set(known["label"]))}
    write_json(path / "store.json", facts | {"sha256": {"frames.f32": "", "index.csv": sha256(path / "index.csv"), "segments.csv": ""}})
    return path


# ---------------------------------------------------------------- memory, measured in a process of its own

OPENING = """
import sys
if {hide!r} == "without pyarrow": sys.modules["pyarrow"] = None
import gc, time, psutil, torch
from skelnb.data.store import SkeletonStore
from skelnb.data.windows import ClipLoader
import skelnb.data.labelled
def private(): gc.collect(); m = psutil.Process().memory_info(); return (m.rss - getattr(m, "shared", 0)) / 1e6
before, begin = private(), time.perf_counter()
store = SkeletonStore.open({path!r})
opened = time.perf_counter() - begin
after = private()
for i in range(0, len(store), 50): store[i]
store.split("xsub", "train"), store.labels
print(opened, after - before, private() - before)
"""

EPOCH = """
import gc, psutil, time, torch
torch.set_num_threads(1)
from skelnb.data.store import SkeletonStore
from skelnb.data.windows import ClipLoader
def private(): m = psutil.Process().memory_info(); return (m.rss - getattr(m, "shared", 0)) / 1e6
store = SkeletonStore.open({path!r})
loader = ClipLoader(store, range({clips}), frames=64, batch=256)
loader.batch(0)
gc.collect(); before = peak = private()
begin = time.perf_counter()
for step, batch in enumerate(loader.prefetch(0, {steps})):
    peak = max(peak, private())
print(peak - before, private() - before, time.perf_counter() - begin)
"""


def in_a_process(code, **values):
    done = subprocess.run([sys.executable, "-c", code.format(**values)], capture_output=True, text=True, check=True)
    return [float(v) for v in done.stdout.split()]


# ---------------------------------------------------------------- one feeder, sample by sample


def feeder_sample(padded, rng, window, low=0.5, high=1.0, shortest=64):
    "What the feeders of this field do for one sample (C, 300, V, M): count the frames, crop at random, resize with torch."
    valid = int(np.sum(padded.sum(0).sum(-1).sum(-1) != 0))
    part = rng.random() * (high - low) + low
    length = min(max(int(valid * part), shortest), valid)
    start = rng.integers(0, valid - length + 1)
    C, _, V, M = padded.shape
    piece = torch.tensor(padded[:, start : start + length], dtype=torch.float)
    piece = piece.permute(0, 2, 3, 1).reshape(1, 1, C * V * M, length)
    piece = torch.nn.functional.interpolate(piece, size=(C * V * M, window), mode="bilinear", align_corners=False)
    return piece.reshape(C, V, M, window).permute(0, 3, 1, 2).contiguous().numpy()


def feeder_batch(data, ids, rng, window):
    "A batch, as torch's DataLoader collates it."
    return torch.utils.data.default_collate([feeder_sample(np.array(data[i]), rng, window) for i in ids])


def best(work, repeats=5):
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def batches(folder, n=512, batch=256):
    rng = np.random.default_rng(0)
    clips = [Clip(rng.normal(size=(T, 2, 25, 3)), 30, "kinect_v2", str(k)) for k, T in enumerate(rng.integers(32, 300, n))]
    store = SkeletonStore.write(folder / "dense", clips)
    np.save(folder / "padded.npy", np.zeros((n, 300, 150), np.float32))
    data = np.load(folder / "padded.npy", mmap_mode="r+")
    for k, clip in enumerate(clips):
        data[k, : len(clip)] = clip.xyz.reshape(len(clip), -1)
    data = data.reshape(n, 300, 2, 25, 3).transpose(0, 4, 1, 3, 2)
    print(f"\nbatches of {batch} clips of two people, cropped (50-100 %) and resized, one core")
    print(f"{'':10}{'ClipLoader':>14}{'feeder':>14}{'ratio':>8}")
    for window in (50, 64, 120):
        loader = ClipLoader(store, range(n), frames=window, batch=batch)
        loader.batch(0)
        ours = best(iter(map(loader.batch, range(1, 100))).__next__, 12)
        theirs = best(partial(feeder_batch, data, rng.permutation(n)[:batch], rng, window), 3)
        print(f"{window:4} frames{ours * 1e3:>11.1f} ms{theirs * 1e3:>11.1f} ms{theirs / ours:>8.1f}")


def main(n):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path = sparse_store(folder / "store", n)
        size = (path / "frames.f32").stat().st_size / 1e6
        print(f"{n} clips, {size / 1e3:.1f} GB of frames")
        print(f"\n{'opening':18}{'time':>10}{'memory':>10}{'and after 2 % of the clips':>30}")
        for hide in ("with pyarrow", "without pyarrow"):
            seconds, added, used = in_a_process(OPENING, path=str(path), hide=hide)
            print(f"{hide:18}{seconds * 1e3:>7.0f} ms{added:>7.1f} MB{used:>27.1f} MB")

        store = SkeletonStore.open(path)
        pick = np.random.default_rng(1).integers(n, size=2000).tolist()
        begins, ends = store.offsets[pick].tolist(), store.offsets[np.array(pick) + 1].tolist()
        raw = np.memmap(path / "frames.f32", "<f4", "r", shape=store.frames.shape)
        for _ in range(2):  # the second time with a warm file cache
            copy = best(lambda: [np.array(raw[a:b]) for a, b in zip(begins, ends)], 1) / len(pick)
        ours = best(lambda: [np.array(store[i].xyz) for i in pick], 3) / len(pick)
        view = best(lambda: [store[i] for i in pick], 3) / len(pick)
        copy = best(lambda: [np.array(raw[a:b]) for a, b in zip(begins, ends)], 3) / len(pick)
        print(f"\na random clip: {ours * 1e3:.4f} ms, a slice of the memory map copied: {copy * 1e3:.4f} ms; the clip adds {(ours - copy) * 1e3:.4f} ms")
        print(f"without reading its frames: {view * 1e3:.4f} ms")

        batches(folder)

        clips = min(n, 20_000)
        steps = -(-clips // 256)
        peak, left, seconds = in_a_process(EPOCH, path=str(path), clips=clips, steps=steps)
        part = size * clips / n
        print(f"\nan epoch of {clips} clips, {part:.0f} MB, took {seconds:.1f} s and at most {peak:.0f} MB more ({peak / part:.1%} of it);", end=" ")
        print(f"{left:.0f} MB are left")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NTU120)
