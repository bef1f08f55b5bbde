import base64
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from helpers_browser import answer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skelnb.data.clip import Clip
from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.reporting.player import ABSENT, Player, _lanes, _upright, pack, still, view_data, view_of, weight_scale
from skelnb.topology import layout, layouts

CLASSES = ["background", "wave", "jump"]
RNG = np.random.default_rng(0)


def take(T=60, M=1, name="kinect_v2", C=3, **more):
    xyz = RNG.normal(0, 0.5, (T, M, layout(name).V, C)).astype(np.float32)
    return Clip(xyz, 30, name, "take", **more)


def data_of(page):
    "The data of the page, and of its first clip."
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    return {**data["clips"][0], **data}


def picture_of(page):
    return base64.b64decode(re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', page)[1]).decode()


def test_segments_become_the_truth():
    player = Player(take(segments=[(10, 30, "wave"), (30, 40, "jump")]))
    assert player.classes == ["background", "jump", "wave"]
    data = data_of(player._repr_html_())
    assert data["seconds"] == 2
    assert data["rows"] == [{"name": "truth", "fps": 30, "frames": 60, "runs": [[0, 10, 0], [10, 30, 2], [30, 40, 1], [40, 60, 0]]}]


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
    for bits in (16, 8):
        text, unit = pack(xyz, np.ones((3, 1), bool), bits)
        back = np.frombuffer(base64.b64decode(text), f"<i{bits // 8}").reshape(xyz.shape) * unit
        assert np.abs(back - xyz).max() <= unit / 2 * 1.0001 and unit >= 0.001 and (unit == 0.001 or scale > (30 if bits == 16 else 0.1))


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


def test_joints_that_a_picture_does_not_show_are_not_drawn():
    xy = RNG.uniform(100, 400, (6, 1, 17, 2)).astype(np.float32)
    xy[:, :, 9] = 0  # a wrist that was never found
    xy[2] = 0  # and once nobody
    clip = Clip(xy, 30, "coco17", "c", units="px", up="-y")
    view = view_of(clip)
    assert np.isnan(view.xyz[0, 0, 9]).all() and np.isfinite(np.delete(view.xyz[0, 0], 9, 0)).all()
    assert np.nanmax(np.abs(view.xyz[..., :2])) <= 150, "the corner of the picture is no part of the body"
    data = view_data(view)
    q = np.frombuffer(base64.b64decode(data["xyz"]), "<i2").reshape(6, 17, 3)
    assert (q[:, 9] == ABSENT).all() and (q[2] == ABSENT).all() and (np.delete(q[0], 9, 0) != ABSENT).all()
    assert np.isfinite(data["fit"]).all() and "nan" not in still([view])


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


# ---- several clips, weights, trails, doubt -----------------------------------------------------------------------------------------------


def test_several_clips_share_a_clock():
    a, b = take(T=60, segments=[(0, 30, "wave")]), take(T=100, name="coco17", segments=[(10, 50, "jump")])
    b.fps = 50
    data = data_of(Player({"query": a, "found": b}, predictions={"LoDE": np.ones(60, int)}, classes=CLASSES)._repr_html_())
    assert [c["title"] for c in data["clips"]] == ["query", "found"] and [c["V"] for c in data["clips"]] == [25, 17]
    assert [c["every"] for c in data["clips"]] == [2, 4] and data["seconds"] == 2
    assert [(r["name"], r["fps"], r["frames"]) for r in data["rows"]] == [("truth", 30, 60), ("LoDE", 30, 60), ("found", 50, 100)]
    assert data["rows"][2]["runs"] == [[0, 10, 0], [10, 50, 2], [50, 100, 0]]
    assert data["clips"][0]["fit"] == data["clips"][1]["fit"]  # metres: one scale
    assert len(data_of(Player([a, b.xyz.repeat(2, 2)[:, :, :25]])._repr_html_())["clips"]) == 2
    assert Player([a, b]).classes == ["background", "jump", "wave"]
    with pytest.raises(ParameterError, match="no clip"):
        Player({})


def test_weights_in_any_order_of_axes():
    clip = take(T=30, M=2)
    clip.xyz[:, 0] = 0  # never there: its weights are dropped with it
    w = RNG.random((30, 2, 25)).astype(np.float32)
    for form in (w, w.swapaxes(1, 2), w[:, 1]):
        view = view_of(clip, weights=form)
        assert np.array_equal(view.weights, w[:, 1:]) and view.xyz.shape == (30, 1, 25, 3)
    data = data_of(Player(clip, weights={"attention": 3 * w}, rate=30)._repr_html_())
    top = 3 * w[:, 1].max()
    q = np.frombuffer(base64.b64decode(data["weights"]), np.uint8).reshape(30, 25) / 255 * top
    assert np.abs(q - 3 * w[:, 1]).max() < top / 500 and data["legend"] == ["attention", "0", f"{top:.2g}"]
    assert "weights" not in data_of(Player(clip)._repr_html_()) and data_of(Player(clip)._repr_html_())["legend"] == 0
    for wrong in (w[:20], w[..., :17], np.full((30, 25), np.nan)):
        with pytest.raises(ParameterError, match="weights of shape"):
            Player(clip, weights=wrong).views()


def test_several_maps_of_one_clip_share_a_scale():
    clip, w = take(), RNG.random((60, 25))
    player = Player(clip, weights={"truth": w > 0.5, "ours": 2 * w})
    assert [v.title for v in player.views()] == ["truth", "ours"] and weight_scale(player.views()) == (0, pytest.approx(2 * w.max()))
    one = {"a": clip, "b": clip}
    assert [v.weights is None for v in Player(one, weights={"b": w}).views()] == [True, False]
    with pytest.raises(ParameterError, match="did you mean 'b'|known: a, b"):
        Player(one, weights={"bb": w})
    assert weight_scale(Player(clip, weights=np.zeros((60, 25))).views()) == (0, 1)
    picture = picture_of(Player(clip, weights=w)._repr_html_())
    assert "#8f0d17" in picture or "#e69f00" in picture  # the still picture has the colours of the weights, not of the sides
    assert "#dd6a0f" not in picture


def test_trails():
    data = data_of(Player(take(), trails=["hand_right", 3])._repr_html_())
    assert data["trails"] == [[11, "#2a85c7"], [3, 0]]
    assert data_of(Player(take(), trails="hand_right")._repr_html_())["trails"] == [[11, "#2a85c7"]]
    with pytest.raises(ParameterError, match="did you mean 'hand_right'"):
        Player(take(), trails=["right_hand_right"])
    with pytest.raises(ParameterError, match="no joint 25"):
        Player(take(), trails=[25])


def test_uncertainty_is_one_minus_the_largest_probability():
    p = RNG.dirichlet(np.ones(3), 60)
    player = Player(take(), predictions={"LoDE": p.argmax(1)}, uncertainty={"LoDE": p, "apart": np.linspace(0, 1, 60)}, classes=CLASSES)
    lanes = _lanes(player)
    assert [lane["name"] for lane in lanes] == ["LoDE", "LoDE, unsure", "apart"]
    assert np.allclose(lanes[1]["shade"], (1 - p.max(1)).reshape(30, 2).max(1))  # two frames in each stored one: the larger
    data = data_of(player._repr_html_())
    assert len(base64.b64decode(data["rows"][1]["shade"])) == 30 and data["rows"][1]["frames"] == 60
    for wrong in (2 * p, p[:59], np.full(60, 1.5), np.full(60, np.nan)):
        with pytest.raises(ParameterError, match="uncertainty of shape"):
            Player(take(), uncertainty=wrong)


def test_still_pictures_of_several_clips():
    player = Player({"<a>": take(), "b": take(M=2)}, uncertainty=np.linspace(0, 1, 60))
    root = ET.fromstring(still(player.views(), _lanes(player), player.classes))
    words = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words == ["<a>", "b", "uncertainty"] and len(root.findall("{http://www.w3.org/2000/svg}g")) == 2


# ---- films -------------------------------------------------------------------------------------------------------------------------------


def test_gif(tmp_path):
    player = Player({"a": take(segments=[(0, 30, "wave")]), "b": take(M=2)}, weights={"a": RNG.random((60, 25))}, trails=[7], height=120)
    gif = Image.open(player.save_gif(tmp_path / "a.gif", rate=15, part=(0, 0.5), width=201))
    frames, durations = [], []
    for k in range(gif.n_frames):
        gif.seek(k)
        frames.append(np.asarray(gif.convert("RGB")).astype(int))
        durations.append(gif.info["duration"])
    assert sum(durations) == 530 and set(durations) == {60, 70} and gif.info["loop"] == 0  # eight frames of 1/15 s, to the hundredth
    assert frames[0].shape == (176, 200, 3) and (frames[0][0, 0] == 255).all()
    assert (np.abs(frames[0] - frames[1]).sum(-1) > 100).sum() > 200  # it moves
    below = [f[150:, 40:].copy() for f in frames[:2]]
    assert (below[0] != below[1]).any(-1).mean() < 0.1  # the lane stands still but for the mark
    with pytest.raises(ParameterError, match="at most 50"):
        player.save_gif(tmp_path / "b.gif", rate=60)
    with pytest.raises(ParameterError, match="part 1 to 3 s of 2.0 s"):
        player.save_gif(tmp_path / "b.gif", part=(1, 3))
    assert [f.name for f in tmp_path.iterdir()] == ["a.gif"]


def test_mp4_needs_ffmpeg(tmp_path, monkeypatch):
    player = Player(take(), height=100)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(SkelnbError, match="imageio-ffmpeg"):
        player.save_mp4(tmp_path / "a.mp4")
    program = tmp_path / "ffmpeg"  # keeps what it is sent
    program.write_text('#!/bin/sh\nfor last; do :; done\n/bin/cat > "$last"\n')
    program.chmod(0o755)
    player.save_mp4(tmp_path / "a.mp4", rate=10, width=200)
    assert (tmp_path / "a.mp4").stat().st_size == 20 * 200 * 134 * 3
    program.write_text("#!/bin/sh\necho no libx264 >&2\nexit 1\n")
    with pytest.raises(SkelnbError, match="no libx264"):
        player.save_mp4(tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


# ---- in a browser ------------------------------------------------------------------------------------------------------------------------

PROBE = """<script>
const player = document.querySelector(".skelnb-player"), heard = [];
player.addEventListener("frame", (e) => heard.push(e.detail));
player.skelnb.seek(1); player.skelnb.go(45);
const painted = [...player.querySelectorAll(".view canvas")].map((c) => {
  const px = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let n = 0;
  for (let i = 3; i < px.length; i += 4) n += px[i] > 200;
  return n;
});
const row = player.querySelector(".row"), box = row.getBoundingClientRect();
row.setPointerCapture = () => {};
row.dispatchEvent(new PointerEvent("pointerdown", { clientX: box.left + box.width / 4, pointerId: 1 }));
window.answer = { heard, painted, grey: getComputedStyle(player.querySelector(".row.shade canvas")).height };
</script>"""


def test_it_plays_in_a_browser():
    clip = take(segments=[(10, 30, "wave")])
    player = Player({"a": clip, "b": take(M=2)}, weights={"a": RNG.random((60, 25))}, trails=["hand_right"], uncertainty=np.linspace(0, 1, 60))
    seen = answer(player._repr_html_() + PROBE)
    assert seen["heard"] == [30, 45, 15]  # one second, frame 45, and a click in the first quarter of a lane
    assert len(seen["painted"]) == 2 and min(seen["painted"]) > 500


PLACES = """<script>requestAnimationFrame(() => {
  const box = (node) => node.getBoundingClientRect(), views = [...document.querySelectorAll(".view")];
  window.answer = views.map((v) => [box(v).top, box(v).width, box(v.querySelector("p b")).bottom, box(v.querySelector("canvas")).top]);
})</script>"""


def test_titles_of_many_clips_stand_above_their_bodies():
    player = Player({f"{i}. a rather long name, 0.{i}": take() for i in range(6)}, height=120)
    places = np.array(answer(player._repr_html_() + PLACES))
    assert len(places) == 6 and (places[:, 2] <= places[:, 3]).all(), "a title over a head"
    assert len(np.unique(places[:, 0])) == 2 and np.ptp(places[:, 1]) < 2, "two rows of three, all of one size"
