"""The doctor: every planted fault is found, sound data is left alone, and what it found can be read by people and by scripts."""
import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from skelnb.data import doctor
from skelnb.data.clip import Clip
from skelnb.data.doctor import CHECKS, KINDS, Look, Tally, compare, damage, diagnose, examine, separated
from skelnb.data.formats import format_named
from skelnb.data.ntu import forge_ntu
from skelnb.data.packed import read_packed
from skelnb.data.pku import find_pku, forge_pku
from skelnb.data.source import Source
from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import synthesize, synthesize_untrimmed
from skelnb.errors import DataError, StoreError
from skelnb.topology import layout, layouts, map_joints

SWAP = layout("kinect_v2").swap


@pytest.fixture(scope="module")
def clips():
    return [_plain(c) for c in synthesize(24, seed=3)]


@pytest.fixture(scope="module")
def pairs():
    return [_plain(c) for c in synthesize(8, persons=2, seed=4)]


def _plain(c, **changes):
    "A Clip, not a SyntheticClip, with a change of its positions or fields."
    known = {k: getattr(c, k) for k in ("xyz", "fps", "layout", "name", "label", "segments", "subject", "units", "up")}
    return Clip(**known | changes)


def put(clip, change, **known):
    xyz = clip.xyz.copy()
    out = change(xyz)
    return _plain(clip, xyz=xyz if out is None else out, **known)


def at(index, value):
    def change(xyz):
        xyz[index] = value
    return change


def times(factor):
    return lambda xyz: xyz * np.float32(factor)


def codes(clips, **options):
    return diagnose(list(clips), **options).codes


# ---------------------------------------------------------------- one clip

def swap_legs(xyz):
    xyz[30:, 0, 12:20] = xyz[30:, 0, [16, 17, 18, 19, 12, 13, 14, 15]]


def shuffle(xyz):
    rng = np.random.default_rng(0)
    return np.stack([frame[:, rng.permutation(25)] for frame in xyz])


