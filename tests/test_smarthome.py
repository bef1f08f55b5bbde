"""Toyota Smarthome trimmed and untrimmed, Posetics: LCR-Net's JSON, TSU's npz, UNIK's arrays."""

import json
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skelnb.data import smarthome
from skelnb.data.clip import BACKGROUND, frame_targets
from skelnb.data.smarthome import (
    CLASSES,
    CLASSES_CV,
    GOLDEN,
    SPLITS,
    TRAIN_SUBJECTS,
    TSU_CLASSES,
    find_posetics,
    find_smarthome,
    find_smarthome_arrays,
    find_tsu,
    forge_posetics,
    forge_smarthome,
    forge_smarthome_arrays,
    forge_tsu,
    parse_name,
    read_kpts,
    read_lcrnet,
    read_posetics,
    read_smarthome,
    read_smarthome_arrays,
    read_tsu,
    recognise_smarthome,
    to_pixels,
)
from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import synthesize
from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.files import read_json, write_json
from skelnb.topology import layout, map_joints


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return forge_smarthome(tmp_path_factory.mktemp("smarthome") / "json")


@pytest.fixture
def tsu(tmp_path):
    return forge_tsu(tmp_path / "tsu", n=3)


def test_golden_numbers():
    assert sum(GOLDEN["smarthome"]["classes"].values()) == GOLDEN["smarthome"]["clips"] == 16115
    assert len(CLASSES) == 31 and len(set(CLASSES_CV)) == 19 and set(CLASSES_CV) < set(CLASSES) and CLASSES[30] == "WatchTV"
    assert CLASSES_CV.index("Usetablet") == 16 and CLASSES.index("Usetablet") == 28  # the orders of the two differ
    assert len(TSU_CLASSES) == len(set(TSU_CLASSES)) == 51 and TSU_CLASSES[12] == "Stir_coffee/tea" and TSU_CLASSES[50] == "Pour.From_can"
    assert sum(GOLDEN["tsu"]["xsub"].values()) == sum(GOLDEN["tsu"]["xview"].values()) == 536
    assert TRAIN_SUBJECTS == (3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25)


def test_names():
    known = parse_name("Makecoffee.Pourgrains_p17_r03_v12_c07_pose3d.json")
    assert known == {
        "name": "Makecoffee.Pourgrains_p17_r03_v12_c07",
        "label": "Makecoffee.Pourgrains",
        "subject": 17,
        "camera": 7,
        "setup": 3,
    }
    assert parse_name("Walk_p02_r00_a02_c03")["camera"] == 3
    for other in ("P02T03C01_LCRNet2d.npz", "smarthome_CS_51.json", "Walk_p2_r0_v0_c0.json", "Walk.json", ""):
        assert parse_name(other) is None
    with pytest.raises(DataError, match="'Fly'"):
        parse_name("Fly_p02_r00_v02_c03_pose3d.json")


def test_clips_in_two_and_three_dimensions(made):
    source = find_smarthome(made)
    flat = {c.name: c for c in source.clips()}
    solid = {c.name: c for c in read_smarthome(made, dims=3, fps=20)}
    assert len(flat) == len(solid) == 10 and source.store["classes"] == CLASSES
    truth = synthesize(10, actions=tuple(smarthome._WORDS), frames=(20, 40), persons=2, seed=0, fps=20.0)
    for i, clip in enumerate(truth):
        name = next(n for n in flat if f"_r{i:02d}_" in n)
        two, three = flat[name], solid[name]
        assert (
            two.label == smarthome._WORDS[clip.label] and two.fps == 20 and (two.units, two.up, two.image_size) == ("px", "-y", (640, 480))
        )
        assert (three.units, three.up, three.layout) == ("m", "y", "lcrnet13") and three.xyz.shape == (*two.xyz.shape[:3], 3)
        here = two.present[:, 0]
        assert here.all() == (i % 2 == 1) and np.array_equal(here, three.present[:, 0])
        x, _ = map_joints(clip.xyz[:, 0], "kinect_v2", "lcrnet13")
        pixels = np.stack([320 - 525 * x[..., 0] / (x[..., 2] + 1.5), 240 - 525 * (x[..., 1] - 0.9) / (x[..., 2] + 1.5)], -1)
        assert np.allclose(two.xyz[here, 0], pixels[here], atol=1e-3)
        assert np.allclose(three.xyz[here, 0], (x - x[:, [4, 5]].mean(1, keepdims=True))[here], atol=1e-5)
        if two.xyz.shape[1] == 2:
            assert not two.xyz[0, 1].any() and two.xyz[3, 1].any()
    assert {c.xyz.shape[1] for c in read_smarthome(made, persons=1)} == {1}


