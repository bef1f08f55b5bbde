"""Code books: the moving average, restarts, precision, checkpoints, and the same result on one process and on two."""

import pytest
import torch
import torch.nn.functional as F
from helpers import run_ranks
from helpers_processes import joined

from skelnb.errors import ParameterError
from skelnb.objectives.vq import VectorQuantizer, move_codes, nearest_code, perplexity, restarts, sample_rows, sum_by_code
from skelnb.transforms.draws import Draws


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(metric="euclidean", steps=5, **options):
    vq = VectorQuantizer(8, 16, metric=metric, **options)
    for step in range(steps):
        vq(randn(4, 25, 8, seed=step))
        vq.step(Draws(0, step))
    return vq


def test_golden_moving_average():
    vq = VectorQuantizer(1, 2, decay=0.9, eps=0.0, restart=0.0)
    vq.load_state_dict({"codebook": torch.tensor([[0.0], [10]]), "counts": torch.ones(2), "sums": torch.tensor([[0.0], [10]]),
                        "usage": torch.zeros(2), "started": torch.tensor(True)})
    quantised, ids = vq(torch.tensor([[1.0], [2], [9]]))
    assert ids.tolist() == [0, 0, 1] and quantised.flatten().tolist() == [0, 0, 10]
    vq.step(Draws(0))
    torch.testing.assert_close(vq.counts, torch.tensor([1.1, 1.0]))
    torch.testing.assert_close(vq.sums, torch.tensor([[0.3], [9.9]]))
    torch.testing.assert_close(vq.codebook, torch.tensor([[0.272727], [9.9]]), rtol=1e-5, atol=0)
    assert vq.usage.tolist() == [2, 1]
    assert vq.perplexity.item() == pytest.approx(3 / 2 ** (2 / 3))


def test_laplace_smoothing_keeps_unused_codes_finite():
    counts, sums = torch.tensor([4.0, 0.0]), torch.tensor([[4.0], [0.0]])
    codes = move_codes(counts, sums, torch.tensor([4.0, 0]), torch.tensor([[4.0], [0]]), 0.5, 1e-5)
    torch.testing.assert_close(codes, torch.tensor([[4 / (4.00001 / 4.00002 * 4)], [0.0]]))
    assert torch.isfinite(move_codes(torch.zeros(2), torch.zeros(2, 1), torch.zeros(2), torch.zeros(2, 1), 0.5, 0.0)).all()


@pytest.mark.parametrize("shift", [0.0, 16.0, 1000.0])
@pytest.mark.parametrize("n", [0, 1, 20_000])
def test_nearest_code_is_the_nearest(shift, n):
    z, codes = randn(n, 6) + shift, randn(20, 6, seed=1) + shift
    distance = torch.cdist(z.double(), codes.double())
    chosen = distance.gather(1, nearest_code(z, codes)[:, None])[:, 0]
    assert (chosen <= distance.amin(1) + 1e-3).all()


def test_sum_by_code_is_a_one_hot_product():
    z, ids = randn(300, 5), torch.arange(300) ** 2 % 11
    counts, sums = sum_by_code(z, ids, 20)
    torch.testing.assert_close(sums, F.one_hot(ids, 20).float().T @ z)
    assert torch.equal(counts, torch.bincount(ids, minlength=20).float())
    counts, sums = sum_by_code(z[:0], ids[:0], 20)
    assert counts.sum() == 0 and sums.shape == (20, 5) and (sums == 0).all()


def test_shapes_dtypes_and_no_gradient():
    vq = VectorQuantizer(8, 16)
    z = randn(2, 3, 5, 8).requires_grad_()
    quantised, ids = vq(z)
    assert quantised.shape == z.shape and ids.shape == (2, 3, 5) and ids.dtype == torch.int64
    assert not quantised.requires_grad and not list(vq.parameters())
    assert torch.equal(quantised, vq.codebook[ids])
    assert VectorQuantizer(8, 16)(randn(8))[1].shape == ()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_first_codes_are_vectors_of_the_first_batch(metric):
    vq = VectorQuantizer(8, 16, metric=metric)
    z = randn(50, 8)
    quantised, ids = vq(z)
    z = F.normalize(z, dim=1) if metric == "cosine" else z
    found = (torch.cdist(vq.codebook, z, compute_mode="donot_use_mm_for_euclid_dist") < 1e-6).nonzero()
    assert len(found) == 16 and found[:, 1].unique().numel() == 16
    assert vq.counts.sum().item() == pytest.approx(50)


