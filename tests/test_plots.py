import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from skelnb.errors import ParameterError
from skelnb.reporting import plots
from skelnb.reporting.plots import (
    class_colors,
    comparison,
    confusion_plot,
    curves,
    film_strip,
    front,
    loss_curves,
    rank_curves,
    segmentation_timeline,
    side_colors,
    sweep_curve,
    use_style,
)
from skelnb.topology import layout, layouts

CLASSES = ["background", "wave", "jump"]
TRUTH = np.repeat([0, 1, 0, 2], [10, 20, 10, 20])


def svg(fig):
    return fig._repr_mimebundle_()[0]["image/svg+xml"]


def kicker(name="kinect_v2", T=5):
    who = layout(name)
    xyz = np.random.default_rng(0).normal(0, 0.1, (T, 1, who.V, 3)).astype(np.float32)
    left, right = np.array(who.mirror).T
    xyz[..., left, 0] -= 0.5  # facing a Kinect, the left side has the smaller x
    xyz[..., right, 0] += 0.5
    return xyz


def test_colors():
    colors = class_colors([*map(str, range(30)), "background"])
    assert len(set(colors.values())) == 31 and colors["background"] == plots.GREY
    assert class_colors(CLASSES) == class_colors(CLASSES)
    light = {c: np.where((v := np.array(mpl.colors.to_rgb(c))) <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
             for c in (*colors.values(), "white", "black")}
    for ground in colors.values():  # names on it can be read: WCAG 2 asks for 4.5
        high, low = sorted((light[ground], light[plots.ink_on(ground)]), reverse=True)
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_timeline():
    def draw(): return segmentation_timeline(TRUTH, {"a": TRUTH, "b": np.roll(TRUTH, 3)}, CLASSES, fps=30, title="take 1")

    fig = draw()
    assert "a: 100 %" in fig.alt and "b: 80 %" in fig.alt
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["truth", "a", "b"] and fig.axes[0].get_xlim() == (0, 2)
    assert "wave" in svg(fig) and svg(draw()) == svg(draw())
    assert len(segmentation_timeline(None, TRUTH, CLASSES).axes) == 1


@pytest.mark.parametrize("pred, said", [
    (TRUTH[:-1], "differ in length"), (TRUTH + 1, "class id 3, but there are 3"), (TRUTH - 1, "class id -1")])
def test_timeline_refuses(pred, said):
    with pytest.raises(ParameterError, match=said):
        segmentation_timeline(TRUTH, pred, CLASSES)


def test_curves():
    log = pd.DataFrame({"step": range(100), "loss_b": 1.0, "loss": np.linspace(2, 1, 100), "ler": 3.0, "perplexity": np.nan, "lr": 0.1})
    assert [a.get_title(loc="left") for a in loss_curves(log).axes] == ["loss", "loss_b"]
    assert [a.get_title(loc="left") for a in rank_curves({"x": log, "y": log}, {"ler": 75}).axes] == ["ler", "perplexity"]
    assert len(curves({"x": log, "y": log.drop(columns="lr")}, ["lr", "loss", "ler", "loss_b"]).axes) == 6  # two rows of three
    with pytest.raises(ParameterError, match="no column 'step'"):
        loss_curves(log.drop(columns="step"))
    with pytest.raises(ParameterError, match="none of these"):
        loss_curves(log[["step", "lr"]])


def test_sweep_has_zero_apart_and_one_dot_per_seed():
    table = pd.DataFrame([{"w": w, "acc": w + s, "ler": 1} for w in (0, 1e-4, 1e-2) for s in range(3)])
    fig = sweep_curve(table, "w", {"acc": "accuracy", "ler": "LER"}, mark=1e-4)
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "$10^{-4}$", "$10^{-2}$"] and list(ax.get_xticks()) == [-5, -4, -2]
    dots = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [len(d.get_xdata()) for d in dots] == [3, 3, 3]
    with pytest.raises(ParameterError, match="logarithmic"):
        sweep_curve(table.assign(w=0), "w", ["acc"])