def test_seventeen_joints(made):
    two = next(read_smarthome(made))
    wide = next(read_smarthome(made, layout="unik17"))
    assert wide.layout == "unik17" and np.array_equal(wide.present, two.present)
    L, U = layout("lcrnet13"), layout("unik17")

    def at(clip, joint):
        return clip.xyz[..., layout(clip.layout).index(joint), :]

    assert all(np.array_equal(at(wide, j), at(two, j)) for j in L.joints)
    neck, hips = (at(two, "shoulder_left") + at(two, "shoulder_right")) / 2, (at(two, "hip_left") + at(two, "hip_right")) / 2
    assert (
        np.allclose(at(wide, "neck"), neck)
        and np.allclose(at(wide, "mid_hip"), hips)
        and np.allclose(at(wide, "chest"), (neck + hips) / 2, atol=1e-4)
    )
    assert np.allclose(at(wide, "mouth"), (neck + at(two, "head")) / 2, atol=1e-4)
    assert wide.observed.sum() == 13 and not wide.observed[U.index("chest")]


def test_protocols(made, tmp_path):
    source = find_smarthome(made)
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert set(store.table.columns) > {"xsub", "xview1", "xview2"} and store.classes == CLASSES
    for clip, row in zip(source.clips(), store.table.itertuples()):
        assert row.xsub == ("train" if int(clip.subject) in TRAIN_SUBJECTS else "test")
        used = clip.label in CLASSES_CV
        assert row.xview1 == {"1": "train", "5": "val", "2": "test"}.get(clip.camera, "") * used
        assert row.xview2 == {"1": "train", "6": "train", "5": "val", "2": "test"}[clip.camera] * used
    view = find_smarthome(made, protocol="cv")
    assert view.store["classes"] == CLASSES_CV and all(c.label != "Cook.Cleanup" for c in view.clips())
    assert any("2 clips left out" in note for note in view.notes)
    assert any("20 per second is assumed" in n for n in source.notes) and not find_smarthome(made, fps=25).notes
    assert [c.name for c in source.clips(workers=2)] == [c.name for c in source.clips()]


def test_axes_are_checked(made, tmp_path):
    file = next(made.glob("Walk*"))
    poses = read_json(file)

    def write(change):
        for frame in poses["frames"]:
            for person in frame:
                person["pose3d"] = change(np.array(person["pose3d"]).reshape(3, 13)).reshape(-1).tolist()
        write_json(tmp_path / file.name, poses)
        return tmp_path / file.name

    good = next(read_smarthome(file, dims=3))
    down = write(lambda x: x * [[1], [-1], [1]])
    with pytest.raises(DataError, match="below the hips") as e:
        next(read_smarthome(down, dims=3))
    assert 'up="-y"' in e.value.remedy
    turned = next(read_smarthome(down, dims=3, up="-y"))
    assert np.allclose(np.linalg.norm(turned.xyz, axis=-1), np.linalg.norm(good.xyz, axis=-1), atol=1e-5) and turned.up == "y"
    with pytest.raises(DataError, match="no length in metres"):
        next(read_smarthome(write(lambda x: x * 1000), dims=3))
    write_json(tmp_path / file.name, {"frames": [[], []]})
    assert not next(read_smarthome(tmp_path / file.name, dims=3)).present.any()


