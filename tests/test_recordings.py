"""The open recordings: two stores, from real files and from small ones of the same form."""

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import make_clip

from skelnb.data.packed import write_packed
from skelnb.data.recordings import PRETRAIN, TAKES, prepare, prepare_recognition, read_set
from skelnb.errors import DataError

FILES = sorted([f"{n}.npz" for n in PRETRAIN] + ["segments.csv", "sequences.csv"])


@pytest.fixture(scope="module")
def stores(recordings, tmp_path_factory):
    return prepare(recordings / "skeletons", tmp_path_factory.mktemp("stores"))


def subjects(store, part=None):
    clips = slice(None) if part is None else store.split("split", part)
    return set(store.table["subject"].to_numpy()[clips])


# ---- the real ones ------------------------------------------------------------------------------------------------------------------


def test_the_takes(stores):
    takes = stores["takes"]
    assert len(takes) == 70 and takes.layout.name == "kinect_v2" and takes.fps == 30  # 72 recordings, two of which show nobody
    assert subjects(takes, "test") == {f"precog_{i:02d}" for i in (3, 6, 9, 12)}
    assert subjects(takes, "train") == {f"precog_{i:02d}" for i in (1, 2, 4, 5, 7, 8, 10, 11)}
    assert len(takes.split("split", "train")) + len(takes.split("split", "test")) == 70
    assert len(takes.segments) > 70 and all((takes.frame_labels(i) >= 0).all() for i in range(70))


def test_what_is_learnt_from_shows_no_test_person_and_no_label(stores):
    pretrain, takes = stores["pretrain"], stores["takes"]
    assert set(pretrain.table["split"]) == {"train"} and len(pretrain) > 300
    assert not subjects(pretrain) & subjects(takes, "test") and subjects(takes, "train") < subjects(pretrain)
    assert len(pretrain.segments) == 0 and set(pretrain.table["label"].fillna("")) <= {""} and "kata" not in pretrain.classes
    names = set(pretrain.table["name"])
    assert not names & set(takes.table["name"].to_numpy()[takes.split("split", "test")])
    assert {n.split("_")[0] for n in names} == {"precog", "uiprmd", "hdm05", "cmu"}


def test_nobody_of_the_pretraining_set_is_a_test_person_of_the_published_split(stores, recordings):
    table = pd.read_csv(recordings / "skeletons" / "sequences.csv")
    held = set(table.subject[table.split == "test"])
    assert held and not held & subjects(stores["pretrain"])


def test_the_numbers_are_the_packed_ones(stores, recordings):
    clip = next(read_set(recordings / "skeletons", TAKES))
    takes = stores["takes"]
    same = takes[list(takes.table["name"]).index(clip.name)]
    np.testing.assert_array_equal(same.xyz, clip.xyz)
    assert tuple(same.segments) == tuple(clip.segments) and same.subject == clip.subject


def test_the_second_time_the_stores_are_found(stores, recordings):
    folder = stores["takes"].path.parent
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    again = prepare(recordings / "skeletons", folder)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert all(again[k].checksum == stores[k].checksum for k in stores)


# ---- small ones ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    "A folder of the same form: in each set a training, a pre-training and a test person, all labelled."
    folder = tmp_path / "skeletons"
    folder.mkdir()
    split = {}
    for name in PRETRAIN:
        clips = []
        for i, part in enumerate(("train", "pretrain", "test")):
            clips.append(make_clip(f"{name}_{part}", 30, seed=i, subject=f"{name}_{i}", segments=[(2, 9, "kata")]))
            split[clips[-1].name] = part
        write_packed(folder / f"{name}.npz", clips)
    table = pd.read_csv(folder / "sequences.csv")
    table["split"] = table.seq_id.map(split)
    table.to_csv(folder / "sequences.csv", index=False)
    return folder


def test_the_split_is_read_not_drawn(small, tmp_path):
    made = prepare(small, tmp_path / "stores")
    assert sorted(made["pretrain"].table["name"]) == sorted(f"{n}_{p}" for n in PRETRAIN for p in ("train", "pretrain"))
    assert list(made["takes"].table["split"]) == ["train", "train", "test"] and "kata" in made["takes"].classes
    assert "kata" not in "".join(p.read_text(errors="ignore") for p in made["pretrain"].path.iterdir() if p.suffix in (".csv", ".json"))


def test_changed_sources_make_new_stores(small, tmp_path):
    first = prepare(small, tmp_path / "stores")
    table = pd.read_csv(small / "sequences.csv")
    table["split"] = table.split.replace("pretrain", "test")
    table.to_csv(small / "sequences.csv", index=False)
    second = prepare(small, tmp_path / "stores")
    assert second["takes"].path != first["takes"].path and first["takes"].path.exists()
    assert len(second["pretrain"]) == len(PRETRAIN) and len(second["takes"].split("split", "test")) == 2


@pytest.mark.parametrize("lost", [[FILES[0]], ["sequences.csv"], FILES])
def test_missing_files_are_named(small, tmp_path, lost):
    for name in lost:
        (small / name).unlink()
    for call in (lambda: prepare(small, tmp_path / "stores"), lambda: next(read_set(small, TAKES))):
        with pytest.raises(DataError, match="(?s)files are missing.*settings.ini") as e:
            call()
        assert all(name in str(e.value) for name in lost) and str(small) in str(e.value)
    assert not (tmp_path / "stores").exists()


def test_a_broken_file_leaves_no_store(small, tmp_path):
    shutil.copyfile(small / "segments.csv", small / "hdm05.npz")
    with pytest.raises(DataError, match="hdm05.npz"):
        prepare(small, tmp_path / "stores")
    assert not (tmp_path / "stores").exists() or list((tmp_path / "stores").iterdir()) == []


def test_recognition_of_the_real_recordings(recordings, tmp_path):
    stores = prepare_recognition(recordings / "skeletons", tmp_path)
    assert {n: (len(s), len(s.classes)) for n, s in stores.items()} == {"movements": (2000, 10), "forms": (2000, 20), "hdm05": (288, 11), "strikes": (349, 8)}
    for store in stores.values():
        train, test = (set(store.table["subject"][store.split("split", part)]) for part in ("train", "test"))
        assert train and test and not train & test
    assert {label.rsplit("_", 1)[1] for label in stores["forms"].classes} == {"correct", "incorrect"}
    again = prepare_recognition(recordings / "skeletons", tmp_path, ["hdm05"])
    assert list(again) == ["hdm05"] and again["hdm05"].checksum == stores["hdm05"].checksum
