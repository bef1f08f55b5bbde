"""The same words in Python and on the command line."""

import inspect
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import skelnb
from skelnb.data.formats import FORMATS
from skelnb.errors import DataError, DiskError, ParameterError
from skelnb.interface.cli import COMMANDS, _options, _parser, main


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return skelnb.forge("precog", tmp_path_factory.mktemp("raw") / "precog", seed=2)


@pytest.fixture(scope="module")
def store(raw):
    return skelnb.prepare("precog", raw, raw.parent / "store", workers=1, progress=False)


def test_words_are_the_same():
    for name, function in COMMANDS.items():
        if name in ("embed", "segment", "find"):  # for recordings in Python, for paths on the command line
            assert {"encoder", "clip"} & set(inspect.signature(getattr(skelnb, name)).parameters)
        else:
            assert getattr(skelnb, name) is function
        actions = {a.dest: a for a in _parser(function)._actions if a.dest != "help"}
        assert set(actions) == set(inspect.signature(function).parameters), name
        assert all(a.help for a in actions.values()), "a parameter without a comment has no help"
    assert "prepare" in dir(skelnb)
    with pytest.raises(AttributeError, match="no attribute 'repair'"):
        skelnb.repair  # noqa: B018


def test_prepare_and_info(store, raw, capsys):
    assert store.split("cross_subject", "test").tolist() == [4, 5] and store.facts["about"]["path"] == str(raw)
    said = skelnb.info(store)
    assert said == skelnb.info(store.path)
    for part in ("clips        6 of", "split cross_subject train 4, test 2", "kinect_v2, m, y up", "checksum     " + store.checksum):
        assert part in said
    assert main(["info", str(store.path)]) == 0 and capsys.readouterr().out.strip() == said


def test_a_preset_chooses_its_own_bodies(tmp_path):
    raw = skelnb.forge("ntu60", tmp_path / "raw")
    store = skelnb.prepare("ntu60", raw, tmp_path / "aimclr", preset="aimclr", workers=1, progress=False)
    assert store.facts["about"] | {"notes": None} == {"format": "ntu60", "path": str(raw), "notes": None, "preset": "aimclr", "damaged": [],
                                                      "options": {"bodies": "tracks"}}
    assert set(np.diff(store.offsets)) == {50}
    with pytest.raises(ParameterError, match="no preset 'aimcrl'"):
        skelnb.prepare("ntu60", raw, tmp_path / "x", preset="aimcrl")


