"""The papers' tables: every number is the paper's, every row of ours can be built, and a slip of the pen is told with its place."""
import dataclasses
import re
import sys
from pathlib import Path

import pytest

from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.interface.trials import METHODS
from skelnb.methods.slim import ABLATIONS
from skelnb.reporting import papers
from skelnb.reporting.papers import DATA, PROTOCOLS, all_tables, decimals, load_table, missing_in_text, numbers, published, read_yaml
from skelnb.settings import load

FOLDER = Path(__file__).parents[1] / "reports" / "tables"
WANTED = {  # paper -> tables, figures with numbers
    "lode": (range(1, 13), ("02a", "02b", "02c", "04", "05")),
    "actclr": (range(1, 12), ("01", "02", "03", "08", "09", "10", "11", "12", "13", "14", "15")),
    "slim": (range(1, 9), ()),
    "usdrl": (range(1, 6), ("04",)),
}
BLOCKS = {"actclr_table05": 2, "actclr_table06": 2, "actclr_table07": 2}  # printed as blocks of so many columns, one below the other
APART = {  # rows whose numbers no line of the text holds, and why
    "lode_fig02a": "one bound for three columns",
}


@pytest.fixture(scope="module")
def tables():
    return all_tables(FOLDER)


@pytest.fixture(scope="module")
def texts():
    "Text of a paper by name of its file; the folder `papers` stands in the data folder or beside it."
    data = load().data
    folder = next((f for f in (data / "papers", data.parent / "papers") if f.is_dir()), None)
    if folder is None:
        pytest.skip(f"no papers/ in {data} or beside it: the printed numbers are not looked up")
    return {p.name: p.read_text() for p in folder.glob("*.txt")}


def test_every_table_has_its_file(tables):
    for paper, (numbered, figures) in WANTED.items():
        names = [f"{paper}_table{n:02d}" for n in numbered] + [f"{paper}_fig{f}" for f in figures]
        missing = [n for n in names if not any(t == n or t.startswith(n) and t[len(n):].isalpha() for t in tables)]
        assert missing == []
    assert any(t.startswith("snippet_quoted") for t in tables)
    assert {t.paper for t in tables.values()} == {*WANTED, "snippet"}


def block(t, at, size):
    "Some columns of a table, without its runs."
    rows = tuple(dataclasses.replace(r, paper=r.paper[at:at + size], run=None, skip="", ours=False) for r in t.rows)
    return dataclasses.replace(t, columns=t.columns[at:at + size], rows=rows)


def test_every_number_is_in_the_paper(tables, texts):
    for name, t in tables.items():
        if t.text:
            assert missing_in_text(t, texts[t.text]) == {}, name
        else:
            assert numbers(t) == {}, f"{name}: numbers of the paper without its text"


def test_every_row_is_a_line_of_the_paper(tables, texts):
    for name, t in tables.items():
        if t.text and name not in APART:
            size = BLOCKS.get(name, len(t.columns))
            for at in range(0, len(t.columns), size):
                assert missing_in_text(block(t, at, size), texts[t.text], together=True) == {}, name


def test_every_quoted_row_is_the_line_with_its_reference(tables, texts):
    checked = 0
    for name, t in tables.items():
        lines = texts[t.text].splitlines() if t.text else []
        for row in t.rows if name not in APART else ():
            if (ref := re.search(r"\[\d+\]$", row.name)) and row.found == "paper" and len(t.columns) > 1 and name not in BLOCKS:
                line = "\n".join(x for x in lines if ref[0] in x)
                assert missing_in_text(dataclasses.replace(t, rows=(row,)), line, together=True) == {}, (name, row.name)
                checked += 1
    assert checked > 60


