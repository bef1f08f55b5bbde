"""Every notebook runs from top to bottom, each in its own process and in the notebook's own folder, as JupyterLab would."""
import importlib
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("run_", "tutorial_")  # these are run by papermill, in test_run_notebooks.py
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith(ELSEWHERE) and ".ipynb_checkpoints" not in p.parts)
# what nearly every notebook imports, and slowly; nothing of skelnb, so that a notebook meets it as a fresh process does
HEAVY = ["torch", "lightning_fabric", "pandas", "scipy.stats", "sklearn.linear_model", "sklearn.cluster", "matplotlib.pyplot", "seaborn", "nbdev.test"]


def run(path: str, log: str) -> None:
    "What `nbdev-test` does with one notebook, in a process of its own; what it prints goes to a file."
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.chdir(ROOT)
    sys.argv = ["nbdev-test", path]
    importlib.import_module("nbdev.test").nbdev_test(path, n_workers=0)


@pytest.fixture(scope="module")
def processes():
    "Where new processes come from: copies of one that has imported the slow packages, where the system can copy safely."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        context.set_forkserver_preload(HEAVY)
        yield context


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_notebook(path, processes, tmp_path):
    process = processes.Process(target=run, args=(str(path), str(tmp_path / "log.txt")))
    process.start()
    try:
        process.join()
    finally:  # out of time, or interrupted
        if process.is_alive():
            process.kill()
    said = (tmp_path / "log.txt").read_text(errors="replace")
    assert process.exitcode == 0 and "Success" in said, said[-3000:]
