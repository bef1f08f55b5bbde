import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import ParameterError
from skelnb.evaluation.diagnostics import boundary_errors, correlation, ler_profile, spectrum
from skelnb.evaluation.events import label_events
from skelnb.evaluation.examples import Outcome
from skelnb.reporting.diagnosis import (
    _apart,
    boundary_plot,
    correlation_plot,
    event_scores_plot,
    interval_plot,
    ler_profile_plot,
    map_plot,
    per_class_plot,
    spectrum_plot,
)
from skelnb.reporting.plots import Plot

RNG = np.random.default_rng(0)
NAMES = [f"class_{i}" for i in range(6)]


def drawn(fig):
    "The figure as SVG, after checking what every one of them must have."
    assert isinstance(fig, Plot) and fig.alt and "nan" not in fig.alt.lower() and "  " not in fig.alt
    assert mpl.colors.to_hex(fig.get_facecolor()) == "#ffffff"
    data, meta = fig._repr_mimebundle_()
    assert meta["image/svg+xml"]["alt"] == fig.alt
    return data["image/svg+xml"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.01, 0.3))
def test_names_are_moved_apart(places, gap):
    at = np.array(places)
    moved = _apart(at, gap)
    order = np.argsort(at, kind="stable")
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    if (np.diff(at[order]) >= gap).all():
        assert moved == pytest.approx(at)
    assert moved.sum() == pytest.approx(at.sum())  # pushed equally to both sides


# --- spectrum -------------------------------------------------------------------------------------------------------------------------------------

def test_spectrum():
    given = {"flat": np.ones(10), "some": spectrum(torch.randn(30, 4, generator=torch.Generator().manual_seed(0))), "steep": [8., 1., 1., 0.]}
    fig = spectrum_plot(given, title="three")
    assert "flat: 9 directions" in fig.alt and "steep: 1 directions" in fig.alt and "three" in fig.alt
    text = drawn(fig)
    assert "steep (1)" in text and "flat (9)" in text and f"some ({given['some'].directions()})" in text
    left, right = fig.axes
    assert left.lines[0].get_ydata() == pytest.approx(10) and len(left.lines[2].get_ydata()) == 3  # directions without variance are left out
    assert right.lines[0].get_ydata()[-1] == pytest.approx(100)


def test_spectrum_degenerate_and_wrong():
    fig = spectrum_plot({"none": np.zeros(5), "single": [2.0]})
    assert "none: no variance" in fig.alt and "single: 1 directions" in fig.alt
    drawn(fig), drawn(spectrum_plot(spectrum(torch.zeros(4, 3)))), drawn(spectrum_plot(np.zeros(3)))
    for bad in (np.ones((2, 2)), [1, -1], [np.nan], []):
        with pytest.raises(ParameterError, match="singular values"):
            spectrum_plot({"bad": bad})
    with pytest.raises(ParameterError, match="no spectrum"):
        spectrum_plot({})


# --- map ------------------------------------------------------------------------------------------------------------------------------------------

def test_map_names_the_largest_classes():
    y = np.repeat(range(6), [50, 40, 3, 2, 30, 0])
    places = np.array([[0, 0], [30, 0], [0, 30], [30, 30], [60, 0], [0, 60]])[y] + RNG.normal(size=(125, 2))
    fig = map_plot(places, y, NAMES, labels=3, title="apart")
    assert "125 clips of 5 classes" in fig.alt and "Named: class 0, class 1, class 4" in fig.alt
    words = {t.get_text(): t.get_position() for t in fig.axes[0].texts}
    assert set(words) == {"class 0", "class 1", "class 4"} and np.hypot(*np.subtract(words["class 1"], (30, 0))) < 3
    assert [len(line.get_xdata()) for line in fig.axes[0].lines] == [5, 50, 40, 30]  # the grey ones first
    assert "class 4" in drawn(fig)


def test_map_degenerate_and_wrong():
    same = np.zeros((20, 2))
    fig = map_plot(same, np.arange(20) % 6, NAMES)  # all names at one place: they move to the right, each with a dot
    assert len(fig.axes[0].texts) == 12
    drawn(fig), drawn(map_plot([[1., 2.]], [0], ["only"])), drawn(map_plot(same, np.zeros(20, int), NAMES, labels=0))
    assert map_plot(RNG.normal(size=(4000, 2)), np.zeros(4000, int), ["a"]).axes[0].lines[1].get_rasterized()
    for xy, y, said in ((same, [0], "shape"), (same[:, :1], np.zeros(20), "shape"), (same[:0], [], "shape"), (same, np.full(20, 6), r"6\.\.6 with 6"),
                        (same * np.nan, np.zeros(20, int), "not finite")):
        with pytest.raises(ParameterError, match=said):
            map_plot(xy, y, NAMES)


# --- profile --------------------------------------------------------------------------------------------------------------------------------------

