"""From a source to a store: complete or not there, whatever ends the process, and never twice the same work."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from skelnb.data.clip import Clip
from skelnb.data.prepare import build
from skelnb.data.source import Source
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, DiskError


def read_numbers(file, wait=0.0):
    "A file holds the length of its clip; an empty one holds no clip; who read it is noted beside it."
    file = Path(file)
    time.sleep(wait)
    with open(file.with_suffix(".read"), "a") as f:
        f.write("x")
    text = file.read_text()
    if text and not text.isdigit():
        raise DataError(f"{text!r} is no number", file=file, place="line 1", remedy="fetch it again")
    if not text:
        return None
    segments = [(0, 6, "walk"), (3, 8, "wave")] if file.stem == "003" else []
    return Clip(np.full((int(text), 1 + int(text) % 2, 25, 3), int(text)), 30, "kinect_v2", file.stem, label=f"a{int(text) % 3}", segments=segments)


def half(clip):
    return "train" if int(clip.name) % 2 else "test"


def lift(clip):
    return Clip(clip.xyz + 1, clip.fps, clip.layout, clip.name, clip.label, clip.segments)


def toy(folder, n=150, wait=0.0):
    folder.mkdir(exist_ok=True)
    for i in range(n):
        if not (folder / f"{i:03d}.txt").exists():
            (folder / f"{i:03d}.txt").write_text(str(10 + i % 7))
    store = {"splits": {"half": half}, "classes": ("background", "a0", "a1", "a2", "walk", "wave"), "allow_overlap": True}
    return Source("toy", tuple(str(folder / f"{i:03d}.txt") for i in range(n)), partial(read_numbers, wait=wait), store, ("3 were left out",))


def reads(folder):
    return {p.stem: len(p.read_text()) for p in folder.glob("*.read")}


@pytest.mark.parametrize("workers", [1, 2])
def test_build(tmp_path, workers):
    source = toy(tmp_path / "raw")
    (tmp_path / "raw" / "005.txt").write_text("")
    store = build(source, tmp_path / "out", workers=workers, progress=False, path="raw")
    direct = SkeletonStore.write(tmp_path / "direct", source.clips(), persons=2, **source.store)
    assert len(store) == 149 and store.checksum == direct.checksum, "not what reading everything at once gives"
    assert store.facts["about"] == {"format": "toy", "path": "raw", "notes": ["3 were left out"], "damaged": []}
    assert store.split("half", "test").tolist() == direct.split("half", "test").tolist() and store[3].segments
    assert [p.name for p in tmp_path.iterdir() if "unfinished" in p.name] == []
    with pytest.raises(DiskError, match="exists already"):
        build(source, tmp_path / "out")


def test_damage_is_collected_mended_and_only_that_part_read_again(tmp_path):
    raw, about = tmp_path / "raw", {"options": {"image_size": (640, 480), "labels": tmp_path}}
    source = toy(raw)
    for i in (7, 90):
        (raw / f"{i:03d}.txt").write_text("what?")
    with pytest.raises(DataError, match="2 of 150 units are damaged") as e:
        build(source, tmp_path / "out", workers=1, progress=False, path=raw, about=about)
    assert "007.txt" in str(e.value) and "090.txt" in str(e.value) and "fetch these again" in e.value.remedy
    assert not (tmp_path / "out").exists() and set(reads(raw).values()) == {1} and len(reads(raw)) == 150
    (raw / "007.txt").write_text("12")
    with pytest.raises(DataError, match="1 of 150"):
        build(source, tmp_path / "out", workers=1, progress=False, path=raw, about=about)
    again = {k for k, n in reads(raw).items() if n > 1}
    assert {"007", "090"} <= again and len(again) <= 32, "more was read again than the two parts"
    store = build(source, tmp_path / "out", workers=1, progress=False, path=raw, skip_damaged=True, about=about)
    assert len(store) == 149 and "090.txt" in store.facts["about"]["damaged"][0]


def test_a_changed_file_and_another_preset_are_not_mixed_in(tmp_path):
    raw = tmp_path / "raw"
    source = toy(raw, 40)
    (raw / "019.txt").write_text("no")
    for change in (None, lift):
        with pytest.raises(DataError):
            build(source, tmp_path / "out", change=change, about={"preset": change and "lift"}, workers=1, progress=False)
    assert set(reads(raw).values()) == {2}, "parts of another preset were used"
    (raw / "004.txt").write_text("33")
    (raw / "019.txt").write_text("11")
    store = build(source, tmp_path / "out", change=lift, about={"preset": "lift"}, workers=1, progress=False)
    assert len(store[4]) == 33 and (store[4].xyz[:, :2] == 34).all() and reads(raw)["004"] == 3 and reads(raw)["035"] == 2


def test_killed_and_continued(tmp_path):
    raw = tmp_path / "raw"
    toy(raw)
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_prepare import *\n" \
           f"build(toy(Path({str(raw)!r}), wait=0.02), {str(tmp_path / 'out')!r}, workers=1, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    while process.poll() is None and len(list((tmp_path / "out.unfinished").glob("*.json"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "out").exists()
    done = reads(raw)
    store = build(toy(raw, wait=0.02), tmp_path / "out", workers=1, progress=False)
    twice = [k for k, n in reads(raw).items() if n > 1]
    assert len(done) >= 64 and len(twice) <= 17 and store.checksum == build(toy(raw), tmp_path / "whole", workers=1, progress=False).checksum


def test_nothing_to_prepare_and_no_clip(tmp_path):
    raw = tmp_path / "raw"
    source = toy(raw, 3)
    for i in range(3):
        (raw / f"{i:03d}.txt").write_text("")
    with pytest.raises(DataError, match="not one clip came out.*\n.*3 were left out"):
        build(source, tmp_path / "out", workers=1, progress=False, path=raw)
    assert json.loads((tmp_path / "out.unfinished" / "plan.json").read_text())["about"]["format"] == "toy"
