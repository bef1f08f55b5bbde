"""Segmentation data sets in the form of MS-TCN: there and back, the five forms of features, and what must be refused."""

import csv
import json
import shutil

import numpy as np
import pytest
from conftest import make_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skelnb.data.clip import BACKGROUND, Clip, frame_labels
from skelnb.data.mstcn import (
    GOLDEN,
    find_mstcn,
    forge_mstcn,
    forms_of,
    from_lasa,
    lasa_channels,
    read_mapping,
    read_mstcn,
    recognise_mstcn,
    write_mstcn,
)
from skelnb.data.precog import cross_subject, read_precog
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, DiskError, ParameterError, SkelnbError

FACTS = {"fps": 30, "layout": "kinect_v2", "units": "m", "up": "y"}
FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def takes(n=3, M=2, T=30, **known):
    return [make_clip(f"take_{i}", T + i, M, i, segments=[(2, 10, "wave"), (10, 20, "punch"), (22, 29, "wave")], **known) for i in range(n)]


def fails(attempt, *words, error=DataError):
    with pytest.raises(error) as e:
        attempt()
    text = f"{e.value.file} {e.value.place} {e.value.what}"
    assert all(word in text for word in words) and e.value.remedy, text
    return e.value


@pytest.fixture
def forged(tmp_path):
    return forge_mstcn(tmp_path / "forged", takes=3)


# ---- there and back ---------------------------------------------------------------------------------------------------------------------


def test_real_takes_there_and_back(recordings, tmp_path):
    clips = list(read_precog(recordings / "precog_raw", empty="drop"))
    folder = write_mstcn(tmp_path / "precog", clips, split=cross_subject)
    source = find_mstcn(folder)
    back = list(source.clips())
    assert len(back) == 70 and {c.name for c in back} == {c.name for c in clips}
    published = {c.name: c for c in clips}
    for clip in back:
        other = published[clip.name]
        assert np.array_equal(clip.xyz, other.xyz) and clip.segments == other.segments
        assert (clip.fps, clip.layout, clip.units, clip.up) == (other.fps, other.layout, other.units, other.up)
        assert source.store["splits"]["split1"](clip) == cross_subject(other)
    train = [c for c in clips if cross_subject(c) == "train"]
    with open(folder / "csv" / "val1.csv", newline="") as f:
        assert [row["feature"] for row in csv.DictReader(f)] == [f"./dataset/precog/features/{c.name}.npy" for c in train[9::10]]


@pytest.mark.parametrize("form", ["TD", "DT", "CTVM"])
def test_every_form(tmp_path, form):
    clips = takes()
    folder = write_mstcn(tmp_path / "set", clips, form=form)
    shapes = {"TD": (30, 150), "DT": (150, 30), "CTVM": (3, 30, 25, 2)}
    assert np.load(folder / "features" / "take_0.npy").shape == shapes[form]
    (folder / "skelnb.json").unlink()
    for a, b in zip(clips, read_mstcn(folder, **FACTS), strict=True):
        assert np.array_equal(a.xyz, b.xyz) and b.segments[0] == (0, 2, BACKGROUND)


def test_the_other_files(tmp_path):
    folder = write_mstcn(tmp_path / "set", takes(), split=lambda c: "test" if c.name == "take_2" else "train")
    assert (folder / "mapping.txt").read_text() == "0 background\n1 punch\n2 wave\n"
    text = (folder / "groundTruth" / "take_0.txt").read_text()
    names = ["background"] * 2 + ["wave"] * 8 + ["punch"] * 10 + ["background"] * 2 + ["wave"] * 7 + ["background"]
    assert text.endswith("\n") and text.split("\n")[:-1] == names
    ids = np.load(folder / "gt_arr" / "take_0.npy")
    edges = np.load(folder / "gt_boundary_arr" / "take_0.npy")
    assert ids.dtype == edges.dtype == np.float64 and ids[3] == 2
    assert np.flatnonzero(edges).tolist() == [0, 2, 3, 10, 11, 20, 21, 22, 23, 29]
    assert (folder / "splits" / "train.split1.bundle").read_text() == "take_0.txt\ntake_1.txt\n"
    assert (folder / "splits" / "test.split1.bundle").read_text() == "take_2.txt\n"


