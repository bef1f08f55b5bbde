"""Using an encoder: how much faster than real time a take of ten minutes is segmented (preset small, random weights), how much memory an hour needs, and
how long `import skelnb`, and its first use, take next to `import torch` alone.

Prints seconds and ratios of one run. Each import is timed in a process of its own, the best of three. Memory is the rise of the process's peak while it
segments, each length in a process of its own (Linux: the peak is reset before)."""

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
METHODS = ("lode", "usdrl", "slim", "aimclr")


def seconds_of(code: str) -> float:
    "A new Python process, without its own start."
    def once(source):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", source], check=True)
        return time.perf_counter() - began

    return min(once(code) for _ in range(3)) - min(once("pass") for _ in range(3))


def ready(name: str):
    "An encoder with a head, from a few labelled frames."
    from conftest import make_clip

    from skelnb.interface.encoder import Encoder
    from skelnb.interface.trials import METHODS as KNOWN

    kind, presets = KNOWN[name]
    enc = Encoder(kind(presets.named("small")), "kinect_v2")
    labelled = [make_clip(f"t{i}", 300, seed=i, segments=[(50, 150, "a"), (150, 250, "b")]) for i in range(2)]
    return enc.fit(labelled, epochs=2)


def long(minutes: float):
    from conftest import make_clip

    return make_clip("long", round(minutes * 60 * 30))


def high() -> float:
    "Peak memory since the last reset, MB."
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def peak(name: str, minutes: float) -> None:
    "Prints by how many MB the peak of this process rises while it segments, and the size of the result."
    import skelnb

    enc, clip = ready(name), long(minutes)
    skelnb.segment(long(0.5), enc)
    Path("/proc/self/clear_refs").write_text("5")
    before = high()
    said = skelnb.segment(clip, enc)
    print(high() - before, said.probabilities.nbytes / 2**20)


def main():
    import torch

    import skelnb

    base, ours, use = (seconds_of(c) for c in ("import torch", "import skelnb", "import skelnb; skelnb.load; skelnb.segment"))
    print(f"import torch {base:.2f} s; import skelnb {ours:.2f} s: {ours / base:.2f} of it; with skelnb.load and skelnb.segment {use:.2f} s: {use / base:.2f}")
    clip = long(10)
    for name in METHODS:
        enc = ready(name)
        skelnb.segment(long(0.2), enc)
        began = time.perf_counter()
        skelnb.segment(clip, enc)
        took = time.perf_counter() - began
        print(f"segment 10 minutes, {name} small, {torch.get_num_threads()} threads: {took:.1f} s, {600 / took:.0f} times faster than real time")
    for minutes in (10, 60):
        out = subprocess.run([sys.executable, __file__, "peak", "lode", str(minutes)], check=True, capture_output=True, text=True).stdout.split()
        print(f"segment {minutes} minutes, lode small: peak memory rises by {float(out[0]):.0f} MB, of which the probabilities are {float(out[1]):.1f} MB")


if __name__ == "__main__":
    peak(sys.argv[2], float(sys.argv[3])) if sys.argv[1:2] == ["peak"] else main()
