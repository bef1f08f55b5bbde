"""Layouts, adjacency, and maps between layouts, against published lists and by their invariances."""

import csv
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import LayoutError, ParameterError
from skelnb.topology import LAYOUTS, PARTS, adjacency, define_layout, joint_matrix, layout, layouts, map_joints

NAMES = layouts()
names = st.sampled_from(NAMES)
PAIRS = [(a, b) for a in NAMES for b in NAMES]


def pose(name, *leading, seed=0):
    return np.random.default_rng(seed).normal(size=(*leading, layout(name).V, 3))


# --- layouts -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_is_one_mirrored_tree_with_five_parts(name):
    known = layout(name)
    assert known.V == int(re.search(r"\d+$", name)[0]) if not name.startswith("kinect") else known.V in (20, 25)
    assert tuple(known.parts) == PARTS and all(known.parts.values())
    assert sorted(j for part in known.parts.values() for j in part) == list(range(known.V))
    assert len(known.bones) == known.V - 1 and sorted(known.order) == list(range(known.V)) and known.order[0] == known.root
    assert all(known.order.index(parent) < known.order.index(child) for child, parent in known.bones)
    swap = known.swap
    assert (swap[swap] == np.arange(known.V)).all()
    for j, k in enumerate(swap):  # the mirrored joint has the mirrored name, the mirrored parent and the mirrored part
        assert known.joints[k] == known.joints[j].replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        assert known.parents[k] == (swap[known.parents[j]] if known.parents[j] >= 0 else -1)
    assert {swap[j] for j in known.parts["left_arm"]} == set(known.parts["right_arm"])
    assert {swap[j] for j in known.parts["left_leg"]} == set(known.parts["right_leg"])


def test_kinect_v2_is_the_ntu_order_with_the_field_s_bones_and_parts():
    k = layout("kinect_v2")
    assert k.swap.tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22]
    one_based = [(1, 2), (2, 21), (3, 21), (4, 3), (5, 21), (6, 5), (7, 6), (8, 7), (9, 21), (10, 9), (11, 10), (12, 11), (13, 1), (14, 13),
                 (15, 14), (16, 15), (17, 1), (18, 17), (19, 18), (20, 19), (22, 23), (23, 8), (24, 25), (25, 12)]
    assert [(c + 1, p + 1) for c, p in k.bones] == one_based  # bone stream of ActCLR and USDRL
    assert {part: set(members) for part, members in k.parts.items()} == {
        "trunk": {3, 2, 20, 1, 0}, "left_arm": {4, 5, 6, 7, 21, 22}, "right_arm": {8, 9, 10, 11, 23, 24},
        "left_leg": {12, 13, 14, 15}, "right_leg": {16, 17, 18, 19}}


@pytest.mark.parametrize("name, some", [
    ("coco17", {0: "nose", 1: "eye_left", 4: "ear_right", 5: "shoulder_left", 10: "wrist_right", 16: "ankle_right"}),
    ("openpose18", {1: "neck", 2: "shoulder_right", 7: "wrist_left", 8: "hip_right", 13: "ankle_left", 14: "eye_right", 17: "ear_left"}),
    ("body25", {4: "wrist_right", 8: "mid_hip", 14: "ankle_left", 18: "ear_left", 19: "big_toe_left", 21: "heel_left", 24: "heel_right"}),
    ("h36m17", {0: "root", 1: "hip_right", 6: "ankle_left", 7: "belly", 9: "nose", 10: "head", 11: "shoulder_left", 16: "wrist_right"}),
    ("smpl24", {0: "pelvis", 1: "hip_left", 9: "spine3", 12: "neck", 14: "collar_right", 15: "head", 21: "wrist_right", 23: "hand_right"}),
    ("mediapipe33", {2: "eye_left", 8: "ear_right", 9: "mouth_left", 16: "wrist_right", 21: "thumb_left", 32: "foot_index_right"}),
    ("lcrnet13", {0: "ankle_right", 5: "hip_left", 6: "wrist_right", 11: "shoulder_left", 12: "head"}),
    ("unik17", {0: "head", 2: "neck", 4: "mid_hip", 5: "shoulder_left", 16: "ankle_right"}),
])
def test_published_joint_orders(name, some):
    assert {j: layout(name).joints[j] for j in some} == some