def test_a_store(tiny_store, tmp_path):
    folder = write_mstcn(tmp_path / "set", tiny_store, split="part")
    source = find_mstcn(folder)
    again = SkeletonStore.write(tmp_path / "again", source.clips(), **source.store)
    assert again.classes == tiny_store.classes and np.array_equal(again.frames, tiny_store.frames)
    assert all(np.array_equal(again.frame_labels(i), tiny_store.frame_labels(i)) for i in range(len(again)))
    assert again.table["split1"].tolist() == tiny_store.table["part"].tolist()
    fails(lambda: write_mstcn(tmp_path / "other", tiny_store, split="no"), "'no'", error=ParameterError)
    fails(lambda: write_mstcn(tmp_path / "other", takes(), split="part"), "'part'", error=ParameterError)


def test_names_with_blanks(tmp_path):
    clips = [make_clip("a", 20, segments=[(0, 9, "drink water"), (9, 20, "throw")])]
    folder = write_mstcn(tmp_path / "set", clips)
    assert "drink_water" in (folder / "mapping.txt").read_text() and "drink_water\n" in (folder / "groundTruth" / "a.txt").read_text()
    source = find_mstcn(folder)
    assert source.store["classes"] == ("drink water", "throw") and next(source.clips()).segments == clips[0].segments
    clash = [make_clip("a", 20, segments=[(0, 9, "drink water"), (9, 20, "drink_water")])]
    fails(lambda: write_mstcn(tmp_path / "other", clash), "blanks", error=ParameterError)
    assert not (tmp_path / "other").exists()


def test_overlapping_labels_lose_all_but_the_last(tmp_path):
    clip = make_clip("a", 20, segments=[(0, 15, "wave"), (5, 10, "punch")])
    (back,) = read_mstcn(write_mstcn(tmp_path / "set", [clip]))
    assert [s[:2] for s in back.segments] == [(0, 5), (5, 10), (10, 15), (15, 20)]


@pytest.mark.parametrize(
    "clips, word",
    [
        ([], "no clip"),
        ([make_clip("a.b", 20, label="wave")], "name of a take"),
        ([make_clip("a b", 20, label="wave")], "name of a take"),
        ([make_clip("../a", 20, label="wave")], "name of a take"),
        ([make_clip("a", 20)], "neither a label"),
        ([make_clip("a", 20, label="wave"), make_clip("a", 20, label="wave")], "came before"),
        ([make_clip("a", 20, 1, label="wave"), make_clip("b", 20, 2, label="wave")], "(2, 25, 3)"),
        ([make_clip("a", 20, label="wave"), make_clip("b", 20, label="wave", up="z")], "up 'z'"),
    ],
)
def test_what_is_not_written(tmp_path, clips, word):
    with pytest.raises(DataError) as e:
        write_mstcn(tmp_path / "set", clips)
    assert word in e.value.what and e.value.remedy and not list(tmp_path.iterdir())


def test_wrong_arguments(tmp_path):
    fails(lambda: write_mstcn(tmp_path / "set", takes(), form="lasa"), "lasa", error=ParameterError)
    fails(lambda: write_mstcn(tmp_path / "set", takes(), split=lambda c: "a/b"), "'a/b'")
    write_mstcn(tmp_path / "set", takes())
    fails(lambda: write_mstcn(tmp_path / "set", takes()), "exists", error=DiskError)
    write_mstcn(tmp_path / "set", takes(1), replace=True)
    assert len(find_mstcn(tmp_path / "set")) == 1


# ---- what the files do not say ----------------------------------------------------------------------------------------------------------


