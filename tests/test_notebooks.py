"""Every notebook runs from top to bottom, each in its own process and in the notebook's own folder, as JupyterLab would."""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("run_", "tutorial_")  # these are run by papermill, in test_run_notebooks.py
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith(ELSEWHERE) and ".ipynb_checkpoints" not in p.parts)


def run(path: Path) -> subprocess.CompletedProcess:
    test = str(Path(sys.executable).with_name("nbdev-test"))
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([test, str(path), "--n-workers", "0"], cwd=ROOT, capture_output=True, text=True, env=quiet)


@pytest.fixture(scope="module")
def running(request):
    "The notebooks that were asked for, as many at a time as there are cores."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = [item.callspec.params["path"] for item in request.session.items if item.name.startswith("test_notebook[")]
    pool = ThreadPoolExecutor(cores)
    yield {path: pool.submit(run, path) for path in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_notebook(path, running):
    r = running[path].result()
    assert r.returncode == 0 and "Success" in r.stdout, (r.stdout + r.stderr)[-3000:]
