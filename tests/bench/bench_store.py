"""Random access to 256 clips: the store's memory map against the same frames in an .npz, padded to 300 frames as the field does, or ragged.

    python tests/bench/bench_store.py [clips in the set]

All numbers come from one run on one machine with a warm file cache; the ratios are what carries over.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from skelnb.data.clip import Clip
from skelnb.data.store import SkeletonStore
from skelnb.data.windows import ClipLoader

PICK, REPEATS = 256, 3


def best(read):
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        read()
        times.append(time.perf_counter() - begin)
    return min(times)


def main(n):
    rng = np.random.default_rng(0)
    lengths = rng.integers(40, 300, n)
    clips = [Clip(rng.normal(size=(T, 1, 25, 3)), 30, "kinect_v2", str(i)) for i, T in enumerate(lengths)]
    pick = rng.choice(n, min(PICK, n), replace=False)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        store = SkeletonStore.write(folder / "store", clips)
        padded = np.zeros((n, 300, 1, 25, 3), np.float32)
        for i, clip in enumerate(clips):
            padded[i, : len(clip)] = clip.xyz
        np.savez(folder / "ragged.npz", x=store.frames)
        np.savez(folder / "padded.npz", x=padded)
        np.savez_compressed(folder / "compressed.npz", x=padded)
        del padded, clips

        def read(clip_of):
            return lambda: [clip_of(i).sum() for i in pick]

        def npz(name):
            with np.load(folder / name) as z:
                return z["x"]

        def cut(x):
            return lambda i: x[store.offsets[i] : store.offsets[i + 1]] if x.ndim == 4 else x[i, : lengths[i]]

        rows = [
            (
                "SkeletonStore",
                store.frames.nbytes,
                best(lambda: SkeletonStore.open(folder / "store")),
                best(read(lambda i: store[i].xyz)),
                0,
            )
        ]
        for name in ("ragged.npz", "padded.npz", "compressed.npz"):
            x = npz(name)
            rows.append((name, (folder / name).stat().st_size, best(lambda name=name: npz(name)), best(read(cut(x))), x.nbytes))
        print(f"{len(pick)} clips at random out of {n} (best of {REPEATS}); ratio: opening and reading, against the store")
        print(f"{'':16}{'on disk':>10}{'in memory':>11}{'open':>12}{'read':>11}{'ratio':>8}")
        for name, disk, opening, reading, memory in rows:
            ratio = (opening + reading) / (rows[0][2] + rows[0][3])
            print(f"{name:16}{disk / 1e6:>7.0f} MB{memory / 1e6:>8.0f} MB{opening * 1e3:>9.1f} ms{reading * 1e3:>8.1f} ms{ratio:>8.1f}")
        loader, steps = ClipLoader(store, range(n), frames=120, batch=128), range(10)
        print(
            f"ClipLoader: {best(lambda: [loader.batch(s) for s in steps]) / len(steps) * 1e3:.1f} ms for a batch of 128 clips of 120 frames"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
