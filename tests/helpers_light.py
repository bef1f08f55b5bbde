"""Jobs for other processes that need no PyTorch, and so start quickly."""

import os
import time
from pathlib import Path

from skelnb.errors import DataError


def fail_on_second_rank():
    "The second process finds bad data, the first waits for it for ever."
    print("rank", os.environ["RANK"], "speaks")
    if os.environ["RANK"] == "1":
        time.sleep(0.5)
        raise DataError("joint 24 is NaN", file="a.skeleton", place="frame 3", remedy="drop the frame")
    time.sleep(60)


def add(a, b):
    "A sum; a negative one fails, a huge one is killed."
    if a + b < 0:
        raise ArithmeticError(f"{a + b} is negative")
    if a + b > 1000:
        os.kill(os.getpid(), 9)
    return a + b


def meet(folder, me, other):
    "Wait for another job, which must therefore run at the same time. Tells the number of threads and the GPU of this one."
    Path(folder, me).touch()
    for _ in range(6000):
        if Path(folder, other).exists():
            return {"me": me, "threads": int(os.environ["OMP_NUM_THREADS"]), "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}
        time.sleep(0.01)
    raise TimeoutError(f"{me} never met {other}")
