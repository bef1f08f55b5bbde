"""The tutorial of a method of one's own: one notebook, no other file touched, and it reaches other processes."""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from skelnb.data.synthetic import make_store
from skelnb.errors import ParameterError
from skelnb.files import read_json, sha256
from skelnb.interface.trials import METHODS, Pretraining, load_encoder, pretrain, register, trials
from skelnb.interface.trials import entrants as rows_of
from skelnb.methods.base import Preset
from skelnb.methods.usdrl import Usdrl, UsdrlPreset

ROOT = Path(__file__).parents[1]
NOTEBOOK = "nbs/tutorial_own_method.ipynb"


def files(folder):
    return {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_it_touches_no_other_file(tmp_path):
    pytest.importorskip("papermill")
    copy, out = tmp_path / "copy", tmp_path / "out"
    (copy / "nbs").mkdir(parents=True)
    shutil.copytree(ROOT / "skelnb", copy / "skelnb")
    for name in ("settings.ini", NOTEBOOK):
        shutil.copy(ROOT / name, copy / name)
    before = files(copy)
    given = {"out": out, "steps": 2, "batch": 8, "clips": 51}
    command = [str(Path(sys.executable).with_name("papermill")), NOTEBOOK, str(tmp_path / "done.ipynb"), "--no-progress-bar"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command + [w for k, v in given.items() for w in ("-p", k, str(v))], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(copy) == before
    made = {p.parent.name: read_json(p) for p in out.glob("*/run.json")}
    assert sorted(r["kind"] for r in made.values()) == ["clips", "clips", "clips", "pairs"]  # raw, random, trained; the training
    assert all((out / name / "result.json").exists() for name in made)


@pytest.fixture
def pairs():
    "The tutorial's classes, in the module in which a notebook's are."
    cells = ["".join(c["source"]) for c in json.loads((ROOT / NOTEBOOK).read_text())["cells"] if c["cell_type"] == "code"]
    there = {"__name__": "__main__"}
    for text in cells:
        if "from skelnb.methods.base import" in text or "\nclass " in text or text.startswith("class "):
            exec(text.split("\nuse_style()")[0], there)
    assert there["Pairs"].name not in METHODS
    yield there["Pairs"], there["PairsPreset"]
    METHODS.pop("pairs", None)


def test_it_reaches_other_processes(pairs, tmp_path):
    store = make_store(tmp_path / "people", 24, subjects=6, actions=("wave", "kick"), frames=(30, 40))
    register(*pairs)
    p = Pretraining(method="pairs", preset="tiny", reads="pieces", length=60, steps=1, batch=4)
    rows = rows_of("Pairs", p, (0, 1), baselines=False, view="usdrl", protocols=("1-NN",))
    done = [pretrain(t.of.to_dict(), str(store.path), str(tmp_path / "runs"), "cpu") for t in rows["Pairs"]]
    measured = trials(rows, store, store, tmp_path / "runs", workers=2, device="cpu")  # two trials, a process each
    assert len(measured.of("Pairs", "1-NN")) == 2
    assert type(load_encoder(tmp_path / "runs" / done[1]["run"])) is pairs[0]


@dataclass
class ShortPreset(Preset):
    "Too little for an encoder."

    frames: int = 8


@dataclass
class OwnPreset(UsdrlPreset):
    "Of `Own`."


class Own(Usdrl):
    "A method under another name."

    name = "own"


def test_register():
    with pytest.raises(ParameterError, match="register it first"):
        Pretraining(method="own", preset="tiny")
    with pytest.raises(ParameterError, match="ShortPreset: has no field channels, layout"):
        register(Own, ShortPreset)
    with pytest.raises(ParameterError, match="'usdrl' is taken"):
        register(Usdrl, UsdrlPreset)
    try:
        register(Own, OwnPreset)
        register(Own, OwnPreset)  # a cell that is run twice
        assert type(Pretraining(method="own", preset="tiny").make()) is Own
    finally:
        METHODS.pop("own", None)