def test_numbers_that_stand_in_two_tables_agree(tables):
    def at(name, label, key):
        t = tables[name]
        row = next(r for r in t.rows if r.label == label)
        return row.paper[[c.key for c in t.columns].index(key)]

    full = [at("lode_table05", "LoDE, NTU 60", "xsub_05"), at("lode_table08", "LER", "xsub_05"), at("lode_table10", "LoDE, 4", "pku1"),
            at("lode_table11", "Siamese", "xsub_05"), at("lode_table12", "LoDE", "xsub_05"), at("lode_fig04", "1e-4", "xsub_05")]
    without = [at("lode_table07", "F + M + S", "xsub_05"), at("lode_table08", "none", "xsub_05"), at("lode_table09", "F + M + S, VQ, SC", "xsub_05"),
               at("lode_table12", "LoDE without LERR", "xsub_05"), at("lode_fig05", "4 frames", "xsub_05")]
    frame = [at("lode_table05", "MAMP [15], NTU 60", "xsub_05"), at("lode_table07", "F", "xsub_05"), at("lode_table12", "MAMP [15]", "xsub_05")]
    assert (set(full), set(without), set(frame)) == ({83.1}, {80.9}, {77.1})
    sets = [at("lode_table04", "LoDE", f"set_{i}") for i in (1, 2, 3)]
    assert round(sum(sets) / 3, 1) == at("lode_table10", "LoDE, 2", "babel")
    for row in tables["slim_table01"].rows:
        same = next(r for r in tables["slim_table02"].rows if r.name.split(" [")[0] == row.name.split(" [")[0])
        assert row.paper[4:] == same.paper[:2]
    assert len({tables[f"slim_table0{n}"].rows[-1].paper for n in (5, 6, 7)}) == 1


def test_every_run_is_a_preset(tables):
    for name, t in tables.items():
        for row in t.rows:
            if row.run and row.run.method:
                assert row.run.method in METHODS, (name, row.name)
                preset = METHODS[row.run.method][1]
                for size in [row.run.preset] if row.run.preset else ["paper" if "paper" in preset.presets() else "release", "small"]:
                    try:
                        preset.named(size, **row.run.overrides)
                    except ParameterError as e:
                        pytest.fail(f"{name}, {row.name}: {e}")


def test_slim_runs_its_own_ablations(tables):
    for number, rows in ABLATIONS.items():
        t = tables[f"slim_table0{number}"]
        assert [r.run.overrides for r in t.rows] == list(rows.values())
        assert [r.name for r in t.rows] == list(rows)


def test_equal_rows_are_equal_runs(tables):
    "What is trained once must not be trained twice under another name."
    frame = [r.run.overrides for n in ("lode_table01", "lode_table05", "lode_table06", "slim_table02", "lode_fig02c", "lode_table07")
             for r in tables[n].rows if r.name in ("MAMP [15]", "MAMP [22]", "F")]
    assert len(frame) == 6 and all(f == frame[0] for f in frame)


# ---------------------------------------------------------------------------------------------- bad files

