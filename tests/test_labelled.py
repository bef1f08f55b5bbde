"""Lists of labelled clips: the rule, what they must not depend on, and that they are kept, published and read again unharmed."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.clip import Clip
from skelnb.data.labelled import add_labelled, column_of, draw_labelled, list_file, names_hash, read_labelled
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, ParameterError, StoreError
from skelnb.files import read_json, write_json

BODY = np.random.default_rng(0).standard_normal((1, 1, 25, 3))
SIZES = {"clap": 3, "hop": 250, "jump": 350, "sit": 45, "wave": 150}


def make(path, order=None, sizes=SIZES, test=(7,)):
    names = [(f"{label}_{i:03d}", label, i % 10) for label, n in sizes.items() for i in range(n)]
    order = range(len(names)) if order is None else order
    clips = (Clip(BODY, 30, "kinect_v2", names[i][0], names[i][1], subject=str(names[i][2])) for i in order)
    return SkeletonStore.write(path, clips, splits={"xsub": lambda c: "test" if int(c.subject) in test else "train"})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("labelled") / "store", test=())


def counts(store, clips):
    return dict(zip(store.classes, np.bincount(store.labels[clips], minlength=len(store.classes)).tolist()))


def named(store, clips):
    return sorted(store.name(i) for i in clips)


def test_the_rule_and_its_rounding(store):
    "At least one; a half goes to the even number: 2.5 -> 2, 3.5 -> 4, 1.5 -> 2, 4.5 -> 4."
    assert counts(store, draw_labelled(store)) == {"clap": 1, "hop": 2, "jump": 4, "sit": 1, "wave": 2}
    assert counts(store, draw_labelled(store, fraction=0.1)) == {"clap": 1, "hop": 25, "jump": 35, "sit": 4, "wave": 15}
    assert len(draw_labelled(store, fraction=1)) == len(store) == 798
    assert len(draw_labelled(store, rule="random")) == 8 and len(draw_labelled(store, rule="random", fraction=1e-9)) == 1


def test_golden(store):
    "The same on every machine and with every version of NumPy: Philox's first numbers, and the list they lead to."
    assert np.random.Philox(key=0).random_raw(2).tolist() == [213000021201967259, 4455796210202625458]
    assert names_hash(named(store, draw_labelled(store, seed=3, fraction=0.1))) == "373b5f15f410549743b57590edf85defc293042840e360a639a3cf49f1da1187"
    assert names_hash(["b", "a"]) == "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**9), st.floats(0.002, 1), st.sampled_from(["balanced", "random"]))
def test_lists_of_a_seed_are_nested(store, seed, fraction, rule):
    small, large = (set(draw_labelled(store, fraction=f, seed=seed, rule=rule).tolist()) for f in (fraction / 2, fraction))
    assert small <= large <= set(range(len(store)))
    if rule == "balanced":
        for name, n in counts(store, sorted(large)).items():
            assert n == max(1, round(fraction * SIZES[name]))


def test_seeds_differ_and_repeat(store):
    lists = [tuple(draw_labelled(store, fraction=0.1, seed=s)) for s in (0, 1, 2, 0)]
    assert len(set(lists)) == 3 and lists[0] == lists[3] and all(np.diff(list_).min() > 0 for list_ in lists)
    chosen = np.bincount(np.concatenate([draw_labelled(store, fraction=0.2, seed=s) for s in range(60)]), minlength=len(store))
    assert chosen.min() > 0 and chosen.max() < 40, "no clip is preferred"


def test_only_the_part_is_drawn_from(tmp_path):
    store = make(tmp_path / "s")
    drawn = draw_labelled(store, fraction=0.3)
    assert set(drawn) <= set(store.split("xsub", "train")) and set(draw_labelled(store, part="test", fraction=0.3)) <= set(store.split("xsub", "test"))
    full = draw_labelled(store, fraction=1)
    assert full.tolist() == store.split("xsub", "train").tolist() and full.dtype == np.int64


def test_the_order_of_the_clips_does_not_matter(store, tmp_path):
    other = make(tmp_path / "other", np.random.default_rng(1).permutation(len(store)), test=())
    for rule in ("balanced", "random"):
        assert named(store, draw_labelled(store, rule=rule, fraction=0.05)) == named(other, draw_labelled(other, rule=rule, fraction=0.05))


def test_the_process_does_not_matter(store):
    code = (
        "import numpy as np, random; np.random.seed(5); random.seed(6)\n"
        "from skelnb.data.labelled import draw_labelled\nfrom skelnb.data.store import SkeletonStore\n"
        f"print(draw_labelled(SkeletonStore.open({str(store.path)!r}), fraction=.05).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(draw_labelled(store, fraction=0.05).tolist())


def test_kept_once(tmp_path):
    store = make(tmp_path / "s")
    column = add_labelled(store, fraction=0.1, seed=4)
    assert column == "xsub_10%_balanced_4" == column_of("xsub", 0.1, "balanced", 4)
    drawn, train = draw_labelled(store, fraction=0.1, seed=4), store.split("xsub", "train")
    for s in (store, SkeletonStore.open(store.path)):
        assert s.split(column, "labelled").tolist() == drawn.tolist() == read_labelled(s, column).tolist()
        assert sorted([*s.split(column, "labelled"), *s.split(column, "unlabelled")]) == train.tolist()
    before = list_file(store, column).read_bytes()
    assert add_labelled(store, fraction=0.1, seed=4) == column and list_file(store, column).read_bytes() == before
    found = read_json(list_file(store, column))
    assert found["names"] == named(store, drawn) and found["sha256"] == names_hash(found["names"]) and found["clips"] == len(drawn)
    assert (found["split"], found["part"], found["fraction"], found["rule"], found["seed"]) == ("xsub", "train", 0.1, "balanced", 4)
    with pytest.raises(StoreError, match="exists and is different"):
        add_labelled(store, part="test", fraction=0.1, seed=4)
    assert list_file(store, column).read_bytes() == before, "an error leaves the list as it is"


@pytest.mark.parametrize("fraction, text", [(0.01, "1%"), (0.1, "10%"), (0.005, "0.5%"), (1, "100%"), (1 / 3, "33.33333333%")])
def test_names_of_lists(fraction, text):
    assert column_of("xset", fraction, "random", 12) == f"xset_{text}_random_12"


def test_a_split_name_that_is_no_file_name(tmp_path):
    store = make(tmp_path / "s")
    store.add_split("a/b:c", ["train"] * len(store))
    column = add_labelled(store, "a/b:c")
    assert list_file(store, column).name == "a_b_c_1%_balanced_0.json" and len(read_labelled(store, column)) == 10


def test_a_published_list(store, tmp_path):
    column = add_labelled(store, fraction=0.02)
    other = make(tmp_path / "other", np.random.default_rng(2).permutation(len(store)), test=())
    published = list_file(store, column)
    assert named(other, read_labelled(other, published)) == named(store, read_labelled(store, column))
    fewer = make(tmp_path / "fewer", sizes={"hop": 250})
    with pytest.raises(DataError, match=r"12 of 17 clips are not in the store fewer") as e:
        read_labelled(fewer, published)
    assert e.value.file == str(published) and "clap" in e.value.place


def test_damaged_lists(tmp_path):
    store = make(tmp_path / "s")
    column = add_labelled(store, fraction=0.02)
    file, good = list_file(store, column), read_json(list_file(store, column))
    swapped = sorted(set(named(store, range(len(store)))) - set(good["names"]))[: len(good["names"])]
    for bad, what in (
        (good | {"names": good["names"][1:]}, "hash"),
        (good | {"sha256": None}, "hash"),
        ({k: v for k, v in good.items() if k != "names"}, "no names"),
        (good | {"names": [1, 2]}, "no names"),
        ([], "no names"),
        (good | {"names": swapped, "sha256": names_hash(swapped)}, "column 'xsub_2%_balanced_0'"),
    ):
        write_json(file, bad)
        with pytest.raises(DataError, match=what) as e:
            read_labelled(store, column)
        assert e.value.file == str(file) and e.value.remedy
    file.write_text(str(good)[:50])
    with pytest.raises(DataError, match="JSON"):
        read_labelled(store, column)
    with pytest.raises(DataError, match="no such file"):
        read_labelled(store, "xsub_3%_balanced_0")


def test_wrong_arguments(store):
    for wrong in ({"fraction": 0}, {"fraction": 1.01}, {"fraction": float("nan")}, {"rule": "stratified"}, {"seed": -1}):
        with pytest.raises(ParameterError, match="cannot be"):
            draw_labelled(store, **wrong)
    with pytest.raises(StoreError, match="no split 'xview'"):
        draw_labelled(store, "xview")
    with pytest.raises(StoreError, match="no part 'val'"):
        draw_labelled(store, part="val")


def test_takes(tiny_store):
    with pytest.raises(DataError, match="4 clips have no label of their own") as e:
        draw_labelled(tiny_store, "part", fraction=0.5)
    assert "random" in e.value.remedy and "take_0" in e.value.place
    assert len(draw_labelled(tiny_store, "part", fraction=0.5, rule="random")) == 2


def test_what_happens_when_every_process_draws_for_itself():
    "MAMP's fine-tuning seeds with seed + rank before it draws 1 %."
    lists = []
    for rank in (0, 1):
        order = np.arange(40_091)
        np.random.RandomState(rank).shuffle(order)
        lists.append(set(order[: int(40_091 * 0.01)].tolist()))
    assert [len(x) for x in lists] == [400, 400] and len(lists[0] | lists[1]) == 794