def test_what_is_not_known_is_asked_for(forged):
    error = fails(lambda: find_mstcn(forged), "fps, layout, units, up")
    assert "fps=, layout=, units=, up=" in error.remedy and "kinect_v2" in error.remedy
    assert "units" in fails(lambda: find_mstcn(forged, fps=30, layout="kinect_v2"), "units, up").what
    fails(lambda: find_mstcn(forged, **FACTS | {"units": "mm"}), "'mm'", error=ParameterError)
    fails(lambda: find_mstcn(forged, **FACTS | {"fps": -1}), "fps -1", error=ParameterError)
    assert len(list(read_mstcn(forged, **FACTS))) == 3
    known = forged.rename(forged.with_name("PKU-subject"))
    (clip, *_) = read_mstcn(known)
    assert (clip.fps, clip.layout, clip.units) == (30, "kinect_v2", "m")


def test_features_of_videos_are_refused(forged):
    for file in (forged / "features").iterdir():
        np.save(file, np.zeros((2048, len(np.load(file))), np.float32))
    error = fails(lambda: find_mstcn(forged, **FACTS), "no skeletons", "2048")
    assert "I3D" in error.remedy


@pytest.mark.parametrize(
    "shape, frames, expected",
    [
        ((300, 150), 300, ["TD"]),
        ((150, 300), 300, ["DT"]),
        ((150, 150), 150, ["TD", "DT"]),
        ((3, 300, 25, 2), 300, ["CTVM"]),
        ((12, 25, 300), 300, ["lasa"]),
        ((300, 25, 3), 300, ["TVC"]),
        ((300, 151), 300, []),
        ((299, 150), 300, []),
        ((300, 7500), 300, []),
        ((300,), 300, []),
        ((1, 1, 1, 1, 1), 1, []),
        ((300, 0), 300, []),
    ],
)
def test_forms(shape, frames, expected):
    assert forms_of(shape, frames, 25, 3) == expected


def test_a_square_needs_its_form(tmp_path):
    clip = make_clip("a", 150, 2, label="wave")
    folder = write_mstcn(tmp_path / "set", [clip])
    (folder / "skelnb.json").unlink()
    fails(lambda: list(read_mstcn(folder, **FACTS)), "a.npy", "TD or DT")
    assert np.array_equal(next(read_mstcn(folder, **FACTS, form="TD")).xyz, clip.xyz)


def test_millimetres(forged):
    metres, thousandths = next(read_mstcn(forged, **FACTS)), next(read_mstcn(forged, **FACTS, scale=0.001))
    assert np.allclose(thousandths.xyz, metres.xyz / 1000)


def test_pixels_with_scores(forged):
    rng = np.random.default_rng(0)
    for file in (forged / "features").iterdir():
        np.save(file, rng.uniform(0.1, 700, (len(np.load(file)), 25, 3)))
    clip = next(read_mstcn(forged, fps=30, layout="body25", units="px", up="-y"))
    features = np.load(forged / "features" / f"{clip.name}.npy").astype(np.float32)
    assert np.array_equal(clip.xyz[:, 0], features[..., :2]) and np.array_equal(clip.confidence[:, 0], features[..., 2])