def test_where_a_store_goes_by_default(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("SKELNB_PATHS_DATA", str(tmp_path))
    assert skelnb.prepare("precog", raw, workers=1, progress=False).path == tmp_path / "stores" / "precog"


@pytest.mark.parametrize("to, target, options", [
    ("mstcn", "mstcn", {}), ("packed", "mine.npz", {}), ("store", "copy", {}),
])
def test_convert_and_back(store, tmp_path, to, target, options):
    made = skelnb.convert(store.path, tmp_path / target, to=to, progress=False, **options)
    assert made == tmp_path / target and [p.name for p in tmp_path.glob("*.store")] == []
    if to == "store":
        assert skelnb.SkeletonStore.open(made).checksum == store.checksum
    else:
        back = list(FORMATS[to].find(made, **({"fps": 30} if to == "mstcn" else {})).clips())
        assert [c.name for c in back] == [c.name for c in store] and all(len(a.segments) > 1 for a in back)
        assert all(np.abs(a.xyz - b.xyz).max() <= (0.000501 if to == "packed" else 0) for a, b in zip(back, store))
    with pytest.raises(DiskError, match="exists already"):
        skelnb.convert(store.path, made, to=to)


def test_convert_with_a_preset(tmp_path):
    raw = skelnb.forge("ntu60", tmp_path / "raw")
    store = skelnb.prepare("ntu60", raw, tmp_path / "store", workers=1, progress=False)
    direct = skelnb.convert(raw, tmp_path / "direct", to="agcn", preset="umurl", split="xsub", workers=1, progress=False)
    by_store = skelnb.convert(store.path, tmp_path / "by_store", to="agcn", preset="umurl", split="xsub", progress=False)
    for made in (direct, by_store):
        clips = list(FORMATS["agcn"].find(made).clips())
        assert len(clips) == 48 and all(np.abs(c.xyz[:, 0, 1][c.present[:, 0]]).max() < 1e-6 for c in clips), "joint 1 is not the origin"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["by_store", "direct", "raw", "store"]


def test_convert_reads_any_format_and_says_what_it_cannot(raw, store, tmp_path):
    made = skelnb.convert(raw, tmp_path / "out", to="mstcn", progress=False, workers=1, empty="drop", form="CTVM")
    assert (made / "features").is_dir()
    ntu = skelnb.convert(skelnb.forge("ntu60", tmp_path / "raw"), tmp_path / "ntu60_3danno.pkl", progress=False, workers=1)
    assert len(FORMATS["pyskl"].find(ntu)) == 48
    with pytest.raises(ParameterError, match="smarthome is only read.*\n.*written are: store, npz"):
        skelnb.convert(store.path, tmp_path / "x", to="smarthome")
    ntu_store = skelnb.prepare("ntu60", tmp_path / "raw", tmp_path / "ntu", workers=1, progress=False)
    with pytest.raises(ParameterError, match="npz needs a split, and the store has 2.*\n.*split=xsub; there are xsub, xview"):
        skelnb.convert(ntu_store.path, tmp_path / "NTU60_CS.npz")
    with pytest.raises(ParameterError, match="npz needs a split"):
        skelnb.convert(tmp_path / "raw", tmp_path / "NTU60_CS.npz", workers=1, progress=False)
    assert list(tmp_path.glob("NTU60_CS*")) == [], "the store on the way was left behind"
    bare = skelnb.SkeletonStore.write(tmp_path / "bare", ntu_store)
    with pytest.raises(ParameterError, match="the store has 0.*\n.*add_split"):
        skelnb.convert(bare.path, tmp_path / "NTU60_CS.npz")
    with pytest.raises(DataError, match="holds one recording, not 6"):
        skelnb.convert(store.path, tmp_path / "x.csv")
    with pytest.raises(ParameterError, match="npz has no option 'splt'\n.*did you mean 'split'"):
        skelnb.convert(store.path, tmp_path / "x.npz", splt="split")
    one = skelnb.SkeletonStore.write(tmp_path / "one", [store[0]])
    assert "spine_base" in skelnb.convert(one.path, tmp_path / "x.csv").read_text()


def test_convert_does_not_guess_what_an_ending_means(raw, store, tmp_path):
    with pytest.raises(ParameterError, match=r"no format is known by the ending \.json.*\n.*--to"):
        skelnb.convert(store.path, tmp_path / "takes.json")
    assert list(tmp_path.iterdir()) == []
    for name in ("takes.json", "takes.store", "takes_v1.2"):
        made = skelnb.convert(store.path, tmp_path / name, to="store" if name.endswith("json") else None, progress=False)
        assert (made / "store.json").is_file()


def test_a_format_that_is_named_is_not_looked_for(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("skelnb.data.formats.recognise", lambda path: pytest.fail("it was named"))
    made = skelnb.convert(raw, tmp_path / "named", format="precog", workers=1, progress=False)
    assert len(skelnb.SkeletonStore.open(made)) == 6
    with pytest.raises(ParameterError, match="did you mean 'precog'"):
        skelnb.convert(raw, tmp_path / "other", format="precogg", workers=1, progress=False)


def test_forge_overwrites_nothing_unasked(raw):
    before = sorted((p, p.stat().st_mtime_ns) for p in raw.rglob("*"))
    with pytest.raises(DiskError, match="exists already"):
        skelnb.forge("precog", raw, seed=3)
    assert sorted((p, p.stat().st_mtime_ns) for p in raw.rglob("*")) == before
    assert skelnb.forge("precog", raw, seed=2, replace=True) == raw


def test_doctor_writes_what_it_says(raw, tmp_path, capsys):
    status = main(["doctor", str(raw), "--json", str(tmp_path / "d.json"), "--page", str(tmp_path / "d.html"), "--no-progress", "--workers", "1"])
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "d.json").read_text())
    assert status == report["status"] == 2 and "counts" in {f["code"] for f in report["findings"]} and "status 2" in said
    assert "<html" in (tmp_path / "d.html").read_text()
    assert skelnb.doctor(raw, limit=3, progress=False, workers=1).status < 2, "of a part of a set, counts are not compared"
    assert skelnb.doctor(raw, format="precog", empty="drop", limit=2, progress=False, workers=1).dataset == "precog"


def test_command_line_errors_are_for_people(raw, tmp_path, capsys):
    for arguments, words in (
        (["prepair"], "no command 'prepair'"), (["prepare", "precogg", "x"], "did you mean 'precog'"),
        (["prepare", "precog", str(tmp_path / "absent")], "there is no take of PRECOG"),
        (["prepare", "precog", str(raw), "emty=drop", "--out", str(tmp_path / "o")], "did you mean 'empty'"),
        (["prepare", "precog", str(raw), "drop", "--out", str(tmp_path / "o")], "name=value"),
        (["doctor", str(raw), "format=precog"], "write --format"),
        (["prepare", "precog", str(raw), "--prset", "mamp"], "did you mean '--preset'"),
        (["prepare", "precog", str(raw), "--empty", "drop"], "name=value"),
        (["info", str(tmp_path)], "is not a store"), (["doctor", str(tmp_path)], "no format that is known"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert words in said and "->" in said and "Traceback" not in said
    with pytest.raises(SystemExit) as e:
        main(["info"])
    assert e.value.code == 2
    assert _options(["phase=2", "x=null", "name=a=b"]) == {"phase": 2, "x": None, "name": "a=b"}


def test_interrupted(monkeypatch, capsys):
    def info(path):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "info", info)
    assert main(["info", "somewhere"]) == 130 and "goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--version"], ["info", "--help"]])
def test_a_reader_who_has_seen_enough(monkeypatch, arguments):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as out:  # closing it writes what is left, which must not fail either
        monkeypatch.setattr(sys, "stdout", out)
        assert main(arguments) == 141
        monkeypatch.undo()


def test_the_program(tmp_path):
    def skelnb_program(*arguments):
        return subprocess.run([sys.executable, "-m", "skelnb.interface.cli", *arguments], capture_output=True, text=True, env=os.environ)

    alone, wrong = skelnb_program(), skelnb_program("info", str(tmp_path))
    assert alone.returncode == 0 and all(name in alone.stdout for name in (*FORMATS, *COMMANDS)) and skelnb.__version__ in alone.stdout
    assert wrong.returncode == 2 and "is not a store" in wrong.stderr and "Traceback" not in wrong.stderr


def test_version_and_help(capsys):
    assert main(["--version"]) == 0 and skelnb.__version__ in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    assert "leave damaged files out" in capsys.readouterr().out