FAULTS = {
    "nan-coordinates": at((5, 0, 3), np.nan),
    "empty-frames": at(slice(10, 20), 0),
    "empty-clip": at(slice(None), 0),
    "frozen": lambda xyz: np.concatenate([xyz, xyz[-1:].repeat(20, 0)]),
    "repeated-frames": lambda xyz: xyz.repeat(3, 0),
    "cyclic-padding": lambda xyz: np.resize(xyz, (300, *xyz.shape[1:])),
    "jump": lambda xyz: np.where(np.arange(len(xyz))[:, None, None, None] > 30, xyz + np.float32([1, 0, 0]), xyz),
    "side-swap": swap_legs,
    "unsteady-bones": shuffle,
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_of_one_clip_is_found(clips, code):
    sick = put(clips[4], FAULTS[code])
    found = diagnose([*clips[:4], sick, *clips[5:]])
    assert code in found.codes
    [finding] = [f for f in found.findings if f.code == code]
    assert finding.clips == (clips[4].name,) and finding.count == 1 and repr(clips[4].name) in finding.place
    assert finding.severity == KINDS[code].severity and finding.remedy
    others = found.codes - {code} - {"side-swap", "jump", "odd-size"}  # a body without order does everything else, too
    assert not others


def test_the_frame_in_question_is_named_and_drawn(clips):
    for code, frame in (("nan-coordinates", 5), ("empty-frames", 10), ("jump", 31), ("side-swap", 30)):
        report = diagnose([*clips[:3], put(clips[4], FAULTS[code])])
        [finding] = [f for f in report.findings if f.code == code]
        assert finding.place.endswith(f"frame {frame}")
        [picture] = report.pictures
        assert picture.mark == frame and {frame - 1, frame} <= set(picture.frames.tolist()) and len(picture.xyz) == len(picture.frames) <= 8
        np.testing.assert_array_equal(picture.xyz, np.nan_to_num(put(clips[4], FAULTS[code]).xyz[picture.frames]))


def test_two_people(pairs):
    assert diagnose(pairs).findings == []
    crossed = put(pairs[0], lambda xyz: np.concatenate([xyz[:25], xyz[25:, ::-1]]))
    [finding] = diagnose([crossed, *pairs[1:]]).findings
    assert finding.code == "identity-swap" and finding.place.endswith("frame 25")
    second = put(pairs[0], at((slice(None), 0), 0))
    assert codes([second, *pairs[1:]]) == {"first-person-absent"}
    assert codes([put(pairs[0], at((slice(None), 1), 0)), *pairs[1:]]) == set()


def test_impossible_segments(clips):
    sick = _plain(clips[0], label=None, segments=[(4, 30, "a"), (20, 40, "a"), (50, 41, "a"), (40, 900, "a")])
    assert codes([sick]) == {"segment-order", "segment-range", "segment-overlap"}
    over = _plain(clips[0], label=None, segments=[(4, 30, "a"), (20, 40, "b")])
    assert codes([over]) == {"segment-overlap"}
    assert examine(over, allow_overlap=True).sightings == ()


@pytest.mark.parametrize("wrong", [dict(xyz=np.zeros((9, 25, 3))), dict(xyz=np.ones((9, 1, 20, 3))), dict(fps=0), dict(layout="kinect"), dict(name="a\nb"),
                                   dict(xyz=np.zeros((0, 1, 25, 3))), dict(up="Y"), dict(xyz=np.ones((9, 1, 25, 5)))])
def test_what_is_no_clip_is_said_and_survived(clips, wrong):
    report = diagnose([*clips[:3], _plain(clips[4], **wrong)])
    assert report.status == 2 and "invalid-clip" in report.codes
    str(report), json.dumps(report.to_json())


def test_lost_joints_are_no_alarm(clips):
    "Joints that were not found (zero), and a joint that is the origin."
    rng = np.random.default_rng(0)
    gaps = [put(c, lambda xyz: xyz * (rng.random(xyz.shape[:3]) > 0.1)[..., None]) for c in clips]
    assert codes(gaps) == set()
    for moved in (lambda xyz: xyz - xyz[:, :1, [1]], lambda xyz: xyz - xyz[:, :, [20]], lambda xyz: xyz - xyz[0, 0, 1]):
        assert codes(put(c, moved) for c in clips) == set()  # AGCN's, AimCLR's and CTR-GCN's files


# ---------------------------------------------------------------- a set

TURNED = {  # a change of all clips, and what the finding should advise
    "units": (times(1000), {}, "millimetres"),
    "up-axis": (lambda xyz: xyz[..., [0, 2, 1]] * np.float32([1, -1, 1]), {}, "up='z'"),
    "left-right": (times([-1, 1, 1]), {}, "swap"),
    "wrong-layout": (lambda xyz: xyz, {"layout": "body25"}, "layout='kinect_v2'"),
    "half-precision": (lambda xyz: xyz.astype(np.float16), {}, "2 mm"),
    "rounded": (lambda xyz: np.rint(xyz * 1000) / 1000, {}, "to 1 mm"),
}


@pytest.mark.parametrize("code", TURNED)
def test_a_fault_of_all_clips_is_found_once_and_alone(clips, code):
    change, known, advice = TURNED[code]
    [finding] = diagnose([put(c, change, **known) for c in clips]).findings
    assert finding.code == code and advice in str(finding)


@pytest.mark.parametrize("code, change", [("odd-size", times(100)), ("odd-sides", times([-1, 1, 1])), ("upside-down", times([-1, -1, 1]))])
def test_what_one_clip_does_unlike_the_others_is_a_remark(clips, code, change):
    report = diagnose([*clips[:8], put(clips[8], change)])
    assert report.codes == {code} and report.status == 1


@pytest.mark.parametrize("true", ["coco17", "h36m17", "unik17", "body25", "kinect_v2"])
def test_joint_orders_with_the_same_number_of_joints(clips, true):
    for flat in (False, True):
        mapped = [Clip(map_joints(c.xyz, "kinect_v2", true)[0], 30, true, c.name) for c in clips[:12]]
        if flat:
            mapped = [replace(c, xyz=600 - 300 * c.xyz[..., :2], units="px", up="-y") for c in mapped]
        assert codes(mapped) == set()
        for other in layouts():
            if other != true and layout(other).V == layout(true).V:
                [finding] = diagnose([replace(c, layout=other) for c in mapped]).findings
                assert finding.code == "wrong-layout" and f"layout='{true}'" in finding.remedy


def test_joints_in_no_known_order(clips):
    order = np.random.default_rng(0).permutation(25)
    [finding] = diagnose([put(c, lambda xyz: xyz[:, :, order]) for c in clips]).findings
    assert finding.code == "wrong-layout" and "no known layout fits" in finding.what


def test_pictures_have_their_own_units(clips):
    people = [put(c, lambda xyz: 600 - 300 * xyz[..., :2], units="px", up="-y") for c in clips]
    assert codes(people) == set()
    assert codes([put(c, times(1 / 1000)) for c in people]) == {"units"}
    assert codes([_plain(c, up="y") for c in people]) == {"up-axis"}
    assert codes([_plain(c, units="image") for c in people]) == {"units"}
    whole = diagnose([put(c, np.rint) for c in people])
    assert whole.codes == {"rounded"} and "to 1 px" in whole.findings[0].what


def test_a_frame_rate_that_hands_cannot_have(clips):
    assert codes([_plain(c, fps=3000) for c in clips]) == {"speed"}


def test_mixed_sets(clips):
    report = diagnose([*clips[:4], _plain(clips[5], fps=25)])
    assert report.codes == {"mixed-set"} and "25 fps" in str(report)


# ---------------------------------------------------------------- names, copies, splits

def stored(path, clips, **options):
    return SkeletonStore.write(path / "store", clips, **options)


def test_copies(tmp_path, clips):
    assert codes([*clips, clips[0]]) == {"duplicate-name", "duplicate-content"}
    near = put(clips[1], lambda xyz: (xyz - xyz[0, 0, 1]).astype(np.float16), name="near")
    assert codes([*clips, near]) == {"near-duplicate"}
    for other, code in ((_plain(clips[1], name="copy"), "duplicate-content"), (near, "near-duplicate")):
        parts = ["train"] * len(clips) + ["test"]
        split = diagnose(stored(tmp_path / code, [*clips, other], splits={"mine": parts, "none": [""] * len(parts)}))
        assert split.codes == {"train-test-content", code} and split.status == 2
        assert "in mine" in str(split) and "in none" not in str(split)


def test_a_name_on_both_sides(clips):
    tally = Tally()
    for i, clip in enumerate([*clips[:3], put(clips[4], times(1), name=clips[0].name)]):
        tally.add(examine(clip, {"split": "test" if i == 3 else "train"}))
    assert {f.code for f in doctor.check_names(tally)} == {"duplicate-name", "train-test-name"}


def test_people_on_both_sides_of_a_split_by_people(tmp_path, clips):
    def parts(c):
        return "test" if int(c.subject[1:]) > 8 else "train"

    split = {"xsub": parts, "random": lambda c: "test" if int(c.name[-1]) > 5 else "train"}
    assert diagnose(stored(tmp_path / "good", clips, splits=split)).codes == set()
    leaking = {"xsub": split["random"]}
    report = diagnose(stored(tmp_path / "bad", clips, splits=leaking))
    assert report.codes == {"subject-leak"} and "xsub has subject S" in str(report)
    assert [separated(c) for c in ("xsub", "cross_view", "xsetup", "NTU120_CSub", "part", "cs")] == ["subject", "camera", "setup", "subject", None, "subject"]


# ---------------------------------------------------------------- labels

def test_labels_and_classes(tmp_path, clips):
    names = sorted({c.label for c in clips})
    source = partial(Source, "mine", (0,), _Give(clips))
    assert diagnose(source({"classes": names})).codes == set()
    assert diagnose(source({"classes": [*names, "never", "ever"]})).codes == {"missing-classes"}
    assert diagnose(source({"classes": ["first", *names]})).codes == {"label-base"}
    assert diagnose(source({"classes": names[1:]})).codes == {"unknown-label"}
    numbers = _Give([_plain(c, label=str(1 + names.index(c.label))) for c in clips])
    assert diagnose(Source("mine", (0,), numbers, {"classes": names})).codes == {"label-base"}
    assert diagnose(Source("mine", (0,), numbers, {"classes": [str(i) for i in range(len(names))]})).codes == {"label-base"}


class _Give:
    "A reader of what is in memory."

    def __init__(self, clips, error=None): self.clips, self.error = clips, error

    def __call__(self, item):
        yield from self.clips
        if self.error:
            raise self.error


@pytest.mark.parametrize("factor, said", [(0.5, "15 and 30"), (25 / 30, "25 and 30"), (0.8, "24 and 30")])
def test_labels_of_another_frame_rate(factor, said):
    takes = [_plain(c) for c in synthesize_untrimmed(6, seed=5)]
    takes = [_plain(t, segments=[*t.segments[:-1], (*t.segments[-1][:1], len(t), t.segments[-1].label)]) for t in takes]
    assert codes(takes) == set()
    slow = [_plain(t, segments=[(int(s * factor), int(e * factor), label) for s, e, label in t.segments]) for t in takes]
    [finding] = diagnose(slow).findings
    assert finding.code == "label-rate" and said in finding.what and finding.severity == "remark"
    fast = [_plain(t, segments=[(int(s / factor), int(e / factor), label) for s, e, label in t.segments]) for t in takes]
    report = diagnose(fast)
    assert report.codes == {"label-rate", "segment-range"} and said in str(report) and report.status == 2
    refused = []
    for t in fast:
        with pytest.raises(DataError) as e:
            t.check("take.txt")
        refused.append(e.value)
    assert "label-rate" in {f.code for f in damage(refused)}


# ---------------------------------------------------------------- what cannot be read

def test_damage_is_counted_and_the_rest_is_examined(clips):
    source = Source("mine", tuple(range(30)), _damaged_third)
    report = diagnose("some folder", source)
    [finding] = report.findings
    assert finding.code == "damaged-file" and finding.count == 10 and finding.clips[0] == "file_0.txt" and finding.remedy == "fetch S001-S017 again"
    assert report.counts["clips"] == 20 and report.what == "some folder" and len(str(report).splitlines()) < 25
    assert diagnose("some folder", source, workers=2).to_json() == report.to_json()


def _damaged_third(item):
    if item % 3 == 0:
        raise DataError(f"frame {item} is cut off", file=f"file_{item}.txt", remedy="fetch S001-S017 again")
    return synthesize(1, start=item)[0]


def test_nothing_at_all():
    report = diagnose([])
    assert report.status == 2 and report.codes == {"counts"}
    str(report), json.dumps(report.to_json())


def test_a_generator_that_breaks(clips):
    report = diagnose(_Give(clips[:5], DataError("the archive ends here", file="a.zip"))(0))
    assert report.codes == {"damaged-file"} and report.counts["clips"] == 5 and report.findings[0].remedy == KINDS["damaged-file"].remedy


def test_stores(tmp_path, clips):
    store = stored(tmp_path, clips)
    sound = diagnose(store.path)
    assert sound.status == 0 and sound.dataset == "store" and sound.counts["clips"] == len(clips)
    assert sound.to_json() == diagnose(store).to_json()
    with open(store.path / "frames.f32", "r+b") as f:
        f.write(b"1234")
    assert diagnose(store.path).codes == {"damaged-file"}
    (store.path / "frames.f32").write_bytes(b"")
    report = diagnose(store.path)
    assert report.codes == {"damaged-file"} and "cut off" in str(report)
    with pytest.raises(StoreError):
        SkeletonStore.open(store.path)


def test_unknown_paths(tmp_path):
    with pytest.raises(DataError):
        diagnose(tmp_path / "nowhere")


# ---------------------------------------------------------------- what others' forgers write

PART = {"counts", "missing-classes"}  # a forged set is small
FORGED = {  # format -> (file or folder, what else is true of the forged files, options)
    "ntu60": ("nturgb+d_skeletons", set(), {}),
    "npz": ("NTU60_CS.npz", set(), {}),
    "pyskl": ("ntu60_3danno.pkl", {"half-precision"}, {}),
    "babel": ("babel", set(), {}),
    "babel_localisation": ("babel", set(), {}),
    "babel_recognition": ("babel", {"duplicate-content"}, {}),  # a chunk with two labels comes twice
    "smarthome": ("smarthome", {"empty-frames"}, {}),
    "tsu": ("tsu", {"empty-frames", "segment-order", "segment-overlap"}, {}),
    "kinetics": ("kinetics", {"empty-frames", "identity-swap", "side-swap", "rounded"}, {}),  # people by score, three digits
    "packed": ("set.npz", {"rounded"}, {}),
    "openpose": ("openpose", {"identity-swap"}, {"fps": 30}),
    "coco": ("take.json", {"empty-frames", "identity-swap"}, {"fps": 30}),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_sets_are_recognised_and_sound(tmp_path, name):
    file, true, options = FORGED[name]
    path = format_named(name).forge(tmp_path / file, seed=1)
    report = diagnose(path, **options)
    assert report.dataset == name and report.counts["clips"] and report.codes <= PART | true, str(report)


def test_a_truncated_file_of_ntu_names_its_archive(tmp_path):
    path = forge_ntu(tmp_path / "nturgb+d_skeletons", performers=(1,))
    files = sorted(path.rglob("*.skeleton"))
    files[3].write_bytes(files[3].read_bytes()[:9000])
    files[5].write_bytes(b"")
    report = diagnose(path)
    damaged = [f for f in report.findings if f.code == "damaged-file"]
    assert sum(f.count for f in damaged) == 2 and files[3].name in str(report) and all("s001_to_s017.zip" in f.remedy for f in damaged)
    assert report.counts["clips"] == len(files) - 3  # one is on the authors' list
    [counts] = [f for f in report.findings if f.code == "counts"]
    assert "of 56,578" in counts.what and report.golden[0][1:] == (len(files) - 3, 56578)


def test_faulty_labels_of_pku_are_reported_though_the_reader_deals_with_them(tmp_path):
    report = diagnose(tmp_path, find_pku(forge_pku(tmp_path / "pku")))
    assert {"segment-order", "segment-overlap"} <= report.codes and report.status == 1 and "0043-L" in str(report)


def test_the_list_of_the_other_phase_of_pku(tmp_path):
    shutil.copy(forge_pku(tmp_path / "two", 2) / "cross_subject_v2.txt", forge_pku(tmp_path / "one") / "Split" / "cross-subject.txt")
    with pytest.raises(DataError, match="phase"):
        find_pku(tmp_path / "one")
    case = doctor._found(tmp_path / "one", SimpleNamespace(name="pku1", what="PKU-MMD", find=lambda path, **_: find_pku(path)), {})
    assert case.refused is not None and case.source is None


# ---------------------------------------------------------------- the report

def test_golden_numbers():
    golden = {"clips": 10, "frames": 5, "xsub": {"train": 6, "test": 4, "rate": 0.5}, "videos": 3, "xview": {"train": 1}}
    counts = {"clips": 10, "frames": 7, "xsub": {"train": 6}}
    assert compare(counts, golden) == [("clips", 10, 10), ("frames", 7, 5), ("xsub train", 6, 6), ("xsub test", 0, 4)]


def test_faulty_instances_may_be_left_out():
    golden = {"instances": 100, "xsub_instances": {"train": 60, "test": 40}, "backwards": 1}
    rows = compare({"instances": 99, "xsub_instances": {"train": 59, "test": 38}}, golden)
    assert rows == [("instances without faulty ones", 99, 99), ("xsub_instances train without faulty ones", 59, 59), ("xsub_instances test", 38, 40)]


def test_report_for_scripts_and_people(tmp_path, clips):
    sick = [put(c, at((0, 0, 0), np.inf)) for c in clips]
    report = diagnose(sick)
    [finding] = report.findings
    assert report.status == 2 and finding.count == 24 and len(finding.clips) == doctor.KEPT and len(report.pictures) == doctor.DRAWN
    assert len(str(report).splitlines()) < 30 and "24 clips of 24" in str(report)
    data = json.loads(report.write(tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["status"] == 2 and data["findings"][0]["code"] == "nan-coordinates" and data["counts"]["clips"] == 24
    assert {f.name for f in tmp_path.iterdir()} == {"report.json"}


def test_limit(clips):
    report = diagnose(iter(clips), limit=5)
    assert report.counts["clips"] == 5 and "first 5" in report.notes[0]


@pytest.mark.parametrize("persons, noise, fps", [(1, 0.0, 30), (2, 0.005, 30), (1, 0.015, 15), (1, 0.002, 120)])
def test_synthetic_people_are_sound(persons, noise, fps):
    made = [*synthesize(40, persons=persons, seed=9, noise=noise, fps=fps), *synthesize_untrimmed(2, seed=9, persons=persons, noise=noise, fps=fps)]
    made = [_plain(c, name=f"{i}") for i, c in enumerate(made)]
    assert diagnose(made).findings == []


def test_no_warning_and_no_alarm_on_random_walks():
    "Numbers that are no people still give a report."
    from conftest import make_clip
    report = diagnose([make_clip(f"{i}", seed=i, T=3 + i) for i in range(9)])
    assert "wrong-layout" in report.codes
    for check in CHECKS:
        list(check(Look(make_clip(T=1))))


TRUE = {  # code -> recordings; looked at one by one, every alarm is true
    "precog": {"rounded": 70, "empty-clip": 2, "jump": 1},
    "uiprmd_kinect": {"rounded": 200, "jump": 2},
    "hdm05": {"rounded": 288}, "cmu_seg": {"rounded": 7}, "cmu_misc": {"rounded": 28},
}


@pytest.mark.parametrize("name", TRUE)
def test_every_alarm_on_real_recordings_is_true(recordings, name):
    report = diagnose(read_packed(recordings / "skeletons" / f"{name}.npz", empty="keep"))
    assert {f.code: f.count for f in report.findings} == TRUE[name]


def test_precog_as_published(recordings):
    report = diagnose(recordings / "precog_raw")
    assert report.dataset == "precog" and report.codes == {"empty-clip", "jump"}
    assert all(found == expected for _, found, expected in report.golden)