GOOD = (FOLDER / "lode_table05.yaml").read_text()
BAD = [  # what is replaced, by what, and what the error says: the place first
    ("draw: table", "drawing: table", "no field 'drawing'.*\n.*'drawn'"),
    ("paper: lode", "paper: lodo", "paper = 'lodo'"),
    ("text: lode", "text: lode\ntext: lode", "line 6.*'text' stands twice"),
    ("number: Table V", "number: Table 5b4", "number = 'Table 5b4'"),
    ("number: Table V", "number: Table VI", "number: holds Table VI of lode\n.*lode_table06.yaml"),
    ("{data: pku1_xsub, protocol", "{dota: pku1_xsub, protocol", "defaults: no default 'dota'\n.*'data'"),
    ("{key: xsub_01, head: [PKU-I Xsub", "{key: xsub 01, head: [PKU-I Xsub", "column .*xsub 01.*"),
    ("head: [PKU-I Xsub, mAP@0.1]", "head: [a, b, c]", "column 'xsub_01': .*one or two header lines"),
    ("key: xsub_05", "key: xsub_01", "columns: 'xsub_01' stands twice"),
    ("data: pku1_xview, metric: map_a@0.5", "data: pku1_xvew, metric: map_a@0.5", "column 'xview_05': no recordings 'pku1_xvew'.*\n.*'pku1_xview'"),
    ("protocol: detection_linear", "protocol: detection_liner", "column 'xsub_01': no protocol 'detection_liner'.*\n.*'detection_linear'"),
    ("metric: map_a@0.1}", "metric: map@0.1}", r"column 'xsub_01': detection_linear gives no metric 'map@0.1'\n.*map_a@"),
    ("- {key: xsub_01, head: [PKU-I Xsub, mAP@0.1], ", "- {key: xsub_01, ", "column 'xsub_01': lacks head"),
    ("paper: [77.7, 71.8, 72.4, 66.0]", "paper: [77.7, 71.8, 72.4]", "row 3 'LoDE': 3 numbers for 4 columns"),
    ("paper: [77.7, 71.8, 72.4, 66.0]", "paper: [77.7, 71.8, 72.4, x]", "row 3 'LoDE', column 'xview_05': 'x' is no number"),
    ("paper: [77.7, 71.8, 72.4, 66.0]", "paper: 77.7", "row 3 'LoDE': paper = 77.7"),
    ("  about: {source: Posetics, labels: no}\n", "  about: {source: Posetics}\n", "row 3 'LoDE': about has source; row 1: source, labels"),
    ("about: {source: NTU 60, labels: no}, paper: [87.6", "about: {source: Posetics, labels: no}, paper: [87.6", "rows: 'LoDE, Posetics' stands twice"),
    ("  ours: true\n  about: {source: Posetics", "  about: {source: Posetics", "row 3 'LoDE': ours = False with run or skip"),
    ("- {name: \"LAC [21]\",", "- {name: \"LAC [21]\", ours: true,", "row 1 'LAC .21.': ours = True with neither run nor skip"),
    ("- {name: \"LAC [21]\",", "- {name: \"LAC [21]\", form: spec,", "row 1 'LAC .21.': no field 'form'.*\n.*'from'"),
    ("{method: lode, pretrain: posetics}", "{methode: lode}", "row 3 'LoDE', run: no field 'methode'.*\n.*'method'"),
    ("{method: lode, pretrain: posetics}", "{method: lode, pretrain: posetic}", "row 3 'LoDE', run: no recordings 'posetic'.*\n.*'posetics'"),
    ("{method: lode, pretrain: posetics}", "{method: lode, encoder: raw}", "row 3 'LoDE', run: method = 'lode' with encoder = 'raw'"),
    ("{method: lode, pretrain: posetics}", "{method: lode, stream: [joint, bones]}", "row 3 'LoDE', run: stream"),
    ("{method: lode, pretrain: posetics}", "{method: lode, stream: [bone, bone]}", "row 3 'LoDE', run: stream.*each once"),
    ("{method: lode, pretrain: posetics}", "{method: lode, fit: {epochs: 3}}", "row 3 'LoDE', run: no setting of a schedule 'epochs'"),
    ("{method: lode, pretrain: posetics}", "{method: lode, skip: {xsub: gated}}", "row 3 'LoDE', run: no column 'xsub'\n.*'xsub_0"),
    ("{method: lode, pretrain: posetics}", "lode", "row 3 'LoDE', run: 'lode' is no mapping"),
    (", pretrain: ntu60_xsub}", "}", "row 'MAMP .15.', column 'xsub_01': nothing says what the encoder learns from"),
    ("draw: table", "draw: curve", "curve without places"),
    ("rows:\n", "lines:\n", "rows: lacks a list of rows"),
    ("rows:\n", "rows: [\n", "line 20.*"),
]


@pytest.mark.parametrize(("right", "wrong", "said"), BAD, ids=[w.strip()[:40] for _, w, _ in BAD])
def test_a_slip_is_told_with_its_place(tmp_path, right, wrong, said):
    assert right in GOOD
    file = tmp_path / "lode_table05.yaml"
    file.write_text(GOOD.replace(right, wrong, 1))
    with pytest.raises(DataError, match=re.compile(said, re.S)) as e:
        load_table(file)
    assert e.value.file == str(file) and e.value.remedy


