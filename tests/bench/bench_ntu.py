"""Parsing NTU RGB+D .skeleton files on one core: this library against the two line-by-line readers that the field copies.

    python tests/bench/bench_ntu.py [frames in the file]

The file is in the page cache, so that parsing is measured and not the disk; the ratio is what carries over.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from skelnb.data.ntu import FIRST_ID, parse_exactly, read_skeleton
from skelnb.data.synthetic import synthesize

REPEATS = 30


def realistic(file, frames, persons=1):
    "A file whose lines are as long as the originals': twelve fields with seven digits each, exponents here and there."
    clip = synthesize(1, frames=(frames, frames), persons=persons)[0]
    rng = np.random.default_rng(0)
    lines = [str(frames)]
    for pose in clip.xyz - np.float32([0, 0.9, 0]):
        lines.append(str(persons))
        for m, body in enumerate(pose):
            lines += [f"{FIRST_ID + m} 0 1 1 1 1 0 0.02764709 0.05745083 2", "25"]
            for x, y, z in body.tolist():
                depth, color = (256 + 365 * x / z, 212 - 365 * y / z), (960 + 1060 * x / z, 540 - 1060 * y / z)
                numbers = (x, y, z, *depth, *color, *rng.uniform(-1, 1, 4))
                lines.append(" ".join(f"{n:.7g}".upper() for n in numbers) + " 2")
    file.write_bytes("".join(line + "\r\n" for line in lines).encode())
    return file


def into_dictionaries(file):
    "As the readers of ST-GCN, 2s-AGCN and AimCLR do: every value becomes a float in a dictionary; then the positions are copied."
    sequence = {"frames": []}
    with open(file) as f:
        sequence["count"] = int(f.readline())
        for _ in range(sequence["count"]):
            frame = {"bodies": [], "count": int(f.readline())}
            for _ in range(frame["count"]):
                keys = ["id", "edges", "left", "left_state", "right", "right_state", "restricted", "lean_x", "lean_y", "state"]
                body = {key: float(value) for key, value in zip(keys, f.readline().split())}
                body["count"] = int(f.readline())
                body["joints"] = []
                for _ in range(body["count"]):
                    keys = ["x", "y", "z", "depth_x", "depth_y", "color_x", "color_y", "w", "i", "j", "k", "state"]
                    joint = {key: float(value) for key, value in zip(keys, f.readline().split())}
                    body["joints"].append(joint)
                frame["bodies"].append(body)
            sequence["frames"].append(frame)
    data = np.zeros((sequence["count"], 4, 25, 3))
    for t, frame in enumerate(sequence["frames"]):
        for m, body in enumerate(frame["bodies"]):
            for v, joint in enumerate(body["joints"]):
                if m < 4 and v < 25:
                    data[t, m, v, :] = [joint["x"], joint["y"], joint["z"]]
    return data


def into_arrays(file):
    "As the reader of CTR-GCN does: positions and pixels of every line become two small arrays; bodies are stacked as they grow."
    with open(file) as f:
        lines = f.readlines()
    bodies, at = {}, 1
    for _ in range(int(lines[0])):
        count, at = int(lines[at]), at + 1
        for _ in range(count):
            name, joints, at = lines[at].split()[0], int(lines[at + 1]), at + 2
            xyz, pixels = np.zeros((joints, 3), np.float32), np.zeros((joints, 2), np.float32)
            for v in range(joints):
                values = lines[at + v].split()
                xyz[v], pixels[v] = np.array(values[:3], dtype=np.float32), np.array(values[5:7], dtype=np.float32)
            at += joints
            bodies[name] = np.vstack([bodies[name], xyz]) if name in bodies else xyz
    return np.stack([body.reshape(-1, 25, 3) for body in bodies.values()], 1)


def timed(read):
    begin = time.perf_counter()
    read()
    return time.perf_counter() - begin


def compare(file, frames, persons):
    data = realistic(file, frames, persons).read_bytes()
    xyz = read_skeleton(file).xyz
    assert np.array_equal(xyz, into_dictionaries(file)[:, :persons].astype(np.float32)) and np.array_equal(xyz, into_arrays(file))
    ways = {
        "into dictionaries": lambda: into_dictionaries(file),
        "into arrays": lambda: into_arrays(file),
        "our exact parser": lambda: parse_exactly(data, file),
        "read_skeleton": lambda: read_skeleton(file),
    }
    times = {name: [] for name in ways}
    for _ in range(REPEATS):  # taken in turns, so that a busy machine slows all of them
        for name, way in ways.items():
            times[name] += [timed(way) for _ in range(5 if name == "read_skeleton" else 1)]
    best = {name: 1e3 * min(t) for name, t in times.items()}
    said = ", ".join(f"{name} {ms:.2f} ms" for name, ms in best.items())
    dictionaries, arrays = (best[f"into {name}"] / best["read_skeleton"] for name in ("dictionaries", "arrays"))
    print(f"{frames} frames, {persons} bodies, {len(data) / 1e3:.0f} kB: {said}: {dictionaries:.1f} and {arrays:.1f} times as fast")


def main(frames):
    with tempfile.TemporaryDirectory() as folder:
        for persons in (1, 2):
            compare(Path(folder) / f"S001C001P001R001A00{persons}.skeleton", frames, persons)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 80)