@pytest.mark.parametrize(
    "content, place",
    [
        (b"", "line 1"),
        (b"[]", "frames"),
        (b"{}", "frames"),
        (b'{"frames": 7}', "frames"),
        (b'{"frames": [[7]]}', "frames"),
        (b'{"frames": [[{}]]}', "frames"),
        (b'{"frames": []}', "clip"),
        (b'{"frames": [[], [{"pose2d": [1, 2]}]]}', "frame 1, person 0"),
        (b'{"frames": [[{"pose2d": 7}]]}', "frame 0, person 0"),
        (b'{"frames": [[{"pose2d": [' + b"null, " * 25 + b"1]}]]}", "frame 0, person 0"),
        (b'{"frames": [[{"pose2d": [' + b'"1", ' * 25 + b"1]}]]}", "frame 0"),
        (b'{"frames": [[{"pose2d": [' + b"NaN, " * 25 + b"1]}]]}", "frame 0, person 0, joint ankle_right"),
        (b'{"frames": [[{"pose2d": [' + b"9" * 400 + b", 1" * 25 + b"]}]]}", "frame 0"),
    ],
)
def test_damaged_json(tmp_path, content, place):
    file = tmp_path / "Walk_p02_r00_v01_c03_pose3d.json"
    file.write_bytes(content)
    with pytest.raises(DataError) as e:
        next(read_smarthome(file))
    assert e.value.file == str(file) and place in e.value.place and e.value.remedy


def test_nothing_there(tmp_path, made):
    (tmp_path / "other.json").write_text("{}")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "other.json"):
        with pytest.raises(DataError, match="no pose of Toyota"):
            find_smarthome(path)
    (tmp_path / "Fly_p02_r00_v01_c03_pose3d.json").write_text("{}")
    with pytest.raises(DataError, match="Fly"):
        find_smarthome(tmp_path)
    for options in (dict(dims=4), dict(persons=0), dict(protocol="cx")):
        with pytest.raises(ParameterError):
            find_smarthome(made, **options)
    shutil.copy(next(made.glob("*.json")), tmp_path)
    (tmp_path / "Fly_p02_r00_v01_c03_pose3d.json").unlink()
    assert "1 json files left out" in " ".join(find_smarthome(tmp_path).notes)


def test_the_untrimmed_half(tsu, tmp_path):
    source = find_tsu(tsu)
    clips = list(source.clips())
    names = read_json(tsu / "smarthome_CS_51.json")
    assert [c.name for c in clips] == list(names) and source.store["classes"] == (BACKGROUND, *TSU_CLASSES)
    rules = source.store["splits"]
    assert [rules["xsub"](c) for c in clips] == ["test", "train", "train"] and [rules["xview"](c) for c in clips] == [
        "train",
        "test",
        "train",
    ]
    assert any("1 of " in n and "do not end after" in n for n in source.notes)
    for clip in clips:
        entry = names[clip.name]
        assert len(clip) == entry["duration"] and clip.units == "px" and not clip.xyz[0].any() and clip.xyz[1].any()
        targets = np.zeros((len(clip), 52), bool)
        for k, start, end in entry["actions"]:
            targets[start:end, k + 1] = True
        targets[:, 0] = ~targets.any(1)
        assert np.array_equal(frame_targets(clip, source.store["classes"]), targets)
    kpts = np.load(tsu / f"{clips[0].name}_LCRNet2d.npz")["kpts"]
    assert np.array_equal(clips[0].xyz[:, 0, 12], kpts[:, 0]) and np.array_equal(clips[0].xyz[:, 0, 0], kpts[:, 16])  # head, right ankle
    assert np.array_equal(clips[0].to("coco17").xyz[:, 0], kpts)
    assert {c.layout for c in read_tsu(tsu, layout="unik17", fps=20)} == {"unik17"}
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert np.array_equal(store.frame_targets(0), frame_targets(clips[0], store.classes))


def test_annotations_may_lie_elsewhere(tsu, tmp_path):
    names = list(read_json(tsu / "smarthome_CS_51.json"))
    poses = tmp_path / "poses"
    poses.mkdir()
    shutil.move(tsu / f"{names[0]}_LCRNet2d.npz", poses)
    (poses / "P99T99C01_LCRNet2d.npz").write_bytes(b"")
    with pytest.raises(DataError, match="smarthome_CS_51") as e:
        find_tsu(poses)
    assert "annotations=" in e.value.remedy
    for annotations in (tsu, tsu / "smarthome_CS_51.json"):
        source = find_tsu(poses, annotations=annotations)
        assert [c.name for c in source.clips()] == names[:1] and set(source.store["splits"]) == (
            {"xsub", "xview"} if annotations == tsu else {"xsub"}
        )
    assert any("2 of 3 videos" in n for n in source.notes) and any("no such video" in n for n in source.notes)
    assert [v.name for v in find_tsu(tsu / f"{names[1]}_LCRNet2d.npz").items] == [names[1]]
    with pytest.raises(DataError, match="no pose of TSU"):
        find_tsu(tmp_path / "tsu" / "smarthome_CV_51.json")


