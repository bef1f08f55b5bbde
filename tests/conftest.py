"""How the tests are shared among processes, and what several test files need: the real recordings, where they are, and a small store."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from skelnb.data.clip import Clip
from skelnb.data.source import cores
from skelnb.data.store import SkeletonStore
from skelnb.settings import load

# a busy machine is no reason to fail; the rest as hypothesis finds right for the place (it has a profile of its own for CI)
settings.register_profile("busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    "`-n auto`: a worker for each core that this process may use (pytest-xdist counts those of the machine); run_lode alone is 1/10 of all."
    return None if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else min(cores(), 12)


def pytest_collection_modifyitems(config, items):
    "With several workers, whole notebooks come first, the run notebooks before all: no long test is left for the end, when the others are idle."
    if hasattr(config, "workerinput"):
        first = ["test_run_notebooks.py", "test_notebooks.py"]
        items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))


@pytest.fixture(scope="session")
def recordings():
    "The folder with `skeletons/` and `precog_raw/` (see [paths] data in settings.ini); tests that need it are skipped where it is absent."
    folder = load().data
    if not (folder / "skeletons" / "precog.npz").is_file() or not (folder / "precog_raw").is_dir():
        pytest.skip(f"no real recordings in {folder} (needs skeletons/ and precog_raw/): set SKELNB_PATHS_DATA or [paths] data")
    return folder


def make_clip(name="clip", T=40, M=1, seed=0, **known):
    "A random walk of 25 joints around (0, 1, 3) m."
    rng = np.random.default_rng(seed)
    xyz = rng.normal(0, 0.3, (1, M, 25, 3)) + rng.normal(0, 0.01, (T, M, 25, 3)).cumsum(0) + (0, 1, 3)
    return Clip(xyz, 30, "kinect_v2", name, **known)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    "Six takes of 30 to 130 frames, M = 2 with the second person in takes 1 and 4 only, three classes with background; do not write to it."
    clips = []
    for i in range(6):
        T = 30 + 20 * i
        actions = [(2, T // 2, "wave"), (T // 2, T - 3, "punch")]
        clips.append(make_clip(f"take_{i}", T, 2, i, segments=actions, subject=f"s{i % 3}", observed=np.arange(25) < 21))
        if i not in (1, 4):
            clips[-1].xyz[:, 1] = 0
    splits = {"part": lambda clip: "test" if clip.subject == "s2" else "train"}
    return SkeletonStore.write(tmp_path_factory.mktemp("tiny") / "store", clips, splits=splits)