def test_profile():
    table = ler_profile(RNG.normal(size=(4, 10, 25, 6)), (1.0, 0.1, 0.5), "kinect_v2")
    fig = ler_profile_plot(table)
    assert len(fig.axes[0].containers) == 6 and {"whole body", "left arm"} <= {t.get_text() for t in fig.axes[0].texts}
    assert f"whole body {table.ler[0]:.1f}" in fig.alt and fig.axes[0].containers[0][0].get_xdata().tolist() == [10, 50, 100]
    two = ler_profile_plot({"a": table, "b": table[table.part == "whole body"].assign(ler=1.0)}, "two")
    assert len(two.axes[0].containers) == 2 and "b 1.0" in two.alt and "most possible" in {t.get_text() for t in two.axes[0].texts}
    drawn(fig), drawn(two), drawn(ler_profile_plot(table[:1]))
    with pytest.raises(ParameterError, match="no column 'ler'"):
        ler_profile_plot(table.drop(columns="ler"))
    with pytest.raises(ParameterError, match="dict is no table|list is no table"):
        ler_profile_plot([1, 2])
    with pytest.raises(ParameterError, match="empty"):
        ler_profile_plot(table[:0])


# --- boundaries -----------------------------------------------------------------------------------------------------------------------------------

def test_boundaries():
    truth, pred = np.repeat([0, 1, 0, 2], 30), np.repeat([0, 1, 0], [33, 30, 57])
    errors = boundary_errors(pred, truth, 10)
    fig = boundary_plot({"any": errors, "raw": [0.1, -5.0, 9.0, np.nan]}, tolerance=0.3, limit=1, bins=10)
    first, second = fig.axes
    assert "any: 3 boundaries, 33 % missed at 0.3 s" in fig.alt and "raw: 4 boundaries, 75 % missed at 0.3 s, median +0.10 s, 1 without a partner" in fig.alt
    assert [(round(b.get_x(), 2), b.get_height()) for b in second.patches[1:]] == [(-1.0, 1), (0.0, 1), (0.8, 1)]  # what is beyond is in the outer bars
    assert "1 without a partner" in boundary_plot(errors, column="seconds_same").alt
    drawn(fig)


def test_boundaries_degenerate_and_wrong():
    fig = boundary_plot({"empty": [], "lost": [np.nan, np.nan]})
    assert "empty: no true boundaries" in fig.alt and "lost: 2 boundaries, 100 % missed at 0.5 s, 2 without a partner" in fig.alt
    drawn(fig), drawn(boundary_plot([0.0]))
    for wrong in ({"tolerance": 3}, {"tolerance": 0}, {"limit": 0.1}):
        with pytest.raises(ParameterError, match="tolerance"):
            boundary_plot([0.0], **wrong)
    with pytest.raises(ParameterError, match="no column 'seconds'"):
        boundary_plot(pd.DataFrame({"second": [1.0]}))


# --- classes and intervals ------------------------------------------------------------------------------------------------------------------------

def table(values, names=NAMES):
    return pd.DataFrame({"recall": values}, index=pd.Index(names, name="class"))


def test_per_class():
    one = table([0.5, 0.9, 0.1, np.nan, 0.7, 0.3])
    fig = per_class_plot(one, title="sorted")
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["class 1", "class 4", "class 0", "class 5", "class 2", "class 3"]
    assert [round(b.get_width()) for b in fig.axes[0].patches] == [90, 70, 50, 30, 10, 0] and "none" in [t.get_text() for t in fig.axes[0].texts]
    assert [t.get_text() for t in per_class_plot(one, most=2).axes[0].get_yticklabels()] == ["class 1", "class 3"]
    other = table([0.5, 0.8, 0.9, 0.4, 0.7, 0.3][::-1], NAMES[::-1])  # another order of the classes does not matter
    pair = per_class_plot({"a": one, "b": other}, most=3)
    widths = [round(b.get_width()) for b in pair.axes[0].patches]
    shown = [t.get_text() for t in pair.axes[0].get_yticklabels()]
    assert "3 of 6 classes" in pair.alt and "class 2" in shown and widths[shown.index("class 2")] == 10 and widths[3 + shown.index("class 2")] == 90
    outcome = Outcome(np.eye(3), np.arange(3), ("x", "y", "z"), np.arange(3), np.arange(3))
    drawn(fig), drawn(pair), drawn(per_class_plot(outcome.per_class(), "f1")), drawn(per_class_plot(table([np.nan], ["lonely"])))


def test_per_class_refuses():
    one = table(np.ones(6))
    for tables in ({"a": one, "b": table(np.ones(5), NAMES[:5])}, {"a": one, "b": one, "c": one}, one[:0], table(np.ones(2), ["x", "x"])):
        with pytest.raises(ParameterError, match="of the same classes"):
            per_class_plot(tables)
    with pytest.raises(ParameterError, match="did you mean 'recall'"):
        per_class_plot(one, "recal")