def test_published_trees():
    assert layout("smpl24").parents == (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
    assert layout("h36m17").parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
    st_gcn = [(4, 3), (3, 2), (7, 6), (6, 5), (13, 12), (12, 11), (10, 9), (9, 8), (11, 5), (8, 2), (5, 1), (2, 1), (0, 1),
              (15, 0), (14, 0), (17, 15), (16, 14)]
    assert set(layout("openpose18").bones) == set(st_gcn)


def test_names_are_found_in_any_usual_spelling():
    k = layout("kinect_v2")
    for spelling in ("shoulder_left", "ShoulderLeft", "left_shoulder", "left shoulder", "LShoulder", " ShoulderLeft"):
        assert k.index(spelling) == 4
    assert k.index("HandTipRight") == 23 and layout("smpl22").index("spine3") == 9 and layout("mediapipe33").index("left_eye_inner") == 1
    for name in NAMES:
        assert [layout(name).index(j) for j in layout(name).joints] == list(range(layout(name).V))


def test_layouts_are_found_by_name_only():
    assert layout("coco17") is layout(layout("coco17"))
    with pytest.raises(LayoutError, match="did you mean 'kinect_v2'"):
        layout("kinectv2")
    with pytest.raises(LayoutError, match="kinect_v2, body25"):
        layout(25)
    with pytest.raises(LayoutError, match="did you mean 'shoulder_left'.*spine_base"):
        layout("kinect_v2").index("sholder_left")


def test_layouts_travel_between_processes_and_into_dictionaries():
    k = layout("kinect_v2")
    assert pickle.loads(pickle.dumps(k)) == k and {k: 1}[pickle.loads(pickle.dumps(k))] == 1 and repr(k) == "Layout('kinect_v2', 25 joints)"


@pytest.mark.parametrize("change, message", [
    (dict(parents=(1, 0, -1)), "do not hang on the root"),
    (dict(parents=(-1, 0, -1)), "2 roots"),
    (dict(parents=(-1, 0)), "2 parents for 3 joints"),
    (dict(parents=(-1, 0, 7)), "do not hang on the root"),
    (dict(joints=("head", "hip_left", "hip_left")), "same name"),
    (dict(mirror=((1, 2), (2, 1))), "two mirrored pairs"),
    (dict(mirror=((1, 9),)), "outside"),
    (dict(meaning=("head",)), "meaning"),
    (dict(parts=dict.fromkeys(PARTS, (0, 1, 2))), "exactly once"),
    (dict(parts={"trunk": (0, 1, 2)}), "parts are not"),
])
def test_a_wrong_definition_cannot_be_made(change, message):
    good = define_layout("mine", "head hip_left hip_right", (-1, 0, 0))
    with pytest.raises(LayoutError, match=message):
        replace(good, **change)


# --- adjacency ---------------------------------------------------------------------------------------------------------------------------


def test_adjacency_by_hand():
    star = define_layout("star", "chest head hip_left knee_left", (-1, 0, 0, 2))
    third = 1 / 3
    whole = np.array([[third, .5, third, 0], [third, .5, 0, 0], [third, 0, third, .5], [0, 0, third, .5]])
    A = adjacency(star, "uniform")
    assert A.shape == (1, 4, 4) and A.dtype == np.float32 and np.allclose(A[0], whole)
    eye = np.eye(4, dtype=bool)
    assert np.allclose(adjacency(star, "distance"), [whole * eye, whole * ~eye])
    outer = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]])  # row farther from the chest than the column
    assert np.allclose(adjacency(star, "spatial", mode="corrected"), [whole * eye, whole * outer, whole * outer.T])
    assert np.allclose(adjacency(star, "in_out"), [np.eye(4), outer.T, [[0, 0, 0, 0], [.5, 0, 0, 0], [.5, 0, 0, 0], [0, 0, 1, 0]]])