def test_fewer_vectors_than_codes():
    vq = VectorQuantizer(8, 16)
    for step in range(6):
        vq(randn(5, 8, seed=step))
        assert torch.isfinite(vq.codebook).all()
        vq.step(Draws(0, step))
    assert (vq.counts > 0).all()  # the surplus codes were restarted from later batches
    assert vq.codebook.unique(dim=0).shape[0] == 16


def test_codes_stand_still_outside_step_and_in_evaluation():
    vq = trained().eval()
    before = {k: v.clone() for k, v in vq.state_dict().items()}
    vq(randn(30, 8, seed=9))
    vq.step(Draws(0, 9))
    assert all(torch.equal(v, before[k]) for k, v in vq.state_dict().items())
    vq.train()
    vq(randn(30, 8, seed=9))
    assert torch.equal(vq.codebook, before["codebook"])
    vq.step(Draws(0, 9))
    assert not torch.equal(vq.codebook, before["codebook"])


def test_two_forwards_in_a_step_are_one_batch():
    a, b = trained(), trained()
    z = randn(60, 8, seed=3)
    a(z)
    b(z[:20]), b(z[20:])
    a.step(Draws(0, 7)), b.step(Draws(0, 7))
    torch.testing.assert_close(a.state_dict(), b.state_dict())


