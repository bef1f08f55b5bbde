"""Frame accuracy, edit score and F1@10/25/50 over 1,000 videos of about 3,000 frames: all videos at once against plain loops (tests/loops.py), and
per-frame mAP of some classes at the size of Smarthome's test set. Prints CPU seconds (other work on the machine does not count) and their ratio."""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import loops  # noqa: E402

from skelnb.evaluation.framewise import count_scores, edit_score, f1_at, frame_accuracy, per_frame_map, segmental, video_counts  # noqa: E402


def seconds(work, times: int = 1):
    "Result and best time."
    best = np.inf
    for _ in range(times):
        began = time.process_time()
        result = work()
        best = min(best, time.process_time() - began)
    return result, best


def video(rng, frames: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    "A truth of 20 to 60 segments, every fifth one background, and a prediction with shifted boundaries, wrong classes and some flicker."
    n = int(rng.integers(20, 60))
    edges = np.sort(rng.choice(np.arange(1, frames), n - 1, replace=False))
    labels = np.where(np.arange(n) % 5, rng.integers(1, classes, n), 0)
    truth = np.repeat(labels, np.diff([0, *edges, frames]))
    moved = np.clip(np.sort(edges + rng.integers(-15, 16, n - 1)), 1, frames - 1)
    said = np.where(rng.random(n) < .25, rng.integers(0, classes, n), labels)
    pred = np.repeat(said, np.diff([0, *moved, frames]))
    for start in rng.integers(0, frames, 5):
        pred[start:start + 8] = rng.integers(0, classes)
    return pred, truth


def table(videos: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [video(rng, int(rng.integers(2500, 3500)), classes) for _ in range(videos)]
    pred, truth = map(list, zip(*pairs))
    lists = [[x.tolist() for x in side] for side in (pred, truth)]
    counts = video_counts(pred, truth)
    print(f"{videos} videos, {counts['frames'].sum()} frames, {counts['n_pred'].sum()} predicted and {counts['n_truth'].sum()} true segments")
    f1 = lambda module, sides: [module(*sides, k) for k in (.1, .25, .5)]
    work = {
        "accuracy": (lambda: frame_accuracy(pred, truth), lambda: loops.frame_accuracy(*lists)),
        "edit": (lambda: edit_score(pred, truth), lambda: loops.edit_score(*lists)),
        "F1@10, 25, 50": (lambda: [v for k, v in count_scores(video_counts(pred, truth)).items() if k[0] == "f"], lambda: f1(loops.f1_at, lists)),
        "one F1": (lambda: f1_at(pred, truth, .5), lambda: loops.f1_at(*lists, .5)),
        "all five": (lambda: list(segmental(pred, truth).values()),
                     lambda: [loops.frame_accuracy(*lists), loops.edit_score(*lists), *f1(loops.f1_at, lists)]),
    }
    for name, (ours, slow) in work.items():
        (a, ours_s), (b, loops_s) = seconds(ours, 5), seconds(slow)
        assert np.allclose(a, b), (a, b)
        print(f"{name:14} vectorised {ours_s:.4f} s  loops {loops_s:5.2f} s  ratio {loops_s / ours_s:.0f}")


def smarthome(videos: int = 185, frames: int = 25_000, classes: int = 3, of: int = 51) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(frames, classes)).astype(np.float32) for _ in range(videos)]
    targets = [rng.random((frames, classes)) < .02 for _ in range(videos)]
    for mode in ("official", "corrected"):
        _, s = seconds(lambda mode=mode: per_frame_map(scores, targets, mode))
        print(f"per-frame mAP, {mode}: {videos * frames} frames, {s / classes:.2f} s a class, {s / classes * of:.0f} s for {of}")


if __name__ == "__main__":
    table(1000, 51)
    smarthome()