def test_spatial_official_has_the_quirk_of_the_released_code():
    A = adjacency("kinect_v2")
    assert [np.count_nonzero(a) for a in A] == [25, 40, 8]
    expected = {(1, 0): .25, (2, 3): .5, (4, 5): 1 / 3, (8, 9): 1 / 3, (20, 1): 1 / 3, (20, 2): 1 / 3, (20, 4): 1 / 3, (20, 8): 1 / 3}
    assert {tuple(ij): pytest.approx(A[2][tuple(ij)]) for ij in np.argwhere(A[2]).tolist()} == expected
    assert [np.count_nonzero(a) for a in adjacency("kinect_v2", mode="corrected")] == [25, 24, 24]


@pytest.mark.parametrize("name", NAMES)
def test_adjacency_is_normalised_partitioned_and_mirror_symmetric(name):
    known = layout(name)
    for hops in (1, 2):
        whole = adjacency(name, "uniform", hops=hops)[0]
        assert np.allclose(whole.sum(axis=0), 1)
        for strategy, mode in (("distance", "official"), ("spatial", "official"), ("spatial", "corrected")):
            A = adjacency(name, strategy, hops=hops, mode=mode)
            assert len(A) == (hops + 1 if strategy == "distance" else 2 * hops + 1)
            assert np.array_equal(A.sum(axis=0), whole) and ((A > 0).sum(axis=0) <= 1).all()
            assert np.array_equal(A[:, known.swap][:, :, known.swap], A)
    self_, inward, outward = adjacency(name, "in_out")
    assert np.array_equal(self_, np.eye(known.V)) and np.array_equal(inward > 0, outward.T > 0)
    assert np.array_equal(inward.sum(axis=0), np.arange(known.V) != known.root)  # every joint but the root has one parent
    assert np.allclose(outward.sum(axis=0), [j in known.parents for j in range(known.V)])


def test_adjacency_refuses_what_it_does_not_know():
    with pytest.raises(ParameterError, match="did you mean 'spatial'"):
        adjacency("kinect_v2", "spatal")
    with pytest.raises(ParameterError, match="corrected"):
        adjacency("kinect_v2", mode="exact")
    with pytest.raises(ParameterError, match="hops"):
        adjacency("kinect_v2", "in_out", hops=2)
    with pytest.raises(LayoutError):
        adjacency("ntu")


# --- maps --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source, target", PAIRS)
def test_every_map_is_affine_and_commutes_with_mirroring(source, target):
    A, observed = joint_matrix(source, target)
    assert A.shape == (layout(target).V, layout(source).V) and np.allclose(A.sum(axis=1), 1, atol=1e-12)
    assert np.array_equal(A[layout(target).swap][:, layout(source).swap], A)
    assert np.array_equal(observed, observed[layout(target).swap]) and set(A[observed].ravel()) <= {0.0, 1.0}
    if source == target:
        assert np.array_equal(A, np.eye(len(A))) and observed.all()


