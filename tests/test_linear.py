"""Linear evaluation: against a plain torch loop, heads alone and in a grid, who may look at the test set, the recipes' numbers, and the exact minimum."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from skelnb.errors import DataError, ParameterError, TrainingError
from skelnb.evaluation.examples import Examples, hold_out
from skelnb.evaluation.linear import (
    LADDER,
    RECIPES,
    Heads,
    LinearEval,
    Norm,
    Training,
    head_names,
    labelled,
    linear_evaluation,
    linear_seeds,
    logistic_regression,
    mini_batches,
    rate_factor,
    train_heads,
)

SHORT = LinearEval(epochs=6, batch=32)
GRID = replace(SHORT, lr=(0.001, 0.01, 0.1))


def people(seed=0, classes=4, persons=9, each=4, size=10, signal=1.0):
    "Clips of people, the last three of them for the test."
    rng = np.random.default_rng(seed)
    y, who = np.tile(np.repeat(np.arange(classes), each), persons), np.repeat(np.arange(persons), classes * each)
    x = signal * rng.normal(size=(classes, size))[y] + rng.normal(size=(persons, size))[who] + rng.normal(size=(len(y), size))
    whole = Examples(torch.as_tensor(x), y, [f"c{k}" for k in range(classes)], clips=100 + np.arange(len(y)), groups=who, data="toy")
    return whole.take(who < persons - 3), whole.take(who >= persons - 3)


TRAIN, TEST = people()


def with_x(e, x):
    return replace(e, x=x)


# ---- training -----------------------------------------------------------------------------------------------------------------------


def plain_loop(copies, config, test):
    "The same evaluation, written the usual way."
    first = copies[0]
    layer = torch.nn.Linear(first.x.shape[1], len(first.classes))
    layer.weight.data = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(config.seed)) * config.init_std
    layer.bias.data.zero_()
    norm = torch.nn.BatchNorm1d(first.x.shape[1], affine=False, eps=1e-6) if config.norm == "batch" else torch.nn.Identity()
    ahead = {"l2": lambda x: x / x.norm(dim=1, keepdim=True)}.get(config.norm, lambda x: x)
    net = torch.nn.Sequential(norm, layer)
    sgd = torch.optim.SGD(net.parameters(), config.rates[0], momentum=config.momentum, weight_decay=config.weight_decay)
    per_pass = len(first) // config.batch if config.drop_last else -(-len(first) // config.batch)
    order = mini_batches(torch.arange(len(first)), config)
    y = torch.as_tensor(first.y)
    for step in range(config.epochs * per_pass):
        epoch, rows = next(order)
        if config.schedule == "steps":
            factor = 0.1 ** sum(epoch >= m for m in config.milestones)
        else:
            factor = 0.5 * (1 + np.cos(np.pi * step / (config.epochs * per_pass)))
        sgd.param_groups[0]["lr"] = config.rates[0] * factor
        norm.momentum = max(0.1, 1 / (step + 1))
        loss = F.cross_entropy(net(ahead(copies[epoch % len(copies)].x[rows])), y[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return net.eval()(ahead(test.x)).detach().numpy()


@pytest.mark.parametrize("more", [{}, {"norm": "none", "schedule": "steps", "milestones": (2, 4), "drop_last": False}, {"norm": "l2", "lr": 2.0},
                                  {"weight_decay": 0.01, "momentum": 0.5}, {"batch": 1000, "momentum": 0.0}, {"lr_batch": 64, "seed": 3}])
@pytest.mark.parametrize("count", [1, 3])
def test_one_head_is_a_plain_torch_loop(more, count):
    config = replace(SHORT, **{"epochs": 7, **more})
    g = torch.Generator().manual_seed(5)
    copies = [TRAIN] + [with_x(TRAIN, TRAIN.x + torch.randn(TRAIN.x.shape, generator=g)) for _ in range(count - 1)]
    if config.batch > len(TRAIN):
        config = replace(config, drop_last=False)
    outcome = linear_evaluation(copies, TEST, config)
    assert np.abs(outcome.scores - plain_loop(copies, config, TEST)).max() < 2e-5
    assert outcome.notes["epoch"] == 7 and len(outcome.notes["loss"]) == 7


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["none", "batch", "l2", "standardise"]), st.sampled_from(["cosine", "steps"]), st.sampled_from([0.0, 0.3]), st.integers(5, 150),
       st.booleans(), st.integers(0, 5))
def test_a_head_of_a_grid_is_the_head_alone(norm, schedule, dropout, batch, drop_last, seed):
    config = LinearEval(epochs=4, batch=batch, lr=(1e-3, 0.3, 0.02), norm=norm, schedule=schedule, milestones=(2,), dropout=dropout, drop_last=drop_last,
                        seed=seed)
    both = {"a": TRAIN, "b": with_x(TRAIN, TRAIN.x[:, :6])}, {"a": TEST, "b": with_x(TEST, TEST.x[:, :6])}
    grid = linear_evaluation(*both, config, "best_test")
    for name, (readout, lr) in head_names(list(both[0]), config).items():
        alone = linear_evaluation(both[0][readout], both[1][readout], replace(config, lr=lr))
        assert grid.notes["at_end"][name] == alone.accuracy
        run = train_heads([both[0][readout]], config).heads
        assert np.allclose(run.scores(both[1][readout].x)[:, config.grid.index(lr)], alone.scores, rtol=1e-5, atol=1e-5 * np.abs(alone.scores).max())
        assert np.array_equal(linear_evaluation(*both, config, head=name).scores, alone.scores)


def test_copies_take_turns():
    "Epoch e uses copy e % K: a copy that is never reached does not matter, one that is does."
    far = with_x(TRAIN, TRAIN.x + 5)
    three = replace(SHORT, epochs=3, norm="none")
    assert np.array_equal(linear_evaluation([TRAIN] * 3, TEST, three).scores, linear_evaluation(TRAIN, TEST, three).scores)
    assert np.array_equal(linear_evaluation([TRAIN, TRAIN, TRAIN, far], TEST, three).scores, linear_evaluation(TRAIN, TEST, three).scores)
    assert not np.array_equal(linear_evaluation([TRAIN, TRAIN, far], TEST, three).scores, linear_evaluation(TRAIN, TEST, three).scores)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 25), st.booleans(), st.sampled_from(["none", "batch"]), st.integers(0, 99))
@example(41, 20, False, "batch", 0)
@example(41, 20, False, "none", 0)
def test_mini_batches(n, batch, drop_last, norm, seed):
    config, rows = LinearEval(batch=batch, drop_last=drop_last, norm=norm, seed=seed), 7 + 2 * torch.arange(n)
    order, passes = mini_batches(rows, config), {}
    while len(passes) < 3:
        turn, part = next(order)
        passes.setdefault(turn, []).append(part)
    for turn in (0, 1):
        seen, sizes = torch.cat(passes[turn]).tolist(), [len(p) for p in passes[turn]]
        assert len(set(seen)) == len(seen) and set(seen) <= set(rows.tolist())
        assert len(seen) == (n if not drop_last or n < batch else n // batch * batch)
        assert max(sizes) <= batch + (norm == "batch") and (norm == "none" or n == 1 or batch == 1 or min(sizes) > 1)
    assert n < 20 or not torch.equal(torch.cat(passes[0]), torch.cat(passes[1]))


def test_standardise_is_scikit_learns():
    x = TRAIN.x * torch.logspace(-3, 3, 10)
    x[:, 4] = 0.1  # a feature that never varies
    norm = Norm("standardise", 10)
    norm.fit([x], torch.arange(50))
    assert np.abs(norm(x).numpy() - StandardScaler().fit(x[:50].double()).transform(x.double())).max() < 1e-3
    norm.fit([x[:30], x[30:60]], torch.arange(30))  # copies count together
    assert np.abs(norm(x).numpy() - StandardScaler().fit(x[:60].double()).transform(x.double())).max() < 1e-3


def test_norms_that_ignore_the_scale():
    for norm, same in (("batch", True), ("standardise", True), ("l2", True), ("none", False)):
        a, b = (linear_evaluation(with_x(TRAIN, s * TRAIN.x), with_x(TEST, s * TEST.x), replace(SHORT, norm=norm)).scores for s in (1, 1024))
        assert np.allclose(a, b, atol=1e-4) == same, norm


def test_seeds():
    state = torch.get_rng_state()
    config = replace(SHORT, dropout=0.2)
    a, b, c = (linear_evaluation(TRAIN, TEST, replace(config, seed=s)).scores for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    torch.rand(3)
    assert np.array_equal(a, linear_seeds(TRAIN, TEST, config, (0, 1))[1].scores)
    torch.set_rng_state(state)
    linear_evaluation(TRAIN, TEST, config)
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_hides_a_share_and_keeps_the_mean():
    heads = Heads(4000, 2, LinearEval(norm="none", dropout=0.75, lr=1e-9))
    heads.weight.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 4000))
    losses = torch.stack([heads.step(torch.ones(1, 4000), torch.tensor([1]), 1.0) for _ in range(8)])  # the loss is the sum of what is left, times 4
    assert losses.std() > 20 and (losses - 4000).abs().max() < 5 * (4000 * 3) ** 0.5 and (losses % 4 < 0.01).all()


def test_iterations():
    config = LinearEval(epochs=None, iterations=25, batch=40, schedule="steps", milestones=(10,), norm="none", look_every=10, drop_last=True)
    run = train_heads([TRAIN], config, watch=TEST)
    assert run.looks == [10, 20, 25] and len(run.loss) == 25 and rate_factor(config, 9, 1) == 1 and rate_factor(config, 10, 1) == pytest.approx(0.1)
    assert linear_evaluation(TRAIN, TEST, config).notes["iteration"] == 25
    whole = train_heads([TRAIN], replace(SHORT, look_every=4), watch=TEST)
    assert whole.looks == [4, 6]
    early = train_heads([TRAIN], replace(SHORT, look_every=0), until=4, watch=TEST)
    assert early.looks == [4] and early.accuracy[0] == whole.accuracy[0]  # the same schedule, stopped


def test_features_stay_as_they_are():
    x, y = TRAIN.x.clone(), TRAIN.y.copy()
    for norm in ("none", "batch", "l2", "standardise"):
        linear_evaluation(TRAIN, TEST, replace(SHORT, norm=norm))
    assert torch.equal(x, TRAIN.x) and np.array_equal(y, TRAIN.y)


# ---- selection ----------------------------------------------------------------------------------------------------------------------


def test_validation_never_looks_at_the_test_set():
    chosen = linear_evaluation(TRAIN, TEST, GRID, "validation")
    other = replace(TEST, y=np.roll(TEST.y, 7), x=TEST.x.flip(0) * 3)
    blind = linear_evaluation(TRAIN, other, GRID, "validation")
    assert chosen.notes == blind.notes
    assert chosen.selection == "validation" and chosen.notes["curve_on"] == "held-out people" and len(chosen.notes["held_out"]) == 1
    assert np.array_equal(linear_evaluation(TRAIN, replace(TEST, y=np.roll(TEST.y, 7)), GRID, "validation").scores, chosen.scores)


def test_validation_trains_again_on_everybody():
    o = linear_evaluation(TRAIN, TEST, replace(GRID, look_every=0), "validation")
    alone = linear_evaluation(TRAIN, TEST, GRID, head=o.notes["head"])  # the last epoch was the only look
    assert o.notes["epoch"] == 6 and np.array_equal(o.scores, alone.scores)
    longer, (train, test) = replace(GRID, epochs=20), people(6, signal=0.5)  # data whose best epoch is in the middle
    o = linear_evaluation(train, test, longer, "validation")
    lr, epoch, held = float(o.notes["head"].removeprefix("lr=")), o.notes["epoch"], hold_out(train.groups, 0.2)
    again = train_heads([train], replace(longer, lr=lr), until=epoch)
    assert epoch < 20 and np.array_equal(again.heads.scores(test.x)[:, 0].numpy(), o.scores)
    search = train_heads([train], replace(longer, lr=lr), np.flatnonzero(~held), train.take(held))
    assert [a for _, a in o.notes["curve"]] == [float(a[0]) for a in search.accuracy]
    assert max(a for _, a in o.notes["curve"]) == dict(o.notes["curve"])[epoch] and o.notes["held_out"] == [str(g) for g in np.unique(train.groups[held])]


def test_held_out_people_teach_nothing():
    rows = np.arange(0, len(TRAIN), 2)
    other = replace(TRAIN, x=torch.where(torch.arange(len(TRAIN))[:, None] % 2 == 0, TRAIN.x, -9 * TRAIN.x), y=np.where(np.arange(len(TRAIN)) % 2, 0, TRAIN.y))
    for norm in ("batch", "standardise"):
        a, b = (train_heads([e], replace(SHORT, norm=norm), rows).heads.scores(TEST.x) for e in (TRAIN, other))
        assert torch.equal(a, b)


def test_best_test_says_so():
    config = replace(GRID, epochs=20, lr=(0.001, 0.3))
    train, test = people(6, signal=0.5)
    o = linear_evaluation(train, test, config, "best_test")
    run = train_heads([train], config, watch=test)
    assert o.selection == "best_test" and o.notes["best"] == o.accuracy == np.stack(run.accuracy).max() and o.notes["epoch"] < 20
    assert o.notes["last"] == o.notes["curve"][-1][1] < o.notes["best"] and o.notes["curve_on"] == "test"
    stopped = train_heads([train], config, until=o.notes["epoch"]).heads
    assert np.array_equal(stopped.scores(test.x)[:, list(head_names([""], config)).index(o.notes["head"])].numpy(), o.scores)
    last = linear_evaluation(TRAIN, TEST, GRID, head=next(iter(head_names([""], GRID))))
    assert last.selection == "last" and last.notes["curve"] == [[6, last.accuracy]] and "best" not in last.notes


def test_ties_go_to_the_latest_look_and_the_first_head():
    run = Training(None, [2, 4, 6], [np.array([0.5, 0.7, 0.1]), np.array([0.6, 0.7, 0.7]), np.array([0.6, 0.6, 0.6])])
    assert run.choose() == (0.7, 1, 1)


def test_notes_and_settings_are_json():
    for rule in ("validation", "best_test"):
        o = linear_evaluation({"a": TRAIN, "b": TRAIN}, {"a": TEST, "b": TEST}, GRID, rule)
        assert json.loads(json.dumps(o.notes)) == o.notes and o.notes["head"].startswith("a lr=")  # equal readouts: the first
        back = json.loads(json.dumps(o.settings))
        assert LinearEval.from_dict({k: v for k, v in back.items() if k not in ("protocol", "share")}) == GRID


# ---- the recipes --------------------------------------------------------------------------------------------------------------------


def test_recipes():
    assert np.allclose(LinearEval.named("slim").rates, [2.5e-6, 5e-6, 1.25e-5, 2.5e-5, 5e-5, 1.25e-4, 2.5e-4, 5e-4, 1.25e-3, 2.5e-3, 5e-3, 0.0125, 0.025])
    assert len(LADDER) == 13 and LinearEval.named("slim", batch=256).rates == LADDER
    assert LinearEval.named("actclr").rates == (24.0,) and LinearEval.named("actclr", batch=128).rates == (3.0,)
    assert [LinearEval.named(n).rates[0] for n in ("usdrl", "usdrl_xview", "usdrl_pku2", "mamp", "lode")] == [0.006, 0.03, 0.01, 0.1, 0.01]
    facts = {"actclr": (100, 1024), "actclr120": (150, 1024), "usdrl": (160, 512), "mamp": (100, 256), "lode": (100, 128), "slim": (20_000, 64)}
    assert {n: (LinearEval.named(n).total, LinearEval.named(n).batch) for n in facts} == facts
    for name in RECIPES:
        c = LinearEval.named(name)
        assert (c.momentum, c.weight_decay, c.dropout) == (0.9, 0, 0) and c.norm == ("batch" if name in ("mamp", "lode") else "none")
    falls = {"actclr": {79: 1, 80: 0.1, 99: 0.1}, "actclr120": {80: 0.1, 120: 0.01}, "usdrl": {119: 1, 120: 0.1, 140: 0.01}}
    for name, at in falls.items():
        assert [rate_factor(LinearEval.named(name), 78 * epoch, 78) for epoch in at] == pytest.approx(list(at.values()))
    assert rate_factor(LinearEval.named("slim"), 10_000, 1) == pytest.approx(0.5) and rate_factor(LinearEval.named("mamp"), 0, 9) == 1


def test_scaled():
    c = LinearEval.named("usdrl").scaled(0.1)
    assert (c.epochs, c.milestones, c.look_every, c.lr) == (16, (12, 14), 1, 0.006) and LinearEval.named("slim").scaled(0.01).iterations == 200
    for share in (1e-6, 0.01, 0.5, 3):
        for name in RECIPES:
            LinearEval.named(name).scaled(share)
    with pytest.raises(ParameterError, match="a tenth"):
        c.scaled(0)


@pytest.mark.parametrize("more, says", [({"epochs": 50, "milestones": (80,)}, "scaled"), ({"iterations": 5}, "None for the other"), ({"lr": ()}, "step sizes"),
                                        ({"lr": (0.1, 0.1)}, "different"), ({"lr": -1.0}, "above 0"), ({"dropout": 1.0}, "dropout"), ({"batch": 0}, "counts"),
                                        ({"norm": "layer"}, "norm"), ({"lr": "fast"}, "lr")])
def test_impossible_settings(more, says):
    with pytest.raises(ParameterError, match=says):
        LinearEval(**more)


# ---- what can go wrong --------------------------------------------------------------------------------------------------------------


def test_a_grid_has_no_last_head():
    with pytest.raises(ParameterError, match="3 heads.*\n.*validation.*lr=0.001"):
        linear_evaluation(TRAIN, TEST, GRID)
    with pytest.raises(ParameterError, match="did you mean 'lr=0.01'"):
        linear_evaluation(TRAIN, TEST, GRID, head="lr=0.011")
    with pytest.raises(ParameterError, match="last, validation, best_test"):
        linear_evaluation(TRAIN, TEST, SHORT, "best")


def test_a_loss_that_is_no_number():
    wild = replace(SHORT, norm="none", lr=1e38)
    with pytest.raises(TrainingError, match=r"step \d+\n.*lower lr") as e:
        linear_evaluation(TRAIN, TEST, wild)
    step = int(str(e.value).split("step ")[1].split("\n")[0])
    losses, order = [], mini_batches(torch.arange(len(TRAIN)), wild)
    heads = train_heads([TRAIN], replace(wild, lr=1e-30), until=1).heads
    heads.weight.mul_(0).add_(torch.randn(4, 10, generator=torch.Generator().manual_seed(0)) * 0.01)
    heads.bias.zero_(), heads.speed[0].zero_(), heads.speed[1].zero_(), heads.rate.fill_(1e38)
    for i in range(step):
        rows = next(order)[1]
        losses.append(float(heads.step(TRAIN.x[rows], torch.as_tensor(TRAIN.y)[rows], rate_factor(wild, i, 3))))
    assert np.isfinite(losses[:-1]).all() and not np.isfinite(losses[-1])
    first = TEST.take(TEST.y == 0)  # the largest of scores that are no numbers is class 0
    for rule in ("validation", "best_test"):
        o = linear_evaluation(TRAIN, first, replace(wild, lr=(0.01, 1e38)), rule)
        assert o.notes["head"] == "lr=0.01" and list(o.notes["diverged"]) == ["lr=1e+38"] and list(o.notes["at_end"]) == ["lr=0.01"]


def test_examples_that_do_not_belong_together():
    with pytest.raises(DataError, match="in training and test"):
        linear_evaluation(TRAIN, TRAIN, SHORT)
    with pytest.raises(DataError, match="10 numbers to learn from, of 9"):
        linear_evaluation(TRAIN, with_x(TEST, TEST.x[:, 1:]), SHORT)
    with pytest.raises(DataError, match="readout 'b', copy 1"):
        linear_evaluation({"a": TRAIN, "b": [TRAIN, TRAIN.take(np.arange(len(TRAIN))[::-1].copy())]}, {"a": TEST, "b": TEST}, GRID, "best_test")
    with pytest.raises(DataError, match="readout 'b', copy 0"):
        linear_evaluation({"a": TRAIN, "b": replace(TRAIN, clips=TRAIN.clips + 1000)}, {"a": TEST, "b": TEST}, GRID, "best_test")
    with pytest.raises(ParameterError, match="same names"):
        linear_evaluation({"a": TRAIN, "b": TRAIN}, {"a": TEST}, GRID, "best_test")
    with pytest.raises(ParameterError, match="no examples"):
        linear_evaluation([], TEST, SHORT)
    with pytest.raises(DataError, match="1 group to hold out"):
        linear_evaluation(replace(TRAIN, groups=np.zeros(len(TRAIN))), TEST, GRID, "validation")
    with pytest.raises(DataError, match="no variance"):
        linear_evaluation(TRAIN.take([0]), TEST, SHORT)


def test_classes_without_training_clips_are_noted():
    o = linear_evaluation(TRAIN.take(TRAIN.y != 2), TEST, SHORT)
    assert o.notes["absent"] == ["c2"] and o.scores.shape == (len(TEST), 4)
    assert linear_evaluation(TRAIN, TEST, SHORT).notes["absent"] == []


def test_labelled():
    clips = TRAIN.clips[[5, 1, 5, 30]]
    few = labelled(TRAIN, clips)
    assert few.clips.tolist() == sorted(set(clips.tolist())) and torch.equal(few.x, TRAIN.x[[1, 5, 30]]) and few.data == "toy"
    both = labelled({"a": [TRAIN, TRAIN], "b": TRAIN}, clips)
    assert len(both["a"][1]) == len(both["b"]) == 3
    with pytest.raises(DataError, match="1 of 2 labelled clips.*\n.*same split"):
        labelled(TRAIN, [TRAIN.clips[0], TEST.clips[0]])
    with pytest.raises(DataError, match="no labelled clips"):
        labelled(TRAIN, [])
    linear_evaluation(few, TEST, LinearEval.named("actclr").scaled(0.05))  # fewer clips than a batch


# ---- the exact minimum --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("norm", ["none", "standardise"])
def test_logistic_regression_is_scikit_learns(c, norm):
    o = logistic_regression(TRAIN, TEST, c, norm)
    scale = StandardScaler(with_mean=norm != "none", with_std=norm != "none").fit(TRAIN.x.double())
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(scale.transform(TRAIN.x.double()), TRAIN.y)
    p = torch.as_tensor(o.scores).double().softmax(1).numpy()
    assert o.notes["converged"] and np.abs(p - theirs.predict_proba(scale.transform(TEST.x.double()))).max() < 2e-4
    assert np.array_equal(o.predicted, theirs.predict(scale.transform(TEST.x.double())))


def test_logistic_regression_without_a_class():
    some = TRAIN.take(TRAIN.y != 1)
    o = logistic_regression(some, TEST, 1.0, "none")
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(some.x.double(), some.y)
    p = torch.as_tensor(o.scores).double().softmax(1).numpy()
    assert np.abs(p[:, [0, 2, 3]] - theirs.predict_proba(TEST.x.double())).max() < 2e-4 and p[:, 1].max() < 1e-9 and o.notes["absent"] == ["c1"]


def test_logistic_regression_chooses_c_without_the_test_set():
    grid = (1e-4, 0.01, 1.0)
    o = logistic_regression(TRAIN, TEST, grid, "none", "validation")
    assert o.notes["c"] == 0.01 == logistic_regression(TRAIN, replace(TEST, y=np.roll(TEST.y, 5)), grid, "none", "validation").notes["c"]
    held = hold_out(TRAIN.groups, 0.2)
    right = [logistic_regression(TRAIN.take(~held), replace(TRAIN.take(held), data=""), c, "none").accuracy for c in grid]
    assert list(o.notes["at_end"].values()) == right and np.array_equal(o.scores, logistic_regression(TRAIN, TEST, 0.01, "none").scores)
    best = logistic_regression(TRAIN, TEST, grid, "none", "best_test")
    assert best.accuracy == max(best.notes["at_end"].values()) and best.selection == "best_test" and best.notes["c"] == 1e-4
    with pytest.raises(ParameterError, match="nothing to choose by"):
        logistic_regression(TRAIN, TEST, grid)
    for bad in ({"c": 0.0}, {"c": ()}, {"norm": "batch"}):
        with pytest.raises(ParameterError, match="c above 0"):
            logistic_regression(TRAIN, TEST, **bad)
    assert not logistic_regression(TRAIN, TEST, 100.0, steps=2).notes["converged"]


def test_sgd_goes_to_the_minimum():
    "With the same penalty, C = 1 / (weight decay x N); SGD also decays the bias (small on standardised features), hence loose bounds."
    exact = logistic_regression(TRAIN, TEST, 1.0, "standardise")
    config = LinearEval(epochs=1000, batch=48, lr=0.1, norm="standardise", weight_decay=1 / len(TRAIN), drop_last=False)
    near = linear_evaluation(TRAIN, TEST, config)
    far = linear_evaluation(TRAIN, TEST, replace(config, epochs=5))
    p, q, r = (torch.as_tensor(o.scores).softmax(1) for o in (exact, near, far))
    assert (p - q).abs().max() < 0.05 < 0.1 < (p - r).abs().max() and (near.predicted == exact.predicted).mean() > 0.97
