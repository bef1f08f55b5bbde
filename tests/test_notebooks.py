"""Every notebook runs from top to bottom, each in its own process and in the notebook's own folder, as JupyterLab would."""
import importlib
import os
import sys
from pathlib import Path

import pytest
from forks import start

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("run_", "tutorial_")  # these are run by papermill, in test_run_notebooks.py
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith(ELSEWHERE) and ".ipynb_checkpoints" not in p.parts)


def run(path: str) -> None:
    "What `nbdev-test` does with one notebook."
    os.chdir(ROOT)
    sys.argv = ["nbdev-test", path]
    importlib.import_module("nbdev.test").nbdev_test(path, n_workers=0)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_notebook(path, tmp_path):
    process = start("test_notebooks:run", {"path": str(path)}, log=tmp_path / "log.txt")
    try:
        process.join()
    finally:  # out of time, or interrupted
        if process.is_alive():
            process.kill()
    said = (tmp_path / "log.txt").read_text(errors="replace")
    assert process.exitcode == 0 and "Success" in said, said[-3000:]
