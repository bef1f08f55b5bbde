"""The doctor's page: one file, readable text, every picture with its mark."""
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from skelnb.data.clip import Clip
from skelnb.data.doctor import Finding, Picture, Report, diagnose
from skelnb.data.synthetic import synthesize
from skelnb.errors import DiskError
from skelnb.reporting.doctor_page import HEIGHT, WIDTH, page, strip, write_page
from skelnb.topology import layout, layouts, map_joints

VOID = {"meta", "path", "circle", "rect"}


class Balanced(HTMLParser):
    "Every element is closed, in order."

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.open += [tag] if tag not in VOID else []

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def plain(c, **changes):
    return Clip(**{k: getattr(c, k) for k in ("xyz", "fps", "layout", "name", "label")} | changes)


@pytest.fixture(scope="module")
def report():
    clips = [plain(c) for c in synthesize(8, persons=2)]
    xyz = clips[3].xyz.copy()
    xyz[7, 0, 3] = np.nan
    xyz[50:] = 0
    return diagnose([*clips[:3], plain(clips[3], xyz=xyz, name="<b>&"), *clips[4:]])


def test_page_is_whole_small_and_needs_nothing(tmp_path, report):
    path = write_page(report, tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    tags = Balanced(text).seen
    assert text == page(report) and len(text) < 40_000 and tags.count("figure") == len(report.pictures) == 2
    assert "script" not in tags and not re.search(r"https?://|url\(|@import|<b>", text) and "&lt;b&gt;&amp;" in text
    assert "prefers-color-scheme:dark" in text and "something is wrong" in text and ">1 problem<" in text and ">1 remark<" in text
    assert [f.name for f in tmp_path.iterdir()] == ["page.html"]


def test_nothing_half_written(tmp_path, report):
    (tmp_path / "page.html" / "in the way").mkdir(parents=True)
    with pytest.raises(DiskError):
        write_page(report, tmp_path / "page.html")
    assert [f.name for f in tmp_path.iterdir()] == ["page.html"]


def test_counts_beside_the_published_ones():
    text = page(Report("x/set", "ntu60", "by names", golden=[("clips", 56000, 56578), ("xsub train", 40091, 40091)]))
    Balanced(text)
    assert "56,000" in text and "56,578" in text and "-578" in text and text.count("as published") == 1 and "all well" in text and "<h1>set</h1>" in text


def test_names_beyond_those_kept_are_counted():
    finding = Finding("problem", "nan-coordinates", "so it is", clips=("a", "b"), count=1234, remedy="<repair>")
    assert "and 1,232 more" in page(Report("x", findings=[finding])) and "&lt;repair&gt;" in page(Report("x", findings=[finding]))


def numbers(svg):
    return np.array(re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg), float)


def test_strip_shows_every_frame_and_marks_one(report):
    picture = next(p for p in report.pictures if p.code == "nan-coordinates")
    svg = strip(picture)
    assert svg.count('class="mark"') == 1 and re.search(r'class="now"[^>]*>7<', svg) and svg.count("nobody") == (picture.frames >= 50).sum() > 0
    at, cell = numbers(svg), WIDTH / len(picture.frames)
    assert (at >= -1).all() and (at <= [cell + 1, HEIGHT + 8]).all()
    assert svg.count("<circle") == 2 * (picture.frames < 50).sum() - 1  # the lost head


def test_no_zeros_are_drawn():
    xyz = synthesize(1)[0].xyz[:3]
    xyz[:, :, 12:] = 0
    svg = strip(Picture("jump", "a", "", 1, np.arange(3), xyz, "kinect_v2", "m", "y"))
    whole = strip(Picture("jump", "a", "", 1, np.arange(3), synthesize(1)[0].xyz[:3], "kinect_v2", "m", "y"))
    assert 0 < len(numbers(svg)) < 0.6 * len(numbers(whole))


def test_who_is_far_away_does_not_shrink_the_others():
    xyz = synthesize(1)[0].xyz[:8].copy()
    tall = np.ptp(numbers(strip(Picture("jump", "a", "", 5, np.arange(8), xyz, "kinect_v2", "m", "y")))[:, 1])
    xyz[5] += 100
    near = [n for n in numbers(strip(Picture("jump", "a", "", 5, np.arange(8), xyz, "kinect_v2", "m", "y"))) if abs(n[1]) < 300]
    assert np.ptp(np.array(near)[:, 1]) > 0.25 * tall


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("flat", [False, True])
def test_every_layout_stands_upright(name, flat):
    made = synthesize(1)[0]
    try:
        xyz, _ = map_joints(made.xyz[:2], "kinect_v2", name)
    except Exception:
        xyz = np.repeat(made.xyz[:2, :, :1], layout(name).V, axis=2)
    xyz = 600 - 300 * xyz[..., :2] if flat else xyz
    Balanced(strip(Picture("x", "a", "", None, np.arange(2), xyz, name, "px" if flat else "m", "-y" if flat else "y")))


def test_axes_are_taken_at_their_word():
    made = synthesize(1)[0]
    upright = Picture("x", "a", "", None, np.arange(2), made.xyz[:2], "kinect_v2", "m", "y")
    turned = replace(upright, xyz=made.xyz[:2][..., [0, 2, 1]] * np.float32([1, -1, 1]), up="z")
    size = np.ptp(numbers(strip(upright)), axis=0), np.ptp(numbers(strip(turned)), axis=0)
    np.testing.assert_allclose(*size, atol=1)
    lying = np.ptp(numbers(strip(replace(turned, up="y"))), axis=0)
    assert lying[1] < 0.7 * size[0][1]


def test_millimetres_and_pictures_of_nobody():
    xyz = synthesize(1)[0].xyz[:3] * 1000
    Balanced(strip(Picture("units", "a", "", None, np.arange(3), xyz, "kinect_v2", "m", "y")))
    assert strip(Picture("empty-clip", "a", "", 0, np.arange(3), xyz * 0, "kinect_v2", "m", "y")).count("nobody") == 3
