"""Intervals hold what they promise, depend on nothing they should not, and a comparison is paired, exact and refuses what does not belong together."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import statistics as module
from skelnb.evaluation.events import event_map, event_table
from skelnb.evaluation.examples import Examples, Outcome
from skelnb.evaluation.statistics import (
    Interval,
    bootstrap,
    bootstrap_statistic,
    compare,
    compare_values,
    resample,
    sign_flips,
    sign_test,
    summary,
)
from skelnb.interface.contest import bootstrap as of_contest


def outcome(right, classes=3, seed=0, clips=None, **more):
    "An outcome that is right on these clips."
    right = np.asarray(right, bool)
    y = np.arange(len(right)) % classes
    e = Examples(np.ones((len(y), 1)), y, [f"c{i}" for i in range(classes)], clips=clips, groups=np.arange(len(y)) // 4)
    return Outcome.of(np.eye(classes)[np.where(right, y, (y + 1) % classes)], e, **more)


# ---- the bootstrap ------------------------------------------------------------------------------------------------------------------


def test_an_interval_in_words():
    i = Interval(0.84123, 0.829, 0.8521, 0.95, "people", 12, 2000)
    assert i.text() == "84.1 (82.9 to 85.2)" and i.text(2) == "84.12 (82.90 to 85.21)" and not i.few
    assert str(i) == "84.1 (82.9 to 85.2), 95 % over 12 people"
    assert i._replace(units=4).few and "too few" in str(i._replace(units=4)) and not i._replace(units=5).few


def test_it_is_the_interval_of_the_segmentation_contest():
    rng = np.random.default_rng(0)
    frames = np.sort(rng.choice(np.arange(50, 900), 30, replace=False))
    right = [{c: np.arange(n) < rng.integers(1, 9) * n // 10 for c, n in enumerate(frames)} for _ in range(3)]
    hits = np.array([[r[c].sum() for c in r] for r in right])
    ours = bootstrap(hits, sizes=frames, unit="videos")
    np.testing.assert_allclose(100 * np.array(ours[:3]), of_contest(right), rtol=1e-12)
    assert ours.unit == "videos" and ours.units == 30 and ours.draws == 2000 and ours.level == 0.95
    other = of_contest(right, seed=5)  # other draws: the same up to chance
    np.testing.assert_allclose(100 * np.array(ours[:3]), other, atol=0.15 * (other[2] - other[1]))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_its_width_is_the_textbooks(level):
    rng = np.random.default_rng(0)
    for values in (rng.random(3000) < 0.7, rng.normal(2, 3, 3000)):
        found = bootstrap(values, draws=4000, level=level)
        half = norm.ppf((1 + level) / 2) * np.std(values) / 3000**0.5
        assert found.estimate == pytest.approx(np.mean(values), rel=1e-12)
        assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
        assert (found.high + found.low) / 2 == pytest.approx(found.estimate, abs=0.1 * half)


def test_counts_and_picks_are_the_same_bootstrap():
    rng = np.random.default_rng(0)
    units = np.sort(rng.integers(0, 6, (900, 2)) + [0, 1], 0)
    units = units[np.lexsort((units[:, 1], units[:, 0]))].astype(float)
    apart = units + np.arange(900)[:, None] * 1e-9  # all different: drawn one by one
    by_counts, by_picks = module._draws(units, 6000, 0), module._draws(apart, 6000, 0)
    q = np.linspace(0.02, 0.98, 9)
    np.testing.assert_allclose(np.quantile(by_counts, q), np.quantile(by_picks, q), atol=0.15 * by_picks.std())
    assert by_counts.std() == pytest.approx(by_picks.std(), rel=0.05)
    blocks = np.random.default_rng(3).integers(900, size=(6000, 900))
    np.testing.assert_allclose(module._draws(apart, 6000, 3), apart[blocks, 0].sum(1) / apart[blocks, 1].sum(1))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_order_and_names_do_not_matter(n, seed, grouped, sized):
    rng = np.random.default_rng(seed)
    values, groups, sizes = rng.integers(0, 5, n), rng.integers(0, 7, n), rng.integers(5, 9, n)
    p = rng.permutation(n)
    options = dict(draws=50, seed=seed)
    plain = bootstrap(values, groups if grouped else None, sizes if sized else None, **options)
    named = np.array(list("ecagbdf"))[groups]
    again = bootstrap(values[p], named[p] if grouped else None, sizes[p] if sized else None, **options)
    assert again == plain
    total = sizes.sum() if sized else n
    assert plain.estimate == pytest.approx(values.sum() / total) and plain.units == (len(set(groups)) if grouped else n)
    assert plain.low <= plain.high and plain.unit == ("groups" if grouped else "clips")


def test_groups_are_drawn_whole():
    right = np.repeat([1.0, 0.0, 1.0, 0.0], 25)
    people, clips = bootstrap(right, np.repeat(range(4), 25)), bootstrap(right)
    assert people.few and (people.low, people.high) == (0, 1) and clips.high - clips.low < 0.25
    ones = bootstrap(np.repeat([1.0, 0.0, 1.0, 0.0], 25), np.repeat(range(4), [25, 25, 30, 20]), draws=10)
    assert 0 <= ones.low <= ones.high <= 1
    drawn = module._draws(module._units(*module._items(np.ones(60), None, np.repeat(range(3), [10, 20, 30]))), 200, 0)
    assert (drawn == 1).all()  # a mean of ones is 1, whatever sizes the groups drawn have


def test_edges_of_the_bootstrap():
    assert bootstrap([True])[:3] == (1, 1, 1) and bootstrap([0.25] * 7)[:3] == (0.25, 0.25, 0.25)
    right = np.random.default_rng(0).random(100) < 0.5
    noise = np.random.default_rng(0).normal(size=50)
    assert bootstrap(right) == bootstrap(right) and bootstrap(noise) == bootstrap(noise) != bootstrap(noise, seed=1)
    state = np.random.get_state()[1].copy()
    bootstrap(right)
    assert (np.random.get_state()[1] == state).all()
    three = np.stack([right, ~right, right])
    assert bootstrap(three).estimate == pytest.approx(three.mean())
    narrow, wide = bootstrap(noise[:12], level=0.9), bootstrap(noise[:12], level=0.9, expand=True)
    drawn = module._draws(module._units(*module._items(noise[:12])), 2000, 0)
    tail = norm.cdf(t.ppf(0.05, 11) * (12 / 11) ** 0.5)
    assert wide[1:3] == pytest.approx(np.quantile(drawn, [tail, 1 - tail])) and wide.high - wide.low > narrow.high - narrow.low
    assert bootstrap([1.0], expand=True)[:3] == (1, 1, 1)


def coverage(people, rho, sets=150, clips=30, over_people=True, **options):
    rng, held = np.random.default_rng(7), 0
    for _ in range(sets):
        own = rng.beta(0.8 * (1 / rho - 1), 0.2 * (1 / rho - 1), people)
        right = rng.random((people, clips)) < own[:, None]
        found = bootstrap(right.ravel(), np.repeat(np.arange(people), clips) if over_people else None, draws=300, **options)
        held += found.low <= 0.8 <= found.high
    return held / sets


def test_intervals_over_people_hold_the_truth_and_those_over_clips_do_not():
    assert 0.90 < coverage(20, 1e-6, over_people=False) <= 0.99  # clips as alike as strangers'
    assert coverage(20, 0.2, over_people=False) < 0.7
    assert 0.84 < coverage(20, 0.2) <= 0.99
    assert coverage(3, 0.2) < coverage(20, 0.2)
    assert coverage(6, 0.2) < coverage(6, 0.2, expand=True)


def test_bad_values():
    good = np.ones(5)
    with pytest.raises(DataError, match="item 3 of 5.*not a number"):
        bootstrap([1, 1, 1, np.nan, 1])
    with pytest.raises(DataError, match="item 1 of 5.*size"):
        bootstrap(good, sizes=[1, 0, 1, 1, 1])
    with pytest.raises(DataError, match="item 4 of 5.*group"):
        bootstrap(good, groups=["a", "a", "b", "b", None])
    with pytest.raises(DataError, match=r"groups have shape \(4,\) for 5"):
        bootstrap(good, groups=[1, 2, 3, 4])
    for values in ([], np.ones((0, 3)), 1.0, np.ones((2, 2, 2))):
        with pytest.raises(DataError, match="values have shape"):
            bootstrap(values)
    for options in (dict(draws=0), dict(level=1.0), dict(level=95)):
        with pytest.raises(ParameterError, match="draws"):
            bootstrap(good, **options)


# ---- anything else ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), st.integers(0, 10_000))
def test_resampled_tables_are_those_of_a_loop(chosen, seed):
    rng = np.random.default_rng(seed)
    table = event_table([(str(rng.choice(list("abcx"))), "act", s := int(rng.integers(0, 50)), s + 5, float(rng.random())) for _ in range(rng.integers(0, 12))])
    want = [table[table["video"] == v].assign(video=i) for i, v in enumerate(chosen)]
    got = resample(table, chosen)
    pd.testing.assert_frame_equal(got, pd.concat(want, ignore_index=True), check_dtype=False)
    assert resample({"a": 1, "b": 2, "c": 3, "d": 4}, chosen) == {i: "abcd".index(v) + 1 for i, v in enumerate(chosen)}


def test_copies_of_a_video_are_videos():
    truth = event_table([(v, "wave", s, s + 10) for v in range(4) for s in (0, 30)])
    pred = event_table([(v, "wave", s + v, s + v + 10, 0.9 - 0.1 * v) for v in range(4) for s in (0, 30)])
    one, all_twice = event_map(pred, truth), event_map(resample(pred, [*range(4)] * 2), resample(truth, [*range(4)] * 2))
    assert all_twice["map_a"] == pytest.approx(one["map_a"]) and all_twice["n_truth"] == 16 and all_twice["f1"] == one["f1"]
    assert len(resample(truth, [3, 3, 9])) == 4 and resample(truth, [9]).empty  # a video without events has none
    with pytest.raises(DataError, match="video 9.*no such video among the 1"):
        resample({3: 0}, [3, 9])


def test_a_statistic_that_is_a_mean_is_the_bootstrap_of_the_mean():
    values = dict(enumerate(np.random.default_rng(0).normal(size=40)))
    found = bootstrap_statistic(lambda v: np.mean([values[i] for i in v]), values, draws=1500)
    mean = bootstrap(list(values.values()))
    assert found.estimate == pytest.approx(mean.estimate) and found.unit == "videos" and found.units == 40 and found.draws == 1500
    assert found.high - found.low == pytest.approx(mean.high - mean.low, rel=0.12)
    both = bootstrap_statistic(lambda v: {"mean": np.mean([values[i] for i in v]), "n": len(v)}, values, draws=20)
    assert both["n"][:3] == (40, 40, 40) and both["mean"].estimate == pytest.approx(mean.estimate)
    backwards = bootstrap_statistic(lambda v: np.mean([values[i] for i in v]), list(values)[::-1], draws=1500)
    assert backwards[:3] == pytest.approx(found[:3])


def test_groups_and_strata_of_a_statistic():
    seen = []
    items = [f"v{i:02d}" for i in range(12)]
    person, camera = {v: i // 3 for i, v in enumerate(items)}, {v: "left" if i < 6 else "right" for i, v in enumerate(items)}
    found = bootstrap_statistic(lambda v: seen.append(list(v)) or 1.0, items, groups=person, draws=30)
    assert found.unit == "groups" and found.units == 4 and found.few and sorted(seen[0]) == items
    for chosen in seen:
        count = pd.Series(chosen).value_counts().reindex(items, fill_value=0).to_numpy().reshape(4, 3)
        assert (count == count[:, :1]).all() and count.sum() == 12
    assert any(len(set(chosen)) < 12 for chosen in seen)
    seen.clear()
    bootstrap_statistic(lambda v: seen.append(list(v)) or 1.0, items, strata=[camera[v] for v in items], draws=30)
    assert all(sum(camera[v] == "left" for v in chosen) == 6 == sum(camera[v] == "right" for v in chosen) for chosen in seen)
    assert any(len(set(chosen)) < 12 for chosen in seen)
    bootstrap_statistic(lambda v: 1.0, items, groups=person, strata=camera, draws=2)
    with pytest.raises(DataError, match="group 0.*several strata"):
        bootstrap_statistic(lambda v: 1.0, items, groups=person, strata=[0, 1] * 6)
    with pytest.raises(DataError, match="3 strata for 12 items"):
        bootstrap_statistic(lambda v: 1.0, items, strata=[0, 1, 2])
    with pytest.raises(DataError, match="2 items, 1 of them different"):
        bootstrap_statistic(lambda v: 1.0, ["a", "a"])
    with pytest.raises(DataError, match="0 items"):
        bootstrap_statistic(lambda v: 1.0, [])
    with pytest.raises(DataError, match=r"draw \d+.*statistic f1 is nan"):
        bootstrap_statistic(lambda v: {"f1": np.nan if len(set(v)) < len(v) else 1.0}, items)


# ---- tests --------------------------------------------------------------------------------------------------------------------------


def test_mcnemar_is_scipys_binomial_test():
    for wins, losses in itertools.product((0, 1, 2, 5, 17, 400), (0, 1, 3, 5, 12, 380)):
        want = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert sign_test(wins, losses) == pytest.approx(want, rel=1e-9)
    assert sign_test(1, 9) == pytest.approx(22 / 1024)  # by hand: 2 (1 + 10) / 2^10


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_sign_flips_are_all_patterns(d):
    d = np.array(d) / 10
    sums = [abs(np.dot(d, s)) for s in itertools.product((-1, 1), repeat=len(d))]
    want = np.mean(np.array(sums) >= abs(d.sum()) - 1e-9)
    p, least = sign_flips(d)
    assert p == pytest.approx(want) and p >= least - 1e-12 and least == 2.0 ** (1 - (d != 0).sum()) if d.any() else (p, least) == (1, 1)
    assert sign_flips(-d[::-1]) == pytest.approx((p, least))


def test_many_sign_flips_are_a_sample_of_them():
    d = np.random.default_rng(0).normal(0.25, 1, 18)
    signs = 1 - 2 * ((np.arange(2**18)[:, None] >> np.arange(18)) & 1)
    want = (np.abs(signs @ d) >= abs(d.sum()) - 1e-9).mean()
    p, least = sign_flips(d)
    assert p == pytest.approx(want, abs=5 * (want * (1 - want) / 10_000) ** 0.5) and least == 1 / 10_001
    assert sign_flips(d) == (p, least) == sign_flips(d[::-1]) and sign_flips(d, seed=1)[0] != p
    assert sign_flips(np.full(30, 0.1) + np.arange(30) * 1e-3) == (1 / 10_001, 1 / 10_001)
    clips = np.random.default_rng(1).integers(-1, 2, 900)  # one seed, clip by clip: McNemar
    assert sign_flips(clips)[0] == sign_test((clips > 0).sum(), (clips < 0).sum())


def test_under_no_difference_small_p_are_rare():
    rng = np.random.default_rng(0)
    p = np.array([sign_flips(rng.normal(size=10))[0] for _ in range(200)])
    assert 0.01 <= (p <= 0.05).mean() <= 0.10 and 0.4 < p.mean() < 0.62


# ---- comparisons --------------------------------------------------------------------------------------------------------------------


def test_a_comparison_counts_what_differs():
    rng = np.random.default_rng(0)
    a = rng.random(200) < 0.7
    b = np.where(rng.random(200) < 0.15, ~a, a)
    c = compare(outcome(a), outcome(b))
    assert (c.wins, c.losses, c.items) == ((a & ~b).sum(), (b & ~a).sum(), 200)
    assert c.a == pytest.approx(a.mean()) and c.b == pytest.approx(b.mean()) and c.difference.estimate == pytest.approx(a.mean() - b.mean())
    assert c.mcnemar_p == c.flip_p == pytest.approx(binomtest(c.wins, c.wins + c.losses).pvalue) and c.notes == () and c.difference.unit == "clips"
    back = compare(outcome(b), outcome(a))
    assert back.difference.estimate == -c.difference.estimate and back.mcnemar_p == c.mcnemar_p and (back.wins, back.losses) == (c.losses, c.wins)
    width = lambda i: i.high - i.low
    assert width(c.difference) < width(bootstrap(a))
    same = compare(outcome(a), outcome(a))
    assert same.difference[:3] == (0, 0, 0) and same.flip_p == same.mcnemar_p == same.least_p == 1
    assert str(c).startswith("63.5 against 61.5: 2.0 (") and "16 won, 12 lost of 200" in str(c) and "McNemar p" in str(c)


def test_the_order_of_clips_does_not_matter_to_a_comparison():
    rng = np.random.default_rng(0)
    a, b = outcome(rng.random(80) < 0.7, clips=np.arange(80) * 3), outcome(rng.random(80) < 0.6, clips=np.arange(80) * 3)
    p, q = rng.permutation(80), rng.permutation(80)
    moved = lambda o, p: Outcome(o.scores[p], o.truth[p], o.classes, o.clips[p], o.groups[p], o.selection)
    for groups in (None, "own"):
        want = compare(a, b, groups)
        assert compare(a, moved(b, q), groups) == want and compare(moved(a, p), moved(b, q), groups) == want
    assert compare(moved(a, p), b, a.groups[p]) == want and want.difference.units == 20 and want.difference.unit == "groups"
    d = (a.right.astype(float) - b.right).reshape(20, 4).sum(1)
    assert want.flip_p == sign_flips(d)[0] and want.mcnemar_p == compare(a, b).mcnemar_p
    assert want.difference == compare_values(a.right, b.right, groups=a.groups).difference


def test_seeds_are_averaged_clip_by_clip():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 60)) < 0.8, rng.random((2, 60)) < 0.6
    c = compare([outcome(r) for r in a], [outcome(r) for r in b])
    d = a.mean(0) - b.mean(0)
    assert c.difference == bootstrap(d)._replace(unit="clips") and (c.wins, c.losses) == ((d > 1e-9).sum(), (d < -1e-9).sum())
    assert c == compare_values(a, b, unit="clips") and c.a == pytest.approx(a.mean())


def test_what_a_reader_should_know_is_noted():
    a, b = outcome(np.ones(40)), outcome(np.arange(40) % 2, selection="best_test")
    assert any("different rules: last and best_test" in n for n in compare(a, b).notes) and "different rules" in str(compare(a, b))
    assert any("on the test set" in n for n in compare(b, b).notes)
    assert any("different rules" in n for n in compare([a, b], [a, b]).notes)
    assert any("4 people are too few" in n for n in compare(a, a, np.arange(40) % 4, unit="people").notes)


def test_outcomes_that_do_not_belong_together_are_refused():
    a = outcome(np.ones(40))
    with pytest.raises(DataError, match="clip 39.*40 clips and 39 clips are not the same"):
        compare(a, outcome(np.ones(39)))
    with pytest.raises(DataError, match="clip 0.*not the same"):
        compare(a, outcome(np.ones(40), clips=np.arange(1, 41)))
    with pytest.raises(DataError, match="a and b: 3 classes and 4 classes"):
        compare(a, outcome(np.ones(40), classes=4))
    with pytest.raises(DataError, match="b: 40 clips"):
        compare(a, [a, outcome(np.ones(12))])
    other = outcome(np.ones(40))
    other.truth = other.truth.copy()
    other.truth[7] = 2
    with pytest.raises(DataError, match="clip 7.*class is 1 in one and 2"):
        compare(a, other)
    for wrong in ([], "a.json", [0.5]):
        with pytest.raises(ParameterError, match="a is no outcome"):
            compare(wrong, a)
    with pytest.raises(ParameterError, match="own"):
        compare(a, a, groups="people")
    with pytest.raises(DataError, match="5 items of one, 4 of the other"):
        compare_values(np.ones(5), np.ones(4))
    for b in ({"x": 1, "z": 2}, [1, 2]):
        with pytest.raises(DataError, match="not about the same items"):
            compare_values({"x": 1, "y": 2}, b)


def test_numbers_of_videos_are_compared_by_name():
    a, b = {"v1": 90, "v2": 50, "v3": 20}, {"v3": 10, "v1": 90, "v2": 40}
    frames = {"v1": 100, "v2": 100, "v3": 40}
    c = compare_values(a, b, frames, groups={"v1": "p", "v2": "q", "v3": "q"}, unit="people")
    assert c.a == 160 / 240 and c.b == 140 / 240 and c.difference.estimate == pytest.approx(20 / 240) and (c.wins, c.losses, c.items) == (2, 0, 3)
    assert c.difference.units == 2 and c.difference.few and c.least_p == 1.0  # of two people only one makes a difference


# ---- tables -------------------------------------------------------------------------------------------------------------------------


def test_a_table_in_percent():
    rng = np.random.default_rng(0)
    right = rng.random((3, 80)) < np.array([[0.8], [0.82], [0.78]])
    runs = [outcome(r) for r in right]
    made = summary({"ours": runs, "once": runs[0], "values": right, "numbers": [0.5, 0.6], "bare": [0.5]}, groups="own" and None)
    accuracy = right.mean(1)
    row, interval = made.loc["ours"], bootstrap(right)
    assert row["mean"] == pytest.approx(100 * accuracy.mean()) and row["sd"] == pytest.approx(100 * accuracy.std(ddof=1)) and row["seeds"] == 3
    assert (row["low"], row["high"]) == pytest.approx((100 * interval.low, 100 * interval.high)) and row["over"] == "80 clips" and row["selection"] == "last"
    assert row["text"] == f"{row['mean']:.1f} ± {row['sd']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
    assert made.loc["values", ["mean", "sd", "low", "high"]].tolist() == row[["mean", "sd", "low", "high"]].tolist()
    once = made.loc["once"]
    assert np.isnan(once["sd"]) and once["text"] == f"{once['mean']:.1f} ({once['low']:.1f} to {once['high']:.1f})"
    assert made.loc["numbers", "text"] == "55.0 ± 7.1" and np.isnan(made.loc["numbers", "low"]) and made.loc["bare", "text"] == "50.0"
    assert made["mean"].dtype.kind == "f" and made.index.name == "encoder"
    people = summary({"ours": runs}, groups="own", unit="people", digits=2)
    assert people.loc["ours", "over"] == "20 people" and people.loc["ours", "text"].startswith(f"{row['mean']:.2f} ±")
    assert summary(runs).loc["", "mean"] == row["mean"]
    with pytest.raises(DataError, match="nothing to sum up"):
        summary({"ours": []})
    with pytest.raises(DataError, match="seeds: 80 clips and 12"):
        summary({"ours": [runs[0], outcome(np.ones(12))]})
