"""Processes that begin in a tenth of a second: copies of one that has imported the slow packages, where the system can copy safely. A module that is
imported quickly, since the copies import it."""

import importlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path

# what nearly everything imports, and slowly; nothing of skelnb, so that a copy meets it as a fresh process does
HEAVY = ["torch", "torch._dynamo", "lightning_fabric", "pandas", "scipy.stats", "sklearn.linear_model", "sklearn.cluster", "matplotlib.pyplot", "seaborn",
         "nbdev.test"]
_context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    _context.set_forkserver_preload(HEAVY)


def call(target: str, arguments: dict, variables: dict, answer: str | None, log: str | None) -> None:
    "In the new process: `module:function`(**arguments) with these environment variables, its result as JSON, what is printed into a file."
    if log:
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(to, 1)
        os.dup2(to, 2)
    os.environ.update(variables)
    module, _, name = target.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**arguments)
        if answer:
            Path(answer).write_text(json.dumps(result))
    except BaseException as e:
        traceback.print_exc()
        status = e.code if isinstance(e, SystemExit) and isinstance(e.code, int) else 1
    else:
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as `launch` does: a process group is not taken down, which may abort the process


def start(target: str, arguments: dict, variables: dict | None = None, answer=None, log=None) -> BaseProcess:
    "Start `module:function`(**arguments) in a process of its own."
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # for the process that is copied: what it imports reads this once
    try:
        process = _context.Process(target=call, args=(target, arguments, variables or {}, answer and str(answer), log and str(log)))
        process.start()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return process


def ranks(target: str, arguments: dict, n: int, folder: Path):
    "What `module:function`(**arguments) returns in the first of n processes, which meet as those of `torchrun` do: at a store that this process keeps."
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # any free port
    common = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "GROUP_RANK": 0, "ROLE_WORLD_SIZE": n,
              "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0, "TORCHELASTIC_USE_AGENT_STORE": True}
    jobs = []
    try:
        for r in range(n):
            variables = {k: str(v) for k, v in {**common, "RANK": r, "LOCAL_RANK": r, "ROLE_RANK": r}.items()}
            jobs.append(start(target, arguments, variables, folder / f"{r}.json", folder / f"{r}.txt"))
        while any(j.is_alive() for j in jobs) and not any(j.exitcode for j in jobs):
            time.sleep(0.02)
    finally:
        for j in jobs:
            j.kill()  # those that wait for one that failed
            j.join()
    if any(j.exitcode for j in jobs):
        raise RuntimeError("\n".join(f"rank {r} ended with {j.exitcode}:\n{(folder / f'{r}.txt').read_text()[-2000:]}" for r, j in enumerate(jobs)))
    return json.loads((folder / "0.json").read_text())