def test_intervals():
    rows = [("raw", "linear", .6, .55, .65), ("ours", "linear", .7, np.nan, np.nan), ("raw", "1-NN", .5, .5, .5), ("ours", "1-NN", .8, .7, .9)]
    results = pd.DataFrame(rows, columns=["encoder", "protocol", "value", "low", "high"])
    fig = interval_plot(results, "both")
    assert "linear: raw 60.0, ours 70.0; 1-NN: raw 50.0, ours 80.0" in fig.alt
    lines = [line.get_xdata() for line in fig.axes[0].lines]
    assert lines[0] == pytest.approx([55, 65]) and lines[1] == pytest.approx([60]) and len(lines) == 8
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["raw", "ours"] * 2
    assert {"linear", "1-NN", "80.0"} <= {t.get_text() for t in fig.axes[0].texts} and "1-NN" in drawn(fig)
    drawn(interval_plot(results[:1])), drawn(interval_plot(results.set_index(pd.Index([7, 7, 7, 7]))))
    numbered = interval_plot(results.assign(protocol=[10, 10, 1, 1]))  # protocols may be numbers
    assert {"10", "1"} <= {t.get_text() for t in numbered.axes[0].texts}
    with pytest.raises(ParameterError, match="raw, linear: 0.6 is not between 0.7 and 0.8"):
        interval_plot(results.assign(low=.7, high=.8))
    with pytest.raises(ParameterError, match="empty"):
        interval_plot(results[:0])
    with pytest.raises(ParameterError, match="no column 'low'"):
        interval_plot(results.drop(columns="low"))


# --- correlation and events -----------------------------------------------------------------------------------------------------------------------

def test_correlation():
    x = RNG.normal(size=(50, 8))
    x[:, 3] = 1
    fig = correlation_plot({"before": correlation(x), "after": np.eye(4)})
    assert "after: mean |r| 0.00" in fig.alt and "1 dead" in fig.alt and len(fig.axes) == 3
    assert fig.axes[0].images[0].get_clim() == (-1, 1) and fig.axes[0].images[0].get_array().mask.sum() == 15
    drawn(fig), drawn(correlation_plot(np.full((2, 2), np.nan))), drawn(correlation_plot(np.ones((1, 1)))), drawn(correlation_plot(np.eye(200)))
    assert "nothing to compare, 2 dead" in correlation_plot(np.full((2, 2), np.nan)).alt
    for bad in (np.ones((2, 3)), np.ones(4), 2 * np.eye(3), np.zeros((0, 0))):
        with pytest.raises(ParameterError, match="holds no correlations"):
            correlation_plot(bad)


def test_event_scores():
    labels = np.repeat([0, 1, 0, 2], 10)
    truth, found = label_events([labels]), label_events([np.roll(labels, 3)])
    fig = event_scores_plot(np.eye(3)[labels], found, truth, 0.5, fps=10, classes=["background", "wave", "kick"], title="video 1")
    top, below = fig.axes
    assert "4.0 seconds, 3 events found, 2 true" in fig.alt and len(top.lines) == 3 and len(below.collections) == 5  # two scores and the threshold
    assert top.get_xlim() == (0, 4) and "threshold 0.5" in drawn(fig) and "kick" in drawn(fig)
    spans = below.collections[-1].get_paths()[0].get_extents()
    assert (spans.x0, spans.x1) == pytest.approx((3, 4))
    single = event_scores_plot(np.arange(40.0), found[["start", "end"]], truth[:0])
    assert "0 true" in single.alt and len(single.axes[0].lines) == 1
    drawn(single), drawn(event_scores_plot(np.ones((1, 2)), truth[:0], truth[:0], classes=["a", "b"]))


def test_event_scores_refuse():
    labels = np.repeat([0, 1], 10)
    truth, names = label_events([labels]), ["background", "wave"]
    scores = np.eye(2)[labels]
    for args, said in (((scores[:15], truth, truth), "from frame 10 to 20 of 15"), ((scores[:, 0], truth, truth), r"\(20, 1\) for 2 classes"),
                       ((scores, truth.assign(label=2), truth), "found events have labels"), ((scores[:0], truth, truth), "scores of shape"),
                       ((scores, truth.drop(columns="label"), truth), "no column 'label'")):
        with pytest.raises(ParameterError, match=said):
            event_scores_plot(*args, classes=names)
    with pytest.raises(ParameterError, match="for no classes"):
        event_scores_plot(scores, truth, truth)


def test_figures_are_the_same_each_time():
    draw = [lambda: spectrum_plot({"a": [3., 2.], "b": [1.]}), lambda: map_plot(np.arange(12).reshape(6, 2), range(6), NAMES),
            lambda: boundary_plot([0.1, 0.2]), lambda: correlation_plot(np.eye(3))]
    for f in draw:
        assert drawn(f()) == drawn(f())
