"""Event mAP over 100,000 proposals: the vectorised evaluation against the usual evaluators as plain loops (tests/loops.py), all of it measured.

`event_map` yields mAP_a, mAP_v, pooled AP, F1 and the per-class and per-video tables; the loops are asked for mAP_a and mAP_v only (a pooled list of
100,000 x 25,000 comparisons would take them an hour). Prints CPU seconds (other work on the machine does not count) and their ratio."""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
import loops  # noqa: E402

from skelnb.evaluation.events import event_map, event_maps  # noqa: E402


def segments(n: int, videos: int, classes: int, rng) -> pd.DataFrame:
    start = rng.integers(0, 5000, n)
    columns = {"video": np.sort(rng.integers(0, videos, n)), "label": rng.integers(1, classes + 1, n), "start": start}
    return pd.DataFrame(columns | {"end": start + rng.integers(15, 300, n), "score": rng.random(n)})


def detections(n: int, videos: int, classes: int, rng) -> tuple[pd.DataFrame, pd.DataFrame]:
    "n proposals, n / 4 true events; half of the proposals lie near a true event."
    truth, pred = segments(n // 4, videos, classes, rng), segments(n, videos, classes, rng)
    near = rng.integers(0, len(truth), n // 2)
    pred.loc[: n // 2 - 1, ["video", "label", "start", "end"]] = truth.loc[near, ["video", "label", "start", "end"]].to_numpy()
    pred.loc[: n // 2 - 1, "start"] -= rng.integers(0, 15, n // 2)
    return pred.sort_values("video", kind="stable", ignore_index=True), truth


def seconds(work, times: int = 1):
    "Result and best time."
    best = np.inf
    for _ in range(times):
        began = time.process_time()
        result = work()
        best = min(best, time.process_time() - began)
    return result, best


def main(n: int = 100_000, videos: int = 1000, classes: int = 51) -> None:
    pred, truth = detections(n, videos, classes, np.random.default_rng(0))
    rows = [[tuple(r) for r in t.itertuples(index=False)] for t in (pred, truth)]
    print(f"{n} proposals, {len(truth)} true events, {videos} videos, {classes} classes, tIoU 0.5")
    for mode in ("official", "voc", "corrected", "swtal"):
        ours, ours_s = seconds(lambda mode=mode: event_map(pred, truth, .5, mode), 3)
        slow, loops_s = seconds(lambda mode=mode: [loops.event_map(*rows, .5, mode, column) for column in (1, 0)])
        assert np.allclose([ours["map_a"], ours["map_v"]], slow), (ours, slow)
        print(f"{mode:9}  mAP_a {slow[0]:.4f}  mAP_v {slow[1]:.4f}  vectorised {ours_s:.3f} s  loops {loops_s:5.1f} s  ratio {loops_s / ours_s:.0f}")
    _, many_s = seconds(lambda: event_maps(pred, truth, np.arange(1, 21) * .05, "official"))
    _, one_s = seconds(lambda: event_map(pred, truth, .05, "official"))
    print(f"20 thresholds in one call {many_s:.2f} s, {many_s / one_s:.1f} times one threshold")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