def test_comparison():
    table = pd.DataFrame({"method": ["b", "b", "a"], "acc": [70.0, 72.0, 50.0], "lo": [68, 69, 48], "hi": [73, 74, 53]})
    fig = comparison(table, "acc", interval=("lo", "hi"))
    assert fig.alt == "acc: b 71.0, a 50.0" and [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["b", "a"]


def test_confusion():
    matrix = np.array([[3, 1], [0, 0]])  # a class without any frame is no division by zero
    fig = confusion_plot(matrix, ["a", "b"])
    assert np.array_equal(fig.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert sorted(t.get_text() for t in fig.axes[0].texts) == ["1", "3"]
    with pytest.raises(ParameterError, match="does not fit"):
        confusion_plot(matrix, ["a"])


@pytest.mark.parametrize("name", layouts())
def test_front_shows_the_left_side_at_the_right(name):
    xyz = kicker(name)
    angle = 1.1
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    for points in (xyz, xyz @ turn.T):
        view = front(points, name)
        assert np.allclose(view @ view.T, np.eye(3), atol=1e-5) and np.linalg.det(view) == pytest.approx(1, abs=1e-5)
        seen = points[0, 0] @ view.T
        left, right = np.array(layout(name).mirror).T
        assert seen[left, 0].mean() > seen[right, 0].mean()
    assert len(side_colors(name)) == layout(name).V - 1
    assert len(film_strip(xyz, name, n=3).axes) == 3


def test_front_of_the_recordings(recordings):
    with np.load(recordings / "skeletons" / "uiprmd_kinect.npz") as z:
        xyz = z["xyz_mm"][:1].astype(np.float32)[:, None] / 1000
    assert front(xyz, "kinect_v2")[2] @ [0, 0, -1] > 0.9  # they face the camera


def test_film_strip_of_a_picture():
    pose = np.random.default_rng(0).uniform(100, 400, (17, 2))
    pose[:, 1] -= 200 * (np.array(layout("coco17").joints) == "nose")  # y points down: the nose is above all else
    clip = np.stack([pose, pose + 30])
    clip[1, 9] = 0  # not found
    first, second = film_strip(clip, "coco17", n=2).axes
    nose = [line.get_xydata()[0] for ax in (first, second) for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(nose, [pose[0] * (1, -1), (pose[0] + 30) * (1, -1)])
    every = np.concatenate([line.get_xydata() for line in second.lines])
    assert np.nanmin(np.abs(every)) > 0 and np.nanmax(every[:, 1]) == nose[1][1]
    upright = film_strip(clip * (1, -1), "coco17", n=2, up="y")
    np.testing.assert_allclose([line.get_xydata()[0] for line in upright.axes[0].lines if line.get_marker() == "o"], nose[:1])
    (left, right), (bottom, top) = first.get_xlim(), first.get_ylim()
    assert left < pose[:, 0].min() and pose[:, 0].max() + 30 < right and bottom < -pose[:, 1].max() - 30 and top > -pose[0, 1]
    with pytest.raises(ParameterError, match="nobody"):
        film_strip(clip * 0, "coco17")


def test_film_strip_refuses_nobody():
    with pytest.raises(ParameterError, match="nobody"):
        film_strip(np.zeros((4, 25, 3)))


def test_shows_itself_as_svg_with_alt():
    data, meta = film_strip(kicker(), title="x")._repr_mimebundle_()
    assert data["image/svg+xml"].count("<svg") == 1 and meta["image/svg+xml"]["alt"] == "5 frames of a skeleton x"


def test_style_outside_a_notebook():
    with mpl.rc_context():
        use_style()
        assert mpl.rcParams["svg.hashsalt"] == "skelnb"


def test_who_has_no_head_shows_the_nose():
    drawn = {name: [layout(name).joints[v] for v in plots.head_of(name)] for name in ("kinect_v2", "h36m17", "mediapipe33")}
    assert drawn == {"kinect_v2": ["head"], "h36m17": ["head"], "mediapipe33": ["nose"]}