def test_background_by_another_name(forged):
    for file in (forged / "groundTruth").iterdir():
        file.write_text(file.read_text().replace("background", "NONE"))
    lines = (forged / "mapping.txt").read_text().splitlines()
    names = [line.split()[1] for line in lines[1:]] + ["NONE"]
    (forged / "mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names)))
    shutil.rmtree(forged / "gt_arr")
    source = find_mstcn(forged, **FACTS, background="NONE")
    assert source.store["classes"] == (BACKGROUND, *names[:-1]) and any("0 here" in note for note in source.notes)
    assert next(source.clips()).segments[0].label == BACKGROUND
    fails(lambda: find_mstcn(forged, **FACTS, background="SIL"), "'SIL'", error=ParameterError)


# ---- LaSA's channels --------------------------------------------------------------------------------------------------------------------


def test_lasa_channels_are_inverted_but_for_the_start(tmp_path):
    clip = make_clip("a", 60, 2, label="wave")
    clip.xyz[:20, 1] = 0  # the second person enters
    channels = lasa_channels(clip.xyz)
    assert channels.shape == (12, 25, 60) and np.allclose(channels[3:6, 0], 0)
    back = from_lasa(channels)
    starts = np.stack([clip.xyz[0, 0, 0], clip.xyz[20, 1, 0]])[None, :, None]
    expected = (clip.xyz - starts) * clip.present[..., None, None]
    assert np.abs(back - expected).max() < 1e-4
    folder = write_mstcn(tmp_path / "set", [clip])
    (folder / "skelnb.json").unlink()
    np.save(folder / "features" / "a.npy", channels)
    source = find_mstcn(folder, **FACTS, form="lasa")
    assert np.array_equal(next(source.clips()).xyz, back) and any("distances between people are lost" in note for note in source.notes)
    np.save(folder / "features" / "a.npy", np.random.default_rng(0).normal(0, 1, channels.shape))
    fails(lambda: list(source.clips()), "a.npy", "displacements")


def test_nobody_in_lasa_channels():
    assert not from_lasa(lasa_channels(np.zeros((5, 2, 25, 3), np.float32))).any()


# ---- splits and labels ------------------------------------------------------------------------------------------------------------------


def test_lists(tmp_path):
    folder = write_mstcn(tmp_path / "dataset" / "mine", takes(12), split=lambda c: "test" if c.name == "take_11" else "train")
    shutil.move(folder / "csv", tmp_path / "csv" / "mine")
    (folder / "splits" / "train.split2.bundle").write_text("take_0.txt\nother.txt\n")
    source = find_mstcn(folder)
    rules = source.store["splits"]
    assert set(rules) == {"split1", "split2", "csv1"}
    parts = [rules["csv1"](make_clip(f"take_{i}", 1)) for i in range(12)]
    assert parts.count("train") == 10 and parts.count("val") == 1 and parts.count("test") == 1
    assert rules["split2"](make_clip("take_3", 1)) == ""
    assert any("split2: 1 takes of train.split2.bundle are not there, other first" in n for n in source.notes)
    assert any("split2: 11 takes are in no part" in n for n in source.notes)
    (folder / "splits" / "test.split2.bundle").write_text("take_0.txt\n")
    fails(lambda: find_mstcn(folder), "split2.bundle", "take_0 is in")
    (folder / "splits" / "test.split2.bundle").unlink()
    (tmp_path / "csv" / "mine" / "val1.csv").write_text("other,label\nx,y\n")
    fails(lambda: find_mstcn(folder), "val1.csv", "feature")


def test_labels_from_either_place(forged):
    source = find_mstcn(forged, **FACTS)
    before = [c.segments for c in source.clips()]
    first = source.items[0].name
    shutil.move(forged / "groundTruth", forged / "kept")
    assert [c.segments for c in read_mstcn(forged, **FACTS)] == before
    shutil.move(forged / "kept", forged / "groundTruth")
    np.save(forged / "gt_arr" / f"{first}.npy", 0 * np.load(forged / "gt_arr" / f"{first}.npy"))
    fails(lambda: find_mstcn(forged, **FACTS), f"{first}.npy", "contradicts")
    np.save(forged / "gt_arr" / f"{first}.npy", np.full(7, 99))
    fails(lambda: find_mstcn(forged, **FACTS), f"{first}.npy", "int64 (7,)")
    shutil.rmtree(forged / "gt_arr")
    text = forged / "groundTruth" / f"{first}.txt"
    text.rename(text.with_suffix(".csv"))  # LARa
    assert [c.segments for c in read_mstcn(forged, **FACTS)] == before
    text.with_suffix(".csv").write_text("dancing\n")
    fails(lambda: find_mstcn(forged, **FACTS), "line 1", "'dancing'")


def test_takes_without_a_partner(forged):
    names = sorted(f.stem for f in (forged / "features").iterdir())
    (forged / "features" / f"{names[0]}.npy").unlink()
    for folder in ("groundTruth", "gt_arr"):
        (forged / folder / f"{names[1]}{'.txt' if folder == 'groundTruth' else '.npy'}").unlink()
    source = find_mstcn(forged, **FACTS)
    assert len(source) == 1 and sum("left out" in note for note in source.notes) == 2


@pytest.mark.parametrize("text", ["", "0 a\n2 b\n", "0 a\n0 b\n", "0 a\n1 a\n", "a 0\n", "0\n", "1 a\n", "0 a\x07b\n"])
def test_damaged_mappings(tmp_path, text):
    (tmp_path / "mapping.txt").write_text(text)
    fails(lambda: read_mapping(tmp_path / "mapping.txt"), "mapping.txt")


@pytest.mark.parametrize("change", [{"fps": "fast"}, {"names": 3}, {"fps": None}])
def test_a_damaged_sidecar(tmp_path, change):
    folder = write_mstcn(tmp_path / "set", takes(1))
    facts = json.loads((folder / "skelnb.json").read_text())
    (folder / "skelnb.json").write_text(json.dumps(facts | change))
    fails(lambda: find_mstcn(folder), "skelnb.json", "write_mstcn")


def test_nothing_there(tmp_path, forged):
    fails(lambda: find_mstcn(tmp_path / "absent"), "no take")
    assert recognise_mstcn(forged) == "mstcn" and recognise_mstcn(tmp_path) is None and recognise_mstcn(forged / "mapping.txt") is None
    (forged / "mapping.txt").unlink()
    fails(lambda: find_mstcn(forged, **FACTS), "mapping.txt")
    assert recognise_mstcn(forged) is None


def test_a_take_that_is_not_as_long_as_its_labels(forged):
    names = sorted(f.stem for f in (forged / "features").iterdir())
    file = forged / "features" / f"{names[1]}.npy"
    np.save(file, np.load(file)[:-1])
    source, damaged = find_mstcn(forged, **FACTS), []
    assert len(list(source.clips(damaged=damaged))) == 2 and file.name in damaged[0].file and "no form" in damaged[0].what


def test_frames_that_show_nobody(tmp_path):
    clip = make_clip("a", 20, segments=[(0, 20, "wave")])
    clip.xyz[:4] = 0
    folder = write_mstcn(tmp_path / "set", [clip])
    assert [len(next(read_mstcn(folder, empty=empty))) for empty in ("keep", "drop")] == [20, 16]
    fails(lambda: list(read_mstcn(folder, empty="error")), "nobody")


def test_golden_numbers():
    for golden in GOLDEN.values():
        assert sum(golden["csv1"].values()) == golden["clips"] == 1009


def test_many_processes_give_the_same(forged):
    one, two = list(read_mstcn(forged, **FACTS)), list(read_mstcn(forged, workers=2, **FACTS))
    assert [c.segments for c in one] == [c.segments for c in two] and all(np.array_equal(a.xyz, b.xyz) for a, b in zip(one, two))


# ---- anything at all --------------------------------------------------------------------------------------------------------------------


@FUZZ
@given(data=st.data())
def test_any_damage_is_an_error_or_a_clip(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz") / "set"
    write_mstcn(folder, [make_clip("a", 8, 1, segments=[(2, 6, "wave")])], split=lambda c: "train")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.parent.name != "gt_boundary_arr")
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    recognise_mstcn(folder)
    try:
        clips = list(read_mstcn(folder))
        assert all(isinstance(clip, Clip) and len(frame_labels(clip, {s.label for s in clip.segments})) == len(clip) for clip in clips)
    except SkelnbError as e:  # a layout of another name is a LayoutError
        assert e.remedy