def test_json_of_untrimmed_videos(tsu):
    name, entry = next(iter(read_json(tsu / "smarthome_CS_51.json").items()))
    clip = synthesize(1, frames=(entry["duration"], entry["duration"]), fps=20)[0]
    write_json(tsu / f"results_{name}_lcrnet+v3d.json", smarthome._detections(clip, True))
    flat, solid = next(read_tsu(tsu)), next(find_tsu(tsu, dims=3).clips())
    assert flat.name == solid.name == name and solid.units == "m" and solid.segments == flat.segments and solid.xyz.shape[1:] == (1, 13, 3)
    with pytest.raises(DataError, match="no third dimension"):
        list(read_tsu(tsu, dims=3))


@pytest.mark.parametrize(
    "entry, word",
    [
        (7, "TypeError"),
        ({}, "duration"),
        ({"duration": 10, "subset": "validation", "actions": []}, "validation"),
        ({"duration": 10, "subset": "testing", "actions": [[51, 0, 5]]}, "51"),
        ({"duration": 10, "subset": "testing", "actions": [[1, -1, 5]]}, "-1"),
        ({"duration": 10, "subset": "testing", "actions": [[1, 0]]}, "values to unpack"),
        ({"duration": "x", "subset": "testing", "actions": []}, "x"),
        ({"duration": 10, "subset": "testing", "actions": [["1", 0, 5]]}, "instance"),
        ({"duration": 10, "subset": "testing", "actions": None}, "NoneType"),
        ({"duration": 10, "subset": "testing", "actions": [[1, 0, float("nan")]]}, "instance"),
    ],
)
def test_damaged_annotations(tsu, entry, word):
    file = tsu / "smarthome_CS_51.json"
    name, *_ = videos = read_json(file)
    file.write_text(json.dumps(videos | {name: entry}))
    with pytest.raises(DataError, match=word) as e:
        find_tsu(tsu)
    assert e.value.file == str(file) and name in e.value.place


def test_videos_that_do_not_fit(tsu):
    file = tsu / "smarthome_CS_51.json"
    videos = read_json(file)
    name, entry = next(iter(videos.items()))
    write_json(file, videos | {name: entry | {"duration": entry["duration"] - 3}})
    source = find_tsu(tsu)
    assert max(s.end for s in next(source.clips()).segments) <= entry["duration"]
    write_json(file, videos | {name: entry | {"duration": 100, "actions": [[1, 90, 110], [2, 120, 130]]}})
    source = find_tsu(tsu)
    assert any("2 instances end after their video" in n for n in source.notes)
    with pytest.raises(DataError, match="the annotation 100"):
        next(source.clips())
    for content in ({}, [], {"x": 1}):
        write_json(file, content)
        with pytest.raises(DataError):
            find_tsu(tsu)


