"""Every notebook runs from top to bottom, each in its own process and in the notebook's own folder, as JupyterLab would."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith("run_") and ".ipynb_checkpoints" not in p.parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_notebook(path):
    test = str(Path(sys.executable).with_name("nbdev-test"))
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    r = subprocess.run([test, str(path), "--n-workers", "0"], cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert r.returncode == 0 and "Success" in r.stdout, (r.stdout + r.stderr)[-3000:]