def test_dead_codes_restart_from_the_current_batch():
    vq = trained(restart=0.1)
    with torch.no_grad():
        vq.codebook[3:6] = 1e3  # nobody is near
        vq.counts[3:6] = 0
    z = randn(100, 8, seed=11)
    vq(z)
    vq.step(Draws(0, 11))
    origin = torch.cdist(vq.codebook[3:6], z, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert (origin.values == 0).all() and origin.indices.unique().numel() == 3
    assert torch.allclose(vq.counts[3:6], torch.tensor(100 / 16)) and torch.allclose(vq.sums[3:6], vq.codebook[3:6] * 100 / 16)


def test_threshold_is_relative_so_a_small_batch_does_not_restart_everything():
    vq = VectorQuantizer(4, 128)  # 64 vectors a step for 128 codes: on average half a vector each
    vq(randn(64, 4)), vq.step(Draws(0, 0))
    vq(randn(64, 4)), vq.step(Draws(0, 1))
    before = vq.codebook.clone()
    vq(randn(64, 4)), vq.step(Draws(0, 2))
    assert (vq.codebook == before).all(1).float().mean() < 0.5 and (vq.codebook - before).norm(dim=1).median() < 0.1


def test_restarts_take_turns_and_stop_when_nothing_is_left():
    who, which = restarts(torch.tensor([5.0, 0.1, 9, 0.2, 0.3]), torch.tensor(0.5), torch.tensor(2))
    assert who.tolist() == [False, True, False, True, False] and which[who].tolist() == [0, 1]
    assert not restarts(torch.zeros(3), torch.tensor(0.0), torch.tensor(3))[0].any()


def test_sample_rows_is_without_repetition_and_breaks_ties_by_order():
    z = torch.arange(6.0)[:, None]
    rows, filled = sample_rows(z, torch.tensor([0.5, 0.5, 0.9, 0.0, 0.5, 0.1]), 4)
    assert rows.flatten().tolist() == [2, 0, 1, 4] and filled == 4
    rows, filled = sample_rows(z[:2], torch.tensor([0.1, 0.2]), 4)
    assert rows.flatten().tolist() == [1, 0, 0, 0] and filled == 2
    rows, filled = sample_rows(z[:0], torch.zeros(0), 4)
    assert rows.shape == (4, 1) and filled == 0


def test_cosine_ignores_length():
    vq = trained("cosine")
    assert torch.allclose(vq.codebook.norm(dim=1), torch.ones(16))
    z = randn(200, 8, seed=5)
    a, b = vq.eval()(z)[1], vq(z * torch.logspace(-6, 6, 200)[:, None])[1]
    assert torch.equal(a, b) and torch.equal(a, (F.normalize(z, dim=1) @ vq.codebook.T).argmax(1))


def test_float32_under_autocast_and_bf16_input():
    plain, mixed = trained(), trained()
    z = randn(100, 8, seed=4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantised, ids = mixed(z)
        mixed.step(Draws(0, 8))
    assert quantised.dtype == torch.float32 and torch.equal(ids, plain(z.float())[1])
    plain.step(Draws(0, 8))
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in mixed.state_dict().items())


def test_state_is_saved_and_training_goes_on_bit_for_bit():
    a = trained(steps=4)
    b = VectorQuantizer(8, 16)
    b.load_state_dict({k: v.clone() for k, v in a.state_dict().items()})
    assert b.ready and b.perplexity == a.perplexity
    for vq in (a, b):
        for step in (4, 5, 6):
            vq(randn(4, 25, 8, seed=step))
            vq.step(Draws(0, step))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert set(a.state_dict()) == {"codebook", "counts", "sums", "usage", "started"}


def test_perplexity():
    assert perplexity(torch.tensor([3, 3, 3])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([[9, 0, 0], [0, 0, 0]])).tolist() == [1, 1]
    vq = VectorQuantizer(8, 16)
    assert vq.perplexity == 1
    vq = trained()
    assert 1 < vq.perplexity <= 16 and 1 < vq.running_perplexity <= 16


@pytest.mark.parametrize("bad", [dict(metric="dot"), dict(codes=0), dict(decay=1.0), dict(restart=-1), dict(restart=1.0), dict(eps=-1)])
def test_impossible_settings(bad):
    with pytest.raises(ParameterError):
        VectorQuantizer(**{"dim": 4, "codes": 8, **bad})


def test_wrong_width_and_empty_code_book():
    with pytest.raises(ParameterError, match="8 codes of 4"):
        VectorQuantizer(4, 8)(torch.zeros(3, 5))
    with pytest.raises(ParameterError, match="still empty"):
        VectorQuantizer(4, 8).eval()(torch.zeros(3, 4))


# ---- many processes --------------------------------------------------------------------------------------------------------------


def learn(folder):
    "What this process sees of the same global batches, saved; importable, so that other processes can be asked to."
    torch.set_num_threads(1)
    rank, world = joined()
    logs = {}
    for metric, n in (("euclidean", 96), ("cosine", 20)):  # 20 vectors are fewer than the 32 codes
        vq, log = VectorQuantizer(6, 32, decay=0.8, restart=0.3, metric=metric), []
        for step in range(12):  # vectors move apart: codes die and restart
            z = torch.randn(n, 6, generator=torch.Generator().manual_seed(step))
            z = 1 + 0.1 * z + min(step / 4, 3) * F.one_hot(torch.arange(n) % 6, 6)
            z = torch.cat([z, z]) if step == 5 else z  # a batch of another size
            share = len(z) // world
            ids = vq(z[rank * share : (rank + 1) * share])[1]
            before = vq.codebook.clone()
            vq.step(Draws(3, step, rank, world))
            log.append(dict(ids=ids, before=before, **{k: v.clone() for k, v in vq.state_dict().items()}))
        logs[metric] = log
    vq = VectorQuantizer(6, 8)  # shares of different size, one of them empty
    for step in range(3):
        z = torch.randn(7, 6, generator=torch.Generator().manual_seed(step))
        vq(z if rank == 0 else z[:0])
        vq.step(Draws(3, step, rank, world))
    logs["uneven"] = [vq.state_dict()]
    torch.save(logs, f"{folder}/{rank}-of-{world}.pt")


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    "What one process and each of two saw of the same global batches: [one, first of two, second of two]."
    folder = tmp_path_factory.mktemp("workers")
    for n in (1, 2):
        run_ranks("test_vq:learn", {"folder": str(folder)}, n)
    return [torch.load(folder / f"{rank}-of-{world}.pt", weights_only=True) for rank, world in ((0, 1), (0, 2), (1, 2))]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_two_processes_learn_the_code_book_of_one(logs, metric):
    one, two = logs[0][metric], [log[metric] for log in logs[1:]]
    assert torch.equal(one[0]["before"], two[0][0]["before"])  # the first codes are the very same vectors
    jumps = 0
    for step, (alone, first, second) in enumerate(zip(one, *two)):
        assert torch.equal(alone["ids"], torch.cat([first["ids"], second["ids"]])), step
        for key in ("codebook", "counts", "sums", "usage"):
            assert torch.equal(first[key], second[key]), (step, key)  # the processes agree to the bit
            torch.testing.assert_close(alone[key], first[key], rtol=2e-6, atol=2e-6)  # and with the single one to rounding
        jumps += (alone["counts"] == alone["usage"].mean()).sum().item()
    assert jumps > 3  # codes did restart


def test_a_process_without_vectors_takes_part(logs):
    alone, first, second = (log["uneven"][0] for log in logs)
    for key in ("codebook", "counts", "sums", "usage"):
        assert torch.equal(first[key], second[key])
        assert torch.isfinite(first[key]).all()
    assert first["usage"].sum() == 7 == alone["usage"].sum()