def test_damaged_kpts(tmp_path):
    file = tmp_path / "P01T01C01_LCRNet2d.npz"
    for arrays, word in (
        ({"x": np.zeros(3)}, "missing"),
        ({"kpts": np.zeros((4, 13, 2))}, "(4, 13, 2)"),
        ({"kpts": np.zeros((0, 17, 2))}, "(0, 17, 2)"),
        ({"kpts": np.random.default_rng(0).normal(size=(4, 17, 2))}, "face"),
        ({"kpts": np.array([{}], object)}, "array"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(DataError) as e:
            read_kpts(file)
        assert word in e.value.what and e.value.remedy


def test_pixels_there_and_back():
    assert to_pixels(np.float32([[-1, -0.75], [1, 0.75], [0, 0.25]])).tolist() == [[0, 0], [640, 480], [0, 320]]
    x = np.random.default_rng(0).uniform(1, 479, (100, 2))
    normalised = (x / 640 * 2 - [1, 480 / 640]).astype(np.float32)
    assert np.abs(to_pixels(normalised) - x).max() < 1e-4


def test_uniks_arrays(tmp_path):
    path = forge_smarthome_arrays(tmp_path / "xsub")
    source = find_smarthome_arrays(path)
    clips = list(source.clips())
    assert len(clips) == 8 and [SPLITS["xsub"](c) for c in clips] == ["train"] * 4 + ["test"] * 4 and source.store["classes"] == CLASSES
    assert sum("balance" in n for n in source.notes) == 2
    truth = synthesize(4, actions=tuple(sorted(smarthome._WORDS)), frames=(20, 40), persons=2, seed=3, fps=20.0)
    for clip, real in zip(clips, truth):
        assert len(clip) == len(real) and clip.label == smarthome._WORDS[real.label] and clip.observed.sum() == 13
        assert np.allclose(clip.to("lcrnet13").xyz[:, 0], smarthome._seen(real)[0], atol=1e-3)
        second = clip.present[:, 1]  # came three frames later, and was moved to the beginning
        assert second[:-3].all() and not second[-3:].any()
        assert np.allclose(clip.to("lcrnet13").xyz[:-3, 1], smarthome._seen(real, 1)[0][3:], atol=1e-3)
    SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert {c.layout for c in read_smarthome_arrays(path / "val_data_joint.npy", layout="lcrnet13", fps=20)} == {"lcrnet13"}


def test_arrays_of_the_cross_view_protocols(tmp_path):
    path = forge_smarthome_arrays(tmp_path / "xview1")
    for part in ("train", "val"):
        names, labels = pickle.loads((path / f"{part}_label.pkl").read_bytes())
        keep = [i for i, n in enumerate(names) if parse_name(n)["label"] in CLASSES_CV]
        np.save(path / f"{part}_data_joint.npy", np.load(path / f"{part}_data_joint.npy")[keep])
        numbers = [np.int64(CLASSES_CV.index(parse_name(names[i])["label"])) for i in keep]
        (path / f"{part}_label.pkl").write_bytes(pickle.dumps(([names[i] for i in keep], numbers)))
    assert find_smarthome_arrays(path).store["classes"] == CLASSES_CV
    forge_smarthome_arrays(tmp_path / "xsub")
    for f in ("val_label.pkl", "val_data_joint.npy"):
        shutil.copy(tmp_path / "xsub" / f, path / f)
    with pytest.raises(DataError, match="do not fit the names"):
        find_smarthome_arrays(path)


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda n, k: (n, k[:-1]), "class numbers for"),
        (lambda n, k: (n[:-1], k), "class numbers for"),
        (lambda n, k: 7, "not .names"),
        (lambda n, k: (n, [i + 1 for i in k]), "do not fit"),
        (lambda n, k: (["x"] * len(n), k), "no name"),
        (lambda n, k: ([1] * len(n), k), "names"),
        (lambda n, k: (n, [1.5] * len(k)), "class numbers for"),
        (lambda n, k: (n, 3), "not .names"),
    ],
)
def test_damaged_labels(tmp_path, change, word):
    file = forge_smarthome_arrays(tmp_path) / "train_label.pkl"
    file.write_bytes(pickle.dumps(change(*pickle.loads(file.read_bytes()))))
    with pytest.raises(DataError, match=word) as e:
        find_smarthome_arrays(tmp_path)
    assert str(tmp_path) in e.value.file and e.value.remedy


def test_posetics(tmp_path):
    path = forge_posetics(tmp_path / "posetics")
    with pytest.raises(ParameterError, match="frame rate"):
        find_posetics(path)
    source = find_posetics(path, fps=30)
    flat, solid = list(source.clips()), list(read_posetics(path, fps=30, dims=3))
    assert len(flat) == 8 and [source.store["splits"]["split"](c) for c in flat] == ["train"] * 4 + ["val"] * 4
    assert (
        source.store["classes"] == tuple(a.replace("_", " ") for a in sorted(smarthome._WORDS))
        and flat[0].name == "train0000000_000010_000020"
    )
    truth = synthesize(4, actions=tuple(sorted(smarthome._WORDS)), frames=(20, 40), persons=2, seed=0, fps=30)
    for two, three, real in zip(flat, solid, truth):
        pixels, metres = smarthome._seen(real)
        assert len(two) == len(three) == len(real) and two.label == three.label == real.label.replace("_", " ") and three.units == "m"
        assert np.allclose(two.to("lcrnet13").xyz[:, 0], pixels, atol=1e-3) and np.allclose(
            three.to("lcrnet13").xyz[:, 0], metres, atol=1e-5
        )
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert store.classes == source.store["classes"]
    table = path / "posetics_train_label.json"
    table.rename(tmp_path / "names.json")
    assert find_posetics(path, fps=30).store["classes"][0] == "class 000"
    assert find_posetics(path, fps=30, labels=tmp_path / "names.json").store["classes"] == store.classes
    for content in ("[]", '{"a": 1}', '{"a": {"label_index": "x", "label": "y"}}'):
        table.write_text(content)
        with pytest.raises(DataError, match="no table of labels"):
            find_posetics(path, fps=30)


