import base64
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.clip import Clip
from skelnb.errors import DataError, ParameterError
from skelnb.reporting.player import ABSENT, Player, _upright, pack
from skelnb.topology import layout, layouts

CLASSES = ["background", "wave", "jump"]
RNG = np.random.default_rng(0)


def take(T=60, M=1, name="kinect_v2", C=3, **more):
    xyz = RNG.normal(0, 0.5, (T, M, layout(name).V, C)).astype(np.float32)
    return Clip(xyz, 30, name, "take", **more)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])


def picture_of(page):
    return base64.b64decode(re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', page)[1]).decode()


def test_segments_become_the_truth():
    player = Player(take(segments=[(10, 30, "wave"), (30, 40, "jump")]))
    assert player.classes == ["background", "jump", "wave"]
    data = data_of(player._repr_html_())
    assert data["rows"] == [["truth", [[0, 10, 0], [10, 30, 2], [30, 40, 1], [40, 60, 0]]]] and data["seconds"] == 2


def test_labels_are_checked():
    with pytest.raises(ParameterError, match="names of their classes"):
        Player(take(), truth=np.zeros(60, int))
    with pytest.raises(ParameterError, match="59 labels, the clip 60 frames"):
        Player(take(), truth=np.zeros(59, int), classes=CLASSES)
    with pytest.raises(ParameterError, match="class id 3"):
        Player(take(), predictions=np.full(60, 3), classes=CLASSES)
    with pytest.raises(DataError, match="joints"):
        Player(np.zeros((5, 17, 3)))
    with pytest.raises(ParameterError, match="nobody"):
        Player(np.zeros((5, 25, 3)))._repr_html_()


def test_page_needs_nothing_else():
    page = Player(take(T=300, segments=[(0, 50, "wave")]))._repr_html_()
    without = page.replace(data_of(page)["xyz"], "")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", without)
    assert len(without) < 45_000 and page == page.encode("ascii", "ignore").decode() or "❚❚" in page
    assert 'alt="Skeleton motion take, 10.0 seconds; truth: wave, background"' in page


def test_text_cannot_leave_its_place():
    evil = '</script><b>"&'
    page = Player(take(segments=[(0, 60, evil)]), title=evil)._repr_html_()
    assert page.count("<script") == 2 == page.count("</script>") and "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert data_of(page)["title"] == evil
    ET.fromstring(picture_of(page))


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("C", [2, 3])
def test_every_layout(name, C):
    page = Player(take(name=name, C=C, units="px" if C == 2 else "m"))._repr_html_()
    data = data_of(page)
    assert data["flat"] == (C == 2) and len(data["bones"]) == layout(name).V - 1
    assert len(base64.b64decode(data["xyz"])) == 2 * data["T"] * data["M"] * data["V"] * 3
    ET.fromstring(picture_of(page))


def test_two_people_one_leaves():
    clip = take(M=3)
    clip.xyz[20:, 1] = 0
    clip.xyz[:, 2] = 0  # never there: not stored
    data = data_of(Player(clip, rate=30)._repr_html_())
    q = np.frombuffer(base64.b64decode(data["xyz"]), "<i2").reshape(60, 2, 25, 3)
    assert (q[20:, 1] == ABSENT).all() and (q[:20, 1] != ABSENT).all() and (q[:, 0] != ABSENT).all()


def test_thinned_to_the_rate():
    assert data_of(Player(take(T=61))._repr_html_())["T"] == 31
    assert data_of(Player(take(T=61), rate=30)._repr_html_())["T"] == 61
    assert data_of(Player(take(T=61), fps=120)._repr_html_())["every"] == 8


@settings(deadline=None)
@given(st.floats(1e-3, 1e5))
def test_pack_holds_any_size(scale):
    xyz = np.random.default_rng(1).uniform(-scale, scale, (3, 1, 4, 3))
    text, unit = pack(xyz, np.ones((3, 1), bool))
    back = np.frombuffer(base64.b64decode(text), "<i2").reshape(xyz.shape) * unit
    assert np.abs(back - xyz).max() <= unit / 2 * 1.0001 and unit >= 0.001 and (unit == 0.001 or scale > 30)


def test_recordings(recordings):
    with np.load(recordings / "skeletons" / "precog.npz") as z:
        xyz = z["xyz_mm"][: z["offsets"][1]].astype(np.float32) / 1000
    page = Player(xyz, title="precog")._repr_html_()
    assert len(page) < 30_000 + 250 * len(xyz)


def test_pictures_and_other_verticals_are_shown_upright():
    rng = np.random.default_rng(0)
    plane = Clip(rng.random((5, 1, 17, 3)), 30, "coco17", "c", units="image", up="-y", image_size=(640, 480))
    seen = _upright(plane)
    assert seen.shape == (5, 1, 17, 2) and np.allclose(seen, plane.xyz[..., :2] * [640, -480])
    space = Clip(rng.random((5, 1, 17, 3)), 30, "coco17", "c", up="z")
    assert np.array_equal(_upright(space)[..., 1], space.xyz[..., 2])
    for clip in (plane, space):
        assert "<script" in Player(clip)._repr_html_()


def test_overlapping_segments_are_shown():
    clip = Clip(np.ones((9, 1, 17, 3)) * np.arange(1, 18)[:, None], 30, "coco17", "c", segments=[(0, 6, "walk"), (2, 4, "wave")])
    assert Player(clip).rows["truth"].tolist() == [1, 1, 2, 2, 1, 1, 0, 0, 0]


def test_a_clip_shows_itself_in_a_notebook():
    code = """if True:
        import sys
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        import numpy as np
        import skelnb
        formats, _ = shell.display_formatter.format(skelnb.Clip(np.ones((5, 1, 25, 3)) * np.arange(1, 26)[:, None], 30, "kinect_v2", "c"))
        assert "skelnb-player" in formats["text/html"] and "Clip('c'" in formats["text/plain"]
        formats, _ = shell.display_formatter.format(skelnb.Clip(np.zeros((5, 1, 25, 3)), 30, "kinect_v2", "nobody"))
        assert list(formats) == ["text/plain"]
    """
    subprocess.run([sys.executable, "-c", code], check=True)
