"""Recordings as CSV and Parquet: there and back, foreign tables, mistakes."""

import sys
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skelnb.data.clip import Clip
from skelnb.data.detections import actors
from skelnb.data.tables import forge_table, read_table, recognise_table, table_clip, write_table
from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.topology import layout

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SAID = dict(layout="kinect_v2", fps=30, units="m", up="y")
KINDS = ["a.csv", "a.parquet"]


@pytest.fixture(autouse=True)
def _parquet(request):
    if "parquet" in request.node.name:
        pytest.importorskip("pyarrow")


@pytest.mark.parametrize("name", KINDS)
def test_there_and_back_to_the_bit(tmp_path, name):
    rng = np.random.default_rng(0)
    xyz = rng.standard_normal((30, 3, 17, 2)).astype(np.float32) * np.float32(10) ** rng.integers(-3, 4, (30, 3, 17, 2))
    xyz[:12, 0], xyz[:, 1], xyz[25:] = 0, 0, 0  # people who come late, never, and an empty end
    confidence = np.where(xyz.any(-1), rng.random((30, 3, 17), np.float32), 0)
    xyz[14, 2, 3], confidence[14, 2, 3], confidence[15, 2, 3] = 0, 0, 0  # not found; imputed
    clip = Clip(
        xyz,
        29.97,
        "coco17",
        "täke 1",
        segments=[(0, 9, "wave"), (3, 12, "jump")],
        subject="7",
        camera="2",
        setup="x",
        units="px",
        up="-y",
        confidence=confidence,
        image_size=(640, 480),
        observed=np.arange(17) != 3,
    )
    back = table_clip(write_table(tmp_path / name, clip))
    for key in ("xyz", "confidence", "observed"):
        assert np.array_equal(getattr(back, key), getattr(clip, key)), key
    for key in ("fps", "layout", "name", "segments", "subject", "camera", "setup", "label", "units", "up", "image_size"):
        assert getattr(back, key) == getattr(clip, key), key


@pytest.mark.parametrize("name", KINDS)
def test_every_second_frame_empty(tmp_path, name):
    clip = actors(frames=21, persons=2)
    clip.xyz[1::2] = 0
    clip.label = "odd"
    back = table_clip(write_table(tmp_path / name, clip))
    assert np.array_equal(back.xyz, clip.xyz) and (back.confidence, back.label, back.fps) == (None, "odd", 30)


@pytest.mark.parametrize("name", KINDS)
def test_foreign_tables_ask(tmp_path, name):
    path = forge_table(tmp_path / name)
    with pytest.raises(ParameterError, match="layout, fps, units, up .joints: spine_base"):
        table_clip(path)
    with pytest.raises(ParameterError, match="fps, units, up"):
        table_clip(path, layout="kinect_v2")
    assert np.array_equal(table_clip(path, **SAID).xyz, actors("kinect_v2", 40, 2).xyz)
    assert table_clip(forge_table(path, described=True)).fps == 30 and table_clip(path, fps=15).fps == 15


def rows(T=6):
    clip = actors("kinect_v1", T)
    table = [
        {"frame": 10 + t, "joint": j, "x": clip.xyz[t, 0, v, 0], "y": clip.xyz[t, 0, v, 1], "z": clip.xyz[t, 0, v, 2]}
        for t in range(T)
        for v, j in enumerate(layout("kinect_v1").joints)
    ]
    return pd.DataFrame(table), clip


def read(table, path, **options):
    table.to_csv(path, index=False)
    return table_clip(path, **(SAID | {"layout": "kinect_v1"} | options))


def test_spellings_numbers_order_and_separators(tmp_path):
    table, clip = rows()
    path = tmp_path / "a.csv"
    for change in (
        lambda t: t.sample(frac=1, random_state=0),
        lambda t: t.rename(columns=str.upper),
        lambda t: t.assign(joint=["".join(w.title() for w in j.split("_")) for j in t.joint]),
        lambda t: t.assign(joint=[layout("kinect_v1").index(j) for j in t.joint]),
        lambda t: t.assign(person="anna", note="x"),
    ):
        assert np.array_equal(read(change(table), path).xyz, clip.xyz)
    for sep in ";\t":
        table.to_csv(path, sep=sep, index=False)
        assert np.array_equal(table_clip(path, **(SAID | {"layout": "kinect_v1"})).xyz, clip.xyz) and recognise_table(path) == "table"
    path.write_text("# recorded on Monday\n" + table.to_csv(index=False), encoding="utf-8-sig")
    assert np.array_equal(table_clip(path, **(SAID | {"layout": "kinect_v1"})).xyz, clip.xyz)
    assert read(table.drop(columns="z").assign(confidence=0.5), path, units="px", up=None).confidence.mean() == 0.5


def test_joints_of_other_names(tmp_path):
    german = {"head": "Kopf", "hand_left": "Hand links"}
    table, clip = rows()
    table["joint"] = [german.get(j, j) for j in table.joint]
    with pytest.raises(DataError, match="line 5: .*no joint 'Kopf'.*\n.*Kopf\": \"joint of the layout"):
        read(table, tmp_path / "a.csv")
    assert np.array_equal(read(table, tmp_path / "a.csv", joints={v: k for k, v in german.items()}).xyz, clip.xyz)
    with pytest.raises(ParameterError, match="did you mean 'Kopf'"):
        read(table, tmp_path / "a.csv", joints={"Kpf": "head"})
    with pytest.raises(SkelnbError, match="did you mean 'head'"):
        read(table, tmp_path / "a.csv", joints={"Kopf": "haed"})