def test_other_bad_input(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no .yaml file"):
        all_tables(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        load_table(tmp_path / "lode_table01.yaml")
    (tmp_path / "x.yaml").write_text("- 1\n")
    with pytest.raises(DataError, match="holds list"):
        read_yaml(tmp_path / "x.yaml")
    papers._yaml.cache_clear()
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(SkelnbError, match=r"PyYAML.*\n.*skelnb\[sweep\]"):
        read_yaml(tmp_path / "x.yaml")
    papers._yaml.cache_clear()


# ---------------------------------------------------------------------------------------------- what is read

SMALL = """
paper: lode
number: Fig. 12b
title: t
source: s
shows: s
draw: curve
defaults: {pretrain: posetics, method: lode, overrides: {regulariser: none, unit: 2}, stream: bone, protocol: linear, metric: top1}
columns:
- {key: a, head: [A], data: ntu60_xsub, pretrain: ntu60_xview}
- {key: b, head: [A, B], data: pku1_xsub, metric: top1, unit: x, better: low}
rows:
- {name: one, x: 1e-4, about: {tick: yes, n: 3}, paper: [1, 2.50]}
- {name: two, x: 2, about: {tick: no, n: null}, ours: true, paper: [null, 1e-3], run: {overrides: {unit: 4}, skip: {b: gated}}}
- {name: three, x: 3, about: {tick: no, n: 1}, ours: true, paper: [null, null], run: {encoder: random, stream: [joint, motion], columns: [b]}}
- {name: four, x: 4, about: {tick: no, n: 1}, ours: true, paper: [7, null], skip: too large, from: spec}
"""


@pytest.fixture()
def small(tmp_path):
    (tmp_path / "lode_fig12b.yaml").write_text(SMALL)
    return load_table(tmp_path / "lode_fig12b.yaml")


def test_defaults_and_cells(small):
    a, b = small.columns
    assert (a.protocol, a.unit, b.unit, b.better) == ("linear", "%", "x", "low")
    one, two, three, four = small.rows
    assert one.x == 1e-4 and two.run.overrides == {"regulariser": "none", "unit": 4} and two.run.stream == ("bone",)
    assert three.run.stream == ("joint", "motion") and one.run is None and four.found == "spec"
    cells = [(c.row.name, c.column.key, c.paper, c.pretrain, c.skip) for c in small.cells()]
    assert cells == [("two", "a", None, "ntu60_xview", ""), ("two", "b", 1e-3, "posetics", "gated"), ("three", "b", None, "", ""),
                     ("four", "a", 7.0, "", "too large"), ("four", "b", None, "", "too large")]
    assert [r.label for r in small.rows] == ["one, tick, 3", "two", "three, 1", "four, 1"]


def test_published(small):
    frame = published(small)
    assert list(frame.columns) == [("", "A"), ("A", "B")] and frame.index.names == ["method", "tick", "n"]
    assert frame.loc[("one", "✓", "3")].tolist() == [1.0, 2.5] and frame.isna().sum().tolist() == [2, 2]
    assert decimals(small) == {"a": 0, "b": 3}


@pytest.mark.parametrize(("number", "name"), [("Table I", "table01"), ("Table IV", "table04"), ("Table IX", "table09"), ("Table XI", "table11"),
                                              ("Table XIV", "table14"), ("Table 3", "table03"), ("Fig. 2a", "fig02a"), ("Quoted 1", "quoted01")])
def test_names(tmp_path, number, name):
    (tmp_path / f"slim_{name}.yaml").write_text(SMALL.replace("Fig. 12b", number).replace("paper: lode", "paper: slim"))
    assert load_table(tmp_path / f"slim_{name}.yaml").name == f"slim_{name}"


def test_look_up(small):
    assert numbers(small) == {"one, tick, 3": [1.0, 2.5], "two": [1e-3]}
    assert missing_in_text(small, "1 and 2.5, and 0.001") == {}
    assert missing_in_text(small, "1e-3, 1,001 and <u>2.50</u>G") == {"one, tick, 3": [1.0]}  # 1 is part of another number
    assert missing_in_text(small, "2.51 10 0.0011") == {"one, tick, 3": [1.0, 2.5], "two": [1e-3]}
    assert missing_in_text(small, "0 1 5 2.5\n0.001", together=True) == {}
    assert missing_in_text(small, "2.5 1\n0.001", together=True) == {"one, tick, 3": [1.0, 2.5]}  # in their order
    assert missing_in_text(small, "1\n2.5\n0.001", together=True) == {"one, tick, 3": [1.0, 2.5]}  # on one line


def test_words():
    assert all(what and metrics for metrics, what in PROTOCOLS.values()) and all(DATA.values())
