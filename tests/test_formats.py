"""Every format by name: what is forged is recognised, read, prepared, and found sound by the doctor."""

import inspect

import numpy as np
import pytest

from skelnb.data.formats import FORMATS, format_named, formats, recognise
from skelnb.data.prepare import build
from skelnb.errors import DataError, ParameterError

NAMES = {"npz": "NTU60_CS.npz", "pyskl": "ntu60_3danno.pkl", "packed": "mine.npz", "bvh": "take.bvh", "c3d": "take.c3d", "table": "take.csv",
         "mediapipe": "take.json", "alphapose": "take.json", "coco": "take.json", "mmpose": "take.json"}


@pytest.mark.parametrize("name", FORMATS)
def test_forged_recognised_read_and_prepared(name, tmp_path):
    known = format_named(name)
    made = known.forge(tmp_path / "raw" / NAMES.get(name, "files"), seed=1)
    assert recognise(made).name == name
    source = known.find(made, **known.asks)
    damaged, assumed = [], source.store
    clips = list(source.clips(damaged=damaged))
    assert clips and not damaged and len({c.name for c in clips}) == len(clips)
    for clip in clips:
        clip.check(made, assumed.get("allow_empty_frames", False), assumed.get("allow_overlap", False))
    for column, rule in assumed.get("splits", {}).items():
        assert {rule(c) for c in clips} - {"", None}, f"nobody is in split {column}"
    store = build(source, tmp_path / "store", workers=1, progress=False)
    assert [c.name for c in store] == [c.name for c in clips] and store.facts["about"]["format"] == name
    assert all(np.array_equal(a.xyz[:, : b.xyz.shape[1]], b.xyz) for a, b in zip(store, clips))


@pytest.mark.parametrize("name", FORMATS)
def test_one_pattern(name):
    known = format_named(name)
    assert "seed" in inspect.signature(known._get("forge")).parameters and known.what
    assert {*known.fixed, *known.asks} <= {*known.options} or "..." in known.options
    assert known.recognise("no such thing") is False


def test_unknown(tmp_path):
    assert formats() == list(FORMATS)
    with pytest.raises(ParameterError, match="there is no format 'ntu6'.*\n.*did you mean 'ntu60'"):
        format_named("ntu6")
    with pytest.raises(DataError, match="no such file"):
        recognise(tmp_path / "absent")
    with pytest.raises(DataError, match="an empty folder"):
        recognise(tmp_path)
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8" * 50)
    with pytest.raises(DataError, match="a file of 100 bytes.*\n.*skelnb prepare FORMAT PATH"):
        recognise(tmp_path / "cat.jpg")
    with pytest.raises(DataError, match="a folder with 1 entries: cat.jpg"):
        recognise(tmp_path)
    with pytest.raises(ParameterError, match="no option 'fase'.*\n.*did you mean 'phase'"):
        format_named("pku1").find(tmp_path, fase=1)