def test_arrays_of_another_kind(tmp_path):
    forge_posetics(tmp_path / "p")
    forge_smarthome_arrays(tmp_path / "s")
    for attempt in (
        lambda: find_smarthome_arrays(tmp_path / "p"),
        lambda: find_posetics(tmp_path / "s", fps=30),
        lambda: find_posetics(tmp_path, fps=30),
        lambda: find_smarthome_arrays(tmp_path / "s" / "train_label.pkl"),
    ):
        with pytest.raises(DataError) as e:
            attempt()
        assert e.value.remedy
    assert [recognise_smarthome(tmp_path / f) for f in ("p", "s")] == ["posetics", "smarthome_arrays"]


def test_recognition_of_files(made, tsu, tmp_path):
    assert recognise_smarthome(made) == recognise_smarthome(next(made.iterdir())) == "smarthome"
    assert (
        recognise_smarthome(tsu)
        == recognise_smarthome(tsu / "smarthome_CS_51.json")
        == recognise_smarthome(next(tsu.glob("*.npz")))
        == "tsu"
    )
    (tmp_path / "train_data_joint.npy").write_bytes(b"no array")
    for other in (tmp_path / "nowhere", tmp_path / "train_data_joint.npy", tmp_path):
        assert recognise_smarthome(other) is None
    np.save(tmp_path / "train_data_joint.npy", np.zeros((2, 3, 300, 25, 2)))
    assert recognise_smarthome(tmp_path) is None


def damaged(good: bytes):
    "Random bytes, and a good file with a flipped byte or a cut."

    def damage(args):
        at, value, cut = args
        flipped = bytearray(good)
        flipped[at] ^= value
        return bytes(flipped[:cut] if cut % 3 == 0 else flipped)

    return st.one_of(
        st.binary(max_size=200), st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255), st.integers(0, len(good))).map(damage)
    )


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fuzz(data, tmp_path_factory):
    base = tmp_path_factory.getbasetemp() / "fuzz_smarthome"
    if not base.exists():
        forge_smarthome(base / "json", n=1)
        forge_tsu(base / "tsu", n=1)
        forge_smarthome_arrays(base / "xsub", n=1, length=41)
        forge_posetics(base / "posetics", n=1, length=41)
        file = next((base / "json").iterdir())
        poses = read_json(file)
        write_json(file, {"frames": poses["frames"][:2]})
    kind = data.draw(st.sampled_from(["json", "tsu", "xsub", "posetics"]))
    file = data.draw(st.sampled_from(sorted((base / kind).iterdir())))
    good = file.read_bytes()
    file.write_bytes(data.draw(damaged(good[:3000])) + (good[3000:] if data.draw(st.booleans()) else b""))
    try:
        reader = {"json": read_smarthome, "tsu": read_tsu, "xsub": read_smarthome_arrays, "posetics": lambda p: read_posetics(p, fps=30)}[
            kind
        ]
        for clip in reader(base / kind):
            clip.check(allow_empty_frames=True, allow_overlap=True)
        for clip in read_smarthome(base / "json", dims=3) if kind == "json" else ():
            clip.check(allow_empty_frames=True)
    except SkelnbError as e:
        assert e.file
    finally:
        file.write_bytes(good)


def test_reading_takes_any_number_of_people(tmp_path):
    pose = list(range(26))
    file = tmp_path / "x.json"
    write_json(file, {"frames": [[], [{"pose2d": pose}] * 3, [{"pose2d": pose}]]})
    assert read_lcrnet(file).shape == (3, 2, 13, 2) and read_lcrnet(file, persons=5).shape == (3, 3, 13, 2)
    assert read_lcrnet(file)[1, 0, 2].tolist() == [2, 15] and not read_lcrnet(file)[0].any()
