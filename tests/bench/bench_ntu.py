"""Parsing NTU RGB+D .skeleton files on one core: this library against the line-by-line reader that the field copies.

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
BODY = "bodyID clipedEdges handLeftConfidence handLeftState handRightConfidence handRightState isRestricted leanX leanY trackingState".split()
JOINT = "x y z depthX depthY colorX colorY orientationW orientationX orientationY orientationZ trackingState".split()


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


def line_by_line(file):
    "The common way: every value of every line becomes a float in a dictionary, then the positions are copied out."
    with open(file) as f:
        sequence = []
        for _ in range(int(f.readline())):
            bodies = []
            for _ in range(int(f.readline())):
                body = {key: float(value) for key, value in zip(BODY, f.readline().split())}
                joints = int(f.readline())
                body["joints"] = [{key: float(value) for key, value in zip(JOINT, f.readline().split())} for _ in range(joints)]
                bodies.append(body)
            sequence.append(bodies)
    data = np.zeros((len(sequence), max(map(len, sequence)), 25, 3), np.float32)
    for t, bodies in enumerate(sequence):
        for m, body in enumerate(bodies):
            for v, joint in enumerate(body["joints"]):
                data[t, m, v] = joint["x"], joint["y"], joint["z"]
    return data


def timed(read):
    begin = time.perf_counter()
    read()
    return time.perf_counter() - begin


def compare(file, frames, persons):
    data = realistic(file, frames, persons).read_bytes()
    assert np.array_equal(read_skeleton(file).xyz, line_by_line(file))
    ways = {"line by line": lambda: line_by_line(file), "our exact parser": lambda: parse_exactly(data, file), "read_skeleton": lambda: read_skeleton(file)}
    times = {name: [] for name in ways}
    for _ in range(REPEATS):  # taken in turns, so that a busy machine slows all of them
        for name, way in ways.items():
            times[name] += [timed(way) for _ in range(5 if name == "read_skeleton" else 1)]
    best = {name: 1e3 * min(t) for name, t in times.items()}
    said = ", ".join(f"{name} {ms:.2f} ms" for name, ms in best.items())
    print(f"{frames} frames, {persons} bodies, {len(data) / 1e3:.0f} kB: {said}: {best['line by line'] / best['read_skeleton']:.1f} times as fast")


def main(frames):
    with tempfile.TemporaryDirectory() as folder:
        for persons in (1, 2):
            compare(Path(folder) / f"S001C001P001R001A00{persons}.skeleton", frames, persons)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 80)