def test_holes_people_and_missing_joints(tmp_path):
    table, clip = rows(T=9)
    path = tmp_path / "a.csv"
    holes = table[~((table.frame == 13) & (table.joint == "head"))].copy()
    holes.loc[(holes.frame == 14) & (holes.joint == "hand_left"), ["x", "y"]] = np.nan
    got = read(holes, path)
    assert (got.confidence == 0).sum() == 2 and np.allclose(got.xyz[3, 0, 3], clip.xyz[[2, 4], 0, 3].mean(0), atol=1e-5)
    got = read(table[~table.joint.str.contains("foot|hand")], path)
    assert got.observed.sum() == 16 and got.xyz.any(-1).all()  # imputed
    with pytest.raises(DataError, match="no joint for head"):
        read(table[~table.joint.str.contains("head")], path)
    pair = pd.concat([table.assign(person="b"), table.assign(person="a", x=table.x + 5)])
    got = read(pair, path)
    assert np.allclose(got.xyz[:, 0] - got.xyz[:, 1], (5, 0, 0), atol=1e-4)  # in the order of their names


def test_mistakes_are_pointed_at(tmp_path):
    table, _ = rows()
    path = tmp_path / "a.csv"
    text = table.astype({"frame": object, "x": object})
    for change, what in (
        (pd.concat([table, table.iloc[7:8]]), "frame 10, person 0: joint 'hand_left' is there twice"),
        (table.drop(columns="joint"), "lacks the columns joint"),
        (table.iloc[:0], "no rows"),
        (table.assign(frame=0.5), "line 2: frame is .*0.5"),
        (table.assign(joint="99"), "line 2: .*no joint '99'"),
        (text.assign(x=["1,5"] + ["1"] * (len(table) - 1)), "line 2: x is '1,5'"),
        (table.assign(y=np.inf), "line 2: y is .*inf"),
        (table.assign(person=np.arange(len(table))), "different people"),
        (table.assign(frame=np.arange(len(table)) ** 4), "no frame numbers"),
        (pd.concat([pd.concat([table.assign(person=i) for i in range(1001)])]), "1001 different people"),
        (table.rename(columns={"z": "X"}), "two columns of one name"),
    ):
        with pytest.raises(DataError, match=what):
            read(change, path)
    with pytest.raises(DataError, match="cannot be read"):
        table_clip(tmp_path / "none.csv", **SAID)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a table"):
        table_clip(path, **SAID)
    for bad in (
        '{"image_size": 3}',
        '{"observed": [1, [2]]}',
        '{"segments": [[1, 2]]}',
        '{"segments": 3}',
        '{"observed": [true]}',
        '{"segments": [[5, 2, "a"]]}',
        "[",
    ):
        path.write_text(f"# skelnb {bad}\n" + table.to_csv(index=False))
        with pytest.raises(DataError):
            table_clip(path, **(SAID | {"layout": "kinect_v1"}))


def test_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1....")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ParameterError, match=r"pip install skelnb\[tables\]"):
        table_clip(path, **SAID)


def test_sources_and_recognition(tmp_path):
    for seed in range(2):
        forge_table(tmp_path / f"{seed}.csv", seed=seed, frames=5)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert [c.name for c in read_table(tmp_path, **SAID)] == ["0", "1"]
    assert (
        recognise_table(tmp_path / "other.csv") is None and recognise_table(tmp_path) is None and recognise_table(tmp_path / "none") is None
    )


def test_parquet_with_more_rows_than_bytes(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path, n = tmp_path / "a.parquet", 500_000
    columns = dict(frame=np.zeros(n, np.int8), joint=np.zeros(n, np.int8), x=np.zeros(n, np.float32), y=np.zeros(n, np.float32))
    parquet.write_table(pyarrow.table(columns), path, compression="zstd")
    with pytest.raises(DataError, match="500000 rows in [0-9]+ bytes"):
        table_clip(path, **SAID)


def test_parquet_recognised(tmp_path):
    assert recognise_table(forge_table(tmp_path / "a.parquet", frames=3)) == "table"
    assert [c.name for c in read_table(tmp_path, **SAID)] == ["a"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    made = [forge_table(folder / "a.csv", frames=3, described=True)]
    if find_spec("pyarrow"):
        made.append(forge_table(folder / "a.parquet", frames=3, described=True))
    return [p.read_bytes() for p in made]


@QUICK
@given(data=st.data())
def test_fuzz(good, data, tmp_path_factory):
    raw = bytearray(data.draw(st.sampled_from(good)) if data.draw(st.integers(0, 5)) else data.draw(st.binary(max_size=300)))
    if raw and data.draw(st.integers(0, 3)) == 0:
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    for _ in range(data.draw(st.integers(0, 4)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(raw)
    recognise_table(path)
    try:
        assert np.isfinite(table_clip(path, **SAID).xyz).all()
    except SkelnbError as e:
        assert e.file == str(path) or isinstance(e, ParameterError)
