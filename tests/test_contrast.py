"""The contrastive losses against their definitions, their gradients, the queue, and the same numbers on one and on two processes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skelnb.errors import ParameterError
from skelnb.objectives import contrast
from skelnb.objectives.contrast import (
    MemoryBank,
    dense_info_nce,
    distribution_matching,
    info_nce,
    match_snippets,
    momentum_update,
    similarity_distillation,
    snippet_key,
    tempo_ranking,
)


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(n=40, dim=8, seed=9):
    bank = MemoryBank(dim, n)
    bank.enqueue(vectors(n, dim, seed=seed))
    return bank


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def same(ours, plain, *inputs, tol=1e-5):
    "The same value and gradients."
    assert abs(ours - plain) <= tol * max(1, abs(plain))
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, inputs)):
        torch.testing.assert_close(a, b, atol=tol, rtol=1e-4)


# ---- the queue


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(1, 13), max_size=6))
def test_the_queue_holds_the_last_keys(size, batches):
    bank, history, n = MemoryBank(3, size, start="empty"), [], 0
    for i, b in enumerate(batches):
        keys = vectors(b, 3, seed=i)
        bank.enqueue(5 * keys)
        history += unit(keys).tolist()
        n += b
        assert len(bank) == bank.filled == min(n, size) and bank.pointer == n % size
        rows = [(n - 1 - j) % size for j in range(min(n, size))]  # newest first
        torch.testing.assert_close(bank.queue[rows], torch.tensor(history[::-1][:size]))


def test_random_and_empty_start():
    a, b = MemoryBank(16, 300, seed=4), MemoryBank(16, 300, start="empty")
    assert len(a) == 300 and a.filled == 0 and len(b) == 0
    assert torch.allclose(a.queue.norm(dim=1), torch.ones(300)) and torch.equal(a.queue, MemoryBank(16, 300, seed=4).queue)
    k = vectors(7, 16)
    a.enqueue(k)
    b.enqueue(k)
    assert len(a) == 300 and a.filled == 7 and len(b) == 7 and torch.equal(a.keys[:7], b.keys)
    assert b.keys.data_ptr() == b.queue.data_ptr()  # a view, no copy


def test_state_is_saved():
    a, b = MemoryBank(4, 10, start="empty"), MemoryBank(4, 10, start="empty")
    a.enqueue(vectors(7, 4))
    b.load_state_dict(a.state_dict())
    c = copy.deepcopy(b)
    for bank in (a, b, c):
        bank.enqueue(vectors(6, 4, seed=1))
    assert torch.equal(a.queue, b.queue) and torch.equal(a.queue, c.queue) and (b.pointer, b.filled) == (3, 10)
    assert not list(a.parameters())


def test_a_pointer_that_stays():
    bank = MemoryBank(4, 10, seed=2)
    before = bank.queue.clone()
    for i in range(3):
        bank.enqueue(vectors(3, 4, seed=i), advance=False)
    assert torch.equal(bank.queue[3:], before[3:]) and torch.allclose(bank.queue[:3], unit(vectors(3, 4, seed=2)))
    assert bank.pointer == 0 and bank.filled == 3


# ---- the losses, written out


def plain_nce(q, k, keys, tau, neighbours=0, mine=None):
    q, k = unit(q), unit(k)
    total = 0
    for i in range(len(q)):
        logits = torch.cat([(q[i] @ k[i])[None], keys @ q[i]]) / tau
        right = {0}
        for m in [q] if mine is None else [unit(m) for m in mine]:
            right |= {1 + j for j in (keys @ m[i]).argsort(descending=True)[:neighbours].tolist()}
        total = total - logits.log_softmax(0)[sorted(right)].mean()
    return total / len(q)


@pytest.mark.parametrize("logits", [1, 100, 2**20])
@pytest.mark.parametrize("neighbours,views", [(0, 0), (1, 0), (5, 0), (1, 2), (3, 2), (99, 0)])
def test_info_nce_is_its_definition(monkeypatch, neighbours, views, logits):
    monkeypatch.setitem(contrast.LOGITS, "cpu", logits)  # in slices of one, of two and of all rows
    bank, q, k = filled(), vectors(7, 8).requires_grad_(), vectors(7, 8, seed=1).requires_grad_()
    mine = [q.detach(), vectors(7, 8, seed=2)] if views else None
    same(info_nce(q, k, bank, 0.1, neighbours, mine), plain_nce(q, k, bank.queue.clone(), 0.1, neighbours, mine), q, k)


def test_perfect_and_uniform():
    "Orthogonal keys: log(1 + K e^(-1/tau)) for a query that is its key, log(1 + K) for one that is orthogonal to everything."
    bank = MemoryBank(8, 4)
    bank.enqueue(torch.eye(8)[:4])
    q, k = torch.eye(8)[5:6], torch.eye(8)[6:7]
    assert info_nce(q, k, bank).item() == pytest.approx(torch.tensor(5.0).log().item(), rel=1e-5)
    assert info_nce(q, q, bank, 0.5).item() == pytest.approx(torch.log1p(4 * torch.tensor(-2.0).exp()).item(), rel=1e-5)


def test_one_loss_per_query():
    bank, q, k = filled(), vectors(7, 8), vectors(7, 8, seed=1)
    for loss in (lambda r: info_nce(q, k, bank, reduction=r), lambda r: similarity_distillation(q, k, bank, reduction=r),
                 lambda r: distribution_matching(q, k, k, bank, reduction=r)):
        assert loss("none").shape == (7,) and torch.allclose(loss("none").mean(), loss("mean"))
    assert torch.allclose(info_nce(q, k, bank, reduction="none")[2], info_nce(q[2:3], k[2:3], bank))


def test_weights_per_query_reach_the_gradient():
    bank, q, k, w = filled(), vectors(5, 8).requires_grad_(), vectors(5, 8, seed=1), torch.tensor([0.0, 1, 2, 0, 3])
    grad, = torch.autograd.grad((info_nce(q, k, bank, reduction="none") * w).sum(), q)
    assert not grad[[0, 3]].any()
    single, = torch.autograd.grad(info_nce(q[4:], k[4:], bank), q)
    torch.testing.assert_close(grad[4], 3 * single[4])


@pytest.mark.parametrize("form", ["kl", "cross_entropy"])
@pytest.mark.parametrize("options", [{}, dict(top_k=6), dict(dedup=0.3), dict(squared=True), dict(top_k=6, dedup=0.3, squared=True), dict(top_k=4000)])
def test_distillation_is_its_definition(monkeypatch, options, form):
    monkeypatch.setitem(contrast.LOGITS, "cpu", 200)
    bank, q, k = filled(), vectors(7, 8).requires_grad_(), vectors(7, 8, seed=1)
    keys = bank.queue.clone()
    student, teacher = unit(q) @ keys.T, unit(k) @ keys.T
    if "dedup" in options:
        assert (teacher > 0.3).any()
        teacher = teacher.masked_fill(teacher > options["dedup"], -1)
    if "top_k" in options:
        order = teacher.argsort(1, descending=True)[:, :options["top_k"]]
        student, teacher = student.gather(1, order), teacher.gather(1, order)
    student = (student**2 if "squared" in options else student) / 0.1
    target = (teacher / 0.04).softmax(1)
    plain = -(target * student.log_softmax(1)).sum(1).mean()
    if form == "kl":
        plain = F.kl_div(student.log_softmax(1), target, reduction="batchmean")
    same(similarity_distillation(q, k, bank, form=form, **options), plain, q)


def test_matching_is_its_definition():
    bank, z, q, k = filled(), vectors(7, 8).requires_grad_(), vectors(7, 8, seed=1).requires_grad_(), vectors(7, 8, seed=2).requires_grad_()
    see = lambda x: torch.cat([(unit(x) * unit(k)).sum(1, keepdim=True), unit(x) @ bank.queue.clone().T], 1).detach() / 0.07
    student = lambda: torch.cat([(unit(z) * unit(k.detach())).sum(1, keepdim=True), unit(z) @ bank.queue.clone().T], 1) / 0.07
    same(distribution_matching(z, q, k, bank), F.kl_div(student().log_softmax(1), see(q).softmax(1), reduction="batchmean"), z)
    same(distribution_matching(z, q, k, bank, form="cross_entropy"), F.cross_entropy(student(), see(q).softmax(1)), z)
    assert not any(torch.autograd.grad(distribution_matching(z, q, k, bank), (q, k), allow_unused=True))
    assert distribution_matching(q, q, k, bank).abs() < 1e-5


@pytest.mark.parametrize("match", ["cosine", "raw"])
@pytest.mark.parametrize("masked", [False, True])
def test_dense_is_its_definition(match, masked):
    n, s, bank = 4, 5, filled()
    p, p_key = vectors(n, s, 8).requires_grad_(), vectors(n, s + 1, 8, seed=1)
    h, h_key = vectors(n, s, 6, seed=2), vectors(n, s + 1, 6, seed=3) * torch.linspace(0.2, 4, s + 1)[:, None]
    lengths, key_lengths = torch.tensor([5, 2, 5, 1]), torch.tensor([6, 1, 0, 3])
    valid, valid_key = torch.arange(s) < lengths[:, None], torch.arange(s + 1) < key_lengths[:, None]
    rows, keys, matched = [], [], []
    for i in range(n):
        for j in range(s):
            if masked and (j >= lengths[i] or key_lengths[i] == 0):
                continue
            likeness = [h[i, j] @ v / (v.norm() if match == "cosine" else 1) for v in (h_key[i, :key_lengths[i]] if masked else h_key[i])]
            matched.append(int(torch.stack(likeness).argmax()))
            rows.append(p[i, j])
            keys.append(p_key[i, matched[-1]])
    plain = plain_nce(torch.stack(rows), torch.stack(keys), bank.queue.clone(), 0.2, 3)
    more = dict(valid=valid, valid_key=valid_key) if masked else {}
    same(dense_info_nce(p, p_key, h, h_key, bank, 0.2, match, 3, **more), plain, p)
    if not masked:
        assert match_snippets(h, h_key, match).flatten().tolist() == matched


def test_snippet_keys():
    p = vectors(3, 4, 8)
    valid = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    expected = unit(torch.stack([p[0, :2].mean(0), p[1].mean(0), p[2, 0]]))
    torch.testing.assert_close(snippet_key(p, valid), expected)
    torch.testing.assert_close(snippet_key(p), unit(p.mean(1)))


def test_no_real_snippet_no_loss():
    p, h = vectors(2, 3, 8).requires_grad_(), vectors(2, 3, 6)
    loss = dense_info_nce(p, p, h, h, filled(), valid=torch.zeros(2, 3, dtype=torch.bool), valid_key=torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and not p.grad.any()


def test_tempo_ranking():
    q, k, other = vectors(6, 8).requires_grad_(), vectors(6, 8, seed=1), vectors(6, 8, seed=2)
    s = lambda a, b: F.cosine_similarity(a, b) / 0.07
    same(tempo_ranking(q, k, other), F.margin_ranking_loss(s(q, k), s(q, other), torch.ones(6), margin=1.0), q)
    assert tempo_ranking(q, q, -q) == 0


# ---- how they are computed


def test_the_bank_may_change_before_backward():
    bank, q, k = filled(), vectors(7, 8).requires_grad_(), vectors(7, 8, seed=1)
    expected, = torch.autograd.grad(info_nce(q, k, bank), q)
    loss = info_nce(q, k, bank)
    bank.enqueue(vectors(40, 8, seed=5))
    assert torch.equal(torch.autograd.grad(loss, q)[0], expected)


def test_precision():
    bank, q, k = filled(), vectors(7, 8), vectors(7, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (lambda q: info_nce(q, k, bank), lambda q: similarity_distillation(q, k, bank), lambda q: distribution_matching(q, k, k, bank),
                     lambda q: tempo_ranking(q, k, -k), lambda q: dense_info_nce(q[None], k[None], q[None].float(), k[None], bank)):
            assert loss(q).dtype == torch.float32
            with torch.autocast("cpu", enabled=False):
                assert torch.equal(loss(q), x := loss(q)) and abs(loss(q.bfloat16()) - x) < 0.1 * abs(x)
            assert torch.equal(loss(q), x)
    half = q.bfloat16().requires_grad_()
    assert torch.autograd.grad(info_nce(half, k.bfloat16(), bank), half)[0].dtype == torch.bfloat16


def test_exact_in_double_precision():
    bank, q, k = filled(10), vectors(3, 8).double().requires_grad_(), vectors(3, 8, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k: info_nce(q, k, bank, 0.3), (q, k))
    assert torch.autograd.gradcheck(lambda q: similarity_distillation(q, k, bank, top_k=5, squared=True), q)


def test_without_gradient():
    bank, q = filled(), vectors(3, 8).requires_grad_()
    with torch.no_grad():
        assert not info_nce(q, q, bank).requires_grad
    assert not info_nce(q.detach(), q.detach(), bank).requires_grad


@pytest.mark.parametrize("call,message", [
    (lambda: info_nce(vectors(3, 7), vectors(3, 7), filled()), "8 numbers per key"),
    (lambda: info_nce(vectors(3, 8), vectors(2, 8), filled()), r"\(2, 8\)"),
    (lambda: info_nce(vectors(3, 8), vectors(3, 8), MemoryBank(8, 4, start="empty")), "empty"),
    (lambda: similarity_distillation(vectors(3, 8), vectors(3, 8), MemoryBank(8, 4, start="empty")), "empty"),
    (lambda: similarity_distillation(vectors(3, 8), vectors(3, 8), filled(), form="js"), "js"),
    (lambda: info_nce(vectors(3, 8), vectors(3, 8), filled(), reduction="sum"), "sum"),
    (lambda: info_nce(vectors(0, 8), vectors(0, 8), filled()), r"\(0, 8\)"),
    (lambda: filled().enqueue(vectors(3, 7)), r"\(3, 7\)"),
    (lambda: MemoryBank(8, 4, start="warm"), "warm"),
    (lambda: MemoryBank(8, 0), "0 keys"),
    (lambda: match_snippets(vectors(1, 2, 3), vectors(1, 2, 3), "l2"), "l2"),
    (lambda: dense_info_nce(vectors(2, 3, 8), vectors(2, 3, 8), vectors(2, 4, 8), vectors(2, 3, 8), filled()), "snippets"),
    (lambda: momentum_update(nn.Linear(2, 3), nn.Linear(2, 4)), "different parameters"),
    (lambda: momentum_update(nn.Linear(2, 3), nn.Linear(2, 3), 1.5), "1.5"),
    (lambda: momentum_update(nn.Linear(2, 3), nn.Linear(2, 3), buffers="mean"), "mean"),
])
def test_bad_input(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


# ---- the teacher


@pytest.mark.parametrize("buffers", ["copy", "average", "none"])
def test_momentum(buffers):
    student = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    teacher = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    student(vectors(8, 4))
    before, now = copy.deepcopy(teacher.state_dict()), student.state_dict()
    momentum_update(student, teacher, 0.9, buffers)
    for name, value in teacher.state_dict().items():
        mean = "running" in name or "num_batches" in name
        rate = {"copy": 1.0, "average": 0.1, "none": 0.0}[buffers] if mean else 0.1
        if "num_batches" in name and buffers == "average":
            rate = 1.0
        torch.testing.assert_close(value.double(), before[name].double().lerp(now[name].double(), rate))
    momentum_update(student, teacher, 1.0, "none")
    momentum_update(student, teacher, 0.0, "average")
    assert all(torch.allclose(v, now[n]) for n, v in teacher.state_dict().items())


# ---- several processes


def test_two_processes_are_one():
    one, two = (run_ranks("helpers_contrast:contrast_steps", {}, n) for n in (1, 2))
    assert one["pointer"] == two["pointer"] == [2, 0]
    for name in ("loss", "grads", "queue", "snippets"):
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), atol=1e-5, rtol=1e-4)