@settings(max_examples=40, deadline=None)
@given(names, names, st.integers(0, 2**32 - 1), st.floats(-3, 3), st.tuples(*[st.floats(-5, 5)] * 3))
def test_maps_are_linear_and_follow_translations(source, target, seed, scale, shift):
    x, y = pose(source, 4, seed=seed), pose(source, 4, seed=seed + 1)
    f = lambda z: map_joints(z, source, target)[0]
    assert np.allclose(f(scale * x + y), scale * f(x) + f(y), atol=1e-9)
    assert np.allclose(f(x + np.array(shift)), f(x) + np.array(shift), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(names, names, st.lists(st.integers(1, 3), max_size=3), st.sampled_from([1, 2, 3]))
def test_numpy_and_torch_agree_on_any_leading_shape(source, target, leading, channels):
    x = pose(source, *leading)[..., :channels].astype(np.float32)
    mapped, observed = map_joints(x, source, target)
    tensor, also = map_joints(torch.from_numpy(x), source, target)
    assert mapped.shape == (*leading, layout(target).V, channels) and mapped.dtype == np.float32 and tensor.dtype == torch.float32
    assert np.array_equal(observed, also) and np.allclose(mapped, tensor.numpy(), atol=1e-5)
    assert np.array_equal(mapped[..., observed, :], x[..., joint_matrix(source, target)[0][observed].argmax(1), :])  # copies are exact


def test_an_absent_person_stays_absent_and_integers_become_floats():
    x = pose("kinect_v1", 5, 2)
    x[:, 1] = 0
    mapped, _ = map_joints(x, "kinect_v1", "mediapipe33")
    assert (mapped[:, 1] == 0).all() and (mapped[:, 0] != 0).any(axis=(-1, -2)).all()
    for whole in (np.ones((25, 3), np.int16), torch.ones(25, 3, dtype=torch.int32)):
        assert "float32" in str(map_joints(whole, "kinect_v2", "h36m17")[0].dtype)


def test_mixed_precision_does_not_touch_coordinates():
    x = torch.from_numpy(pose("kinect_v2", 4)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mapped, _ = map_joints(x, "kinect_v2", "h36m17")
    assert mapped.dtype == torch.float32 and torch.equal(mapped, map_joints(x, "kinect_v2", "h36m17")[0])


def test_kinect_to_lcrnet_as_in_the_transfer_experiments():
    x = pose("kinect_v2", 3)
    mapped, observed = map_joints(x, "kinect_v2", "lcrnet13")
    assert observed.all() and np.array_equal(mapped, x[:, [18, 14, 17, 13, 16, 12, 10, 6, 9, 5, 8, 4, 3]])


def test_coco_to_h36m_as_in_motionbert():
    x = pose("coco17", 3)
    y = np.zeros_like(x)
    y[:, 0] = x[:, [11, 12]].mean(1)
    y[:, [1, 2, 3, 4, 5, 6]] = x[:, [12, 14, 16, 11, 13, 15]]
    y[:, 8] = x[:, [5, 6]].mean(1)
    y[:, 7] = (y[:, 0] + y[:, 8]) / 2
    y[:, 9] = x[:, 0]
    y[:, 10] = x[:, [1, 2]].mean(1)
    y[:, [11, 12, 13, 14, 15, 16]] = x[:, [5, 7, 9, 6, 8, 10]]
    mapped, observed = map_joints(x, "coco17", "h36m17")
    assert np.allclose(mapped, y) and np.flatnonzero(~observed).tolist() == [0, 7, 8, 10]


def test_lcrnet_to_unik_by_averages():
    x = pose("lcrnet13", 3)
    mapped, observed = map_joints(x, "lcrnet13", "unik17")
    neck, hip = x[:, [10, 11]].mean(1), x[:, [4, 5]].mean(1)
    assert np.allclose(mapped[:, 2], neck) and np.allclose(mapped[:, 4], hip) and np.allclose(mapped[:, 3], (neck + hip) / 2)
    assert np.allclose(mapped[:, 1], (x[:, 12] + neck) / 2)  # the "mouth"
    assert np.array_equal(mapped[:, [0, *range(5, 17)]], x[:, [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]])
    assert np.flatnonzero(~observed).tolist() == [1, 2, 3, 4]


def test_smpl_to_kinect_as_in_the_babel_benchmark():
    A, observed = joint_matrix("smpl24", "kinect_v2")
    body = [0, 3, 12, 15, 16, 18, 20, 22, 17, 19, 21, 23, 1, 4, 7, 10, 2, 5, 8, 11, 9]  # the hands are SMPL's own, not a finger of SMPL-H
    assert A[:21].argmax(1).tolist() == body and observed.tolist() == [True] * 21 + [False] * 4


def test_kinect_v1_comes_back_unchanged_from_kinect_v2():
    x = pose("kinect_v1", 3)
    back, _ = map_joints(map_joints(x, "kinect_v1", "kinect_v2")[0], "kinect_v2", "kinect_v1")
    assert np.allclose(back, x)


def test_body_only_sources_are_extended_along_their_bones():
    x = pose("coco17", 3)
    y, observed = map_joints(x, "coco17", "kinect_v2")
    elbow, wrist, knee, ankle = (x[:, layout("coco17").index(j)] for j in ("elbow_left", "wrist_left", "knee_left", "ankle_left"))
    hand = wrist + 0.25 * (wrist - elbow)
    assert np.allclose(y[:, 7], hand) and np.allclose(y[:, 22], hand) and np.allclose(y[:, 21], hand + 0.8 * (hand - wrist))
    assert np.allclose(y[:, 15], ankle + 0.15 * (ankle - knee))
    assert not observed[[0, 1, 2, 3, 7, 15, 20, 21, 22]].any() and observed[[4, 5, 6, 12, 13, 14]].all()


def test_map_errors_say_what_was_found_and_what_fits():
    with pytest.raises(LayoutError, match=r"17 joints in the data.*25 in layout kinect_v2[\s\S]*coco17, h36m17, unik17"):
        map_joints(np.zeros((8, 17, 3)), "kinect_v2", "coco17")
    with pytest.raises(LayoutError, match="axis before the last"):
        map_joints(np.zeros(3), "kinect_v2", "coco17")
    legs = define_layout("legs", "hip_left knee_left ankle_left", (-1, 0, 1))
    with pytest.raises(LayoutError, match="'spine_base' of kinect_v2 can be neither copied nor imputed from legs"):
        map_joints(np.zeros((3, 3)), legs, "kinect_v2")


def test_a_laboratory_s_own_layout(monkeypatch):
    ours = define_layout("ours", "pelvis hip_left hip_right c7", (-1, 0, 0, 0), pelvis="spine_base", c7="spine_shoulder")
    monkeypatch.setitem(LAYOUTS, "ours", ours)
    assert layout("ours") is ours and ours.parts["left_leg"] == (1,) and ours.swap.tolist() == [0, 2, 1, 3]
    mapped, observed = map_joints(pose("kinect_v2", 2), "kinect_v2", "ours")
    assert observed.all() and np.array_equal(mapped, pose("kinect_v2", 2)[:, [0, 12, 16, 20]])


# --- real recordings ---------------------------------------------------------------------------------------------------------------------


def test_kinect_v1_to_v2_agrees_with_the_published_conversion_to_a_millimetre(recordings):
    packed = np.load(recordings / "skeletons" / "precog.npz")
    with open(recordings / "skeletons" / "sequences.csv", newline="") as f:
        takes = [row for row in csv.DictReader(f) if row["dataset"] == "precog"]
    assert len(takes) == 72
    for take in takes:
        lines = (recordings / "precog_raw" / take["source_file"].split("/")[-1]).read_text().splitlines()
        assert [layout("kinect_v1").index(joint) for joint in lines[0].split(";")] == list(range(20))  # "HipCenter; Spine; ..."
        raw = np.array([[joint.split() for joint in line.split(";")[:20]] for line in lines[1:]], float)
        stored = packed["xyz_mm"][slice(*packed["offsets"][int(take["index"]):][:2])]
        mapped, observed = map_joints(raw, "kinect_v1", "kinect_v2")
        assert np.abs(1000 * mapped - stored).max() <= 1
    assert (observed | ~packed["joint_measured"])[[j for j in range(25) if j not in (1, 2)]].all()


def test_most_people_face_the_camera_with_their_right_side_at_larger_x(recordings):
    for name in ("precog", "uiprmd_kinect"):
        xyz, k = np.load(recordings / "skeletons" / f"{name}.npz")["xyz_mm"], layout("kinect_v2")
        assert (xyz[:, k.index("shoulder_right"), 0] > xyz[:, k.index("shoulder_left"), 0]).mean() > 0.95
