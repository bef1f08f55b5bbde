"""BVH and C3D: forward kinematics against SciPy, C3D against ezc3d, names of rigs, damage."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from skelnb.data import mocap
from skelnb.data.detections import actors
from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.topology import layout

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

CHAIN = """HIERARCHY
ROOT Hips {{
  OFFSET 5 5 5
  CHANNELS 6 Xposition Yposition Zposition {0}
  JOINT Spine One
  {{
    OFFSET 0 10 1
    CHANNELS 3 {0}
    JOINT Head
    {{
      OFFSET 1 8 0
      CHANNELS 4 Yposition {0}
      End Site
      {{
        OFFSET 0 4 2
      }}
    }}
  }}
}}
MOTION
Frames:	3
Frame Time: 0.0083333
"""


@pytest.mark.parametrize("order", ["ZXY", "XYZ", "ZYX", "YXZ", "XZY", "YZX"])
def test_forward_kinematics_in_every_order(tmp_path, order):
    rng = np.random.default_rng(0)
    motion = rng.uniform(-180, 180, (3, 13))
    motion[:, :3] = rng.normal(0, 50, (3, 3))
    path = tmp_path / "a.bvh"
    path.write_text(
        CHAIN.format(" ".join(f"{a}rotation" for a in order)) + "\n".join(" ".join(map(repr, map(float, row))) for row in motion)
    )
    bvh = mocap.load_bvh(path)
    assert bvh.names == ("Hips", "Spine One", "Head", "Head_end") and bvh.parents == (-1, 0, 1, 2) and bvh.frame_time == 0.0083333
    for t, row in enumerate(motion):
        hips, spine, head = (
            Rotation.from_euler(order, row[i : i + 3], degrees=True) for i in (3, 6, 10)
        )  # capitals: about the moving axes
        a = row[:3]
        b = a + hips.apply([0, 10, 1])
        c = b + (hips * spine).apply([1, row[9], 0])  # one position channel replaces one offset
        d = c + (hips * spine * head).apply([0, 4, 2])
        assert np.allclose(mocap.positions(bvh)[t], [a, b, c, d], atol=1e-9)


def test_a_forged_take(tmp_path):
    truth = actors("kinect_v2", 40, 1, 15)
    for order in ("ZXY", "XYZ"):
        clip = mocap.bvh_clip(mocap.forge_bvh(tmp_path / "walk.bvh", seed=15, order=order), layout="kinect_v2", units="cm")
        assert (clip.units, clip.up, clip.fps, clip.name) == ("m", "y", 30, "walk") and clip.confidence is None
        error = np.linalg.norm(clip.xyz - truth.xyz, axis=-1)[:, 0, clip.observed]
        assert np.median(error) < 0.02 and error.max() < 0.1
    joints = np.array(layout("kinect_v2").joints)
    assert set(joints[~clip.observed]) == {
        "neck",
        "hand_left",
        "hand_right",
        "hand_tip_left",
        "hand_tip_right",
        "thumb_left",
        "thumb_right",
    }
    bones = np.linalg.norm(clip.xyz[:, 0, 5] - clip.xyz[:, 0, 4], axis=-1)
    assert np.ptp(bones) < 1e-4  # a skeleton keeps its length


def test_units_axes_rate_and_joints(tmp_path):
    path = mocap.forge_bvh(tmp_path / "a.bvh")
    cm = mocap.bvh_clip(path, layout="smpl22", units="cm")
    assert np.allclose(mocap.bvh_clip(path, layout="smpl22", units="inch").xyz, 2.54 * cm.xyz, rtol=1e-5)
    assert np.allclose(mocap.bvh_clip(path, layout="smpl22", units=0.01, fps=60).xyz, cm.xyz)
    z_up = mocap.bvh_clip(path, layout="smpl22", units="cm", up="z")
    assert np.allclose(z_up.xyz[..., 1], cm.xyz[..., 2]) and z_up.up == "y"
    own = mocap.bvh_clip(path, layout="kinect_v2", units="cm", joints={"mixamorig:Head_end": "head"})
    plain = mocap.bvh_clip(path, layout="kinect_v2", units="cm")
    assert np.allclose(np.linalg.norm(own.xyz[:, 0, 3] - plain.xyz[:, 0, 3], axis=-1), 0.05, atol=1e-3)
    with pytest.raises(ParameterError, match="layout, units .*23 joints, 1.* units from end to end"):
        mocap.bvh_clip(path)
    with pytest.raises(ParameterError, match="did you mean 'mixamorig:Head'"):
        mocap.bvh_clip(path, layout="kinect_v2", units="cm", joints={"mixamorig:Haed": "head"})
    with pytest.raises(SkelnbError, match="no joint 'haed'"):
        mocap.bvh_clip(path, layout="kinect_v2", units="cm", joints={"mixamorig:Head": "haed"})


def test_unmapped_joints_are_named(tmp_path):
    text = mocap.forge_bvh(tmp_path / "a.bvh").read_text()
    (tmp_path / "b.bvh").write_text(text.replace("LeftForeArm", "Thing"))
    with pytest.raises(DataError, match="no joint for .*elbow_left.*\n.*not used: .*Thing"):
        mocap.bvh_clip(tmp_path / "b.bvh", layout="kinect_v2", units="cm")
    clip = mocap.bvh_clip(tmp_path / "b.bvh", layout="kinect_v2", units="cm", joints={"mixamorig:Thing": "elbow_left"})
    assert np.array_equal(clip.xyz, mocap.bvh_clip(tmp_path / "a.bvh", layout="kinect_v2", units="cm").xyz)
    (tmp_path / "c.bvh").write_text(text.replace("mixamorig:", "Q").replace("Left", "P").replace("Right", "S"))
    with pytest.raises(DataError, match="joint"):
        mocap.bvh_clip(tmp_path / "c.bvh", layout="kinect_v2", units="cm")


RIG_NAMES = {
    "mixamo": "Hips Spine Spine1 Spine2 Neck Head LeftShoulder LeftArm LeftForeArm LeftHand RightShoulder RightArm RightForeArm RightHand "
    "LeftUpLeg LeftLeg LeftFoot LeftToeBase RightUpLeg RightLeg RightFoot RightToeBase",
    "cmu": "Hips LHipJoint LeftUpLeg LeftLeg LeftFoot LeftToeBase RHipJoint RightUpLeg RightLeg RightFoot RightToeBase LowerBack "
        "Spine Spine1 Neck Neck1 "
    "Head LeftShoulder LeftArm LeftForeArm LeftHand LeftFingerBase LeftHandIndex1 LThumb RightShoulder RightArm RightForeArm RightHand "
    "RightFingerBase RightHandIndex1 RThumb",
    "biovision": "Hips LeftHip LeftKnee LeftAnkle LeftToe RightHip RightKnee RightAnkle RightToe Chest LeftCollar LeftShoulder "
        "LeftElbow LeftWrist "
    "RightCollar RightShoulder RightElbow RightWrist Neck Head",
    "humanoid": "Hips LeftUpperLeg LeftLowerLeg LeftFoot LeftToes RightUpperLeg RightLowerLeg RightFoot RightToes Spine Chest "
        "UpperChest Neck Head "
    "LeftShoulder LeftUpperArm LeftLowerArm LeftHand RightShoulder RightUpperArm RightLowerArm RightHand",
    "biped": "Bip01_Pelvis Bip01_Spine Bip01_Spine1 Bip01_Neck Bip01_Head Bip01_L_Clavicle Bip01_L_UpperArm Bip01_L_Forearm Bip01_L_Hand "
    "Bip01_R_Clavicle Bip01_R_UpperArm Bip01_R_Forearm Bip01_R_Hand Bip01_L_Thigh Bip01_L_Calf Bip01_L_Foot Bip01_L_Toe0 Bip01_R_Thigh "
    "Bip01_R_Calf Bip01_R_Foot Bip01_R_Toe0",
    "asf": "root lhipjoint lfemur ltibia lfoot ltoes rhipjoint rfemur rtibia rfoot rtoes lowerback upperback thorax lowerneck "
        "upperneck head lclavicle "
    "lhumerus lradius lwrist lhand lfingers lthumb rclavicle rhumerus rradius rwrist rhand rfingers rthumb",
    None: "Pelvis L_Hip R_Hip Spine1 L_Knee R_Knee Spine2 L_Ankle R_Ankle Spine3 L_Foot R_Foot Neck L_Collar R_Collar Head "
        "L_Shoulder R_Shoulder L_Elbow "
    "R_Elbow L_Wrist R_Wrist",
}


@pytest.mark.parametrize("rig", list(RIG_NAMES))
@pytest.mark.parametrize("target", ["smpl22", "kinect_v2"])
def test_rigs(rig, target):
    names = RIG_NAMES[rig].split()
    if rig is None and target == "kinect_v2":
        return
    found, places = mocap.rig_places(tuple(names), target)
    assert found == rig
    joints = mocap.match_joints(names, layout(target), None, places)
    reached = {layout(target).joints[j] for j in joints if j >= 0}
    limbs = {f"{j}_{s}" for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "foot") for s in ("left", "right")}
    assert limbs <= reached and len(reached) == (joints >= 0).sum()
    left = [names[i] for i in np.flatnonzero(joints == layout(target).index("shoulder_left"))]
    assert left == [
        {
            "mixamo": "LeftArm",
            "cmu": "LeftArm",
            "biovision": "LeftShoulder",
            "humanoid": "LeftUpperArm",
            "biped": "Bip01_L_UpperArm",
            "asf": "lhumerus",
            None: "L_Shoulder",
        }[rig]
    ]


def test_bvh_damage(tmp_path):
    good = mocap.forge_bvh(tmp_path / "a.bvh", frames=3).read_text()
    path = tmp_path / "b.bvh"
    for old, new, what in (
        ("MOTION", "NOTION", "no MOTION"),
        ("Frames: 3", "Frames: 4", "announces 4 .* holds 3"),
        ("Frames: 3", "Frames: 999999999", "announces"),
        ("CHANNELS 3", "CHANNELS 9999999", "line 9: CHANNELS"),
        ("Zrotation", "Wrotation", "CHANNELS"),
        ("OFFSET", "OFFSET 1", "4 numbers"),
        ("0.033333", "nan", "NaN or infinite"),
        ("0.033333", "0", "0 s each"),
        ("OFFSET 0.000000", "OFFSET x", "line 4.*not a number"),
        ("mixamorig:Head", "mixamorig:Neck", "two joints are called"),
        ("HIERARCHY", "HIERARCHY\nOFFSET 0 0 0", "before the first joint"),
        ("{", "", "not understood|hierarchy does not end|CHANNELS|OFFSET"),
        ("HIERARCHY", "what?", "not understood"),
    ):
        path.write_text(good.replace(old, new, 1))
        with pytest.raises(DataError, match=what) as e:
            mocap.bvh_clip(path, layout="kinect_v2", units="cm")
        assert e.value.file == str(path)
    path.write_text("HIERARCHY\nMOTION\nFrames: 1\nFrame Time: 1\n")
    with pytest.raises(DataError, match="has no joint"):
        mocap.load_bvh(path)
    with pytest.raises(DataError, match="cannot be read"):
        mocap.load_bvh(tmp_path / "none.bvh")
    path.write_text(
        "HIERARCHY\n" + "ROOT a\n{\n" + "".join(f"JOINT b{i}\n{{\n" for i in range(3000)) + "MOTION\nFrames: 1\nFrame Time: 1\n0\n"
    )
    with pytest.raises(DataError, match="does not end"):
        mocap.load_bvh(path)


# C3D


def c3d_truth(frames=40, seed=0):
    xyz = actors("kinect_v2", frames, 1, seed).xyz
    return xyz - xyz[:1, :, :1] * (1, 0, 1)


@pytest.mark.parametrize("processor", [84, 85, 86])
@pytest.mark.parametrize("integers", [False, True])
def test_c3d(tmp_path, processor, integers):
    path = mocap.forge_c3d(tmp_path / "a.c3d", processor=processor, integers=integers)
    c3d = mocap.load_c3d(path)
    assert (c3d.rate, c3d.units, c3d.up, len(c3d.labels), c3d.labels[-1]) == (30, "mm", "z", 26, "*26") and np.isnan(c3d.xyz[:, 25]).all()
    clip = mocap.c3d_clip(path, layout="kinect_v2")
    seen = clip.confidence > 0
    assert (clip.units, clip.up, clip.fps) == ("m", "y", 30) and (~seen).sum() == 20
    assert np.abs(clip.xyz - c3d_truth())[seen].max() < (1e-4 if integers else 1e-6) and np.abs(clip.xyz - c3d_truth()).max() < 0.15


@pytest.mark.parametrize("processor", [84, 85])  # it does not read SGI's
@pytest.mark.parametrize("integers", [False, True])
def test_c3d_agrees_with_ezc3d(tmp_path, processor, integers):
    ezc3d = pytest.importorskip("ezc3d")
    path = mocap.forge_c3d(tmp_path / "a.c3d", processor=processor, integers=integers)
    theirs, ours = ezc3d.c3d(str(path)), mocap.load_c3d(path)
    point = theirs["parameters"]["POINT"]
    assert list(ours.labels) == point["LABELS"]["value"] and point["UNITS"]["value"] == ["mm"] and point["RATE"]["value"][0] == ours.rate
    assert np.allclose(np.moveaxis(theirs["data"]["points"][:3], 0, -1).swapaxes(0, 1), ours.xyz, equal_nan=True, atol=1e-3)


def test_what_ezc3d_writes_with_analog_channels(tmp_path):
    ezc3d = pytest.importorskip("ezc3d")
    c, rng = ezc3d.c3d(), np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 500, (3, 300, 12)), np.ones((1, 300, 12))])
    points[:3, 7, 3:5] = np.nan
    c["parameters"]["POINT"]["RATE"]["value"], c["parameters"]["ANALOG"]["RATE"]["value"] = [100.0], [1000.0]
    c["parameters"]["POINT"]["LABELS"]["value"] = tuple(f"M{i}" for i in range(300))
    c["parameters"]["POINT"]["UNITS"]["value"] = ("m",)
    c["parameters"]["ANALOG"]["LABELS"]["value"] = ("F1", "F2")
    c["data"]["points"], c["data"]["analogs"] = points, rng.normal(0, 1, (1, 2, 120))
    c.write(str(tmp_path / "a.c3d"))
    ours = mocap.load_c3d(tmp_path / "a.c3d")
    assert ours.labels[299] == "M299" and (ours.units, ours.up, ours.rate) == ("m", None, 100)
    assert np.allclose(np.moveaxis(points[:3], 0, -1).swapaxes(0, 1), ours.xyz, equal_nan=True, atol=1e-3)
    with pytest.raises(ParameterError, match="up"):
        mocap.c3d_clip(tmp_path / "a.c3d", layout="lcrnet13", joints={f"M{i}": j for i, j in enumerate(layout("lcrnet13").joints)})


def test_c3d_markers_are_mapped_and_averaged(tmp_path):
    path = mocap.forge_c3d(tmp_path / "a.c3d")
    with pytest.raises(ParameterError, match="layout .26 points: spine_base"):
        mocap.c3d_clip(path)
    mean = mocap.c3d_clip(path, layout="kinect_v2", joints={"hand_tip_left": "thumb_left", "hand_left": "thumb_left"}, gaps="zero")
    kept, truth = mean.xyz[:, 0, 22].any(-1), c3d_truth()
    assert not mean.observed[[7, 21]].any() and mean.observed.sum() == 23 and kept.sum() >= 32  # hand and tip are imputed now
    assert np.allclose(mean.xyz[kept, 0, 22], truth[kept, 0][:, [7, 21]].mean(1), atol=1e-5)
    with pytest.raises(DataError, match="no joint for mouth_left|none of its joints|no joint for"):
        mocap.c3d_clip(path, layout="smpl24", joints={"head": "pelvis"})
    with pytest.raises(ParameterError, match="did you mean"):
        mocap.c3d_clip(path, layout="kinect_v2", joints={"hip_lft": "hip_left"})
    with pytest.raises(DataError, match="points of the file: spine_base"):
        mocap.c3d_clip(path, layout="kinect_v2", joints={name: "head" for name in layout("kinect_v2").joints})


def test_c3d_that_is_unusual(tmp_path):
    good, path = mocap.forge_c3d(tmp_path / "a.c3d").read_bytes(), tmp_path / "b.c3d"
    assert good.count(b"ACTUAL_END_FIELD\x0a\x00") == 1
    path.write_bytes(good.replace(b"ACTUAL_END_FIELD\x0a\x00", b"ACTUAL_END_FIELD\x00\x00"))  # an offset of 0 ends the list, too
    assert np.array_equal(mocap.load_c3d(path).xyz, mocap.load_c3d(tmp_path / "a.c3d").xyz, equal_nan=True)
    changed = good.replace(b"\x05\x01UNITS\x09\x00\xff", b"\x05\x01UNITS\x09\x00\x01")
    path.write_bytes(changed.replace(b"RATE\x0a\x00\x04", b"RATE\x0a\x00\x03"))
    assert mocap.load_c3d(path).rate == 30  # the header's, since the parameter is of no known type


def test_c3d_damage(tmp_path):
    good, path = mocap.forge_c3d(tmp_path / "a.c3d").read_bytes(), tmp_path / "b.c3d"
    for data, what in (
        (b"", "no C3D"),
        (good[:600], "no C3D"),
        (b"\x02\x51" + good[2:], "no C3D"),
        (good[:-1024], "cannot hold"),
        ((good[:8] + b"\xff\xff" + good[10:]).replace(b"END_FIELD", b"END_FEILD"), "65535 frames or more"),
        (good[:2] + b"\xff\xff" + good[4:], "65535 points"),
        (good[:1000], "no C3D"),
        (good.replace(b"\xff\x02\x0e\x1a", b"\xff\x02\xff\xff"), "beyond the end"),
        (good[:2] + b"\x00\x00" + good[4:], "0 points"),
        (b"\xff" + good[1:], "no C3D"),
        (good.replace(b"\x06\x01LABELS", b"\x06\x01LUBELS"), "names 0 of 26"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=what):
            mocap.load_c3d(path)
    with pytest.raises(DataError, match="cannot be read"):
        mocap.load_c3d(tmp_path)


# all


def test_recognition_and_sources(tmp_path):
    for seed in range(3):
        mocap.forge_bvh(tmp_path / f"{seed}.bvh", seed=seed, frames=10)
        mocap.forge_c3d(tmp_path / f"{seed}.c3d", seed=seed, frames=20)
    (tmp_path / "x.c3d").write_bytes(b"\x02\x50")
    (tmp_path / "y.txt").write_text("hierarchy")
    assert [c.name for c in mocap.read_bvh(tmp_path, layout="smpl22", units="cm")] == ["0", "1", "2"]
    assert [c.name for c in mocap.read_c3d(tmp_path, layout="kinect_v2")] == ["0", "1", "2"]
    assert len(mocap.find_bvh(tmp_path / "1.bvh", name="mine", layout="smpl22", units="cm")) == 1
    with pytest.raises(ParameterError, match="for 3 takes"):
        mocap.find_bvh(tmp_path, name="mine", layout="smpl22", units="cm")
    for recognise in (mocap.recognise_bvh, mocap.recognise_c3d):
        assert recognise(tmp_path / "none") is None and recognise(tmp_path) is None and recognise(tmp_path / "y.txt") is None


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return {
        "bvh": mocap.forge_bvh(folder / "a.bvh", frames=3).read_bytes(),
        "c3d": mocap.forge_c3d(folder / "a.c3d", frames=20).read_bytes(),
    }


@QUICK
@given(data=st.data(), kind=st.sampled_from(["bvh", "c3d"]))
def test_fuzz(good, data, kind, tmp_path_factory):
    raw = bytearray(good[kind])
    if data.draw(st.integers(0, 3)) == 0:
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    for _ in range(data.draw(st.integers(0, 5)) if raw else 0):
        end = min(len(raw), 2048 if kind == "c3d" else len(raw))  # the header and the parameters
        raw[data.draw(st.integers(0, end - 1))] = data.draw(
            st.integers(0, 255) if kind == "c3d" else st.sampled_from(list(b"0123456789.e-{}\n \xff"))
        )
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(raw)
    mocap.recognise_bvh(path), mocap.recognise_c3d(path)
    try:
        clip = (
            mocap.bvh_clip(path, layout="kinect_v2", units="cm")
            if kind == "bvh"
            else mocap.c3d_clip(path, layout="kinect_v2", units="mm", up="z")
        )
        assert np.isfinite(clip.xyz).all()
    except SkelnbError as e:
        assert e.file == str(path) or isinstance(e, ParameterError)


@QUICK
@given(raw=st.binary(max_size=3000))
def test_random_bytes(raw, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "random"
    for head in (b"", b"\x02\x50", b"HIERARCHY\nROOT a\n{\n"):
        path.write_bytes(head + raw)
        for read in (mocap.load_bvh, mocap.load_c3d):
            with pytest.raises(DataError):
                read(path)
